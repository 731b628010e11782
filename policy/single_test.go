package policy_test

import (
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/policy"
)

func TestOneFaultIsReportedWithItsPlaceAndWhatToDo(t *testing.T) {
	const repos = "repos: {api: {issuer: github, name: acme/api, match: {repository_owner_id: \"1\"}}}\n"
	deep := strings.Repeat("(", 40) + "true" + strings.Repeat(")", 40)
	for sentence, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a repo that is not": {map[string]string{"p.yaml": repos + "rules: [{name: a, for: [apii], allow: [{grant: payments-db}]}]\n"},
			`p.yaml:2:25: rules[0].for[0]: rule "a": no repo is called "apii"; did you mean "api"?`},
		"a repo where none is": {map[string]string{"p.yaml": "rules: [{name: a, for: [x], allow: [{grant: payments-db}]}]\n"},
			`p.yaml:1:25: rules[0].for[0]: rule "a": no repo is called "x"; none is defined`},
		"a repo that may be in a file that cannot be read": {map[string]string{"p.yaml": "rules: [{name: a, for: [x], allow: [{grant: payments-db}]}]\n", "q.yaml": "repos: [\n"},
			"q.yaml:1:8: cannot be read as YAML: sequence end token ']' not found"},
		"an issuer that is not": {map[string]string{"p.yaml": "rules: [{name: a, issuer: bitbucket, match: {x: y}, allow: [{grant: payments-db}]}]\n"},
			`p.yaml:1:27: rules[0].issuer: rule "a": no issuer is called "bitbucket"; there are anyone, forge, github, gitlab`},
		"a grant with no like": {map[string]string{"p.yaml": repos + "rules: [{name: a, for: [api], allow: [{grant: x}]}]\n"},
			`p.yaml:2:47: rules[0].allow[0].grant: rule "a": no grant is called "x"; there are payments-db, payments-ro, web-identity`},
		"a misspelt key": {map[string]string{"p.yaml": repos + "rules: [{name: a, for: [api], alow: [{grant: payments-db}], allow: [{grant: payments-db}]}]\n"},
			`p.yaml:2:31: rules[0].alow: unknown key; did you mean "allow"?`},
		"files that would share ids": {map[string]string{"p.yaml": repos + "rules: [{name: a, for: [api], allow: [{grant: payments-db}]}]\n", "p.yml": "owner: x\n"},
			"p.yml:1:1: its rules would have the same ids as those of p.yaml: rename one of the files"},
		"a file that is a list": {map[string]string{"p.yaml": "- name: a\n"}, "p.yaml:1:1: must be a mapping, not a list"},
		"an expression too long": {map[string]string{"p.yaml": repos + "rules:\n- name: a\n  for: [api]\n  allow: [{grant: payments-db}]\n  when: " + strings.Repeat("true || ", 300) + "true\n"},
			`p.yaml:6:9: rules[0].when: rule "a": is longer than 2048 bytes`},
		"a claim's name that is not ASCII": {map[string]string{"p.yaml": repos + "rules: [{name: a, for: [api], match: {r\u00e9f: x}, allow: [{grant: payments-db}]}]\n"},
			`p.yaml:2:39: rules[0].match["r\u00e9f"]: is not a claim that can be matched: it must be printable ASCII, of at most 256 bytes`},
		"a control character to match": {map[string]string{"p.yaml": repos + `rules: [{name: a, for: [api], match: {ref: "a\nb"}, allow: [{grant: payments-db}]}]` + "\n"},
			`p.yaml:2:44: rules[0].match.ref: holds a control character`},
		"a glob that can never match": {map[string]string{"p.yaml": repos + "rules: [{name: a, for: [api], match: {ref: {glob: \"r\u00e9*\"}}, allow: [{grant: payments-db}]}]\n"},
			`p.yaml:2:51: rules[0].match.ref.glob: is a glob with a character outside printable ASCII, which can never match`},
	} {
		_, err := policy.Load(folder(c.files), known())
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: have\n%v\nwant\n%s", sentence, err, c.want)
		}
	}
	for sentence, when := range map[string]string{
		"nested too deep":              deep,
		"loops in loops in loops":      "claims.all(a, claims.all(b, claims.all(c, a == b && b == c)))",
		"a regular expression":         `claims.ref.matches("main")`,
		"a function that does not run": `claims.ref.now() == 1`,
		"text":                         `"true"`,
		"a duration that is none":      `ttl < duration("1 hour")`,
	} {
		_, err := policy.Load(folder(map[string]string{"p.yaml": rule("when: '"+when+"'", allowDB)}), known())
		if err == nil || !strings.HasPrefix(err.Error(), "p.yaml:7:11: rules[0].when: rule \"deploy\": ") {
			t.Errorf("%s: %v", sentence, err)
		}
	}
}
