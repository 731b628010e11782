package policy_test

import (
	"slices"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

const offers = `
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - {name: short, for: [api], allow: [{grant: payments-db, ttl: 5m}, {grant: payments-ro}]}
  - {name: long, for: [api], match: {ref: refs/heads/main}, allow: [{grant: payments-db, ttl: 20m}]}
  - {name: expression, for: [api], when: 'claims.event_name == "schedule"', allow: [{grant: web-identity}]}
  - {name: ended, for: [api], until: 2027-02-28, allow: [{grant: web-identity}]}
`

func TestAnOfferIsWhatAskingForEachGrantWouldGive(t *testing.T) {
	b := load(t, offers)
	for sentence, c := range map[string]struct {
		id   broker.Identity
		want []string
	}{
		"on main":            {job(nil), []string{"payments-db p/long 20m0s", "payments-ro p/short 2h0m0s"}},
		"elsewhere":          {job(broker.Claims{"ref": "refs/heads/x"}), []string{"payments-db p/short 5m0s", "payments-ro p/short 2h0m0s"}},
		"where all hold":     {job(broker.Claims{"event_name": "schedule"}), []string{"payments-db p/long 20m0s", "payments-ro p/short 2h0m0s", "web-identity p/expression 30m0s"}},
		"to a job of others": {job(broker.Claims{"repository_owner_id": "9"}), nil},
	} {
		d, err := b.Offer(c.id, noon)
		if err != nil || d.Version != b.Version() || d.Allowed != (c.want != nil) || d.Known != d.Allowed || len(d.Denied)+len(d.Denials) != 0 {
			t.Errorf("%s: %+v, %v", sentence, d, err)
		}
		var got []string
		for _, p := range d.Permits {
			got = append(got, p.Grant.Name+" "+p.Rule+" "+p.TTL.String())
			if one := decide(t, b, c.id, p.Grant.Name); len(one.Permits) != 1 || one.Permits[0].Rule != p.Rule || one.Permits[0].TTL != p.TTL {
				t.Errorf("%s: %+v is offered, and asking gives %+v", sentence, p, one)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: offered %q, want %q", sentence, got, c.want)
		}
		for name := range b.Grants() {
			offered := slices.ContainsFunc(d.Permits, func(p broker.Permit) bool { return p.Grant.Name == name })
			if decide(t, b, c.id, name).Allowed != offered {
				t.Errorf("%s: %s is offered: %v, and asking says otherwise", sentence, name, offered)
			}
		}
	}
	known := load(t, rule("match: {ref: refs/heads/never}", allowDB))
	if d, err := known.Offer(job(nil), noon); err != nil || !d.Allowed || len(d.Permits) != 0 {
		t.Errorf("whom a rule knows and gives nothing: %+v, %v", d, err)
	}
}

func TestWithoutABookNothingIsOffered(t *testing.T) {
	var c policy.Current
	if d, err := c.Offer(job(nil), noon); broker.CodeOf(err) != broker.Unavailable || d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
	b := load(t, offers)
	c.Swap(b)
	if d, err := c.Offer(job(nil), noon); err != nil || d.Version != b.Version() || len(d.Permits) != 2 {
		t.Errorf("%+v, %v", d, err)
	}
}
