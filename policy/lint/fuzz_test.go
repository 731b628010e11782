package lint_test

import (
	"bytes"
	"testing"
	"testing/fstest"

	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/lint"
)

// FuzzLint looks at files of any content, loadable or not: each is looked at
// without a panic, and what is found can be written in each format.
func FuzzLint(f *testing.F) {
	for _, dir := range []string{"testdata/misconfigured", "testdata/sound"} {
		for _, c := range corpus(f, dir) {
			for _, text := range c.files {
				f.Add(text)
			}
		}
	}
	for _, text := range []string{
		"rules: [{name: r, for: [1, x], match: 3, when: 4, deny: x, waive: [1, {id: DP015}]}]", "repos: {a: 1, b: {match: {c: {glob: 1}}}}",
		"rules: [{name: r, issuer: github, deny: [], allow: [1], when: 'claims'}]", "ceilings: [{folder: a, repos: [1]}]", "rules: [{when: 'a.b[c].d(e)'}]",
	} {
		f.Add(text)
	}
	config := byProfile(f)
	f.Fuzz(func(t *testing.T, text string) {
		files := policy.Parse(fstest.MapFS{"p.yaml": {Data: []byte(text), Mode: 0o644}})
		found, err := lint.Check(files, config)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range found {
			if one.Line == 0 || one.File != "p.yaml" || one.Message == "" {
				t.Errorf("a finding without its place: %+v", one)
			}
		}
		var b bytes.Buffer
		for _, err := range []error{found.WriteText(&b), found.WriteJSON(&b), found.WriteGitHub(&b), found.WriteSARIF(&b, "")} {
			if err != nil {
				t.Error(err)
			}
		}
	})
}
