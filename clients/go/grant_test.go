package daypass

import (
	"strings"
	"testing"
	"time"
)

func TestGrantsAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]Grant{
		"orders-db":                 {Name: "orders-db"},
		" orders-db\n":              {Name: "orders-db"},
		"orders-db?ttl=30m":         {Name: "orders-db", TTL: 30 * time.Minute},
		"ORDERS_=orders-db":         {Name: "orders-db", Prefix: "ORDERS_"},
		"ORDERS_=orders-db?ttl=90s": {Name: "orders-db", Prefix: "ORDERS_", TTL: 90 * time.Second},
		"secret/data/ci":            {Name: "secret/data/ci"},
	} {
		if got, err := ParseGrant(text); err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "?ttl=30m", "=orders-db", "1X=orders-db", "A-B=orders-db", "X=", "orders db", "orders\x00db", "-g",
		"orders-db?ttl=30", "orders-db?ttl=-1m", "orders-db?ttl=0s", "orders-db?ttl=", "orders-db?life=1h",
		"orders-db?ttl=1h&ttl=2h", "orders-db?ttl=1h&x=1", "orders-db?", "A=B=c", strings.Repeat("x", 129),
	} {
		if got, err := ParseGrant(text); err == nil {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
	list, err := ParseGrants("orders-db?ttl=5m,\n  CACHE_=cache\tthird")
	if err != nil || len(list) != 3 || list[1].Prefix != "CACHE_" || list[2].Name != "third" {
		t.Errorf("list %+v, %v", list, err)
	}
	if _, err := ParseGrants("ok,not?ok"); err == nil {
		t.Error("a list with a fault was read")
	}
}
