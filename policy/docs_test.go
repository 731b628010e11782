package policy_test

import (
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/policy"
)

var snippet = regexp.MustCompile("(?s)```yaml([a-z ]*)\n# ([a-z/.-]+)\n(.*?)```")

func TestEverySnippetOfTheDocumentationIsWhatItSays(t *testing.T) {
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	snippets := snippet.FindAllStringSubmatch(string(page), -1)
	if fences := strings.Count(string(page), "```yaml"); len(snippets) != fences || fences < 6 {
		t.Fatalf("%d of %d snippets begin with a file's name", len(snippets), fences)
	}
	if snippets[0][2] != "repos.yaml" {
		t.Fatalf("the first snippet is %s", snippets[0][2])
	}
	together := map[string]string{"repos.yaml": snippets[0][3]}
	for _, s := range snippets[1:] {
		refused, name, text := s[1] == " refused", s[2], s[3]
		files := map[string]string{"repos.yaml": snippets[0][3], name: text}
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
		maps.Copy(together, map[string]string{name: text})
	}
	if _, err := policy.Load(folder(together), known()); err != nil {
		t.Errorf("the snippets together: %v", err)
	}
}
