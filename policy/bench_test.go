package policy

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// bigFolder has so many repositories with five rules each, twenty to a team's
// file and owner, and a few rules that deny to everybody.
func bigFolder(repos int) fstest.MapFS {
	fsys := fstest.MapFS{"all.yaml": {Data: []byte(`
rules:
  - {name: no-forks, match: {event_name: [pull_request_target, workflow_run]}, deny: ["*"]}
  - {name: hosted, mode: report, match: {runner: {not: hosted}}, deny: [b]}
`)}}
	for team := range repos / 20 {
		var text strings.Builder
		fmt.Fprintf(&text, "owner: team-%d\nrepos:\n", team)
		for i := range 20 {
			fmt.Fprintf(&text, "  r%d: {issuer: hub, name: acme/r%d, match: {owner: \"%d\", repo: \"%d\"}}\n", team*20+i, team*20+i, team, team*20+i)
		}
		text.WriteString("rules:\n")
		for i := range 100 {
			fmt.Fprintf(&text, `  - name: n%d
    for: [r%d]
    match:
      ref: ["refs/heads/b%d", {glob: "refs/tags/v%d.*"}]
      env: prod
    when: 'ttl <= duration("1h")'
    allow:
      - {grant: a, ttl: 15m}
`, i, team*20+i%20, i/20, i/20)
		}
		fsys[fmt.Sprintf("teams/t%d/rules.yaml", team)] = &fstest.MapFile{Data: []byte(text.String())}
	}
	return fsys
}

func bigBook(t testing.TB, repos int) *Book {
	t.Helper()
	book, err := Load(bigFolder(repos), someKnown())
	if err != nil {
		t.Fatal(err)
	}
	return book
}

// oneOfMany is a job of a repository that every big folder has.
func oneOfMany() broker.Identity {
	return broker.Identity{Issuer: "hub", Claims: broker.Claims{"owner": "0", "repo": "7", "ref": "refs/heads/b3", "env": "prod", "event_name": "push"}}
}

// TestTheCostOfADecisionDoesNotGrowWithTheRulesOfOthers counts what is looked
// at: clocks say other things on other days.
func TestTheCostOfADecisionDoesNotGrowWithTheRulesOfOthers(t *testing.T) {
	for _, repos := range []int{20, 2000} {
		book := bigBook(t, repos)
		if n := len(book.rules); n != repos*5+2 {
			t.Fatalf("%d rules", n)
		}
		if found := book.index.find(oneOfMany(), nil); len(found) != 7 {
			t.Errorf("among %d rules %d are looked at, want the 5 of the repository and 2 for everybody", len(book.rules), len(found))
		}
		stranger := broker.Identity{Issuer: "hub", Claims: broker.Claims{"owner": "x", "repo": "y"}}
		if found := book.index.find(stranger, nil); len(found) != 2 {
			t.Errorf("among %d rules %d are looked at for a stranger", len(book.rules), len(found))
		}
		if n := len(book.index["hub"].claims); n != 1 {
			t.Errorf("%d claims are looked up", n)
		}
		d, err := book.Decide(oneOfMany(), []broker.Want{{Name: "a"}}, midday)
		if err != nil || !d.Allowed || d.Permits[0].Rule != "teams/t0/rules/n67" {
			t.Errorf("%+v %v", d, err)
		}
	}
}

// TestManyRulesForManyRepositoriesAreRefusedOrCheap: a team whose ceiling is wide
// can mean every repository with each of its rules.
func TestManyRulesForManyRepositoriesAreRefusedOrCheap(t *testing.T) {
	wide := func(rules int) fstest.MapFS {
		var repos, denies strings.Builder
		repos.WriteString("repos:\n")
		for i := range 2000 {
			fmt.Fprintf(&repos, "  r%d: {issuer: hub, name: x, match: {owner: \"1\", repo: \"%d\"}}\n", i, i)
		}
		denies.WriteString("rules:\n")
		for i := range rules {
			fmt.Fprintf(&denies, "  - {name: n%d, deny: [\"*\"], match: {ref: x}}\n", i)
		}
		return fstest.MapFS{
			"repos.yaml":     {Data: []byte(repos.String())},
			"ceilings.yaml":  {Data: []byte("ceilings: [{folder: team, repos: [\"*\"], grants: [\"*\"]}]")},
			"team/many.yaml": {Data: []byte(denies.String())},
		}
	}
	if _, err := Load(wide(501), someKnown()); err == nil || !strings.Contains(err.Error(), "more than 1000000 times") || strings.Contains(err.Error(), "\n") {
		t.Errorf("a million places: %.300v", err)
	}
	book, err := Load(wide(50), someKnown())
	if err != nil {
		t.Fatal(err)
	}
	id := broker.Identity{Issuer: "hub", Claims: broker.Claims{"owner": "1", "repo": "1999", "ref": "x"}}
	if d, err := book.Decide(id, []broker.Want{{Name: "a"}}, midday); err != nil || len(d.DeniedBy) != 50 {
		t.Errorf("%d rules deny, %v", len(d.DeniedBy), err)
	}
	for _, r := range book.rules {
		if found := r.among.find(id, nil); len(found) != 1 {
			t.Fatalf("%s looks at %d of its repositories", r.id, len(found))
		}
	}
}

// TestRulesThatSayTheSameShareAProgram keeps many rules small and quick to load.
func TestRulesThatSayTheSameShareAProgram(t *testing.T) {
	book := bigBook(t, 20)
	i := slices.IndexFunc(book.rules, func(r *rule) bool { return r.when != nil })
	for _, r := range book.rules[i+1:] {
		if r.when != nil && r.when != book.rules[i].when {
			t.Fatalf("%s has a program of its own", r.id)
		}
	}
}

func BenchmarkLoad100kRules(b *testing.B) {
	fsys := bigFolder(20_000)
	var book *Book
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b.ResetTimer()
	for range b.N {
		book = nil
		var err error
		if book, err = Load(fsys, someKnown()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB/book")
	b.ReportMetric(float64(len(book.rules)), "rules")
	runtime.KeepAlive(book)
}

// BenchmarkDecide is for a repository with five rules, among those of few and
// of many others. The median is beside the mean.
func BenchmarkDecide(b *testing.B) {
	wants := []broker.Want{{Name: "a"}}
	for _, repos := range []int{20, 20_000} {
		book := bigBook(b, repos)
		for name, id := range map[string]broker.Identity{
			"allowed":  oneOfMany(),
			"denied":   {Issuer: "hub", Claims: broker.Claims{"owner": "0", "repo": "7", "ref": "refs/heads/x", "env": "prod", "event_name": "push"}},
			"stranger": {Issuer: "hub", Claims: broker.Claims{"owner": "x", "repo": "y", "event_name": "push"}},
		} {
			b.Run(fmt.Sprintf("%s among %d", name, len(book.rules)), func(b *testing.B) {
				b.ReportAllocs()
				took := make([]time.Duration, 0, 1<<16)
				for b.Loop() {
					began := time.Now()
					if _, err := book.Decide(id, wants, midday); err != nil {
						b.Fatal(err)
					}
					if len(took) < cap(took) {
						took = append(took, time.Since(began))
					}
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2]), "ns/median")
			})
		}
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
	id.Claims["owner"] = "7"
	b.ReportAllocs()
	for b.Loop() {
		if d, err := book.Decide(id, wants, midday); err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
	}
}

// BenchmarkCompile is what each expression costs that no other rule has.
func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		w, err := newWhenCompiler()
		if err != nil {
			b.Fatal(err)
		}
		for i := range 100 {
			if _, err := w.compile(nil, fmt.Sprintf(`claims.env == "prod%d" && ttl <= duration("1h")`, i)); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/100, "ns/expression")
}
