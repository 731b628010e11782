package policy_test

import (
	"encoding/json"
	"flag"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// noon is the time of decisions where it does not matter.
var noon = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// known has a shared issuer, one where each id will do, and one of our own.
func known() policy.Known {
	return policy.Known{
		Issuers: map[string]policy.Issuer{
			"github": {Shared: true, ImmutableIDs: []string{"repository_owner_id", "repository_id"}, OwnerIDs: []string{"repository_owner_id"}},
			"gitlab": {Shared: true, ImmutableIDs: []string{"project_id", "namespace_id"}},
			"forge":  {ImmutableIDs: []string{"project_id"}},
			"anyone": {Shared: true},
		},
		Grants: map[string]broker.Grant{
			"payments-db":  {Name: "payments-db", Kind: "postgres", Target: "payments-pg", MaxTTL: time.Hour, Access: broker.Write},
			"payments-ro":  {Name: "payments-ro", Kind: "postgres", Target: "payments-pg", MaxTTL: 2 * time.Hour, Access: broker.Read},
			"web-identity": {Name: "web-identity", Kind: "jwt", Target: "jwt", MaxTTL: 30 * time.Minute},
		},
	}
}

// folder makes files out of "path: content" pairs.
func folder(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return fsys
}

// load makes a book of one file, p.yaml, and fails the test on a fault.
func load(t testing.TB, text string) *policy.Book {
	t.Helper()
	book, err := policy.Load(folder(map[string]string{"p.yaml": text}), known())
	if err != nil {
		t.Fatalf("policy is not loaded:\n%v\n%s", err, text)
	}
	return book
}

// rule writes a file with one rule for the repository of [job] on GitHub, from
// further lines of the rule.
func rule(lines ...string) string {
	return `
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: deploy
    for: [api]
    ` + strings.Join(lines, "\n    ") + "\n"
}

const allowDB = "allow: [{grant: payments-db}]"

// gone takes a claim away; nil makes it null.
type gone struct{}

// job is a push to main of acme/api on GitHub, with some claims changed.
func job(changes broker.Claims) broker.Identity {
	claims := broker.Claims{
		"repository": "acme/api", "repository_id": "5678", "repository_owner": "acme", "repository_owner_id": "1234",
		"ref": "refs/heads/main", "ref_type": "branch", "ref_protected": "true", "event_name": "push",
		"environment": "production", "runner_environment": "github-hosted", "base_ref": "",
		"job_workflow_ref": "acme/ci/.github/workflows/deploy.yml@refs/tags/v3",
		"sub":              "repo:acme/api:environment:production",
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == gone{} })
	return broker.Identity{Issuer: "github", URL: "https://token.actions.githubusercontent.com", Claims: claims}
}

// want asks for grants, as name or name=ttl.
func want(t testing.TB, names ...string) []broker.Want {
	t.Helper()
	var wants []broker.Want
	for _, n := range names {
		name, ttl, asked := strings.Cut(n, "=")
		w := broker.Want{Name: name}
		if asked {
			var err error
			if w.TTL, err = time.ParseDuration(ttl); err != nil {
				t.Fatal(err)
			}
		}
		wants = append(wants, w)
	}
	return wants
}

func decide(t testing.TB, b *policy.Book, id broker.Identity, names ...string) broker.Decision {
	t.Helper()
	d, err := b.Decide(id, want(t, names...), noon)
	if err != nil {
		t.Fatal(err)
	}
	if d.Version != b.Version() {
		t.Errorf("decided under %q by the book %q", d.Version, b.Version())
	}
	if d.Allowed != (len(d.Permits) == len(names)) && len(names) > 0 {
		t.Errorf("allowed is %v with %d permits for %d wants", d.Allowed, len(d.Permits), len(names))
	}
	return d
}

func allowed(t testing.TB, b *policy.Book, id broker.Identity) bool {
	t.Helper()
	return decide(t, b, id, "payments-db").Allowed
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
