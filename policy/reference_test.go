package policy

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/broker"
)

// worth is the meaning of a condition as docs/policy.md has it, written for
// reading and with other means than the real one.
func worth(condition string, claim any, there, trimmed bool) string {
	op, operand := "is", condition
	for _, o := range []string{"not", "exists", "above", "at_least", "below", "at_most"} {
		if rest, ok := strings.CutPrefix(condition, "{"+o+": "); ok {
			op, operand = o, strings.TrimSuffix(rest, "}")
		}
	}
	switch {
	case !there && trimmed, there && claim == nil:
		return "undecided"
	case op == "exists":
		return map[bool]string{true: "yes", false: "no"}[there == (operand == "true")]
	case !there && op == "is":
		return "no"
	case !there:
		return "undecided"
	}
	items, list := claim.([]any)
	if !list {
		items = []any{claim}
	}
	results := map[string]bool{}
	for _, item := range items {
		results[worthOne(op, strings.Split(strings.Trim(operand, "[]"), ", "), item)] = true
	}
	answer := "no"
	if results["undecided"] {
		answer = "undecided"
	}
	if results["yes"] {
		answer = "yes"
	}
	if op == "not" {
		answer = map[string]string{"yes": "no", "no": "yes", "undecided": "undecided"}[answer]
	}
	return answer
}

func worthOne(op string, operands []string, claim any) string {
	is, ofType, doubt := false, false, false
	for _, o := range operands {
		switch claim := claim.(type) {
		case json.Number:
			if a, ok := new(big.Rat).SetString(o); ok {
				b, _ := new(big.Rat).SetString(claim.String())
				ofType = true
				c := b.Cmp(a)
				is = is || map[string]bool{"is": c == 0, "not": c == 0, "above": c > 0, "at_least": c >= 0, "below": c < 0, "at_most": c <= 0}[op]
			}
		case bool:
			ofType = ofType || o == "true" || o == "false"
			is = is || o == fmt.Sprint(claim)
		case string:
			plain := !strings.ContainsFunc(claim, func(r rune) bool { return r < ' ' || r > '~' })
			if g, ok := strings.CutPrefix(o, `{glob: "`); ok {
				ofType = true
				g = strings.TrimSuffix(g, `"}`)
				if plain {
					is = is || slowGlob(g, claim)
				} else {
					doubt = true
				}
			} else if strings.HasPrefix(o, `"`) {
				ofType = true
				is = is || o == `"`+claim+`"`
				doubt = doubt || op == "not" && !plain
			}
		}
	}
	switch {
	case is:
		return "yes"
	case doubt || !ofType:
		return "undecided"
	}
	return "no"
}

func TestAConditionIsWorthWhatItsMeaningSays(t *testing.T) {
	value := rapid.SampledFrom([]string{`"a"`, `"b"`, `"1"`, `"ä"`, `""`, `1`, `1.0`, `-2`, `10e-1`, `9007199254740993`, `true`, `false`, `{glob: "*"}`, `{glob: "a/*"}`, `{glob: "a**"}`, `{glob: "?"}`})
	claim := rapid.SampledFrom([]any{"a", "b", "1", "ä", "", "a/b", "a/b/c", "a:", json.Number("1"), json.Number("1e0"), json.Number("9007199254740992"),
		json.Number("9007199254740993"), json.Number("-2.0"), true, false, map[string]any{"a": "a"}})
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		var condition string
		switch op := rapid.SampledFrom([]string{"is", "not", "exists", "above", "at_least", "below", "at_most"}).Draw(t, "op"); op {
		case "exists":
			condition = "{exists: " + rapid.SampledFrom([]string{"true", "false"}).Draw(t, "there") + "}"
		case "is", "not":
			condition = value.Draw(t, "value")
			if rapid.Bool().Draw(t, "list") {
				condition = "[" + strings.Join(rapid.SliceOfN(value, 1, 3).Draw(t, "values"), ", ") + "]"
			}
			if op == "not" {
				condition = "{not: " + condition + "}"
			}
		default:
			condition = "{" + op + ": " + rapid.SampledFrom([]string{"1", "-2", "0.5", "9007199254740992"}).Draw(t, "bound") + "}"
		}
		file, err := parsed([]byte("rules: [{name: x, match: {c: " + condition + "}}]"))
		if err != nil {
			t.Fatal(err)
		}
		id := broker.Identity{Claims: broker.Claims{}, Trimmed: rapid.IntRange(0, 4).Draw(t, "trimmed") == 4}
		switch rapid.IntRange(0, 5).Draw(t, "sort of claim") {
		case 5:
			id.Claims["c"] = nil
		case 4:
		case 3:
			id.Claims["c"] = rapid.SliceOfN(claim, 0, 3).Draw(t, "items")
		default:
			id.Claims["c"] = claim.Draw(t, "claim")
		}
		c, there := id.Claims["c"]
		got := map[truth]string{no: "no", undecided: "undecided", yes: "yes"}[file.Rules[0].Match[0].truth(id)]
		if want := worth(condition, c, there, id.Trimmed); got != want {
			t.Fatalf("%s of %v (there %v, trimmed %v) is %s, want %s", condition, c, there, id.Trimmed, got, want)
		}
		seen[got]++
	})
	if seen["no"] == 0 || seen["undecided"] == 0 || seen["yes"] == 0 {
		t.Errorf("seen %v: the test says too little", seen)
	}
}

// someBounded draws a folder under ceilings, with a rule in each of its files.
func someBounded(t *rapid.T) map[string]string {
	some := func(what string, from ...string) string {
		return strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom(from), len(from)-1, len(from), rapid.ID[string]).Draw(t, what), ", ")
	}
	repos := some("repos", "r0", "r1", "r2", "r3")
	grants := some("grants", "a", "b", "c")
	return map[string]string{
		"repos.yaml": someRepos(t),
		"ceilings.yaml": fmt.Sprintf("ceilings:\n  - {folder: one, repos: [%s], grants: [%s], max_ttl: %dm}\n  - {folder: one/in, max_ttl: %dm}\n  - {folder: two, repos: [\"*\"], grants: [\"*\"]}\n",
			repos, grants, rapid.IntRange(1, 40).Draw(t, "minutes"), rapid.IntRange(1, 40).Draw(t, "minutes within")),
		"one/a.yaml":    someBoundedRule(t),
		"one/in/a.yaml": someBoundedRule(t),
		"two/a.yaml":    someBoundedRule(t),
	}
}

func someBoundedRule(t *rapid.T) string {
	repo := rapid.SampledFrom([]string{"r0", "r1", "r2", "r3"}).Draw(t, "repo")
	grant := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "grant")
	if rapid.IntRange(0, 3).Draw(t, "deny") == 3 {
		return fmt.Sprintf("rules: [{name: x, deny: [%s]}]\n", rapid.SampledFrom([]string{`"*"`, grant}).Draw(t, "denied"))
	}
	return fmt.Sprintf("rules: [{name: x, for: [%s], allow: [{grant: %s}]}]\n", repo, grant)
}

func loadTexts(files map[string]string) (*Book, error) {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return Load(fsys, someKnown())
}

// TestNothingIsGivenBeyondACeiling looks at what comes out, whatever was
// written: which grants, to whose jobs and for how long.
func TestNothingIsGivenBeyondACeiling(t *testing.T) {
	given, added, denied := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		files := someBounded(t)
		book, err := loadTexts(files)
		if err != nil {
			return // it says more than it may
		}
		more := rapid.SampledFrom([]string{"one/b.yaml", "one/in/b.yaml", "two/b.yaml"}).Draw(t, "where")
		files[more] = someBoundedRule(t)
		after, err := loadTexts(files)
		denies := strings.Contains(files[more], "deny")
		for range 200 {
			id, want := someIdentity(t), []broker.Want{{Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "want")}}
			was, _ := book.Decide(id, want, midday)
			if was.Allowed {
				given++
				holdsCeiling(t, book, was.Permits[0], id)
			}
			if err != nil {
				continue
			}
			is, _ := after.Decide(id, want, midday)
			switch {
			case was.Allowed && !is.Allowed && !denies, !was.Allowed && is.Allowed && denies:
				t.Fatalf("adding %s: %s\nbefore %+v\nafter  %+v", more, files[more], was, is)
			case was.Allowed && !is.Allowed:
				denied++
				holdsDenyCeiling(t, after, more, want[0].Name, id)
			case !was.Allowed && is.Allowed:
				added++
			}
		}
	})
	if given == 0 || added == 0 || denied == 0 {
		t.Errorf("given %d, added %d, denied %d: the test says too little", given, added, denied)
	}
}

// bounding are the ceilings that a file's folder is listed in, read from the
// files themselves.
func bounding(b *Book, file string) []Ceiling {
	var all []Ceiling
	for _, f := range b.Files() {
		for _, c := range f.Ceilings {
			if strings.HasPrefix(file, c.Folder+"/") {
				all = append(all, c)
			}
		}
	}
	return all
}

func listed(names []string, name string) bool {
	return names == nil || slices.Contains(names, "*") || slices.Contains(names, name)
}

func ofRepos(b *Book, c Ceiling, id broker.Identity) bool {
	for name, r := range b.Repos() {
		if listed(c.Repos, name) && r.Issuer == id.Issuer && all(r.Match, id) != no {
			return true
		}
	}
	return false
}

func holdsCeiling(t *rapid.T, b *Book, p broker.Permit, id broker.Identity) {
	file := p.Rule[:strings.LastIndex(p.Rule, "/")] + ".yaml"
	by := bounding(b, file)
	if len(by) == 0 {
		t.Fatalf("%s gives and no ceiling lists it", p.Rule)
	}
	for _, c := range by {
		if !listed(c.Grants, p.Grant.Name) || !ofRepos(b, c, id) || c.MaxTTL > 0 && p.TTL > c.MaxTTL || p.TTL < time.Second {
			t.Fatalf("%s gives %s for %s to %+v, beyond %+v", p.Rule, p.Grant.Name, p.TTL, id, c)
		}
	}
}

func holdsDenyCeiling(t *rapid.T, b *Book, file, grant string, id broker.Identity) {
	for _, c := range bounding(b, file) {
		if !listed(c.Grants, grant) || !ofRepos(b, c, id) {
			t.Fatalf("%s denies %s to %+v, beyond %+v", file, grant, id, c)
		}
	}
}
