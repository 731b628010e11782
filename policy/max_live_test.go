package policy_test

import (
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/policy"
)

func TestAPermitSaysHowManyOfItsRuleMayLive(t *testing.T) {
	for name, c := range map[string]struct {
		other string // a rule beside one that gives it for 15 minutes, five at a time
		rule  string
		most  int
	}{
		"of the one rule":                          {"", "p/deploy", 5},
		"of the rule that gives it longest":        {"allow: [{grant: payments-db, ttl: 20m}]", "p/other", 0},
		"not of one that gives it shorter":         {"max_live: 9, allow: [{grant: payments-db, ttl: 5m}]", "p/deploy", 5},
		"of equals, the one without a cap":         {"allow: [{grant: payments-db, ttl: 15m}]", "p/other", 0},
		"of equals, the one with the wider cap":    {"max_live: 9, allow: [{grant: payments-db, ttl: 15m}]", "p/other", 9},
		"of equals, not the one with the narrower": {"max_live: 1, allow: [{grant: payments-db, ttl: 15m}]", "p/deploy", 5},
		"of equals, not one that does not match":   {"match: {ref: refs/heads/x}, allow: [{grant: payments-db, ttl: 15m}]", "p/deploy", 5},
		"of equals, not one that only reports":     {"mode: report, allow: [{grant: payments-db, ttl: 15m}]", "p/deploy", 5},
	} {
		t.Run(name, func(t *testing.T) {
			text := rule("max_live: 5", "allow: [{grant: payments-db, ttl: 15m}]")
			if c.other != "" {
				text += "  - {name: other, for: [api], " + c.other + "}\n"
			}
			d := decide(t, load(t, text), job(nil), "payments-db")
			if !d.Allowed || d.Permits[0].Rule != c.rule || d.Permits[0].MaxLive != c.most {
				t.Errorf("%+v", d)
			}
		})
	}
}

func TestACapThatIsNoneIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"none at all":           rule("max_live: 0", allowDB),
		"less than none":        rule("max_live: -1", allowDB),
		"half a one":            rule("max_live: 1.5", allowDB),
		"words":                 rule("max_live: many", allowDB),
		"of a rule that denies": rule("max_live: 5", "deny: [payments-db]"),
	} {
		if _, err := policy.Load(folder(map[string]string{"p.yaml": text}), known()); err == nil || !strings.Contains(err.Error(), "max_live") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
