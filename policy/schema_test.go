package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

func compiledSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("policy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bySchema says what an editor with the schema makes of a file.
func bySchema(s *jsonschema.Schema, text string) error {
	doc, err := strictyaml.Parse("p.yaml", []byte(text), strictyaml.DefaultLimits())
	if err != nil {
		return err
	}
	raw, err := doc.Root.JSON()
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// byLoading says what loading it alone makes of it.
func byLoading(text string) error {
	_, err := Load(fstest.MapFS{"p.yaml": {Data: []byte(text)}}, someKnown())
	return err
}

const (
	aRepo  = `repos: {r: {issuer: hub, name: x, match: {owner: "1", repo: ["1", 2, true]}}}` + "\n"
	aRule  = aRepo + "rules:\n  - name: x\n    for: [r]\n    allow: [{grant: a}]\n"
	aDeny  = aRule + "  - {name: y, deny: [\"*\"]}\n"
	bounds = "ceilings: [{folder: t, repos: [\"*\"], grants: [a]}]\n"
)

// TestTheSchemaAndTheLoaderRefuseTheSameForms shows both what is wrong with a
// file, line by line.
func TestTheSchemaAndTheLoaderRefuseTheSameForms(t *testing.T) {
	s := compiledSchema(t)
	for _, text := range []string{aRule, aDeny} {
		if a, b := bySchema(s, text), byLoading(text); a != nil || b != nil {
			t.Fatalf("what the table builds on is refused: %v %v", a, b)
		}
	}
	rule := func(lines string) string { return aRule + "    " + lines + "\n" }
	deny := func(more string) string { return aRule + "  - {name: y, " + more + "}\n" }
	for name, text := range map[string]string{
		"a list":                        "- a",
		"text":                          "rules",
		"an unknown key":                aRule + "rule: []",
		"an owner that is a number":     aRule + "owner: 5",
		"a date that is none":           aRule + "review_by: 2027-3-1",
		"a month that is none":          aRule + "review_by: 2027-13-01",
		"a date with a time":            aRule + "review_by: 2027-03-01T00:00:00Z",
		"no rules":                      aRepo + "rules: []",
		"rules that are a mapping":      aRepo + "rules: {}",
		"a rule that is text":           aRule + "  - x",
		"a rule without a name":         aRule + "  - {for: [r], allow: [{grant: a}]}",
		"a rule with an empty name":     aRule + "  - {name: \"\", for: [r], allow: [{grant: a}]}",
		"a rule with a space":           aRule + "  - {name: a b, for: [r], allow: [{grant: a}]}",
		"a rule that does nothing":      aRule + "  - {name: y, for: [r]}",
		"a rule for nobody":             aRule + "  - {name: y, allow: [{grant: a}]}",
		"for and issuer":                rule("issuer: hub"),
		"for nobody":                    deny("for: [], deny: [a]"),
		"for an empty name":             deny("for: [\"\"], deny: [a]"),
		"for the same twice":            deny("for: [r, r], deny: [a]"),
		"for a number":                  deny("for: [1], deny: [a]"),
		"an empty issuer":               deny(`issuer: "", deny: [a]`),
		"a mode that is none":           rule("mode: permissive"),
		"an empty mode":                 rule(`mode: ""`),
		"an explain that is none":       rule("explain: yes-please"),
		"a replay that is none":         rule("replay: twice"),
		"a replay of a later version":   rule("replay: job"),
		"until a number":                rule("until: 2027"),
		"a cap of none":                 rule("max_live: 0"),
		"a cap below none":              rule("max_live: -1"),
		"a cap in words":                rule("max_live: many"),
		"an empty when":                 rule(`when: ""`),
		"a when that is true":           rule("when: true"),
		"a long when":                   rule("when: '" + strings.Repeat("a ", 1025) + "'"),
		"allow of nothing":              aRule + "  - {name: y, for: [r], allow: []}",
		"allow of a name":               aRule + "  - {name: y, for: [r], allow: [a]}",
		"allow of an empty name":        aRule + "  - {name: y, for: [r], allow: [{grant: \"\"}]}",
		"allow without a grant":         aRule + "  - {name: y, for: [r], allow: [{ttl: 5m}]}",
		"allow by glob":                 aRule + "  - {name: y, for: [r], allow: [{grant: \"*\"}]}",
		"a life that is a number":       aRule + "  - {name: y, for: [r], allow: [{grant: a, ttl: 5}]}",
		"a life without a unit":         aRule + "  - {name: y, for: [r], allow: [{grant: a, ttl: \"5\"}]}",
		"a life below nothing":          aRule + "  - {name: y, for: [r], allow: [{grant: a, ttl: -5m}]}",
		"a life of nothing":             aRule + "  - {name: y, for: [r], allow: [{grant: a, ttl: 0s}]}",
		"allow and deny":                rule("deny: [a]"),
		"deny of nothing":               deny("deny: []"),
		"deny of an empty name":         deny(`deny: [""]`),
		"deny of a mapping":             deny("deny: [{grant: a}]"),
		"deny of a glob that is none":   deny(`deny: ["a***"]`),
		"deny of the same twice":        deny("deny: [a, a]"),
		"deny with explain":             deny("deny: [a], explain: full"),
		"deny with replay":              deny("deny: [a], replay: once"),
		"deny for both":                 deny("deny: [a], for: [r], issuer: hub"),
		"match of nothing":              rule("match: {}"),
		"match of a list":               rule("match: [a]"),
		"an empty claim":                rule(`match: {"": a}`),
		"a claim beyond ASCII":          rule("match: {größe: a}"),
		"a claim that is too long":      rule("match: {" + strings.Repeat("a", 257) + ": a}"),
		"a pointer that is none":        rule("match: {/a~2: a}"),
		"no values":                     rule("match: {a: []}"),
		"a list in a list":              rule("match: {a: [[b]]}"),
		"an empty condition":            rule("match: {a: {}}"),
		"an unknown condition":          rule("match: {a: {regex: b}}"),
		"a glob that is a number":       rule("match: {a: {glob: 5}}"),
		"a glob of nothing":             rule(`match: {a: {glob: ""}}`),
		"a glob without a star":         rule("match: {a: {glob: b}}"),
		"a glob with three stars":       rule(`match: {a: {glob: "***"}}`),
		"a glob with a bracket":         rule(`match: {a: {glob: "[a]*"}}`),
		"a glob beyond ASCII":           rule(`match: {a: {glob: "ö*"}}`),
		"a glob that is too long":       rule(`match: {a: {glob: "` + strings.Repeat("a", 256) + `*"}}`),
		"a text that is too long":       rule(`match: {a: "` + strings.Repeat("a", 1025) + `"}`),
		"a text with a control":         rule(`match: {a: "a\nb"}`),
		"not nothing":                   rule("match: {a: {not: []}}"),
		"not a comparison":              rule("match: {a: {not: {above: 1}}}"),
		"not, and more":                 rule("match: {a: {not: b, exists: true}}"),
		"exists, as text":               rule(`match: {a: {exists: "true"}}`),
		"a bound that is text":          rule(`match: {a: {above: "1"}}`),
		"two bounds of a side":          rule(`match: {a: {above: 1, at_least: 1}}`),
		"two bounds of the other":       rule(`match: {a: {below: 1, at_most: 1}}`),
		"a bound and a glob":            rule(`match: {a: {above: 1, glob: "*"}}`),
		"a comparison in a list":        rule(`match: {a: [{above: 1}]}`),
		"a waiver that is text":         rule("waive: [DP001]"),
		"a waiver without a reason":     rule("waive: [{id: DP001, until: 2027-01-01}]"),
		"a waiver with a blank one":     rule("waive: [{id: DP001, until: 2027-01-01, reason: \" \"}]"),
		"a waiver without an end":       rule("waive: [{id: DP001, reason: x}]"),
		"a waiver of nothing":           rule("waive: [{id: x, reason: x, until: 2027-01-01}]"),
		"repos that are a list":         strings.Replace(aRule, aRepo, "repos: [r]\n", 1),
		"a repo with a space":           aRule + "rep: 1",
		"a repo without an issuer":      strings.Replace(aRule, "issuer: hub, ", "", 1),
		"a repo with an empty issuer":   strings.Replace(aRule, "issuer: hub", `issuer: ""`, 1),
		"a repo without a name":         strings.Replace(aRule, "name: x, ", "", 1),
		"a repo without ids":            strings.Replace(aRule, `, match: {owner: "1", repo: ["1", 2, true]}`, "", 1),
		"a repo that matches nothing":   strings.Replace(aRule, `{owner: "1", repo: ["1", 2, true]}`, "{}", 1),
		"a repo by glob":                strings.Replace(aRule, `["1", 2, true]`, `{glob: "1*"}`, 1),
		"a repo by what it is not":      strings.Replace(aRule, `["1", 2, true]`, `{not: "1"}`, 1),
		"a ceiling that is text":        aDeny + "ceilings: [t]",
		"a ceiling without a folder":    aDeny + `ceilings: [{repos: ["*"], grants: ["*"]}]`,
		"a ceiling of everything":       aDeny + `ceilings: [{folder: ".", repos: ["*"], grants: ["*"]}]`,
		"a ceiling with a slash":        aDeny + `ceilings: [{folder: t/, repos: ["*"], grants: ["*"]}]`,
		"a ceiling of no repos":         aDeny + `ceilings: [{folder: t, repos: [], grants: ["*"]}]`,
		"a ceiling of a broken glob":    aDeny + `ceilings: [{folder: t, repos: ["[*"], grants: ["*"]}]`,
		"a ceiling with a life of none": aDeny + `ceilings: [{folder: t, repos: ["*"], grants: ["*"], max_ttl: 0m}]`,
		"a ceiling with a slip":         aDeny + `ceilings: [{folder: t, repos: ["*"], grants: ["*"], max_tll: 5m}]`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := byLoading(text); err == nil {
				t.Errorf("it is loaded:\n%s", text)
			}
			if err := bySchema(s, text); err == nil {
				t.Errorf("the schema takes it:\n%s", text)
			}
		})
	}
}

func TestTheSchemaTakesWhatIsLoaded(t *testing.T) {
	s := compiledSchema(t)
	for _, text := range []string{
		"description: nothing", "{}", bounds + "repos: {}",
		aRule + "    match: {/a/~0~1: {glob: \"**\"}, b: {not: [a, {glob: \"b?\"}, 5]}, c: {exists: false}, d: {above: -1.5, at_most: 3e2}, e: \"\", f: größe}\n",
		aRule + "    mode: enforce\n    replay: once\n    explain: full\n    until: 2027-12-31\n    max_live: 5\n    waive: [{id: DP001, reason: x, until: 2027-01-01}]\n",
		aDeny + "  - {name: z, issuer: forge, mode: report, deny: [a, \"b*\"]}\n",
		aRepo + "rules: [{name: x, for: [r], allow: [{grant: a, ttl: 0h0.5m1.5s500ms}, {grant: b, ttl: +.5h}]}]",
	} {
		if err := bySchema(s, text); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
		if err := byLoading(text); err != nil && !strings.Contains(err.Error(), "without any rule") {
			t.Errorf("the table is wrong: %v\n%s", err, text)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		text := someRepos(t) + "rules:\n" + someRule(t, "a") + anyRule(t, "b")
		if err := bySchema(s, text); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	})
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for _, m := range regexp.MustCompile("(?s)```yaml(| apart)\n# (.*?)```").FindAllStringSubmatch(string(page), -1) {
		taken++
		if err := bySchema(s, "# "+m[2]); err != nil {
			t.Errorf("%v\n%s", err, m[2])
		}
	}
	names, err := filepath.Glob("lint/testdata/sound/*.yaml")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := bySchema(s, string(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err != nil || taken < 8 {
		t.Errorf("only %d snippets were found: %v", taken, err)
	}
}

// TestWhatTheSchemaRefusesIsNotLoaded breaks files at random: an editor must
// not complain of what works.
func TestWhatTheSchemaRefusesIsNotLoaded(t *testing.T) {
	s := compiledSchema(t)
	refused := 0
	rapid.Check(t, func(t *rapid.T) {
		text := someRepos(t) + "rules:\n" + someRule(t, "a") + anyRule(t, "b")
		doc, err := strictyaml.Parse("p.yaml", []byte(text), strictyaml.DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		raw, err := doc.Root.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var v any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 2).Draw(t, "breaks") {
			v = broken(t, v)
		}
		changed, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		bySchema, byLoading := bySchema(s, string(changed)), byLoading(string(changed))
		if bySchema != nil {
			refused++
			if byLoading == nil {
				t.Fatalf("loaded, and refused by the schema: %v\n%s", bySchema, changed)
			}
		}
	})
	if refused == 0 {
		t.Error("nothing was refused: the test says nothing")
	}
}

// broken changes one thing somewhere in a document.
func broken(t *rapid.T, v any) any {
	odd := rapid.SampledFrom([]any{"", "x", "*", "1h", "2027-01-01", "report", json.Number("5"), true, []any{}, map[string]any{}, []any{"a"},
		map[string]any{"glob": "a*"}, map[string]any{"not": "a"}, map[string]any{"exists": true}})
	if rapid.IntRange(0, 5).Draw(t, "here") == 5 {
		return odd.Draw(t, "instead")
	}
	switch v := v.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		if len(keys) == 0 || rapid.IntRange(0, 4).Draw(t, "more") == 4 {
			v[rapid.SampledFrom([]string{"mode", "deny", "allow", "issuer", "match", "until", "x", "ceilings", "waive", "explain"}).Draw(t, "key")] = odd.Draw(t, "value")
			return v
		}
		key := rapid.SampledFrom(keys).Draw(t, "in")
		if rapid.IntRange(0, 4).Draw(t, "less") == 4 {
			delete(v, key)
			return v
		}
		v[key] = broken(t, v[key])
	case []any:
		if len(v) == 0 {
			return []any{odd.Draw(t, "item")}
		}
		i := rapid.IntRange(0, len(v)-1).Draw(t, "at")
		v[i] = broken(t, v[i])
	default:
		return odd.Draw(t, "instead")
	}
	return v
}

func TestTheSchemaIsCopied(t *testing.T) {
	Schema()[0] = 'x'
	if got := fmt.Sprintf("%.1s", Schema()); got != "{" {
		t.Errorf("it begins with %s", got)
	}
}
