package main

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// snippet is the fenced block after <!-- tested: name -->.
func snippet(t *testing.T, file, name string) string {
	t.Helper()
	text := readAll(t, filepath.Join(root, file))
	m := regexp.MustCompile("<!-- tested: " + regexp.QuoteMeta(name) + " -->\n```[a-z]*\n((?s:.*?))```").FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%s has no snippet %q", file, name)
	}
	return m[1]
}

func TestTheReadmesPolicyLoadsUnderItsConfiguration(t *testing.T) {
	if out, code := inProcess(t, nil, "check", "--config", readmeFolder(t)); code != exitOK {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestTheConfigurationThatIsTriedByHandIsSound(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"daypass.yaml": snippet(t, "docs/try-it.md", "try-config"), "policies/payments.yaml": snippet(t, "docs/try-it.md", "try-policy"),
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if out, code := inProcess(t, nil, "check", "--config", filepath.Join(dir, "daypass.yaml")); code != exitOK {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestEveryTestThatTheThreatModelNamesExists(t *testing.T) {
	text := readAll(t, filepath.Join(root, "docs/threat-model.md"))
	named := regexp.MustCompile("`([a-z/]+)\\.(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(text, -1)
	if rows := strings.Count(text, "| `"); len(named) < 30 || rows < 15 {
		t.Fatalf("found only %d tests in %d rows", len(named), rows)
	}
	for _, m := range named {
		files, err := filepath.Glob(filepath.Join(root, m[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range files {
			found = found || strings.Contains(readAll(t, f), "func "+m[2]+"(t *testing.T)")
		}
		if !found {
			t.Errorf("there is no %s in %s", m[2], m[1])
		}
	}
}

func TestEveryFunctionThatTheArchitectureNamesExists(t *testing.T) {
	text := readAll(t, filepath.Join(root, "docs/architecture.md"))
	named := regexp.MustCompile("`([a-z]+)\\.\\(\\*([A-Z][A-Za-z]*)\\)\\.([A-Za-z]+)`").FindAllStringSubmatch(text, -1)
	if len(named) < 6 {
		t.Fatalf("found only %d methods in the text", len(named))
	}
	methods := map[string]bool{}
	for _, dir := range []string{"broker", "issuers", "policy"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, file := range files {
			addMethods(t, dir, file, methods)
		}
	}
	for _, m := range named {
		if name := m[1] + "." + m[2] + "." + m[3]; !methods[name] {
			t.Errorf("%s does not exist", m[0])
		}
	}
}

func addMethods(t *testing.T, pkg, file string, into map[string]bool) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv == nil {
			continue
		}
		receiver := f.Recv.List[0].Type
		if star, ok := receiver.(*ast.StarExpr); ok {
			receiver = star.X
		}
		if name, ok := receiver.(*ast.Ident); ok {
			into[pkg+"."+name.Name+"."+f.Name.Name] = true
		}
	}
}

func TestEveryRelativeLinkInTheDocumentationLeadsSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	links := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			if d != nil && d.IsDir() && err == nil && path != root {
				return fs.SkipDir
			}
			return err
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		for _, m := range link.FindAllStringSubmatch(readAll(t, path), -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if links == 0 {
		t.Error("no links were found")
	}
}
