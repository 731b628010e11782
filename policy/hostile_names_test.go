package policy

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// manyRepos are files that name repositories team0-repo-0 and so on, a thousand
// in each.
func manyRepos(files int) fstest.MapFS {
	fsys := fstest.MapFS{}
	for f := range files {
		var b strings.Builder
		b.WriteString("repos:\n")
		for i := range 1000 {
			fmt.Fprintf(&b, "  team%d-repo-%d: {issuer: hub, name: x, match: {owner: \"1\", repo: \"%d\"}}\n", f, i, i+f*1000)
		}
		fsys[fmt.Sprintf("repos%d.yaml", f)] = &fstest.MapFile{Data: []byte(b.String())}
	}
	return fsys
}

// TestNamesAreFoundInTimeHoweverManyThereAre: ceilings of many teams list their
// repositories by name, and a file can misspell as many as it likes.
func TestNamesAreFoundInTimeHoweverManyThereAre(t *testing.T) {
	const each = 1000
	list := func(format string) string {
		names := make([]string, each)
		for i := range names {
			names[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(names, ", ")
	}
	good := "rules: [{name: x, for: [" + list("team0-repo-%d") + "], allow: [{grant: a}]}]"
	for name, c := range map[string]struct {
		ceiling, rule string
		faults        int
	}{
		"of a ceiling":             {list("team0-repo-%d"), good, 0},
		"that a rule misspells":    {list("team0-repo-%d"), "rules: [{name: x, for: [" + list("team0-rep0-%d") + "], allow: [{grant: a}]}]", each},
		"that a ceiling misspells": {list("team0-rep0-%d"), "rules: [{name: x, deny: [a]}]", each},
	} {
		t.Run(name, func(t *testing.T) {
			files := manyRepos(5)
			files["ceilings.yaml"] = &fstest.MapFile{Data: []byte("ceilings: [{folder: team, grants: [\"*\"], repos: [" + c.ceiling + "]}]")}
			files["team/a.yaml"] = &fstest.MapFile{Data: []byte(c.rule)}
			began := time.Now()
			_, err := Load(files, someKnown())
			if took := time.Since(began); took > 10*time.Second*slower {
				t.Errorf("it took %s", took)
			}
			if c.faults == 0 && err != nil {
				t.Errorf("%.300v", err)
			}
			if c.faults > 0 && (err == nil || strings.Count(err.Error(), "no repo is called") != 100 || !strings.Contains(err.Error(), `did you mean "team0-repo-0"`)) {
				t.Errorf("%.300v", err)
			}
		})
	}
}

// TestAnOfferLooksAtEachRuleOnce: any job that a rule knows may ask for an offer,
// as often as it likes.
func TestAnOfferLooksAtEachRuleOnce(t *testing.T) {
	const many = 1000
	known := someKnown()
	var rules strings.Builder
	rules.WriteString("rules:\n")
	for i := range many {
		name := fmt.Sprintf("g%d", i)
		known.Grants[name] = broker.Grant{Name: name, MaxTTL: time.Hour}
		fmt.Fprintf(&rules, "  - {name: r%d, issuer: hub, match: {owner: \"1\", ref: x}, allow: [{grant: g%d}]}\n", i, i)
		fmt.Fprintf(&rules, "  - {name: d%d, deny: [\"*\"], match: {ref: y}}\n", i)
	}
	book, err := Load(fstest.MapFS{"p.yaml": {Data: []byte(rules.String())}}, known)
	if err != nil {
		t.Fatal(err)
	}
	for ref, offered := range map[string]int{"x": many, "y": 0} {
		id := broker.Identity{Issuer: "hub", Claims: broker.Claims{"owner": "1", "ref": ref}}
		took := least(func() {
			if d, err := book.Offer(id, midday); err != nil || len(d.Permits) != offered {
				t.Fatalf("%d grants are offered, %v", len(d.Permits), err)
			}
		})
		t.Logf("%s", took)
		if took > allowedTime*10 {
			t.Errorf("an offer took %s", took)
		}
	}
	// And asking for as many as one may costs no more for those that are denied.
	var wants []broker.Want
	for i := range 16 {
		wants = append(wants, broker.Want{Name: fmt.Sprintf("g%d", i)})
	}
	id := broker.Identity{Issuer: "hub", Claims: broker.Claims{"owner": "1", "ref": "y"}}
	if took := least(func() {
		if d, err := book.Decide(id, wants, midday); err != nil || len(d.DeniedBy) != 16*many {
			t.Fatalf("%d rules deny, %v", len(d.DeniedBy), err)
		}
	}); took > allowedTime*2 {
		t.Errorf("a decision took %s", took)
	}
}
