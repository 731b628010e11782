package main

import (
	"strings"
	"testing"
	"time"

	daypass "github.com/daypass-dev/daypass/clients/go"
)

func TestAShorterLifeThanAskedForIsTold(t *testing.T) {
	asked := []daypass.Grant{{Name: "a", TTL: time.Hour}, {Name: "b", TTL: 5 * time.Minute}, {Name: "c"}, {Name: "d"}}
	got := permitted(&daypass.Preview{RequestID: "req_1", Permits: []daypass.Permit{
		{Grant: "a", TTL: 15 * time.Minute, Takeback: "never"}, {Grant: "b", TTL: 5 * time.Minute},
		{Grant: "c", TTL: 90 * time.Second, Takeback: "some\nday"}, {Grant: "d", TTL: time.Hour},
	}}, asked)
	var out strings.Builder
	a := &app{process: process{Stdout: &out}}
	if err := a.printVerdicts(got); err != nil {
		t.Fatal(err)
	}
	want := `GRANT   KIND   LIVES FOR        GIVING BACK   RULE
a       -      15m (asked 1h)   outlives it   -
b       -      5m               -             -
c       -      1m30s            some\nday     -
d       -      1h               -             -
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	if err := a.printVerdicts(nil); err != nil || !strings.Contains(out.String(), "gives it nothing") {
		t.Errorf("of nothing it printed %q, %v", out.String(), err)
	}
}
