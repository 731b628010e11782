package daypass

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Grant is one thing to ask for.
type Grant struct {
	Name   string
	TTL    time.Duration // 0: as long as policy gives; above that it is clamped
	Prefix string        // for callers that export credentials: goes before the names in Credential.Env. The client itself does not use it
}

var (
	prefixRE = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)
	grantRE  = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._/:@-]{0,127}\z`)
)

// ParseGrant reads [PREFIX=]GRANT[?ttl=30m], the way grants are written
// everywhere.
func ParseGrant(s string) (Grant, error) {
	text, query, asked := strings.Cut(strings.TrimSpace(s), "?")
	var g Grant
	if prefix, name, found := strings.Cut(text, "="); found {
		if !prefixRE.MatchString(prefix) {
			return Grant{}, fmt.Errorf("grant %q: the prefix must be letters, digits and _, as in ORDERS_=orders-db", s)
		}
		g.Prefix, text = prefix, name
	}
	if !grantRE.MatchString(text) {
		return Grant{}, fmt.Errorf("grant %q: want [PREFIX=]GRANT[?ttl=30m]", s)
	}
	g.Name = text
	if !asked {
		return g, nil
	}
	values, err := url.ParseQuery(query)
	if err != nil || len(values) != 1 || len(values["ttl"]) != 1 {
		return Grant{}, fmt.Errorf("grant %q: after ? comes ttl and nothing else, as in %s?ttl=30m", s, g.Name)
	}
	g.TTL, err = time.ParseDuration(values["ttl"][0])
	if err != nil || g.TTL <= 0 {
		return Grant{}, fmt.Errorf("grant %q: ttl must be a duration above zero, such as 30m or 1h", s)
	}
	return g, nil
}

// ParseGrants reads a list of grants, separated by white space or commas.
func ParseGrants(list string) ([]Grant, error) {
	var grants []Grant
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(" \t\r\n,", r) }) {
		g, err := ParseGrant(s)
		if err != nil {
			return nil, err
		}
		grants = append(grants, g)
	}
	return grants, nil
}
