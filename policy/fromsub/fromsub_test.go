package fromsub_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/policy/fromsub"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// what is offered: files of other systems as they are, subjects a line each.
func offered(t *testing.T, file string) []fromsub.Trust {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Ext(file) == ".json" {
		trusts, err := fromsub.Read(data)
		if err != nil {
			t.Fatal(err)
		}
		return trusts
	}
	var trusts []fromsub.Trust
	for line := range strings.Lines(string(data)) {
		trusts = append(trusts, fromsub.Subject(strings.TrimSuffix(line, "\n")))
	}
	return trusts
}

func TestEachSystemsTrustBecomesRulesAndSaysWhatDoesNot(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.json")
	lines, _ := filepath.Glob("testdata/*.txt")
	if len(files) < 4 || len(lines) < 2 {
		t.Fatalf("only %d files and %d lists of subjects", len(files), len(lines))
	}
	for _, file := range append(files, lines...) {
		t.Run(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), func(t *testing.T) {
			r := fromsub.Translate(offered(t, file), fromsub.Options{Grant: "deploy"})
			golden := file + ".golden"
			if *update {
				if err := os.WriteFile(golden, r.YAML(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.YAML(); !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestWhatCannotBeReadSafelyIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ data, wants string }{
		"a key twice, of which one would be lost": {`{"Statement":[{"Effect":"Allow","Effect":"Deny"}]}`, "there twice"},
		"the same key in another case":            {`{"bound_claims":{"ref":"a"},"Bound_Claims":{"ref":"b"}}`, "there twice"},
		"another file":                            {`{"hello":1}`, "neither an IAM"},
		"no object":                               {`[]`, "not a JSON object"},
		"not JSON":                                {`{`, "JSON"},
		"an empty list":                           {`{"bound_claims":{"ref":[]}}`, "empty list"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := fromsub.Read([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.wants) {
				t.Errorf("err = %v, want one with %q", err, c.wants)
			}
		})
	}
}

func TestSubjectsThatAdmitStrangersGiveNoRule(t *testing.T) {
	for _, sub := range []string{
		"*", "repo:*", "repo:acme*", "repo:acme*/app:*", "repo:*/app:ref:refs/heads/main", "repo:acme@*/app@*:*", "repo:?cme/app:*",
		"repo:acme@12*/app@34:*", "repository_owner:acm*", "repository_owner_id:12*", "project_path:acme*:ref_type:branch:ref:main",
		"project_path:*", "project_id:7*:ref:main", "ref:refs/heads/main", "environment:*", "", "repo:acme/app@1*:*",
		"repo:acme/${aws:PrincipalTag/repo}:*", "repo:acme/\x1bapp:*", "repo:аcme/app:*", "organization:acme:pipeline:*",
	} {
		r := fromsub.Translate([]fromsub.Trust{fromsub.Subject(sub)}, fromsub.Options{Grant: "deploy"})
		if len(r.File.Rules) == 0 && len(r.NotTaken) == 1 {
			continue
		}
		// A rule that pins no owner and names no repository would be the stranger's.
		if !strings.Contains(string(r.YAML()), `_id: ""`) {
			t.Errorf("%q became\n%s", sub, r.YAML())
		}
	}
}

func TestWhatIsReadCannotWriteYAML(t *testing.T) {
	for _, sub := range []string{
		"repo:acme/app:environment:x\nrules: []", "repo:acme/app:environment:x: {y}", `repo:acme/app:environment:"x"`,
		"repo:acme/app:environment:'x' # y", "repo:acme/a\u2028b:*", "nothing\n- name: x",
	} {
		for line := range strings.Lines(string(fromsub.Translate([]fromsub.Trust{fromsub.Subject(sub)}, fromsub.Options{Grant: "deploy"}).YAML())) {
			if strings.HasPrefix(line, "rules: []") || strings.HasPrefix(line, "- name") {
				t.Errorf("%q wrote the line %q", sub, line)
			}
		}
	}
}
