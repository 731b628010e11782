package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

const allowBoth = "allow: [{grant: payments-db}, {grant: payments-ro}]"

func TestARuleThatDeniesWins(t *testing.T) {
	for name, c := range map[string]struct {
		deny string // a rule beside one that allows both grants to the job
		id   broker.Identity
		want bool // that payments-db is denied
	}{
		"for everybody":                             {`deny: [payments-db]`, job(nil), true},
		"of another grant":                          {`deny: [payments-ro]`, job(nil), false},
		"by glob":                                   {`deny: ["payments-*"]`, job(nil), true},
		"of all grants":                             {`deny: ["*"]`, job(nil), true},
		"for the repository":                        {`for: [api], deny: [payments-db]`, job(nil), true},
		"for another repository":                    {`for: [other], deny: [payments-db]`, job(nil), false},
		"for one whose id was not in the token":     {`for: [other], deny: [payments-db]`, job(broker.Claims{"repository_id": gone{}}), false},
		"for the issuer":                            {`issuer: github, deny: [payments-db]`, job(nil), true},
		"for another issuer":                        {`issuer: gitlab, deny: [payments-db]`, job(nil), false},
		"by a name, which needs no pin":             {`issuer: github, match: {repository: acme/api}, deny: [payments-db]`, job(nil), true},
		"by a glob of an id":                        {`issuer: github, match: {repository_owner_id: {glob: "12*"}}, deny: [payments-db]`, job(nil), true},
		"whoever is not of the owner":               {`issuer: github, match: {repository_owner_id: {not: "1234"}}, deny: [payments-db]`, job(nil), false},
		"whoever is not of another owner":           {`issuer: github, match: {repository_owner_id: {not: "99"}}, deny: [payments-db]`, job(nil), true},
		"by an id of another type":                  {`issuer: github, match: {repository_owner_id: 99}, deny: [payments-db]`, job(nil), true},
		"on a condition that holds":                 {`deny: [payments-db], match: {ref: refs/heads/main}`, job(nil), true},
		"on one that does not":                      {`deny: [payments-db], match: {ref: refs/heads/x}`, job(nil), false},
		"on one of two that does not":               {`deny: [payments-db], match: {ref: refs/heads/main, event_name: x}`, job(nil), false},
		"on one that does not and one undecided":    {`deny: [payments-db], match: {ref: refs/heads/x, nosuch: {not: a}}`, job(nil), false},
		"on an expression that holds":               {`deny: [payments-db], when: 'claims.ref == "refs/heads/main"'`, job(nil), true},
		"on one that does not hold":                 {`deny: [payments-db], when: 'claims.ref == "x"'`, job(nil), false},
		"on one that fails":                         {`deny: [payments-db], when: 'claims.nosuch == "x"'`, job(nil), true},
		"on one that costs too much":                {`deny: [payments-db], when: 'claims.big.all(a, claims.big.all(b, a != b || a == b)) && false'`, job(broker.Claims{"big": bigList()}), true},
		"on one that does not, of a trimmed token":  {`deny: [payments-db], when: 'claims.ref == "x"'`, trimmed(job(nil)), true},
		"for a repository that was trimmed":         {`for: [other], deny: [payments-db]`, trimmed(job(broker.Claims{"repository_id": gone{}})), true},
		"on the grant asked for":                    {`deny: ["*"], when: 'grant == "payments-ro"'`, job(nil), false},
		"after its last day":                        {`deny: [payments-db], until: 2027-02-28`, job(nil), false},
		"on its last day":                           {`deny: [payments-db], until: 2027-03-01`, job(nil), true},
		"which is said to be in force":              {`deny: [payments-db], mode: enforce`, job(nil), true},
		"which only reports":                        {`deny: [payments-db], mode: report`, job(nil), false},
		"whose ids are a list with one of them":     {`issuer: github, match: {repository_id: ["1", "5678"]}, deny: [payments-db]`, job(nil), true},
		"whose ids cannot be compared with a claim": {`for: [api], deny: [payments-db]`, job(broker.Claims{"repository_id": map[string]any{}}), false},
	} {
		t.Run(name, func(t *testing.T) {
			text := rule(allowBoth) + "  - {name: wide, issuer: github, match: {repository_owner_id: \"1234\"}, allow: [{grant: payments-db}]}\n" +
				"  - {name: a-deny, " + c.deny + "}\n"
			text = strings.Replace(text, "rules:", `  other: {issuer: github, name: x, match: {repository_owner_id: "1234", repository_id: "1"}}`+"\nrules:", 1)
			if name == "whose ids cannot be compared with a claim" {
				c.want = true
			}
			d := decide(t, load(t, text), c.id, "payments-db")
			if d.Allowed == c.want {
				t.Errorf("%+v", d)
			}
			if !d.Known {
				t.Error("the job is taken for a stranger")
			}
			if c.want && (len(d.Denials) != 0 || len(d.DeniedBy) != 1 || d.DeniedBy[0] != (broker.Reported{Grant: "payments-db", Rule: "p/a-deny", Effect: broker.EffectDeny})) {
				t.Errorf("denials %+v, denied by %+v", d.Denials, d.DeniedBy)
			}
			if !c.want && len(d.DeniedBy) != 0 {
				t.Errorf("denied by %+v", d.DeniedBy)
			}
		})
	}
}

func trimmed(id broker.Identity) broker.Identity {
	id.Trimmed = true
	return id
}

func bigList() []any {
	big := make([]any, 200)
	for i := range big {
		big[i] = "x"
	}
	return big
}

func TestADenialSaysNothingOfRulesThatDeny(t *testing.T) {
	book := load(t, rule("explain: full", "match: {environment: staging}", allowBoth)+`
  - {name: secret-deny, deny: [payments-db], when: 'claims.ref == "refs/heads/main"'}
`)
	d := decide(t, book, job(nil), "payments-db", "payments-ro", "payments-db")
	if len(d.Denied) != 2 || len(d.Denials) != 1 || d.Denials[0].Grant != "payments-ro" || len(d.DeniedBy) != 1 {
		t.Errorf("%+v", d)
	}
	if told := asJSON(t, d.Denials); strings.Contains(told, "secret") || strings.Contains(told, "refs/heads") {
		t.Errorf("told %s", told)
	}
}

func TestARuleThatDeniesMakesNobodyKnown(t *testing.T) {
	book := load(t, rule(allowDB)+"  - {name: block, issuer: github, match: {repository_owner_id: \"666\"}, deny: [\"*\"]}\n")
	stranger := job(broker.Claims{"repository_owner_id": "666", "repository_id": "1"})
	if d := decide(t, book, stranger); d.Known || d.Allowed {
		t.Errorf("a session for whom every rule denies: %+v", d)
	}
	if d := decide(t, book, stranger, "payments-db"); d.Known || len(d.Denials) > 0 || len(d.DeniedBy) != 1 {
		t.Errorf("%+v", d)
	}
	if d := decide(t, book, stranger, "no-such-grant"); len(d.DeniedBy) != 0 || d.Denied[0] != broker.UnknownGrant {
		t.Errorf("%+v", d)
	}
}

// An expression that denies sees the life that was asked for: if it saw what
// another rule gives, a rule that allows could take away.
func TestTheLifeThatADenyingExpressionSeesIsTheOneAskedFor(t *testing.T) {
	book := load(t, rule("allow: [{grant: payments-db, ttl: 5m}]")+"  - {name: long, deny: [payments-db], when: 'ttl > duration(\"10m\")'}\n")
	for ask, want := range map[string]bool{
		"payments-db=10m": true, "payments-db=11m": false, "payments-db=9999h": false, "payments-db": false, "payments-db=1s": true,
	} {
		if d := decide(t, book, job(nil), ask); d.Allowed != want {
			t.Errorf("%s: %+v", ask, d)
		}
	}
}

func TestRulesThatDenyNothingClearAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ deny, want string }{
		"no grant":                 {`deny: []`, "is empty: name a grant"},
		"an unknown grant":         {`deny: [payments-bd]`, `no grant is called "payments-bd"`},
		"a glob of none":           {`deny: ["x*"]`, "matches no grant, so the rule would deny nothing"},
		"a glob that is none":      {`deny: ["***"]`, "is not a glob"},
		"the same twice":           {`deny: [payments-db, payments-db]`, "is in the list already"},
		"a number":                 {`deny: [5]`, "must be text, not a number"},
		"a mapping":                {`deny: [{grant: payments-db}]`, "must be text, not a mapping"},
		"both":                     {`deny: [payments-db], allow: [{grant: payments-ro}]`, "gives or denies, not both"},
		"an explanation":           {`deny: [payments-db], explain: full`, "is for rules that allow"},
		"a replay":                 {`deny: [payments-db], replay: once`, "is for rules that allow"},
		"an unknown issuer":        {`deny: [payments-db], issuer: gihtub`, `no issuer is called "gihtub"`},
		"an unknown repository":    {`deny: [payments-db], for: [aip]`, `no repo is called "aip"`},
		"an empty match":           {`deny: [payments-db], match: {}`, "is empty: name the claims"},
		"an expression that is no": {`deny: [payments-db], when: '1'`, "must say true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policy.Load(folder(map[string]string{"p.yaml": rule(allowDB) + "  - {name: x, " + c.deny + "}\n"}), known())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("want one fault with %q, have\n%v", c.want, err)
			}
		})
	}
}

func TestARuleThatReportsBindsNobodyAndSaysWhatItWould(t *testing.T) {
	book := load(t, rule("match: {ref: refs/heads/main}", allowDB)+`
  - {name: more, for: [api], mode: report, allow: [{grant: payments-ro}, {grant: payments-db, ttl: 1m}]}
  - {name: less, mode: report, match: {environment: production}, deny: ["*"]}
  - {name: else, for: [api], mode: report, match: {ref: x}, explain: full, allow: [{grant: web-identity}]}
  - {name: over, for: [api], mode: report, until: 2027-02-01, allow: [{grant: web-identity}]}
  - {name: unsure, mode: report, match: {nosuch: {not: a}}, deny: [payments-ro]}
`)
	d := decide(t, book, job(nil), "payments-db", "payments-db")
	want := []broker.Reported{
		{Grant: "payments-db", Rule: "p/less", Effect: "deny"}, {Grant: "payments-db", Rule: "p/more", Effect: "allow"},
	}
	if !d.Allowed || d.Permits[0].TTL != time.Hour || d.Permits[0].Rule != "p/deploy" || asJSON(t, d.Reported) != asJSON(t, want) {
		t.Errorf("%+v", d)
	}
	d = decide(t, book, job(nil), "payments-ro", "web-identity", "nosuch")
	want = []broker.Reported{
		{Grant: "payments-ro", Rule: "p/less", Effect: "deny"}, {Grant: "payments-ro", Rule: "p/more", Effect: "allow"},
		{Grant: "payments-ro", Rule: "p/unsure", Effect: "deny"}, {Grant: "web-identity", Rule: "p/less", Effect: "deny"},
	}
	if d.Allowed || len(d.Denials) != 0 || len(d.DeniedBy) != 0 || asJSON(t, d.Reported) != asJSON(t, want) {
		t.Errorf("%+v", d)
	}
	if d := decide(t, book, job(nil)); len(d.Reported) != 0 {
		t.Errorf("without wants: %+v", d)
	}
}

func TestARuleThatReportsMakesNobodyKnown(t *testing.T) {
	book := load(t, rule("mode: report", allowDB)+"  - {name: other, issuer: gitlab, match: {project_id: \"1\"}, allow: [{grant: payments-db}]}\n")
	if d := decide(t, book, job(nil)); d.Known || d.Allowed {
		t.Errorf("%+v", d)
	}
	if d := decide(t, book, job(nil), "payments-db"); d.Known || d.Allowed || len(d.Reported) != 1 {
		t.Errorf("%+v", d)
	}
}
