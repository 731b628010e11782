package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/issuers"
	"github.com/daypass-dev/daypass/policy/lint"
)

// lintRun runs daypassd policy lint in a folder of files.
func lintRun(t *testing.T, files map[string]string, args ...string) (string, int) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var out bytes.Buffer
	p := process{env: func(string) (string, bool) { return "", false }, stdout: &out, stderr: &out}
	code := run(t.Context(), append([]string{"policy", "lint"}, args...), p)
	return out.String(), code
}

// lintConfigText is a configuration with one issuer, whose further keys are given,
// and two grants.
func lintConfigText(issuer string) string {
	return `url: https://daypass.example.com
deployment: prod
state: embedded
issuers:
  github: {profile: github` + issuer + `}
grants:
  web-identity: {kind: jwt, max_ttl: 1h, access: write, params: {audience: sts.amazonaws.com}}
  packages: {kind: jwt, max_ttl: 1h, access: read, params: {audience: packages.example.com}}
`
}

const soundPolicy = `owner: team
review_by: 2999-01-01
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: deploy
    for: [api]
    match: {ref: refs/heads/main, event_name: push, runner_environment: github-hosted}
    allow: [{grant: web-identity}]
  - name: build
    for: [api]
    match: {event_name: [push, pull_request], runner_environment: github-hosted}
    allow: [{grant: packages}]
`

func TestPolicyLintPassesASoundPolicyUnderItsConfiguration(t *testing.T) {
	files := map[string]string{"daypass.yaml": lintConfigText(""), "policies/p.yaml": soundPolicy}
	if out, code := lintRun(t, files, "--config", "daypass.yaml"); code != exitOK || out != "no findings: passed\n" {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestWithoutAConfigurationEveryGrantIsTakenToWrite(t *testing.T) {
	out, code := lintRun(t, map[string]string{"policies/p.yaml": soundPolicy}, "policies")
	if code != exitFailed || !strings.Contains(out, "policies/p.yaml\n") || !strings.Contains(out, "12:25  critical  DP014") || strings.Count(out, "fix:") != 1 {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestPolicyLintTellsWhatDependsOnTheConfiguration(t *testing.T) {
	for name, c := range map[string]struct {
		issuer, policy string
		want           string // a part of the output; passes if empty
	}{
		"a long token life":       {", max_token_life: 6h", soundPolicy, "5:45   high      DP029 long-token-life"},
		"waived for the issuer":   {", max_token_life: 6h, waive: [{id: DP029, reason: r, until: 2999-01-01}]", soundPolicy, ""},
		"a waiver that expired":   {", max_token_life: 6h, waive: [{id: DP029, reason: r, until: 2020-01-01}]", soundPolicy, "DP037 waiver-expired"},
		"a waiver of nothing":     {", waive: [{id: DP029, reason: r, until: 2999-01-01}]", soundPolicy, "daypass.yaml\n  5:37   warning   DP038 waiver-unused"},
		"a grant without a rule":  {"", soundPolicy[:strings.Index(soundPolicy, "  - name: build")], "daypass.yaml\n  8:13   warning   DP034 grant-without-rule"},
		"a grant that is unknown": {"", strings.Replace(soundPolicy, "grant: packages", "grant: package", 1), "13:21  critical  DP000 not-loaded"},
		"a stranger's issuer":     {"", strings.Replace(soundPolicy, "{issuer: github", "{issuer: gitlab", 1), "DP000 not-loaded"},
		"an overdue review":       {"", strings.Replace(soundPolicy, "2999", "2020", 1), "2:12   high      DP035 review-overdue"},
		"an owner that is free": {"", strings.Replace(soundPolicy, `repository_owner_id: "1234", `, "", 1),
			"4:48   critical  DP002 no-owner-pin  (repos/api)"},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := lintRun(t, map[string]string{"daypass.yaml": lintConfigText(c.issuer), "policies/p.yaml": c.policy}, "--config", "daypass.yaml", "policies")
			failed := strings.Contains(c.want, "critical") || strings.Contains(c.want, "high") || strings.Contains(c.want, "DP037") || strings.Contains(c.want, "DP000")
			if !strings.Contains(out, c.want) || (code == exitFailed) != failed || c.want == "" && !strings.Contains(out, "passed") {
				t.Errorf("exit %d, without %q:\n%s", code, c.want, out)
			}
		})
	}
}

func TestWhatKeepsAPolicyFromBeingLoadedIsSaidOnce(t *testing.T) {
	out, code := lintRun(t, map[string]string{"policies/p.yaml": `owner: team
review_by: 2999-01-01
rules:
  - name: by-name
    issuer: github
    match: {repository: acme/api, ref: refs/heads/main, event_name: push, runner_environment: github-hosted}
    allow: [{grant: g}]
`}, "policies")
	if code != exitFailed || strings.Count(out, "critical  ") != 1 || strings.Contains(out, "DP000") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestPolicyLintWritesEachFormat(t *testing.T) {
	files := map[string]string{"a/p.yaml": soundPolicy, "b/q.yaml": "rules: 1\n"}
	for output, want := range map[string]string{
		"text":   "a/p.yaml\n",
		"json":   `"file": "a/p.yaml"`,
		"sarif":  `"uri": "b/q.yaml"`,
		"github": "::error file=b/q.yaml,line=1,col=8,title=DP000 not-loaded (critical)::",
	} {
		out, code := lintRun(t, files, "--output", output, "a", "b")
		if code != exitFailed || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d: %s", output, code, out)
		}
		document, _, _ := strings.Cut(out, "daypassd: ")
		if (output == "json" || output == "sarif") && !json.Valid([]byte(document)) {
			t.Errorf("%s is not JSON:\n%s", output, document)
		}
	}
}

func TestThePolicyOfTheReadmePassesLint(t *testing.T) {
	files := map[string]string{"daypass.yaml": snippet(t, "README.md", "config"), "policies/p.yaml": snippet(t, "README.md", "policy")}
	if out, code := lintRun(t, files, "--config", "daypass.yaml"); code != exitOK {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestPolicyLintSaysWhatItNeeds(t *testing.T) {
	for line, want := range map[string]string{
		"":                     "name a policy folder",
		"--output xml a":       "text, json, sarif or github",
		"--help":               "Examples:",
		"none":                 "no such file",
		"--config none.yaml":   "none.yaml",
		"--journal none empty": "none",
	} {
		out, code := lintRun(t, map[string]string{"empty/readme": ""}, strings.Fields(line)...)
		wantCode := map[string]int{"": exitUsage, "--output xml a": exitUsage, "--help": exitOK}
		if c, ok := wantCode[line]; !strings.Contains(out, want) || ok && code != c || !ok && code != exitFailed {
			t.Errorf("daypassd policy lint %s: exit %d: %s", line, code, out)
		}
	}
}

func TestPolicyLintComparesNamesWithEarlierTokens(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "journal")
	j, err := audit.Open(audit.Config{Dir: journal, Deployment: "prod", Broker: "one", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"acme/api", "mallory/api"} {
		err := j.Append(t.Context(), broker.Record{
			Event: broker.EventIssued, At: time.Date(2026, 11, 1+i, 0, 0, 0, 0, time.UTC), Issuer: "github",
			Job:    &broker.Job{Repository: name, RepositoryID: "5678"},
			Claims: broker.Claims{"repository": name, "repository_id": "5678"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"daypass.yaml": lintConfigText(""), "policies/p.yaml": soundPolicy}
	out, code := lintRun(t, files, "--config", "daypass.yaml", "--journal", journal)
	const want = `id 5678 was called "mallory/api" on 2026-11-02, and is called "acme/api" here`
	if code != exitFailed || !strings.Contains(out, want) || strings.Count(out, "fix:") != 1 {
		t.Errorf("exit %d: %s", code, out)
	}
	files["policies/p.yaml"] = strings.Replace(soundPolicy, "name: acme/api", "name: mallory/api", 1)
	if out, code := lintRun(t, files, "--config", "daypass.yaml", "--journal", journal); code != exitOK {
		t.Errorf("exit %d: %s", code, out)
	}
}

// TestLintKnowsEveryProfileAsTheVerifierDoes keeps what lint knows of providers
// from becoming another than what tokens are verified by.
func TestLintKnowsEveryProfileAsTheVerifierDoes(t *testing.T) {
	profiles, err := issuers.Profiles()
	if err != nil {
		t.Fatal(err)
	}
	known, err := lint.Profiles()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range profiles {
		l, ok := known[name]
		if !ok {
			t.Errorf("policy/lint/providers.yaml has no %s", name)
			continue
		}
		same := func(a, b []string) bool {
			return len(a) == len(b) && !slices.ContainsFunc(a, func(id string) bool { return !slices.Contains(b, id) })
		}
		if l.Shared != p.Shared || !same(l.ImmutableIDs, p.ImmutableIDs) || !same(l.OwnerIDs, p.OwnerIDs) {
			t.Errorf("%s is %+v to lint, and %v %v %v to the verifier", name, l, p.Shared, p.ImmutableIDs, p.OwnerIDs)
		}
	}
}
