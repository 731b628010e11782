package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestEveryFaultOfAConfigurationIsNamedAtOnce runs `daypassd check` on each
// folder of testdata/check, and compares what a person reads.
func TestEveryFaultOfAConfigurationIsNamedAtOnce(t *testing.T) {
	folders, err := filepath.Glob("testdata/check/*/daypass.yaml")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, config := range folders {
		dir := filepath.Dir(config)
		t.Run(strings.ReplaceAll(filepath.Base(dir), "-", " "), func(t *testing.T) {
			var out bytes.Buffer
			p := process{env: func(string) (string, bool) { return "", false }, stdout: &out, stderr: &out}
			t.Chdir(dir)
			code := run(t.Context(), []string{"check", "--config", "daypass.yaml"}, p)
			here, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(out.String(), here, "$DIR")
			if code == exitOK {
				got += "exit 0\n"
			}
			if *update {
				if err := os.WriteFile("check.golden", []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := readAll(t, "check.golden"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestAWordThatIsNoCommandIsAUsageError(t *testing.T) {
	for line, want := range map[string]string{
		"srve":                   `unknown command "srve"`,
		"lease revoke":           "needs the ids of leases",
		"lease list dpl_x":       "takes flags only",
		"serve daypass.yaml":     "takes flags only",
		"lease lst":              `unknown command "lst"`,
		"check --conf x":         "unknown flag",
		"check --output xml":     "text or json",
		"audit verify":           "needs a journal's folder",
		"serve --log-level loud": "debug, info, warn or error",
	} {
		var out bytes.Buffer
		code := run(t.Context(), strings.Fields(line), process{env: os.LookupEnv, stdout: &out, stderr: &out})
		if code != exitUsage || !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "--help") {
			t.Errorf("daypassd %s: exit %d: %s", line, code, out.String())
		}
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	for _, line := range []string{"--help", "serve --help", "check --help", "audit verify --help", "lease list --help", "lease show --help",
		"lease revoke --help", "lease forget --help", "policy lint --help", "policy test --help", "policy explain --help", "policy suggest --help",
		"policy report --help", "policy access --help", "policy from-sub --help", "policy schema --help"} {
		var out bytes.Buffer
		code := run(t.Context(), strings.Fields(line), process{env: os.LookupEnv, stdout: &out, stderr: &out})
		if code != exitOK || !strings.Contains(out.String(), "Examples:") {
			t.Errorf("daypassd %s: exit %d: %s", line, code, out.String())
		}
	}
}

func TestADataDirectoryThatCannotBeWrittenIsNamed(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"daypass.yaml": snippet(t, "README.md", "config"), "policies/shop.yaml": snippet(t, "README.md", "policy"), "data": "a file, not a folder",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	p := process{env: func(string) (string, bool) { return "postgres://a:b@127.0.0.1:1/x", true }, stdout: &out, stderr: &out}
	config := filepath.Join(dir, "daypass.yaml")
	if code := run(t.Context(), []string{"check", "--config", config}, p); code != exitFailed || !strings.Contains(out.String(), "not a folder") {
		t.Errorf("check: exit %d: %s", code, out.String())
	}
	out.Reset()
	if code := run(t.Context(), []string{"serve", "--config", config}, p); code != exitFailed || !strings.Contains(out.String(), "data_dir") {
		t.Errorf("serve: exit %d: %s", code, out.String())
	}
}
