package policy_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/policy"
)

var snippet = regexp.MustCompile("(?s)```yaml([a-z ]*)\n# ([a-z/._-]+)\n(.*?)```")

func TestEverySnippetOfTheDocumentationIsWhatItSays(t *testing.T) {
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	snippets := snippet.FindAllStringSubmatch(string(page), -1)
	if fences := strings.Count(string(page), "```yaml"); len(snippets) != fences || fences < 6 {
		t.Fatalf("%d of %d snippets begin with a file's name", len(snippets), fences)
	}
	// What begins at start is another policy, which the test of the command follows.
	snippets = slices.DeleteFunc(snippets, func(s []string) bool { return s[1] == " start" })
	if len(snippets) < 6 || snippets[0][2] != "repos.yaml" {
		t.Fatalf("the first snippet is %s", snippets[0][2])
	}
	// Snippets that stand apart make a folder of their own.
	together := map[string]map[string]string{"": {"repos.yaml": snippets[0][3]}, " apart": {"repos.yaml": snippets[0][3]}}
	for _, s := range snippets[1:] {
		refused, name, text := s[1] == " refused", s[2], s[3]
		if s[1] == " cases" { // tried by policy/cases
			continue
		}
		files := map[string]string{"repos.yaml": snippets[0][3], name: text}
		if s[1] == " apart" {
			together[s[1]][name] = text
			continue
		}
		_, err := policy.Load(folder(files), known())
		if (err != nil) != refused {
			t.Errorf("%s: refused is %v: %v", name, refused, err)
		}
		if refused {
			// It is the snippet's own fault that is found.
			if err != nil && (!strings.HasPrefix(err.Error(), name+":") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%s: more than one fault, or another's: %v", name, err)
			}
			continue
		}
		together[s[1]][name] = text
	}
	for which, files := range together {
		if _, err := policy.Load(folder(files), known()); err != nil || len(files) < 3 {
			t.Errorf("the%s snippets together: %v", which, err)
		}
	}
}
