package recorded_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/lint"
	"github.com/daypass-dev/daypass/policy/recorded"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

var noon = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// profile reads lists of a provider's profile, and its claims of a test case.
func profile(t testing.TB, name string) recorded.Claims {
	t.Helper()
	raw, err := os.ReadFile("../../issuers/profiles/" + name + "/profile.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := strictyaml.Parse("profile.yaml", raw, strictyaml.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	list := func(key string) (names []string) {
		for _, n := range doc.Root.Get(key).Items {
			names = append(names, n.Text)
		}
		return names
	}
	return recorded.Claims{Journalled: list("journal"), Influenced: list("influenced")}
}

func fixture(t testing.TB, name string) broker.Claims {
	t.Helper()
	raw, err := os.ReadFile("../../issuers/profiles/" + name + ".claims.json")
	if err != nil {
		t.Fatal(err)
	}
	var claims broker.Claims
	if err := claims.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return claims
}

func known() policy.Known {
	all, err := lint.Profiles()
	if err != nil {
		panic(err)
	}
	return policy.Known{
		Issuers: map[string]policy.Issuer{"github": all["github"], "gitlab": all["gitlab"], "forge": {ImmutableIDs: []string{"project_id"}}},
		Grants: map[string]broker.Grant{
			"orders-db":    {Name: "orders-db", Kind: "postgres", Target: "pg", MaxTTL: time.Hour, Access: broker.Write},
			"orders-ro":    {Name: "orders-ro", Kind: "postgres", Target: "pg", MaxTTL: 10 * time.Minute, Access: broker.Read},
			"web-identity": {Name: "web-identity", Kind: "jwt", Target: "jwt", MaxTTL: time.Hour, Access: broker.Write},
		},
	}
}

func lintConfig() lint.Config {
	c := lint.Config{Issuers: map[string]lint.Issuer{}, Grants: map[string]lint.Grant{}, Now: noon}
	for name, i := range known().Issuers {
		profile := name
		if name == "forge" {
			profile = "gitlab"
		}
		c.Issuers[name] = lint.Issuer{Profile: profile, Shared: i.Shared, ImmutableIDs: i.ImmutableIDs, OwnerIDs: i.OwnerIDs}
	}
	for name, g := range known().Grants {
		c.Grants[name] = lint.Grant{Access: g.Access}
	}
	return c
}

// folder writes files and reads them as a policy folder.
func folder(t testing.TB, files map[string]string) *policy.Folder {
	t.Helper()
	dir, err := os.MkdirTemp("", "daypass-recorded-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := policy.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func load(t testing.TB, files map[string]string) *policy.Book {
	t.Helper()
	book, err := folder(t, files).Book(known())
	if err != nil {
		t.Fatalf("policy is not loaded:\n%v", err)
	}
	return book
}

// journalled is what a journal keeps of claims.
func journalled(of recorded.Claims, claims broker.Claims) broker.Claims {
	kept := broker.Claims{}
	for name, v := range claims {
		for _, listed := range of.Journalled {
			if listed == name || listed == "repo_property_*" && len(name) > 14 && name[:14] == "repo_property_" {
				kept[name] = v
			}
		}
	}
	return kept
}

// neutral are the fields of a job as a profile maps them.
func neutral(issuer string, c broker.Claims) *broker.Job {
	text := func(name string) string { s, _ := c[name].(string); return s }
	if issuer == "github" {
		return &broker.Job{Repository: text("repository"), RepositoryID: text("repository_id"), OwnerID: text("repository_owner_id")}
	}
	return &broker.Job{Repository: text("project_path"), RepositoryID: text("project_id"), OwnerID: text("namespace_id")}
}

// denied is a record of a request that policy refused.
func denied(t testing.TB, issuer string, claims broker.Claims, grants ...string) broker.Record {
	t.Helper()
	name := issuer
	if name == "forge" {
		name = "gitlab"
	}
	return broker.Record{
		Event: broker.EventDenied, At: noon, Request: "req_denied", Policy: "sha256:old", Issuer: issuer,
		Job: neutral(issuer, claims), Claims: journalled(profile(t, name), claims), Grants: grants, Reason: "denied",
	}
}

func with(claims broker.Claims, changes broker.Claims) broker.Claims {
	all := maps.Clone(claims)
	maps.Copy(all, changes)
	return all
}

func claimsOfAll(t testing.TB) map[string]recorded.Claims {
	t.Helper()
	return map[string]recorded.Claims{"github": profile(t, "github"), "gitlab": profile(t, "gitlab"), "forge": profile(t, "gitlab")}
}
