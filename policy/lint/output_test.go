package lint_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/policy/lint"
)

// mixed has a finding of each severity, and a waived one.
func mixed(t testing.TB) lint.Findings {
	t.Helper()
	return check(t, `repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: deploy
    for: [api]
    match: {event_name: [push, pull_request]}
    allow: [{grant: payments-db}]
  - name: scan
    for: [api]
    match: {ref: {glob: "refs/heads/*"}, event_name: schedule, runner_environment: github-hosted}
    allow: [{grant: scan}]
    waive: [{id: DP015, reason: "every branch is scanned", until: 2027-01-01}]
`)
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	path := "testdata/output/" + file
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

func TestFindingsAreWrittenForPeopleAndForPrograms(t *testing.T) {
	found := mixed(t)
	for file, write := range map[string]func(*bytes.Buffer) error{
		"mixed.txt":    func(b *bytes.Buffer) error { return found.WriteText(b) },
		"mixed.json":   func(b *bytes.Buffer) error { return found.WriteJSON(b) },
		"mixed.github": func(b *bytes.Buffer) error { return found.WriteGitHub(b) },
		"none.txt":     func(b *bytes.Buffer) error { return lint.Findings(nil).WriteText(b) },
		"none.json":    func(b *bytes.Buffer) error { return lint.Findings(nil).WriteJSON(b) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, file, b.Bytes())
	}
}

// hostile is a finding whose every part tries to be something else.
func hostile() lint.Findings {
	return lint.Findings{{
		ID: "DP005", Name: "owner-wildcard", Severity: lint.Critical, File: "teams/50%,a:b\n::error::/x y.yaml", Line: 3, Col: 7,
		Rule: "x\r\n::warning::", Message: "100% of\r\n::add-mask::x \x1b[31m\u202e", Fix: "none\n::stop-commands::t",
	}}
}

func TestNothingInAFindingBecomesAWorkflowCommand(t *testing.T) {
	var b bytes.Buffer
	if err := hostile().WriteGitHub(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 2 || strings.Contains(b.String(), "\r") || strings.HasPrefix(lines[1], "::") {
		t.Fatalf("more than one command:\n%q", b.String())
	}
	const want = "::error file=teams/50%25%2Ca%3Ab%0A%3A%3Aerror%3A%3A/x y.yaml,line=3,col=7,title=DP005 owner-wildcard (critical)::" +
		"x%0D%0A::warning::: 100%25 of%0D%0A::add-mask::x \x1b[31m\u202e%0Afix: none%0A::stop-commands::t"
	if lines[0] != want {
		t.Errorf("got\n%q\nwant\n%q", lines[0], want)
	}
}

func TestNothingInAFindingSteersATerminal(t *testing.T) {
	var b bytes.Buffer
	if err := hostile().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\r\u202e") || strings.Count(b.String(), "\n") != 6 {
		t.Errorf("written:\n%q", b.String())
	}
}

// TestSARIFHasTheShapeThatItsSchemaAsksFor checks what the schema of SARIF 2.1.0
// requires of the parts that are written, and what code scanning asks for.
func TestSARIFHasTheShapeThatItsSchemaAsksFor(t *testing.T) {
	found := append(append(mixed(t), hostile()...), lint.Finding{ID: "DP034", Name: "grant-without-rule", Severity: lint.Warning, Message: "m", Fix: "f"})
	var b bytes.Buffer
	if err := found.WriteSARIF(&b, "1.2.3"); err != nil {
		t.Fatal(err)
	}
	var log map[string]any
	if err := json.Unmarshal(b.Bytes(), &log); err != nil {
		t.Fatal(err)
	}
	s := shape{t}
	if s.text(log, "version") != "2.1.0" || !strings.HasPrefix(s.text(log, "$schema"), "https://") {
		t.Error("version or schema are wrong")
	}
	runs := s.list(log, "runs")
	if len(runs) != 1 {
		t.Fatalf("%d runs", len(runs))
	}
	driver := s.object(s.object(runs[0], "tool"), "driver")
	s.text(driver, "name")
	if s.text(driver, "version") != "1.2.3" {
		t.Error("the version is another")
	}
	if u, err := url.Parse(s.text(driver, "informationUri")); err != nil || !u.IsAbs() {
		t.Error("informationUri is no absolute URI")
	}
	rules := s.list(driver, "rules")
	seen := map[string]bool{}
	for _, r := range rules {
		id := s.text(r, "id")
		if seen[id] || !regexp.MustCompile(`\A[A-Z][A-Za-z]+\z`).MatchString(s.text(r, "name")) {
			t.Errorf("rule %s is there twice, or its name is no PascalCase", id)
		}
		seen[id] = true
		for _, key := range []string{"shortDescription", "fullDescription", "help"} {
			s.text(s.object(r, key), "text")
		}
		s.level(s.object(r, "defaultConfiguration"))
		if score := s.text(s.object(r, "properties"), "security-severity"); !regexp.MustCompile(`\A(10\.0|[0-9]\.[0-9])\z`).MatchString(score) {
			t.Errorf("security-severity is %q", score)
		}
	}
	s.results(s.list(runs[0], "results"), rules, found)
}

// shape reads decoded JSON and fails where something is missing.
type shape struct{ *testing.T }

func (s shape) object(in any, key string) map[string]any {
	s.Helper()
	m, _ := in.(map[string]any)
	o, ok := m[key].(map[string]any)
	if !ok {
		s.Fatalf("%s is missing, or is no object", key)
	}
	return o
}

func (s shape) list(in any, key string) []any {
	s.Helper()
	m, _ := in.(map[string]any)
	l, ok := m[key].([]any)
	if !ok {
		s.Fatalf("%s is missing, or is no list", key)
	}
	return l
}

func (s shape) text(in any, key string) string {
	s.Helper()
	m, _ := in.(map[string]any)
	text, ok := m[key].(string)
	if !ok || text == "" {
		s.Fatalf("%s is missing, or is no text", key)
	}
	return text
}

func (s shape) level(in any) {
	s.Helper()
	if l := s.text(in, "level"); !slices.Contains([]string{"none", "note", "warning", "error"}, l) {
		s.Errorf("level is %q", l)
	}
}

func (s shape) results(results, rules []any, found lint.Findings) {
	if len(results) != len(found) {
		s.Fatalf("%d results for %d findings", len(results), len(found))
	}
	for i, r := range results {
		result := r.(map[string]any)
		index := int(result["ruleIndex"].(float64))
		if index < 0 || index >= len(rules) || s.text(rules[index], "id") != s.text(r, "ruleId") || s.text(r, "ruleId") != found[i].ID {
			s.Errorf("result %d is not of rule %v", i, result["ruleIndex"])
		}
		s.level(r)
		s.text(s.object(r, "message"), "text")
		s.object(r, "partialFingerprints")
		_, suppressed := result["suppressions"]
		if suppressed != (found[i].Waived != nil) {
			s.Errorf("result %d: suppressed is %v", i, suppressed)
		}
		if suppressed {
			one := s.list(r, "suppressions")[0]
			if k := s.text(one, "kind"); k != "inSource" && k != "external" {
				s.Errorf("kind is %q", k)
			}
			s.text(one, "justification")
		}
		if found[i].File == "" {
			if _, there := result["locations"]; there {
				s.Error("a finding without a place has one")
			}
			continue
		}
		physical := s.object(s.list(r, "locations")[0], "physicalLocation")
		uri := s.text(s.object(physical, "artifactLocation"), "uri")
		if u, err := url.Parse(uri); err != nil || u.IsAbs() || u.Path != found[i].File {
			s.Errorf("uri %q is not that of %q", uri, found[i].File)
		}
		region := s.object(physical, "region")
		for _, key := range []string{"startLine", "startColumn"} {
			if n, _ := region[key].(float64); n < 1 {
				s.Errorf("%s is %v", key, region[key])
			}
		}
	}
}

func TestAFingerprintDoesNotMoveWithTheLine(t *testing.T) {
	sarif := func(f lint.Findings) string {
		var b bytes.Buffer
		if err := f.WriteSARIF(&b, ""); err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(`"daypassFinding/v1": "[0-9a-f]+"`).FindString(b.String())
	}
	a, b := hostile(), hostile()
	b[0].Line = 99
	if sarif(a) != sarif(b) || sarif(a) == "" {
		t.Error("the same finding on another line is another")
	}
	b[0].Message = "other"
	if sarif(a) == sarif(b) {
		t.Error("two findings are the same")
	}
}
