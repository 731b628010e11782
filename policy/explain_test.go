package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

const explained = `
owner: team-payments
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
  web: {issuer: github, name: acme/web, match: {repository_owner_id: "1234", repository_id: "9"}}
rules:
  - name: deploy
    for: [api]
    match:
      ref: [refs/heads/main, {glob: "refs/heads/release/*"}]
      environment: production
      run_attempt: {at_most: 3}
      actor: {not: dependabot}
    when: >-
      claims.runner_environment == "github-hosted"
      && ttl <= duration("30m")
    allow: [{grant: payments-db, ttl: 15m}]
  - name: old
    for: [api]
    until: 2027-01-31
    match: {ref: refs/heads/legacy}
    allow: [{grant: payments-db}]
  - {name: read, for: [web, api], allow: [{grant: payments-ro}]}
  - {name: all-main, issuer: github, match: {repository_owner_id: "1234", ref: refs/heads/main}, allow: [{grant: web-identity}]}
  - {name: frozen, deny: ["payments-*"], match: {environment: frozen}}
  - {name: unclear, deny: [payments-ro], match: {groups: {not: ops}, ref: refs/heads/odd}}
  - {name: tryout, mode: report, for: [api], match: {ref: refs/heads/main}, allow: [{grant: payments-ro}]}
  - {name: stricter, mode: report, deny: [payments-db], match: {actor: marcela}}
`

func TestExplanationsAreAsTheirGoldens(t *testing.T) {
	b := load(t, explained)
	hostile := "refs/heads/x\n::set-env name=A::b\x1b[2J\u202e" + strings.Repeat("x", 300)
	sound := broker.Claims{"run_attempt": json.Number("1"), "actor": "marcela"}
	with := func(more broker.Claims) broker.Identity {
		all := broker.Claims{}
		for _, m := range []broker.Claims{sound, more} {
			for k, v := range m {
				all[k] = v
			}
		}
		return job(all)
	}
	elsewhere := job(nil)
	elsewhere.Issuer = "nowhere"
	for name, c := range map[string]struct {
		id   broker.Identity
		want string
	}{
		"allowed":                    {with(nil), "payments-db=2h"},
		"allowed-as-long-as-asked":   {with(nil), "payments-db=5m"},
		"allowed-as-the-grant-says":  {job(nil), "web-identity"},
		"conditions":                 {with(broker.Claims{"ref": hostile, "environment": gone{}, "actor": gone{}, "runner_environment": "self-hosted"}), "payments-db"},
		"denied-by-a-rule":           {with(broker.Claims{"environment": "frozen"}), "payments-ro"},
		"denied-by-what-is-not-said": {with(broker.Claims{"ref": "refs/heads/odd"}), "payments-ro"},
		"trimmed":                    {trimmed(with(broker.Claims{"environment": gone{}})), "payments-db"},
		"ended":                      {with(broker.Claims{"ref": "refs/heads/legacy", "actor": "x"}), "payments-db"},
		"stranger":                   {with(broker.Claims{"repository_owner_id": "666", "ref": "refs/heads/x"}), "payments-db"},
		"not-given":                  {with(broker.Claims{"repository_id": "9"}), "payments-db"},
		"unknown-grant":              {with(nil), "no-such-grant"},
		"unknown-issuer":             {elsewhere, "payments-db"},
		"bad-request":                {with(nil), "payments-db=1ms"},
	} {
		t.Run(name, func(t *testing.T) {
			e := b.Explain(c.id, want(t, c.want)[0], noon)
			var text bytes.Buffer
			if err := e.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			e.Version = "sha256:…"
			asJSON, err := json.MarshalIndent(e, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			shown := strings.ReplaceAll(text.String(), b.Version(), "sha256:…")
			if strings.ContainsAny(strings.ReplaceAll(shown, "\n", ""), "\x1b\r\t\u202e") || strings.Contains(shown, "\n::") {
				t.Errorf("what a token says moves the terminal:\n%q", shown)
			}
			golden(t, filepath.Join("testdata", "explain", name+".golden"), shown+"\n"+string(asJSON)+"\n")
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if got != string(want) {
		t.Errorf("%s has changed (-update rewrites it):\n%s", path, got)
	}
}

func TestALifeIsBoundByTheLeast(t *testing.T) {
	files := map[string]string{
		"ceilings.yaml": `
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234"}}
ceilings:
  - {folder: team, repos: [api], grants: ["*"], max_ttl: 10m}
`,
		"team/p.yaml": `
rules:
  - {name: long, for: [api], allow: [{grant: payments-db, ttl: 20m}, {grant: payments-ro}, {grant: web-identity, ttl: 5m}]}
`}
	b, err := policy.Load(folder(files), known())
	if err != nil {
		t.Fatal(err)
	}
	for ask, c := range map[string]policy.Life{
		"payments-db":     {TTL: "10m", Bound: "ceiling", Rule: "20m", Ceiling: "10m", Grant: "1h"},
		"payments-db=15m": {TTL: "10m", Bound: "ceiling", Asked: "15m", Rule: "20m", Ceiling: "10m", Grant: "1h"},
		"payments-db=1m":  {TTL: "1m", Bound: "asked", Asked: "1m", Rule: "20m", Ceiling: "10m", Grant: "1h"},
		"payments-ro":     {TTL: "10m", Bound: "ceiling", Ceiling: "10m", Grant: "2h"},
		"web-identity":    {TTL: "5m", Bound: "rule", Rule: "5m", Grant: "30m"},
	} {
		e := b.Explain(job(nil), want(t, ask)[0], noon)
		if e.Life == nil || *e.Life != c || e.Rule != "team/p/long" {
			t.Errorf("%s: %+v, want %+v", ask, e.Life, c)
		}
	}
}

func TestWithUncheckedGrantsNoLifeIsMadeUp(t *testing.T) {
	k := known()
	k.Grants, k.AnyGrant = nil, true
	b, err := policy.Load(folder(map[string]string{"p.yaml": rule("allow: [{grant: x}, {grant: y, ttl: 5m}]")}), k)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := b.Explain(job(nil), broker.Want{Name: "x"}, noon).WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if e := b.Explain(job(nil), broker.Want{Name: "x"}, noon); !e.Allowed || *e.Life != (policy.Life{Bound: "grant"}) || strings.Contains(text.String(), "2562") {
		t.Errorf("%+v\n%s", e.Life, text.String())
	}
	if e := b.Explain(job(nil), broker.Want{Name: "y", TTL: time.Hour}, noon); *e.Life != (policy.Life{TTL: "5m", Bound: "rule", Asked: "1h", Rule: "5m"}) {
		t.Errorf("%+v", e.Life)
	}
}

// An explanation must not say other than the decision: it is what people
// believe of it.
func TestAnExplanationSaysWhatIsDecided(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	conditions := []string{
		"ref: refs/heads/main", `ref: {glob: "refs/heads/*"}`, "ref: {not: refs/heads/x}", "environment: {exists: true}", "environment: {exists: false}",
		"run: {at_least: 3}", "run: [1, 2]", "groups: ops", "groups: {not: [ops, dev]}", "sub: {not: {glob: \"*\"}}",
	}
	grants := []string{"payments-db", "payments-ro", "web-identity"}
	for range 300 {
		var text strings.Builder
		text.WriteString("repos:\n  api: {issuer: github, name: a, match: {repository_owner_id: \"1234\", repository_id: \"5678\"}}\n" +
			"  web: {issuer: github, name: b, match: {repository_owner_id: \"1234\", repository_id: \"9\"}}\nrules:\n")
		for i := range 1 + random.IntN(8) {
			fmt.Fprintf(&text, "  - {name: r%d, %s, match: {%s}, %s %s %s}\n", i,
				pick("for: [api]", "for: [api, web]", "for: [web]"), pick(conditions...),
				pick("", "", "mode: report,"), pick("", "", "until: 2027-02-28,", "when: 'claims.ref != \"refs/heads/x\"',", "when: 'claims.nosuch == 1',", "when: 'ttl > duration(\"20m\")',"),
				pick("allow: [{grant: "+pick(grants...)+"}]", "allow: [{grant: "+pick(grants...)+", ttl: 10m}]", "deny: ["+pick(grants...)+"]", "allow: [{grant: payments-db}]"))
		}
		b := load(t, text.String())
		for range 10 {
			id := job(broker.Claims{"ref": pick("refs/heads/main", "refs/heads/x", "odd\u202e"), "repository_id": pick("5678", "9", "7"), "run": json.Number(pick("1", "5"))})
			for _, name := range []string{"environment", "ref", "repository_id"} {
				if random.IntN(8) == 0 {
					delete(id.Claims, name)
				}
			}
			id.Trimmed = random.IntN(5) == 0
			agrees(t, b, id, broker.Want{Name: pick(append(grants, "none")...), TTL: time.Duration(random.IntN(3)) * 15 * time.Minute}, text.String())
		}
	}
}

func agrees(t *testing.T, b *policy.Book, id broker.Identity, w broker.Want, text string) {
	t.Helper()
	d, err := b.Decide(id, []broker.Want{w}, noon)
	if err != nil {
		t.Fatal(err)
	}
	e := b.Explain(id, w, noon)
	if e.Allowed != d.Allowed || e.Known != d.Known || (e.Why == policy.Given) != d.Allowed {
		t.Fatalf("explained %+v, decided %+v\n%s", e, d, text)
	}
	strikes := func(r policy.Ruling) bool {
		return !r.Over && (r.Holds == policy.Holds || r.Holds == policy.CannotSay && r.Effect == broker.EffectDeny)
	}
	ids := func(rulings []policy.Ruling) []string {
		var all []string
		for _, r := range rulings {
			if strikes(r) {
				all = append(all, r.Rule)
			}
		}
		slices.Sort(all)
		return all
	}
	named := func(reported []broker.Reported) []string {
		var all []string
		for _, r := range reported {
			all = append(all, r.Rule)
		}
		slices.Sort(all)
		return all
	}
	if len(e.Denied) != len(ids(e.Denied)) || !slices.Equal(ids(e.Denied), named(d.DeniedBy)) || !slices.Equal(ids(e.Reported), named(d.Reported)) {
		t.Errorf("explained %+v, decided %+v\n%s", e, d, text)
	}
	switch gives := ids(e.Rules); {
	case d.Allowed && (e.Rules[0].Rule != d.Permits[0].Rule || !strikes(e.Rules[0]) || e.Rule != d.Permits[0].Rule || len(e.Denied) > 0):
		t.Errorf("explained %+v, decided %+v\n%s", e, d, text)
	case !d.Allowed && len(gives) > 0 && len(e.Denied) == 0:
		t.Errorf("%v would give it, and it is denied for %s\n%s", gives, e.Why, text)
	}
}
