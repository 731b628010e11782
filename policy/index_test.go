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

// someRule draws a rule that allows and binds.
func someRule(t *rapid.T, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n", name)
	b.WriteString(someWhom(t, rapid.IntRange(0, 2).Draw(t, "whom")))
	b.WriteString("    allow:\n")
	for _, g := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3, rapid.ID[string]).Draw(t, "allow") {
		fmt.Fprintf(&b, "      - {grant: %s, ttl: %dm}\n", g, rapid.IntRange(1, 60).Draw(t, "ttl"))
	}
	return b.String()
}

// someDeny draws a rule that denies.
func someDeny(t *rapid.T, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n", name)
	b.WriteString(someWhom(t, rapid.IntRange(0, 3).Draw(t, "whom")))
	grants := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", `"*"`, `"?"`}), 1, 2, rapid.ID[string]).Draw(t, "deny")
	fmt.Fprintf(&b, "    deny: [%s]\n", strings.Join(grants, ", "))
	return b.String()
}

// anyRule draws a rule of any sort.
func anyRule(t *rapid.T, name string) string {
	rule := someRule
	if rapid.IntRange(0, 2).Draw(t, "sort") == 0 {
		rule = someDeny
	}
	text := rule(t, name)
	if rapid.IntRange(0, 3).Draw(t, "report") == 3 {
		text += "    mode: report\n"
	}
	return text
}

// someWhom draws whom a rule is for, and all that must hold: 0 names repos, 1
// and 2 an issuer, and 3 nobody.
func someWhom(t *rapid.T, whom int) string {
	var b strings.Builder
	var match []string
	switch whom {
	case 0:
		repos := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"r0", "r1", "r2", "r3"}), 1, 3, rapid.ID[string]).Draw(t, "for")
		fmt.Fprintf(&b, "    for: [%s]\n", strings.Join(repos, ", "))
	case 1:
		b.WriteString("    issuer: hub\n")
		match = append(match, "owner: "+someValue(t, "owner"))
	case 2:
		b.WriteString("    issuer: forge\n")
		match = append(match, rapid.SampledFrom([]string{"repo", "ref"}).Draw(t, "claim")+": "+someValue(t, "value"))
	}
	if rapid.Bool().Draw(t, "more") {
		match = append(match, rapid.SampledFrom([]string{
			`env: {glob: "*1"}`, `env: "1"`, `/list/0: "2"`, `env: {not: "1"}`, `env: {not: [1, {glob: "2*"}]}`,
			`env: {exists: true}`, `list: {exists: false}`, `env: {above: 1}`, `list: {at_least: 1, below: 2}`,
		}).Draw(t, "condition"))
	}
	if len(match) > 0 {
		fmt.Fprintf(&b, "    match: {%s}\n", strings.Join(match, ", "))
	}
	if rapid.IntRange(0, 4).Draw(t, "when") == 4 {
		b.WriteString("    when: " + rapid.SampledFrom([]string{`'claims.env == "1"'`, `'grant == "a"'`, `'claims.owner == 1'`, `'ttl > duration("1m")'`}).Draw(t, "expression") + "\n")
	}
	if rapid.IntRange(0, 4).Draw(t, "until") == 4 {
		b.WriteString("    until: " + rapid.SampledFrom([]string{"2027-02-28", "2027-03-01"}).Draw(t, "day") + "\n")
	}
	return b.String()
}

func someIdentity(t *rapid.T) broker.Identity {
	value := rapid.SampledFrom([]any{
		"1", "1", "1", "1", json.Number("1"), json.Number("1"), "2", "", json.Number("1"), json.Number("1.00"), json.Number("2"), true, false, nil,
		[]any{"2", json.Number("1")}, []any{"1", "1"}, []any{}, map[string]any{"1": "1"},
	})
	id := broker.Identity{Issuer: rapid.SampledFrom([]string{"hub", "forge", "other"}).Draw(t, "issuer"), Claims: broker.Claims{}}
	id.Trimmed = rapid.IntRange(0, 9).Draw(t, "trimmed") == 9
	for _, claim := range []string{"owner", "repo", "ref", "env", "list"} {
		if rapid.IntRange(0, 9).Draw(t, claim+" there") < 8 {
			id.Claims[claim] = value.Draw(t, claim)
		}
	}
	return id
}

func someWants(t *rapid.T) []broker.Want {
	var wants []broker.Want
	least := rapid.SampledFrom([]int{1, 0}).Draw(t, "at least")
	for _, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "a", "a", "b", "c", "none"}), least, 3).Draw(t, "wants") {
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
	known, denied, reported := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		text := someRepos(t) + "rules:\n"
		for i := range rapid.IntRange(1, 6).Draw(t, "rules") {
			text += anyRule(t, fmt.Sprintf("r%d", i))
		}
		b := bookOf(t, text)
		for range 20 {
			id, wants := someIdentity(t), someWants(t)
			quick, errQuick := b.Decide(id, wants, midday)
			slow, errSlow := b.decide(b.all(), id, wants, midday)
			if (errQuick == nil) != (errSlow == nil) || !reflect.DeepEqual(quick, slow) {
				t.Fatalf("%s\n%+v %+v\nby index   %+v\nby looking %+v", text, id, wants, quick, slow)
			}
			if quick.Known {
				known++
			}
			denied += len(quick.DeniedBy)
			reported += len(quick.Reported)
		}
	})
	if known == 0 || denied == 0 || reported == 0 {
		t.Errorf("known %d, denied %d, reported %d: the test says too little", known, denied, reported)
	}
}

func TestAddingARuleTakesNothingAway(t *testing.T) {
	given := 0
	rapid.Check(t, func(t *rapid.T) {
		text := someRepos(t) + "rules:\n" + someRule(t, "m1") + anyRule(t, "m2")
		before := bookOf(t, text)
		after := bookOf(t, text+someRule(t, rapid.SampledFrom([]string{"a", "m", "z"}).Draw(t, "name")))
		for range 20 {
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

func TestAddingARuleThatDeniesGivesNothing(t *testing.T) {
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		text := someRepos(t) + "rules:\n" + someRule(t, "m1") + anyRule(t, "m2")
		before := bookOf(t, text)
		after := bookOf(t, text+someDeny(t, rapid.SampledFrom([]string{"a", "m", "z"}).Draw(t, "name")))
		for range 100 {
			id, wants := someIdentity(t), someWants(t)
			was, err := before.Decide(id, wants, midday)
			if err != nil {
				continue
			}
			is, err := after.Decide(id, wants, midday)
			if err != nil {
				t.Fatal(err)
			}
			if is.Allowed && !was.Allowed || is.Known != was.Known || len(is.Denied) < len(was.Denied) || len(is.Denials) > len(was.Denials) {
				t.Fatalf("%s\n%+v\nbefore %+v\nafter  %+v", text, id, was, is)
			}
			if is.Allowed && !reflect.DeepEqual(is.Permits, was.Permits) {
				t.Fatalf("permits changed: %+v, %+v", was.Permits, is.Permits)
			}
			if was.Allowed && !is.Allowed {
				taken++
			}
		}
	})
	if taken == 0 {
		t.Error("no grant was ever taken away: the test says nothing")
	}
}

func TestARuleThatReportsChangesNoDecision(t *testing.T) {
	reported := 0
	rapid.Check(t, func(t *rapid.T) {
		text := someRepos(t) + "rules:\n" + someRule(t, "m1") + anyRule(t, "m2")
		more := rapid.SampledFrom([]func(*rapid.T, string) string{someRule, someDeny}).Draw(t, "sort")(t, "a") + "    mode: report\n"
		before, after := bookOf(t, text), bookOf(t, text+more)
		for range 20 {
			id, wants := someIdentity(t), someWants(t)
			was, errWas := before.Decide(id, wants, midday)
			is, errIs := after.Decide(id, wants, midday)
			reported += len(is.Reported) - len(was.Reported)
			was.Version, was.Reported, is.Version, is.Reported = "", nil, "", nil
			if (errWas == nil) != (errIs == nil) || !reflect.DeepEqual(was, is) {
				t.Fatalf("%s%s\n%+v\nbefore %+v\nafter  %+v", text, more, id, was, is)
			}
		}
	})
	if reported == 0 {
		t.Error("nothing was ever reported: the test says nothing")
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

// TestARuleForManyRepositoriesFindsItsOwn: rules with many places have an index
// of their own.
func TestARuleForManyRepositoriesFindsItsOwn(t *testing.T) {
	seen := map[truth]int{}
	rapid.Check(t, func(t *rapid.T) {
		text, names := "repos:\n", make([]string, fewPlaces+4)
		for i := range names {
			names[i] = fmt.Sprint("r", i)
			text += fmt.Sprintf("  r%d: {issuer: %s, name: x, match: {owner: %s, repo: %s}}\n", i,
				rapid.SampledFrom([]string{"hub", "forge"}).Draw(t, "issuer"), someValue(t, "owner"), someValue(t, "repo"))
		}
		all := strings.Join(names, ", ")
		b := bookOf(t, text+"rules:\n  - {name: x, for: ["+all+"], allow: [{grant: a}]}\n  - {name: y, for: ["+all+"], deny: [a]}\n")
		for range 20 {
			id := someIdentity(t)
			for _, r := range b.rules {
				if r.among == nil {
					t.Fatalf("%s has no index", r.id)
				}
				slow := *r
				slow.among = nil
				quick, want := r.isFor(id), slow.isFor(id)
				if quick == yes != (want == yes) || r.denies && quick != want {
					t.Fatalf("%s\n%s for %+v: %d, want %d", text, r.id, id, quick, want)
				}
				seen[want]++
			}
		}
	})
	if seen[no] == 0 || seen[undecided] == 0 || seen[yes] == 0 {
		t.Errorf("seen %v: the test says too little", seen)
	}
}
