package lint_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/lint"
)

var update = flag.Bool("update", false, "write the golden files anew")

// check lints one file under the profiles' names.
func check(t testing.TB, text string) lint.Findings {
	t.Helper()
	return testCase{files: map[string]string{"p.yaml": text}, config: byProfile(t)}.check(t)
}

// head is owner, review and one repository of GitHub.
const head = `owner: team
review_by: 2027-03-01
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
`

// ids lists what is found, each once.
func ids(found lint.Findings) string {
	var all []string
	for _, f := range found {
		if f.Waived == nil {
			all = append(all, f.ID)
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " ")
}

// ownerPins are what says whose job it is, as the sound policies write it.
var ownerPins = regexp.MustCompile(`\b(repository_owner_id|project_id|namespace_id|organization_id|terraform_organization_id|account_id): (\[[^\]]*\]|"[^"]*"|[A-Za-z0-9-]+)(, )?`)

// TestWithoutItsOwnerPinEverySoundPolicyOfASharedIssuerIsFound takes one pin out
// of a sound policy, wherever it stands, together with the others of its issuer.
func TestWithoutItsOwnerPinEverySoundPolicyOfASharedIssuerIsFound(t *testing.T) {
	var shared []testCase
	for _, c := range corpus(t, "testdata/sound") {
		for _, i := range c.config.Issuers {
			if i.Shared && ownerPins.MatchString(c.text) && strings.Contains(c.text, "issuer: "+i.Profile) {
				shared = append(shared, c)
				break
			}
		}
	}
	if len(shared) < 20 {
		t.Fatalf("only %d sound policies pin an owner at a shared issuer", len(shared))
	}
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(shared).Draw(t, "case")
		type place struct {
			file string
			at   [2]int
		}
		var places []place
		for file, text := range c.files {
			for _, line := range regexp.MustCompile(`(?m)^.*$`).FindAllStringIndex(text, -1) {
				if ownerPins.MatchString(text[line[0]:line[1]]) && file != "config.yaml" {
					places = append(places, place{file, [2]int(line)})
				}
			}
		}
		slices.SortFunc(places, func(a, b place) int { return strings.Compare(a.file, b.file)*1_000_000 + a.at[0] - b.at[0] })
		p := rapid.SampledFrom(places).Draw(t, "place")
		text := c.files[p.file]
		// A pin that is taken away, or that pins nothing any more.
		with := rapid.SampledFrom([]string{"", `$1: {not: "666"}$3`, `$1: {glob: "*"}$3`, `$1: {exists: true}$3`, `$1: ""$3`}).Draw(t, "with")
		mutant := testCase{config: c.config, files: map[string]string{}}
		for name, text := range c.files {
			mutant.files[name] = text
		}
		mutant.files[p.file] = text[:p.at[0]] + ownerPins.ReplaceAllString(text[p.at[0]:p.at[1]], with) + text[p.at[1]:]
		found, err := lint.Check(policy.Parse(mutant.folder()), c.config)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(found.Critical(), func(f lint.Finding) bool { return f.ID == "DP002" && f.File == p.file }) {
			t.Fatalf("without its pin nothing is found in %s:\n%s\n%s", p.file, mutant.files[p.file], listed(found))
		}
	})
}

func TestAnOwnerThatIsPinnedInEveryAlternativeIsPinned(t *testing.T) {
	for when, want := range map[string]string{
		`claims.repository_owner_id == "1" || claims.repository_owner_id == "2"`:                                       "",
		`claims.repository_owner_id in ["1", "2"] && claims.environment == "production"`:                               "",
		`claims.environment == "x" ? claims.repository_owner_id == "1" : claims.repository_owner_id == "2"`:            "",
		`claims.repository_owner_id == "1" || claims.actor_id == "2"`:                                                  "DP002",
		`claims.repository_owner_id == "1" || true`:                                                                    "DP002",
		`claims.repository_owner_id != "666"`:                                                                          "DP002",
		`!(claims.repository_owner_id == "1")`:                                                                         "DP002",
		`claims.repository_owner_id.startsWith("1")`:                                                                   "DP002",
		`claims.repository_owner_id == claims.actor_id`:                                                                "DP002",
		`claims.environment == "x" ? claims.repository_owner_id == "1" : claims.environment == "y"`:                    "DP002",
		`["1", "2"].exists(id, id == claims.repository_owner_id)`:                                                      "DP002 DP040",
		`"1" + "2" == claims.repository_owner_id`:                                                                      "DP002 DP040",
		`grant == "other" || claims.repository_owner_id == "1"`:                                                        "",
		`claims.repository_owner_id == "" || claims.repository_owner_id == "1"`:                                        "DP002",
		`claims.repository_owner_id in [] || claims.repository_owner_id == "1"`:                                        "",
		`has(claims.repository_owner_id) && claims.repository_owner_id == "1"`:                                         "",
		`claims.repository_owner_id == "1" && claims.repository_owner_id == "2" || claims.repository_owner_id == "3"`:  "",
		`claims.repository_owner_id == "1" && ("a" in claims.aud && "b" in claims.aud) || claims.environment == "any"`: "DP002",
	} {
		text := "owner: t\nreview_by: 2027-03-01\nrules:\n  - name: r\n    issuer: github\n" +
			"    match: {ref: refs/heads/main, event_name: push, runner_environment: github-hosted}\n    when: '" + when + "'\n    allow: [{grant: g}]\n"
		if got := ids(check(t, text)); got != want {
			t.Errorf("%s\nfound %q, not %q", when, got, want)
		}
	}
}

// TestNoCriticalFindingHidesBehindAContradictionThatIsNone has claims that are
// lists: two items can both be there.
func TestNoCriticalFindingHidesBehindAContradictionThatIsNone(t *testing.T) {
	text := `owner: t
review_by: 2027-03-01
rules:
  - name: r
    issuer: kubernetes
    match: {/kubernetes.io/namespace: {glob: "payments-*"}, aud: a}
    when: '"b" in claims.aud'
    allow: [{grant: g}]
`
	if got := ids(check(t, text).Critical()); got != "DP005" {
		t.Errorf("found %q", got)
	}
}

func TestARuleThatDeniesExcusesOnlyWhatItSurelyStops(t *testing.T) {
	const allow = `
  - name: deploy
    for: [api]
    match: {ref: refs/heads/main, runner_environment: github-hosted}
    allow: [{grant: payments-db}]
`
	for deny, want := range map[string]string{
		`issuer: github, match: {event_name: {not: [push]}}, deny: ["*"]`:                                                  "",
		`match: {event_name: {not: [push]}}, deny: [payments-db]`:                                                          "",
		`for: [api], match: {event_name: {not: [push]}}, deny: ["payments-*"]`:                                             "",
		`issuer: github, match: {event_name: [pull_request_target, issue_comment, workflow_run]}, deny: ["*"]`:             "",
		`issuer: github, match: {event_name: {not: [push]}, ref: refs/heads/main}, deny: ["*"]`:                            "",
		`issuer: github, match: {event_name: {not: [push]}, ref: {glob: "refs/heads/*"}}, deny: ["*"]`:                     "",
		`issuer: github, match: {event_name: {not: [push]}, repository_owner_id: "1234"}, deny: ["*"]`:                     "",
		`issuer: github, match: {event_name: {not: [push]}, repository_owner_id: "99"}, deny: ["*"]`:                       "DP013",
		`issuer: github, match: {event_name: {not: [push]}, environment: production}, deny: ["*"]`:                         "DP013",
		`issuer: github, match: {event_name: {not: [push]}}, deny: [other]`:                                                "DP013",
		`issuer: gitlab, match: {event_name: {not: [push]}}, deny: ["*"]`:                                                  "DP013 DP043",
		`issuer: github, mode: report, match: {event_name: {not: [push]}}, deny: ["*"]`:                                    "DP013",
		`issuer: github, until: 2026-11-30, match: {event_name: {not: [push]}}, deny: ["*"]`:                               "DP013 DP041",
		`issuer: github, match: {event_name: {not: [push]}}, when: "claims.run_attempt == claims.sha + ''", deny: ["*"]`:   "DP013",
		`issuer: github, match: {event_name: pull_request_target}, deny: ["*"]`:                                            "DP013",
		`issuer: github, when: "claims.event_name != 'push'", deny: ["*"]`:                                                 "",
		`issuer: github, when: "claims.event_name != 'push' && claims.actor == 'x'", deny: ["*"]`:                          "DP013",
		`issuer: github, when: "claims.event_name != 'push' || claims.actor == 'x'", deny: ["*"]`:                          "",
		`issuer: github, match: {event_name: {not: [push]}}, when: "grant == 'other'", deny: ["*", payments-db, "pay-**"]`: "DP013",
	} {
		if got := ids(check(t, head+"rules:\n  - {name: guard, "+deny+"}"+allow)); got != want {
			t.Errorf("%s\nfound %q, not %q", deny, got, want)
		}
	}
}

func TestADenyWithinACeilingExcusesOnlyItsOwnFile(t *testing.T) {
	files := map[string]string{
		"ceilings.yaml": head + `ceilings:
  - {folder: teams/a, repos: [api], grants: ["*"]}
  - {folder: teams/b, repos: [api], grants: ["*"]}
`,
		"teams/a/deny.yaml": `owner: t
review_by: 2027-03-01
rules:
  - {name: guard, issuer: github, match: {event_name: {not: [push]}}, deny: ["*"]}
`,
		"teams/b/deploy.yaml": `owner: t
review_by: 2027-03-01
rules:
  - name: deploy
    for: [api]
    match: {ref: refs/heads/main, runner_environment: github-hosted}
    allow: [{grant: payments-db}]
`,
	}
	c := testCase{files: files, config: byProfile(t)}
	if got := ids(c.check(t)); got != "DP013" {
		t.Errorf("found %q", got)
	}
	files["deny.yaml"] = files["teams/a/deny.yaml"]
	if got := ids(c.check(t)); got != "" {
		t.Errorf("found %q, although the same is denied for all", got)
	}
}

func TestAReadGrantMayBeGivenToPullRequests(t *testing.T) {
	const rule = head + `rules:
  - name: build
    for: [api]
    match: {event_name: [push, pull_request], runner_environment: github-hosted}
    allow: [{grant: packages}]
`
	for access, want := range map[broker.Access]string{broker.Read: "", broker.Write: "DP014", "": "DP014"} {
		c := testCase{files: map[string]string{"p.yaml": rule}, config: byProfile(t)}
		c.config.Grants = map[string]lint.Grant{"packages": {Access: access}}
		if got := ids(c.check(t)); got != want {
			t.Errorf("access %q: found %q, not %q", access, got, want)
		}
	}
}

func TestAPullRequestIsKeptOutByWhatItsRefIs(t *testing.T) {
	for match, want := range map[string]string{
		`{runner_environment: github-hosted, ref: {not: {glob: "refs/pull/**"}}}`:                            "DP015",
		`{runner_environment: github-hosted, ref: {not: {glob: "refs/pull/8/*"}}}`:                           "DP014 DP015",
		`{runner_environment: github-hosted, ref: {glob: "refs/heads/**"}, event_name: push}`:                "DP015",
		`{runner_environment: github-hosted, ref: {not: refs/heads/main}}`:                                   "DP014 DP015",
		`{runner_environment: github-hosted, ref: refs/heads/main, event_name: [push, pull_request]}`:        "DP014", // it says so itself
		`{runner_environment: github-hosted, ref_protected: "true", event_name: [push, workflow_dispatch]}`:  "",
		`{runner_environment: github-hosted, ref_protected: "false", event_name: [push, workflow_dispatch]}`: "DP015",
	} {
		if got := ids(check(t, head+"rules:\n  - {name: r, for: [api], match: "+match+", allow: [{grant: g}]}\n")); got != want {
			t.Errorf("%s: found %q, not %q", match, got, want)
		}
	}
}

func TestAWaiverSilencesItsOwnIDUntilItsDay(t *testing.T) {
	rule := func(waive string) string {
		return head + `rules:
  - name: scan
    for: [api]
    match: {ref: {glob: "refs/heads/*"}, event_name: schedule}
    allow: [{grant: scan}]
    waive: [` + waive + `]
`
	}
	for waive, want := range map[string]string{
		`{id: DP015, reason: r, until: 2026-12-01}`:                                            "DP021", // today is the last day
		`{id: DP015, reason: r, until: 2026-11-30}`:                                            "DP015 DP021 DP037",
		`{id: DP015, reason: r, until: 2027-01-01}, {id: DP021, reason: r, until: 2027-01-01}`: "",
		`{id: DP016, reason: r, until: 2027-01-01}`:                                            "DP015 DP021 DP038",
		`{id: DP999, reason: r, until: 2027-01-01}`:                                            "DP015 DP021 DP038",
		`{id: DP002, reason: r, until: 2027-01-01}`:                                            "DP015 DP021 DP039",
		`{id: DP039, reason: r, until: 2027-01-01}, {id: DP014, reason: r, until: 2027-01-01}`: "DP015 DP021 DP038 DP039",
		`{id: DP015, reason: r, until: soon}`:                                                  "DP015 DP021", // what cannot be read waives nothing, and is not loaded
	} {
		if got := ids(check(t, rule(waive))); got != want {
			t.Errorf("%s: found %q, not %q", waive, got, want)
		}
	}
	found := check(t, rule(`{id: DP015, reason: "every branch is scanned", until: 2027-01-01}`))
	if i := slices.IndexFunc(found, func(f lint.Finding) bool { return f.ID == "DP015" }); i < 0 || found[i].Waived == nil || found[i].Waived.Reason != "every branch is scanned" {
		t.Errorf("the waived finding is not there with its reason:\n%s", listed(found))
	}
}

func TestAFindingOfARepoIsWaivedOnlyIfAllItsRulesDo(t *testing.T) {
	const repo = "owner: t\nreview_by: 2027-03-01\nrepos:\n  api: {issuer: gitlab, name: acme/api, match: {project_id: \"20\"}}\nrules:\n"
	rule := func(name, waive string) string {
		return "  - name: " + name + "\n    for: [api]\n    match: {ref_path: refs/heads/" + name + ", ref_protected: \"true\", runner_environment: gitlab-hosted}\n    allow: [{grant: g}]\n" + waive
	}
	const waive = "    waive: [{id: DP018, reason: r, until: 2027-01-01}]\n"
	if got := ids(check(t, repo+rule("a", waive)+rule("b", waive))); got != "" {
		t.Errorf("found %q", got)
	}
	if got := ids(check(t, repo+rule("a", waive)+rule("b", ""))); got != "DP018" {
		t.Errorf("found %q, although one rule does not waive it", got)
	}
	found := check(t, repo+rule("a", "")+rule("b", ""))
	if len(found) != 1 || found[0].Rule != "repos/api" || found[0].Line != 4 {
		t.Errorf("it is not said once, of the repo:\n%s", listed(found))
	}
}

func TestAFolderThatIsNotLoadedIsAFinding(t *testing.T) {
	fsys := fstest.MapFS{"p.yaml": {Data: []byte(head + `rules:
  - name: by-name
    issuer: github
    match: {repository: acme/api, ref: refs/heads/main, event_name: push, runner_environment: github-hosted}
    allow: [{grant: g}]
  - name: typo
    for: [apo]
    allow: [{grant: g}]
`), Mode: 0o644}}
	c := byProfile(t)
	found, err := lint.Check(policy.Parse(fsys), c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = policy.Load(fsys, testCase{config: c}.known())
	faults := lint.Faults(err, found)
	if len(faults) != 1 || faults[0].ID != "DP000" || faults[0].Line != 11 || !strings.Contains(faults[0].Message, "apo") {
		t.Errorf("faults are:\n%s", listed(faults))
	}
	if len(faults.Critical()) != 1 || faults.Err() == nil || lint.Findings(nil).Err() != nil {
		t.Error("a fault is not critical, or is no error")
	}
	if !slices.ContainsFunc(found.Critical(), func(f lint.Finding) bool { return f.ID == "DP002" && f.Line == 8 }) {
		t.Errorf("what else is wrong is not found:\n%s", listed(found))
	}
}

func TestTheDocumentationIsThatOfTheRules(t *testing.T) {
	const page = "../../docs/policy-lint.md"
	text, err := lint.Markdown()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != text {
		t.Error("docs/policy-lint.md is not what the rules say: make golden writes it anew")
	}
}

func TestEachRuleSaysWhatItsReaderNeeds(t *testing.T) {
	known, err := lint.Profiles()
	if err != nil || len(known) < 14 {
		t.Fatalf("only %d providers are known: %v", len(known), err)
	}
	seen := map[string]bool{}
	for i, r := range lint.Rules() {
		if r.ID != fmt.Sprintf("DP%03d", i) {
			t.Errorf("rule %d is %s", i, r.ID)
		}
		if seen[r.Name] || r.Attack == "" || !strings.HasSuffix(r.Attack, ".") || r.Fix == "" || strings.HasSuffix(r.Fix, ".") {
			t.Errorf("%s: name %q is taken, or the attack is no sentence, or the fix is one", r.ID, r.Name)
		}
		if i >= 1 && i <= 30 && len(r.Sources) == 0 {
			t.Errorf("%s has no source", r.ID)
		}
		seen[r.Name] = true
	}
	// The severities that are agreed for the first thirty, in order.
	const agreed = "CCCHCHHHCHCHHCHHWHHHHCHHCCHCHH"
	for i, r := range lint.Rules()[1:31] {
		if want := map[byte]lint.Severity{'C': lint.Critical, 'H': lint.High, 'W': lint.Warning}[agreed[i]]; r.Severity != want {
			t.Errorf("%s is %s, not %s", r.ID, r.Severity, want)
		}
	}
}
