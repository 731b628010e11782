package cases_test

import (
	"os"
	"regexp"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/cases"
)

var snippet = regexp.MustCompile("(?s)```yaml([a-z ]*)\n# ([a-z/._-]+)\n(.*?)```")

// The cases of the documentation are tried against the rules they are about;
// others of its snippets show what else there is.
func TestTheCasesOfTheDocumentationPass(t *testing.T) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, tests := fstest.MapFS{}, map[string][]byte{}
	for _, s := range snippet.FindAllStringSubmatch(string(page), -1) {
		switch {
		case s[1] == "" && slices.Contains([]string{"repos.yaml", "never.yaml", "teams/payments/deploy.yaml"}, s[2]):
			rules[s[2]] = &fstest.MapFile{Data: []byte(s[3])}
		case s[1] == " cases":
			tests[s[2]] = []byte(s[3])
		}
	}
	k := known()
	k.Grants["web-identity"] = broker.Grant{Name: "web-identity", Kind: "jwt", Target: "jwt", MaxTTL: time.Hour}
	book, err := policy.Load(rules, k)
	if err != nil {
		t.Fatal(err)
	}
	r := cases.Run(book, tests, cases.Options{Fixtures: documented(t)})
	if err := r.Err(); err != nil || len(r.Results) < 3 {
		t.Errorf("%d cases: %v", len(r.Results), err)
	}
}

// documented are the fixtures that the page names, from where they live.
func documented(t *testing.T) cases.Fixtures {
	t.Helper()
	all := cases.Fixtures{}
	for name, file := range map[string]string{
		"github": "branch-immutable-sub", "github/pull-request-target-from-fork": "pull-request-target-from-fork",
	} {
		raw, err := os.ReadFile("../../issuers/profiles/github/testdata/" + file + ".claims.json")
		if err != nil {
			t.Fatal(err)
		}
		var claims broker.Claims
		if err := claims.UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
		all[name] = claims
	}
	return all
}
