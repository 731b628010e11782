package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/broker"
)

var midday = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func someKnown() Known {
	k := Known{
		Issuers: map[string]Issuer{
			"hub":   {Shared: true, ImmutableIDs: []string{"repo", "owner"}, OwnerIDs: []string{"owner"}},
			"forge": {ImmutableIDs: []string{"repo"}},
		},
		Grants: map[string]broker.Grant{},
	}
	for _, name := range []string{"a", "b", "c"} {
		k.Grants[name] = broker.Grant{Name: name, MaxTTL: time.Hour}
	}
	return k
}

// someValue draws what a policy may say of a claim, from few values so that
// they often match.
func someValue(t *rapid.T, what string) string {
	value := rapid.SampledFrom([]string{`"1"`, `"2"`, `1`, `1.0`, `10e-1`, `true`})
	if rapid.IntRange(0, 3).Draw(t, what+" list") > 0 {
		return value.Draw(t, what)
	}
	return "[" + strings.Join(rapid.SliceOfN(value, 1, 3).Draw(t, what), ", ") + "]"
}

func someRepos(t *rapid.T) string {
	var b strings.Builder
	b.WriteString("repos:\n")
	for i := range 4 {
		issuer := rapid.SampledFrom([]string{"hub", "forge"}).Draw(t, "issuer")
		match := "owner: " + someValue(t, "owner")
		if rapid.Bool().Draw(t, "repo too") {
			match += ", repo: " + someValue(t, "repo")
		}
		fmt.Fprintf(&b, "  r%d: {issuer: %s, name: x, match: {%s}}\n", i, issuer, match)
	}
	return b.String()
}

func someRule(t *rapid.T, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n", name)
	var match []string
	switch rapid.IntRange(0, 2).Draw(t, "whom") {
	case 0:
		repos := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"r0", "r1", "r2", "r3"}), 1, 3, rapid.ID[string]).Draw(t, "for")
		fmt.Fprintf(&b, "    for: [%s]\n", strings.Join(repos, ", "))
	case 1:
		b.WriteString("    issuer: hub\n")
		match = append(match, "owner: "+someValue(t, "owner"))
	default:
		b.WriteString("    issuer: forge\n")
		match = append(match, rapid.SampledFrom([]string{"repo", "ref"}).Draw(t, "claim")+": "+someValue(t, "value"))
	}
	if rapid.Bool().Draw(t, "more") {
		match = append(match, rapid.SampledFrom([]string{`env: {glob: "*1"}`, `env: "1"`, `/list/0: "2"`}).Draw(t, "condition"))
	}
	if len(match) > 0 {
		fmt.Fprintf(&b, "    match: {%s}\n", strings.Join(match, ", "))
	}
	if rapid.IntRange(0, 3).Draw(t, "when") == 0 {
		b.WriteString("    when: " + rapid.SampledFrom([]string{`'claims.env == "1"'`, `'grant == "a"'`, `'claims.owner == 1'`}).Draw(t, "expression") + "\n")
	}
	if rapid.IntRange(0, 3).Draw(t, "until") == 0 {
		b.WriteString("    until: " + rapid.SampledFrom([]string{"2027-02-28", "2027-03-01"}).Draw(t, "day") + "\n")
	}
	b.WriteString("    allow:\n")
	for _, g := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3, rapid.ID[string]).Draw(t, "allow") {
		fmt.Fprintf(&b, "      - {grant: %s, ttl: %dm}\n", g, rapid.IntRange(1, 60).Draw(t, "ttl"))
	}
	return b.String()
}

func someIdentity(t *rapid.T) broker.Identity {
	value := rapid.SampledFrom([]any{
		"1", "2", "", json.Number("1"), json.Number("1.00"), json.Number("2"), true, false, nil,
		[]any{"2", json.Number("1")}, []any{"1", "1"}, []any{}, map[string]any{"1": "1"},
	})
	id := broker.Identity{Issuer: rapid.SampledFrom([]string{"hub", "forge", "other"}).Draw(t, "issuer"), Claims: broker.Claims{}}
	for _, claim := range []string{"owner", "repo", "ref", "env", "list"} {
		if rapid.IntRange(0, 4).Draw(t, claim+" there") > 0 {
			id.Claims[claim] = value.Draw(t, claim)
		}
	}
	return id
}

func someWants(t *rapid.T) []broker.Want {
	var wants []broker.Want
	for _, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "none"}), 0, 3).Draw(t, "wants") {
		wants = append(wants, broker.Want{Name: name, TTL: time.Duration(rapid.SampledFrom([]int{0, 0, 30, 90, 7200}).Draw(t, "asked")) * time.Second})
	}
	return wants
}

func bookOf(t *rapid.T, text string) *Book {
	b, err := Load(fstest.MapFS{"p.yaml": {Data: []byte(text)}}, someKnown())
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return b
}

func (b *Book) all() []int {
	all := make([]int, len(b.rules))
	for i := range all {
		all[i] = i
	}
	return all
}

func TestTheIndexDecidesAsALookAtEveryRuleDoes(t *testing.T) {
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		text := someRepos(t) + "rules:\n"
		for i := range rapid.IntRange(1, 6).Draw(t, "rules") {
			text += someRule(t, fmt.Sprintf("r%d", i))
		}
		b := bookOf(t, text)
		for range 8 {
			id, wants := someIdentity(t), someWants(t)
			quick, errQuick := b.Decide(id, wants, midday)
			slow, errSlow := b.decide(b.all(), id, wants, midday)
			if errQuick != nil || errSlow != nil || !reflect.DeepEqual(quick, slow) {
				t.Fatalf("%s\n%+v %+v\nby index   %+v\nby looking %+v", text, id, wants, quick, slow)
			}
			if quick.Known {
				found++
			}
		}
	})
	if found == 0 {
		t.Error("no identity was ever known: the test says nothing")
	}
}

func TestAddingARuleTakesNothingAway(t *testing.T) {
	given := 0
	rapid.Check(t, func(t *rapid.T) {
		text := someRepos(t) + "rules:\n" + someRule(t, "m1") + someRule(t, "m2")
		before := bookOf(t, text)
		after := bookOf(t, text+someRule(t, rapid.SampledFrom([]string{"a", "m", "z"}).Draw(t, "name")))
		for range 8 {
			id, wants := someIdentity(t), someWants(t)
			was, err := before.Decide(id, wants, midday)
			if err != nil {
				t.Fatal(err)
			}
			is, err := after.Decide(id, wants, midday)
			if err != nil {
				t.Fatal(err)
			}
			if was.Allowed && !is.Allowed || was.Known && !is.Known || len(is.Denied) > len(was.Denied) {
				t.Fatalf("%s\n%+v\nbefore %+v\nafter  %+v", text, id, was, is)
			}
			for i, p := range was.Permits {
				given++
				if is.Permits[i].TTL < p.TTL {
					t.Fatalf("the life became shorter: %+v, %+v", p, is.Permits[i])
				}
			}
		}
	})
	if given == 0 {
		t.Error("no grant was ever given: the test says nothing")
	}
}

func TestALifeIsNeverLongerThanAskedOrAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := bookOf(t, someRepos(t)+"rules:\n"+someRule(t, "x"))
		id, wants := someIdentity(t), someWants(t)
		d, err := b.Decide(id, wants, midday)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range d.Permits {
			ceiling := time.Hour
			for _, r := range b.rules {
				for _, a := range r.allow {
					if a.grant == p.Grant.Name {
						ceiling = min(ceiling, a.ttl)
					}
				}
			}
			if asked := wants[i].TTL; p.TTL <= 0 || p.TTL > ceiling || asked > 0 && p.TTL > asked || p.TTL%time.Second != 0 {
				t.Fatalf("asked %s, at most %s, given %s", asked, ceiling, p.TTL)
			}
		}
	})
}

// bigBook has 10,000 rules of 2,000 repositories that belong to 20 owners.
func bigBook(b testing.TB) *Book {
	fsys := fstest.MapFS{}
	for owner := range 20 {
		var text strings.Builder
		text.WriteString("repos:\n")
		for repo := range 100 {
			fmt.Fprintf(&text, "  r%d-%d: {issuer: hub, name: x, match: {owner: \"%d\", repo: \"%d\"}}\n", owner, repo, owner, owner*100+repo)
		}
		text.WriteString("rules:\n")
		for i := range 500 {
			fmt.Fprintf(&text, "  - {name: n%d, for: [r%d-%d], match: {ref: [\"refs/heads/b%d\", {glob: \"refs/tags/v%d.*\"}], env: prod}, allow: [{grant: a, ttl: 15m}]}\n",
				i, owner, i%100, i/100, i/100)
		}
		fsys[fmt.Sprintf("team%d.yaml", owner)] = &fstest.MapFile{Data: []byte(text.String())}
	}
	book, err := Load(fsys, someKnown())
	if err != nil {
		b.Fatal(err)
	}
	return book
}

func oneOfMany() broker.Identity {
	return broker.Identity{Issuer: "hub", Claims: broker.Claims{"owner": "7", "repo": "742", "ref": "refs/heads/b3", "env": "prod"}}
}

func TestTheCostOfADecisionDoesNotGrowWithTheRulesOfOthers(t *testing.T) {
	book := bigBook(t)
	if n := len(book.rules); n != 10_000 {
		t.Fatalf("%d rules", n)
	}
	if found := book.index.find(oneOfMany(), nil); len(found) != 5 {
		t.Errorf("%d rules are looked at, want the 5 of the repository", len(found))
	}
	d, err := book.Decide(oneOfMany(), []broker.Want{{Name: "a"}}, midday)
	if err != nil || !d.Allowed || d.Permits[0].Rule != "team7/n342" {
		t.Errorf("%+v %v", d, err)
	}
}

func BenchmarkDecideAmong10kRules(b *testing.B) {
	book, wants := bigBook(b), []broker.Want{{Name: "a"}}
	for name, id := range map[string]broker.Identity{
		"allowed":  oneOfMany(),
		"denied":   {Issuer: "hub", Claims: broker.Claims{"owner": "7", "repo": "742", "ref": "refs/heads/x", "env": "prod"}},
		"stranger": {Issuer: "hub", Claims: broker.Claims{"owner": "99", "repo": "1"}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := book.Decide(id, wants, midday); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecideWithAnExpression(b *testing.B) {
	book, err := Load(fstest.MapFS{"p.yaml": {Data: []byte(`
rules:
  - {name: x, issuer: hub, match: {owner: "7"}, when: 'claims.env == "prod" && ttl <= duration("1h")', allow: [{grant: a}]}
`)}}, someKnown())
	if err != nil {
		b.Fatal(err)
	}
	id, wants := oneOfMany(), []broker.Want{{Name: "a"}}
	b.ReportAllocs()
	for b.Loop() {
		if d, err := book.Decide(id, wants, midday); err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
	}
}
