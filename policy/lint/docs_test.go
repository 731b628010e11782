package lint_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/policy/lint"
)

var (
	// fence is a block of YAML: what is said after the language, and the text.
	fence = regexp.MustCompile("(?ms)^```yaml([a-z ]*)\n(.*?)^```")

	// policyKey is what only policies have at the head of a line.
	policyKey = regexp.MustCompile(`(?m)^(rules|repos|ceilings):`)

	fileName = regexp.MustCompile(`^# ([a-z/._-]+)\n`)
)

// pages are those with policies in them, and how many at least.
var pages = map[string]int{"README.md": 1, "docs/try-it.md": 1, "docs/policy.md": 10, "docs/policy-lint.md": 1}

// shown are the policies of a page, by what stands after the language: what is
// marked alike is one folder. Those that define no repositories use the names
// of docs/policy.md. What is marked as refused is not meant to be copied, and
// the path that begins at start is followed, lint included, by the test of the
// command.
func shown(t *testing.T, page string) map[string]testCase {
	t.Helper()
	raw, err := os.ReadFile("../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]testCase{}
	for _, block := range fence.FindAllStringSubmatch(string(raw), -1) {
		mark, text := block[1], block[2]
		if !policyKey.MatchString(text) || mark == " refused" || mark == " start" {
			continue
		}
		c, ok := all[mark]
		if !ok {
			c = testCase{files: map[string]string{}, config: byProfile(t)}
		}
		name := "fragment.yaml"
		if m := fileName.FindStringSubmatch(text); m != nil {
			name = m[1]
		}
		if c.files[name] != "" {
			t.Errorf("%s has a second %s", page, name)
		}
		c.files[name] = text
		c.text += text
		all[mark] = c
	}
	for mark, c := range all {
		if !strings.Contains(c.text, "\nrepos:") {
			c.files["repos.yaml"] = shared(t)
			all[mark] = c
		}
	}
	return all
}

// shared is the first repos.yaml of docs/policy.md after its path.
func shared(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml\n(# repos.yaml\n.*?)```").FindSubmatch(raw)
	if m == nil {
		t.Fatal("docs/policy.md has no repos.yaml")
	}
	return string(m[1])
}

// TestNoPolicyThatTheDocumentationShowsFailsLint looks at what people copy.
func TestNoPolicyThatTheDocumentationShowsFailsLint(t *testing.T) {
	for page, least := range pages {
		files := 0
		for _, c := range shown(t, page) {
			files += len(c.files)
			found := c.check(t)
			for _, f := range found.Failing() {
				t.Errorf("%s: %v", page, &f)
			}
			for _, f := range found {
				if f.ID == "DP038" || f.ID == "DP043" { // a waiver of nothing, a claim that no token has
					t.Errorf("%s: %v", page, &f)
				}
			}
		}
		if files < least {
			t.Errorf("%s shows %d policies, and not %d", page, files, least)
		}
	}
}

// TestAPolicyOfTheDocumentationThatIsLoosenedIsFound: the test above can fail,
// on each page.
func TestAPolicyOfTheDocumentationThatIsLoosenedIsFound(t *testing.T) {
	for page, without := range map[string]string{
		"README.md":           ` && claims.runner_environment == "github-hosted"|claims.runner_environment == "github-hosted"`,
		"docs/try-it.md":      `, runner_environment: gitlab-hosted`,
		"docs/policy.md":      `(?m)^ *runner_environment: github-hosted$`,
		"docs/policy-lint.md": `(?ms)^ *waive:.*\z`,
	} {
		var found lint.Findings
		for _, c := range shown(t, page) {
			for name, text := range c.files {
				c.files[name] = regexp.MustCompile(without).ReplaceAllString(text, "")
			}
			found = append(found, c.check(t).Failing()...)
		}
		if len(found) == 0 {
			t.Errorf("%s without %q: no finding", page, without)
		}
	}
}
