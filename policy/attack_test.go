package policy_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// Each row is a published attack on trust policy, or an obvious one, against a
// rule as the documentation has it.
func TestPublishedAttacksAreDenied(t *testing.T) {
	const text = `
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: deploy
    for: [api]
    match:
      ref: refs/heads/main
      ref_type: branch
      environment: production
      event_name: [push, workflow_dispatch]
      job_workflow_ref: {glob: "acme/ci/.github/workflows/deploy.yml@refs/tags/v3.*"}
    allow: [{grant: payments-db}]
`
	b := load(t, text)
	good := broker.Claims{"job_workflow_ref": "acme/ci/.github/workflows/deploy.yml@refs/tags/v3.1.0"}
	if !allowed(t, b, job(good)) {
		t.Fatal("the job it is meant for is denied")
	}
	for attack, change := range map[string]broker.Claims{
		"a pull request from a fork":                {"event_name": "pull_request", "ref": "refs/pull/7/merge"},
		"a pull request that names the branch":      {"event_name": "pull_request"},
		"pull_request_target, which runs on main":   {"event_name": "pull_request_target"},
		"a tag named like the branch":               {"ref": "refs/tags/main", "ref_type": "tag"},
		"a tag named like the branch's whole ref":   {"ref": "refs/tags/refs/heads/main", "ref_type": "tag"},
		"a branch named like the branch":            {"ref": "refs/heads/refs/heads/main"},
		"a short ref":                               {"ref": "main"},
		"the branch in upper case":                  {"ref": "refs/heads/MAIN"},
		"the branch with a Cyrillic a":              {"ref": "refs/heads/m\u0430in"},
		"the branch in full width":                  {"ref": "refs/heads/\uff4dain"},
		"the branch with a zero-width space":        {"ref": "refs/heads/main\u200b"},
		"the branch with a soft hyphen":             {"ref": "refs/heads/ma\u00adin"},
		"the branch and a line end":                 {"ref": "refs/heads/main\n"},
		"the branch and a NUL":                      {"ref": "refs/heads/main\x00"},
		"a space before":                            {"ref": " refs/heads/main"},
		"an environment with a Greek o":             {"environment": "pr\u03bfduction"},
		"no environment":                            {"environment": gone{}},
		"an environment that is null":               {"environment": nil},
		"an environment that is empty":              {"environment": ""},
		"an environment in an object":               {"environment": map[string]any{"name": "production"}},
		"a workflow of another owner":               {"job_workflow_ref": "acme-evil/ci/.github/workflows/deploy.yml@refs/tags/v3.1"},
		"a workflow with the pattern inside":        {"job_workflow_ref": "evil/x/acme/ci/.github/workflows/deploy.yml@refs/tags/v3.1"},
		"a workflow on a branch in a tag's name":    {"job_workflow_ref": "acme/ci/.github/workflows/deploy.yml@refs/tags/v3./../../heads/evil"},
		"a workflow tag with a look-alike":          {"job_workflow_ref": "acme/ci/.github/workflows/deploy.yml@refs/tags/v3.\u0661"},
		"a workflow tag with a line end":            {"job_workflow_ref": "acme/ci/.github/workflows/deploy.yml@refs/tags/v3.1\n"},
		"the owner's name taken by another":         {"repository_owner_id": "666"},
		"the repository's name taken by another":    {"repository_id": "666"},
		"an owner id that begins alike":             {"repository_owner_id": "12345"},
		"an owner id as a number":                   {"repository_owner_id": json.Number("1234")},
		"an owner id with a leading zero":           {"repository_owner_id": "01234"},
		"an owner id with a space":                  {"repository_owner_id": "1234 "},
		"an owner id in other digits":               {"repository_owner_id": "\u0661\u0662\u0663\u0664"},
		"no owner id":                               {"repository_owner_id": gone{}},
		"an empty owner id":                         {"repository_owner_id": ""},
		"an owner id that is null":                  {"repository_owner_id": nil},
		"ids swapped":                               {"repository_owner_id": "5678", "repository_id": "1234"},
		"a claim named like a pointer into another": {"ref": gone{}, "/ref": "refs/heads/main"},
		"a claim in another case":                   {"ref": gone{}, "Ref": "refs/heads/main"},
	} {
		claims := broker.Claims{}
		for k, v := range good {
			claims[k] = v
		}
		for k, v := range change {
			claims[k] = v
		}
		if d := decide(t, b, job(claims), "payments-db"); d.Allowed {
			t.Errorf("%s: %+v", attack, d)
		}
	}
}

func TestPoliciesThatWouldLetStrangersInAreNotLoaded(t *testing.T) {
	for attack, match := range map[string]string{
		"nothing pinned":                     `{ref: refs/heads/main}`,
		"an owner's name":                    `{repository_owner: acme}`,
		"a prefix of an owner's name":        `{repository: {glob: "acme*"}}`,
		"any repository of an owner's name":  `{repository: {glob: "acme/*"}}`,
		"a subject by prefix":                `{sub: {glob: "repo:acme*"}}`,
		"a subject in full":                  `{sub: "repo:acme/api:ref:refs/heads/main"}`,
		"a subject with hyphenated ids":      `{sub: "repo:acme-1234/api-5678:ref:refs/heads/main"}`,
		"an owner id by glob":                `{repository_owner_id: {glob: "1*"}}`,
		"an owner id or any":                 `{repository_owner_id: ["1234", {glob: "**"}]}`,
		"an empty owner id":                  `{repository_owner_id: ""}`,
		"a repository that can change hands": `{repository_id: "5678"}`,
		"an owner id through a pointer":      `{/repository_owner_id: "1234"}`,
		"an owner id in another case":        `{Repository_Owner_Id: "1234"}`,
		"the id of whoever started the run":  `{actor_id: "1234"}`,
	} {
		text := "rules:\n- {name: a, issuer: github, match: " + match + ", allow: [{grant: payments-db}]}\n"
		if _, err := policy.Load(folder(map[string]string{"p.yaml": text}), known()); err == nil {
			t.Errorf("%s is loaded", attack)
		}
	}
	// An expression does not pin: what it says cannot be checked.
	text := "rules:\n- {name: a, issuer: github, when: 'claims.repository_owner_id == \"1234\"', allow: [{grant: payments-db}]}\n"
	if _, err := policy.Load(folder(map[string]string{"p.yaml": text}), known()); err == nil {
		t.Error("an expression instead of a pinned id is loaded")
	}
}

func TestAClaimCannotMakeAGlobExpensive(t *testing.T) {
	star := strings.Repeat("*a", 100) + "*"
	b := load(t, rule(`match: {ref: {glob: "`+star+`b"}, sub: {glob: "`+strings.Repeat("**a", 60)+`b"}}`, allowDB))
	start := time.Now()
	for range 20 {
		a := strings.Repeat("a", 16<<10)
		if allowed(t, b, job(broker.Claims{"ref": a, "sub": a})) || allowed(t, b, job(broker.Claims{"ref": a[:2048], "sub": a[:2048]})) {
			t.Fatal("matches")
		}
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("40 decisions took %s", took)
	}
}

func TestANumberCannotMakeADecisionExpensive(t *testing.T) {
	b := load(t, rule("match: {n: 1e999999999}", allowDB))
	start := time.Now()
	for _, n := range []json.Number{"1e999999998", "1e9999999999", json.Number(strings.Repeat("9", 16<<10)), json.Number("1" + strings.Repeat("0", 16<<10) + "e-5")} {
		if allowed(t, b, job(broker.Claims{"n": n})) {
			t.Errorf("%.20s matches", n)
		}
	}
	if !allowed(t, b, job(broker.Claims{"n": json.Number("10e999999998")})) {
		t.Error("a number does not equal its other writing")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}
