package access_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/access"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func known() policy.Known {
	return policy.Known{
		Issuers: map[string]policy.Issuer{
			"github": {Shared: true, ImmutableIDs: []string{"repository_owner_id", "repository_id"}, OwnerIDs: []string{"repository_owner_id"}},
			"forge":  {ImmutableIDs: []string{"project_id"}},
		},
		Grants: map[string]broker.Grant{
			"orders-db":    {Name: "orders-db", MaxTTL: time.Hour, Access: broker.Write, Labels: map[string]string{"env": "prod", "team": "shop"}},
			"orders-ro":    {Name: "orders-ro", MaxTTL: time.Hour, Access: broker.Read, Labels: map[string]string{"env": "prod"}},
			"web-identity": {Name: "web-identity", MaxTTL: 30 * time.Minute, Access: broker.Write, Labels: map[string]string{"env": "test"}},
		},
	}
}

func load(t testing.TB, files map[string]string) *policy.Book {
	t.Helper()
	dir, err := os.MkdirTemp("", "daypass-access-")
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
	book, err := policy.LoadDir(dir, known())
	if err != nil {
		t.Fatalf("policy is not loaded:\n%v", err)
	}
	return book
}

var whole = map[string]string{
	"repos.yaml": `repos:
  app: {issuer: github, name: acme/app, match: {repository_owner_id: "1234", repository_id: "5678"}}
  site: {issuer: github, name: acme/site, match: {repository_owner_id: "1234", repository_id: ["99", "100"]}}
  own: {issuer: forge, name: tools/own, match: {project_id: "7"}}
ceilings:
  - {folder: teams, repos: ["*"], grants: ["*"]}
  - {folder: teams/app, repos: [app], grants: ["orders-*"], max_ttl: 20m}
rules:
  - name: never-from-forks
    match: {event_name: [pull_request_target, workflow_run]}
    deny: ["*"]
  - {name: not-app, for: [app], deny: [web-identity]}
  - {name: not-dev, for: [app, site], match: {ref: refs/heads/dev}, deny: [orders-db]}
  - {name: till-then, for: [site], until: 2027-02-28, deny: [orders-ro]}
  - {name: trial, mode: report, deny: ["*"]}
`,
	"teams/app/deploy.yaml": `owner: team-app
review_by: 2027-09-01
rules:
  - name: deploy
    for: [app]
    match: {ref: refs/heads/main, environment: {exists: true}}
    when: >-
      claims.runner_environment == "github-hosted"
      || ttl <= duration("5m")
    allow: [{grant: orders-db, ttl: 30m}, {grant: orders-ro}]
  - {name: tried, mode: report, for: [app], allow: [{grant: orders-db}]}
`,
	"teams/other.yaml": `owner: security
rules:
  - {name: web, for: [app, site], allow: [{grant: web-identity}]}
  - {name: own, for: [own], until: 2027-02-28, allow: [{grant: orders-db}]}
  - {name: builds, for: [own, site], match: {ref: {not: {glob: "refs/pull/**"}}}, until: 2027-06-30, allow: [{grant: orders-ro, ttl: 5m}]}
`,
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is now\n%s", file, got)
	}
}

func TestWhoCanGetWhatIsOneTable(t *testing.T) {
	rows := access.List(load(t, whole), access.Filter{}, noon)
	var text bytes.Buffer
	if err := access.WriteText(&text, rows); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/table.txt", text.String())
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/table.json", string(data)+"\n")
}

func TestPermissionsAreFiltered(t *testing.T) {
	files := map[string]string{"p.yaml": `repos:
  app: {issuer: github, name: acme/app, match: {repository_owner_id: "1234", repository_id: "5678"}}
  site: {issuer: github, name: acme/site, match: {repository_owner_id: "1234", repository_id: "99"}}
  own: {issuer: forge, name: tools/own, match: {project_id: "7"}}
rules:
  - {name: app, for: [app], allow: [{grant: orders-db}]}
  - {name: site, for: [site], allow: [{grant: orders-ro}]}
  - {name: own, for: [own], allow: [{grant: web-identity}]}
  - {name: all, issuer: github, match: {repository_owner_id: ["1234", "9"]}, allow: [{grant: orders-ro}]}
  - {name: strangers, issuer: github, match: {repository_owner_id: "666"}, allow: [{grant: orders-ro}]}
`}
	book := load(t, files)
	for name, c := range map[string]struct {
		filter access.Filter
		want   string
	}{
		"all":                      {access.Filter{}, "app all strangers site own"},
		"by grant":                 {access.Filter{Grant: "orders-db"}, "app"},
		"by a glob of grants":      {access.Filter{Grant: "orders-*"}, "app all strangers site"},
		"that write":               {access.Filter{Access: broker.Write}, "app own"},
		"by a label":               {access.Filter{Labels: map[string]string{"env": "prod"}}, "app all strangers site"},
		"by two":                   {access.Filter{Labels: map[string]string{"env": "prod", "team": "shop"}}, "app"},
		"by a label of another":    {access.Filter{Labels: map[string]string{"env": "prod", "colour": ""}}, ""},
		"by issuer":                {access.Filter{Issuer: "forge"}, "own"},
		"by repo, owner and all":   {access.Filter{Repo: "app"}, "app all"},
		"by its name":              {access.Filter{Repo: "ACME/site"}, "all site"},
		"by its id":                {access.Filter{Repo: "99"}, "all site"},
		"by an owner's id":         {access.Filter{Repo: "666"}, "strangers"},
		"by what there is not":     {access.Filter{Repo: "nothing"}, ""},
		"by several at once":       {access.Filter{Repo: "app", Access: broker.Read}, "all"},
		"by a glob that is faulty": {access.Filter{Grant: "["}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, r := range access.List(book, c.filter, noon) {
				got = append(got, strings.TrimPrefix(r.Rule, "p/"))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

var pool = []string{
	`{name: r0, for: [app], match: {ref: refs/heads/main}, allow: [{grant: orders-db, ttl: 15m}]}`,
	`{name: r1, for: [app, site], allow: [{grant: orders-db, ttl: 5m}, {grant: orders-ro}]}`,
	`{name: r2, issuer: github, match: {repository_owner_id: "1234", environment: {exists: false}}, allow: [{grant: orders-db, ttl: 40m}]}`,
	`{name: r3, for: [app], when: 'claims.event_name == "push"', allow: [{grant: orders-db}]}`,
	`{name: r4, for: [site], match: {ref: {not: {glob: "refs/pull/**"}}}, allow: [{grant: orders-ro}]}`,
	`{name: r5, for: [app], until: 2027-02-28, allow: [{grant: orders-db, ttl: 50m}]}`,
	`{name: r6, for: [app], until: 2027-03-01, allow: [{grant: orders-ro, ttl: 50m}]}`,
	`{name: d0, match: {event_name: [workflow_run]}, deny: ["*"]}`,
	`{name: d1, for: [app], deny: [orders-db]}`,
	`{name: d2, issuer: github, match: {repository_owner_id: ["1234", "9"]}, deny: [orders-ro]}`,
	`{name: d3, for: [app, site], match: {ref: refs/heads/dev}, deny: ["orders-*"]}`,
	`{name: d4, for: [site], until: 2027-02-28, deny: ["orders-*"]}`,
	`{name: d5, mode: report, for: [site, app], deny: ["*"]}`,
	`{name: r9, mode: report, for: [app], allow: [{grant: orders-db}]}`,
}

// TestWhatCanBeHadIsListed: whatever any policy gives to any token is listed, as
// something that can be had, for that repository and at least as long; and what is
// listed as giving nothing gives nothing.
func TestWhatCanBeHadIsListed(t *testing.T) {
	given, nothing := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		some := []string{`{name: known, for: [app], allow: [{grant: web-identity}]}`}
		for i, r := range pool {
			if rapid.IntRange(0, 2).Draw(rt, fmt.Sprint(i)) == 0 {
				some = append(some, r)
			}
		}
		head := whole["repos.yaml"][:strings.Index(whole["repos.yaml"], "ceilings:")]
		book := load(t, map[string]string{"p.yaml": head + "rules:\n  - " + strings.Join(some, "\n  - ") + "\n"})
		rows := access.List(book, access.Filter{}, noon)
		for _, claims := range everybody() {
			for grant := range known().Grants {
				given += listed(rt, book, rows, claims, grant)
			}
		}
		for _, r := range rows {
			if !r.Gives {
				nothing++
			}
		}
	})
	if given < 20 || nothing < 20 {
		t.Errorf("%d given, %d that give nothing: the test shows nothing", given, nothing)
	}
}

// everybody are tokens of all sorts.
func everybody() []broker.Claims {
	all := []broker.Claims{{}}
	for _, c := range []struct {
		name   string
		values []any
	}{
		{"repository_id", []any{"5678", "99", "100", "1", []any{"5678", "99"}}},
		{"ref", []any{"refs/heads/main", "refs/heads/dev", "refs/pull/7/merge", []any{"refs/heads/main", "refs/heads/dev"}}},
		{"event_name", []any{"push", "workflow_run"}}, {"environment", []any{nil, "production"}}, {"repository_owner_id", []any{"1234", "9", json.Number("1234")}},
	} {
		var more []broker.Claims
		for _, claims := range all {
			for _, v := range c.values {
				one := maps.Clone(claims)
				if v != nil {
					one[c.name] = v
				}
				more = append(more, one)
			}
		}
		all = more
	}
	return all
}

// listed makes sure that what a token gets is listed, and returns 1 if it gets it.
func listed(t *rapid.T, book *policy.Book, rows []access.Row, claims broker.Claims, grant string) int {
	d, err := book.Decide(broker.Identity{Issuer: "github", Claims: claims}, []broker.Want{{Name: grant}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if !d.Allowed {
		return 0
	}
	p := d.Permits[0]
	fits := func(r access.Row) bool {
		return r.Gives && r.Grant == grant && r.Rule == p.Rule && r.Issuer == "github" && r.TTL == policy.Short(p.TTL) && !slices.ContainsFunc(r.Pins, func(c access.Condition) bool {
			return !overlap(c.Wanted, claims[c.Claim])
		})
	}
	if !slices.ContainsFunc(rows, fits) {
		t.Fatalf("%s is given by %s for %s to %q, and is not listed:\n%+v", grant, p.Rule, p.TTL, claims, rows)
	}
	return 1
}

// overlap reports whether a claim is, or holds, one of what is wanted.
func overlap(wanted, claim any) bool {
	list := func(v any) []any {
		if l, ok := v.([]any); ok {
			return l
		}
		return []any{v}
	}
	return slices.ContainsFunc(list(wanted), func(w any) bool { return slices.Contains(list(claim), w) })
}
