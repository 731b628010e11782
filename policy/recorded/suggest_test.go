package recorded_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/lint"
	"github.com/daypass-dev/daypass/policy/recorded"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	push    = "github/testdata/branch-immutable-sub"
	project = "gitlab/testdata/branch"
)

// elsewhere is a policy that knows the owner of the fixtures, and gives them nothing.
const elsewhere = `owner: security
review_by: 2027-12-01
repos:
  site: {issuer: github, name: acme/site, match: {repository_owner_id: "1234", repository_id: "99"}}
rules:
  - name: site
    for: [site]
    match: {ref: refs/heads/main, event_name: push, runner_environment: github-hosted}
    allow: [{grant: web-identity}]
`

// beside has the repository of the fixtures, and gives it something else.
const beside = `owner: team-app
review_by: 2027-12-01
repos:
  app: {issuer: github, name: acme/app, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: read
    for: [app]
    match: {ref: refs/heads/main, event_name: push, runner_environment: github-hosted}
    allow: [{grant: orders-ro}]
`

func suggest(t testing.TB, f *policy.Folder, r broker.Record, grants ...string) (recorded.Suggestion, error) {
	t.Helper()
	return recorded.Suggest(recorded.Suggesting{Record: r, Grants: grants, Folder: f, Known: known(), Claims: claimsOfAll(t), Lint: lintConfig()})
}

// adopt is the policy with the suggestion in it, as a reviewer would add it.
func adopt(t testing.TB, f *policy.Folder, s recorded.Suggestion) *policy.Book {
	t.Helper()
	for _, part := range s.Parts {
		text := part.Text
		if !part.New {
			text = merged(t, f.Files()[part.File], []byte(part.Text))
		}
		f = f.With(part.File, []byte(text))
	}
	book, err := f.Book(known())
	if err != nil {
		t.Fatalf("what is suggested is not loaded: %v\n%+v", err, s)
	}
	return book
}

// merged adds the repos and rules of one file to another.
func merged(t testing.TB, files ...[]byte) string {
	t.Helper()
	var all policy.File
	for _, text := range files {
		var f policy.File
		if err := strictyaml.Decode("f.yaml", text, &f); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		all.Owner += f.Owner
		all.Repos = append(all.Repos, f.Repos...)
		all.Ceilings = append(all.Ceilings, f.Ceilings...)
		all.Rules = append(all.Rules, f.Rules...)
	}
	return string(all.YAML())
}

// gives reports whether a book gives all grants to a whole token.
func gives(t testing.TB, book *policy.Book, issuer string, claims broker.Claims, grants ...string) bool {
	t.Helper()
	for _, g := range grants {
		d, err := book.Decide(broker.Identity{Issuer: issuer, Claims: claims}, []broker.Want{{Name: g}}, noon)
		if err != nil {
			t.Fatal(err)
		}
		if !d.Allowed {
			return false
		}
	}
	return true
}

func TestADeniedRequestBecomesARule(t *testing.T) {
	ceilings := `ceilings:
  - {folder: teams/app, repos: [app, "acme-*"], grants: ["orders-*"], max_ttl: 30m}
  - {folder: teams/web, repos: ["*"], grants: [web-identity]}
`
	for name, c := range map[string]struct {
		files  map[string]string
		record func(t *testing.T) broker.Record
		grants []string
		in     []string // files it is to go to
	}{
		"beside-other-rules": {map[string]string{"site.yaml": elsewhere, "app.yaml": beside},
			func(t *testing.T) broker.Record { return denied(t, "github", fixture(t, push), "orders-db") }, nil, []string{"app.yaml"}},
		"of-a-new-repository": {map[string]string{"site.yaml": elsewhere},
			func(t *testing.T) broker.Record {
				return denied(t, "github", fixture(t, push), "orders-db", "orders-ro")
			}, nil, []string{"app.yaml"}},
		"whose-name-is-taken": {map[string]string{"site.yaml": strings.NewReplacer("site:", "app:", "[site]", "[app]").Replace(elsewhere)},
			func(t *testing.T) broker.Record { return denied(t, "github", fixture(t, push), "orders-db") }, nil, []string{"acme-app.yaml"}},
		"in-a-folder-of-a-team": {map[string]string{"c.yaml": ceilings + beside[strings.Index(beside, "repos:"):strings.Index(beside, "rules:")],
			"teams/app/read.yaml": "owner: team-app\nreview_by: 2027-12-01\n" + beside[strings.Index(beside, "rules:"):]},
			func(t *testing.T) broker.Record { return denied(t, "github", fixture(t, push), "orders-db") }, nil, []string{"teams/app/read.yaml"}},
		"in-a-folder-and-beside-other-repos": {map[string]string{
			"c.yaml":            ceilings + "repos:\n  app: {issuer: github, name: acme/other, match: {repository_owner_id: \"1234\", repository_id: \"99\"}}\n",
			"teams/web/on.yaml": "rules:\n  - {name: web, for: [app], match: {ref: refs/heads/main}, allow: [{grant: web-identity}]}\n"},
			func(t *testing.T) broker.Record { return denied(t, "github", fixture(t, push), "orders-db") }, nil, []string{"c.yaml", "teams/app/acme-app.yaml"}},
		"one-of-several-grants": {map[string]string{"app.yaml": beside},
			func(t *testing.T) broker.Record {
				return denied(t, "github", fixture(t, push), "orders-db", "web-identity", broker.UnknownGrant)
			}, []string{"web-identity"}, []string{"app.yaml"}},
		"of-an-environment": {map[string]string{"app.yaml": beside},
			func(t *testing.T) broker.Record {
				return denied(t, "github", fixture(t, "github/testdata/environment"), "orders-db")
			}, nil, nil},
		"of-a-tag": {map[string]string{"app.yaml": beside},
			func(t *testing.T) broker.Record {
				return denied(t, "github", fixture(t, "github/testdata/tag"), "orders-db")
			}, nil, nil},
		"at-gitlab": {map[string]string{"site.yaml": elsewhere},
			func(t *testing.T) broker.Record { return denied(t, "gitlab", fixture(t, project), "orders-db") }, nil, nil},
		"at-an-issuer-of-ones-own": {map[string]string{"site.yaml": elsewhere},
			func(t *testing.T) broker.Record { return denied(t, "forge", fixture(t, project), "orders-db") }, nil, nil},
		"of-a-repository-called-as-tests-are": {map[string]string{"site.yaml": elsewhere},
			func(t *testing.T) broker.Record {
				return denied(t, "github", with(fixture(t, push), broker.Claims{"repository": "acme/app_test",
					"job_workflow_ref": "acme/app_test/.github/workflows/deploy.yml@refs/heads/main"}), "orders-db")
			}, nil, []string{"app_test-rules.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, r := folder(t, c.files), c.record(t)
			s, err := suggest(t, f, r, c.grants...)
			if err != nil {
				t.Fatal(err)
			}
			var in []string
			var text strings.Builder
			for _, p := range s.Parts {
				in = append(in, p.File)
				fmt.Fprintf(&text, "# ---- %s, new: %v\n%s", p.File, p.New, p.Text)
			}
			fmt.Fprintf(&text, "# ---- %s for %s: %s\n", s.Rule, s.Repo, s.Grants)
			for _, found := range s.Findings {
				fmt.Fprintf(&text, "# %s\n", found.String())
				if found.Severity != lint.Warning {
					t.Errorf("lint says %s", found.String())
				}
			}
			for _, claim := range claimsOfAll(t)[r.Issuer].Influenced {
				before, _, asked := strings.Cut(text.String(), "\n      "+claim+": ")
				if asked && !strings.HasSuffix(before, "# chosen by whoever may push a branch or open a pull request") {
					t.Errorf("nothing says that %s is chosen by others", claim)
				}
			}
			if c.in != nil && !slices.Equal(in, c.in) {
				t.Errorf("it goes to %q, want %q", in, c.in)
			}
			whole := fixtureOf(t, r)
			if !gives(t, adopt(t, f, s), r.Issuer, whole, s.Grants...) {
				t.Error("the request is still denied")
			}
			golden(t, "testdata/suggest/"+name+".yaml", text.String())
		})
	}
}

// fixtureOf is the whole token of a record: what is journalled, and what never is.
func fixtureOf(t testing.TB, r broker.Record) broker.Claims {
	t.Helper()
	return with(r.Claims, broker.Claims{"exp": "1", "user_email": "somebody@acme.example"})
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(file[:strings.LastIndex(file, "/")], 0o755); err != nil {
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

func TestNoRuleIsSuggestedForWhatCannotBeReviewed(t *testing.T) {
	base := func(t *testing.T) broker.Record { return denied(t, "github", fixture(t, push), "orders-db") }
	change := func(name string, v any) func(t *testing.T) broker.Record {
		return func(t *testing.T) broker.Record {
			r := base(t)
			if r.Claims[name] = v; v == "(gone)" {
				delete(r.Claims, name)
			}
			return r
		}
	}
	const deny = "\n  - {name: never, match: {actor: marcela}, deny: [orders-db]}\n"
	for name, c := range map[string]struct {
		policy string
		record func(t *testing.T) broker.Record
		grants []string
		want   string
	}{
		"a grant that there was not":       {beside, func(t *testing.T) broker.Record { r := base(t); r.Grants = []string{broker.UnknownGrant}; return r }, nil, "its name is not journalled"},
		"a grant that there is no longer":  {beside, func(t *testing.T) broker.Record { r := base(t); r.Grants = []string{"gone-db"}; return r }, nil, `no grant is called "gone-db" now`},
		"a grant that it was not denied":   {beside, base, []string{"web-identity"}, `was not denied grant "web-identity"; it was denied orders-db`},
		"a stranger":                       {elsewhere, func(t *testing.T) broker.Record { r := base(t); r.Claims = nil; return r }, nil, "id 5678, of owner 1234; the job called it acme/app"},
		"a request that was allowed":       {beside, func(t *testing.T) broker.Record { r := base(t); r.Event = broker.EventIntent; return r }, nil, "was allowed"},
		"a request that a limit refused":   {beside, func(t *testing.T) broker.Record { r := base(t); r.Event = broker.EventRefused; return r }, nil, "no rule would have helped"},
		"what the policy gives by now":     {strings.ReplaceAll(beside, "orders-ro", "orders-db"), base, nil, "gives it already: orders-db (rule p/read)"},
		"what a rule denies":               {strings.TrimRight(beside, "\n") + deny, base, nil, "is denied by rule p/never"},
		"a policy with a fault":            {"rules: 1\n", base, nil, "the policy has faults"},
		"an issuer that is gone":           {beside, func(t *testing.T) broker.Record { r := base(t); r.Issuer = "gone"; return r }, nil, `no issuer is called "gone" now`},
		"an id that was not journalled":    {beside, change("repository_owner_id", "(gone)"), nil, "ids that a rule has to pin were not journalled: repository_owner_id"},
		"an id that is empty":              {beside, change("repository_id", ""), nil, "it is empty"},
		"an id that is a list":             {beside, change("repository_id", []any{"5678"}), nil, "list or an object"},
		"a claim that is null":             {beside, change("ref", nil), nil, "what the token has in ref: it is null"},
		"a claim that is an object":        {beside, change("environment", map[string]any{}), nil, "list or an object"},
		"a claim with a control character": {beside, change("ref", "refs/heads/a\nb"), nil, "control character"},
		"a claim that is too long":         {beside, change("ref", strings.Repeat("r", 1025)), nil, "longer than 1024 bytes"},
		"a folder that no ceiling lets": {beside[strings.Index(beside, "repos:"):strings.Index(beside, "rules:")] +
			"ceilings: [{folder: teams, repos: [app], grants: [orders-ro]}]\nrules: [{name: never, match: {ref: x}, deny: [orders-ro]}]\n", base, nil, "would not load"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := suggest(t, folder(t, map[string]string{"p.yaml": c.policy}), c.record(t), c.grants...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("no %q: %v, %+v", c.want, err, s)
			}
		})
	}
}

func TestWhatTheJournalDoesNotListIsNotAssumedToBeAbsent(t *testing.T) {
	about := claimsOfAll(t)
	about["github"] = recorded.Claims{Journalled: []string{"repository_id", "repository_owner_id", "ref"}}
	_, err := recorded.Suggest(recorded.Suggesting{Record: broker.Record{
		Event: broker.EventDenied, Issuer: "github", Grants: []string{"orders-db"}, Job: &broker.Job{},
		Claims: broker.Claims{"repository_id": "5678", "repository_owner_id": "1234", "ref": "refs/heads/main"},
	}, Folder: folder(t, map[string]string{"p.yaml": beside}), Known: known(), Claims: about, Lint: lintConfig()})
	if err == nil || !strings.Contains(err.Error(), "were not journalled: enterprise_id, environment, event_name, job_workflow_ref, runner_environment") {
		t.Error(err)
	}
}

func TestASuggestionSaysWhatItCannotRuleOut(t *testing.T) {
	text := strings.TrimRight(beside, "\n") + "\n  - {name: never, match: {user_email: mallory@acme.example}, deny: [orders-db]}\n"
	s, err := suggest(t, folder(t, map[string]string{"p.yaml": text}), denied(t, "github", fixture(t, push), "orders-db"))
	if err != nil || len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "not journalled: user_email") {
		t.Errorf("%v, %+v", err, s)
	}
}

func TestASuggestionForAPullRequestIsFlagged(t *testing.T) {
	r := denied(t, "github", with(fixture(t, "github/testdata/pull-request"), broker.Claims{"repository_owner_id": "1234", "repository_id": "5678"}), "orders-db")
	s, err := suggest(t, folder(t, map[string]string{"p.yaml": beside}), r)
	if err != nil || len(s.Findings.Critical()) == 0 {
		t.Errorf("%v, %+v", err, s.Findings)
	}
}

// hostile draws text that YAML, comments, templates or terminals might take for
// something else.
func hostile() *rapid.Generator[string] {
	pieces := []string{"\"", "'", "\\", "{", "}", "{{", "}}", "[", "]", ":", ": ", "#", " #", "- ", "\n", "\r\n", "\t", "&a", "*a", "!!x", "<<", "%", "@", "`",
		"|", ">", "---", "...", "null", "~", "true", "yes", "0x1", "1e3", "*", "**", "?", "é", "\u2028", "\u0085", "\ufeff", "\u202e", "\x00", "\x1b[31m", "\x7f",
		"refs/heads/", "main", "\n  - {name: x, for: [site], allow: [{grant: orders-db}]}", "\"\n    allow: [{grant: orders-db}]\n#", " ", "$(id)", "😀"}
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom(pieces), rapid.String()), 0, 5).Draw(t, "pieces"), "")
	})
}

// TestASuggestionDecidesTheRecordedRequestAndNoOther whatever the token says: a
// text in it is a value of the rule, and nothing else.
func TestASuggestionDecidesTheRecordedRequestAndNoOther(t *testing.T) {
	f := folder(t, map[string]string{"site.yaml": elsewhere})
	base := fixture(t, push)
	told := []string{"ref", "environment", "event_name", "job_workflow_ref", "runner_environment"}
	made := 0
	rapid.Check(t, func(rt *rapid.T) {
		claims := maps.Clone(base)
		for _, name := range append(slices.Clone(told), "repository", "actor", "head_ref", "repository_id") {
			if rapid.Bool().Draw(rt, "change "+name) {
				claims[name] = hostile().Draw(rt, name)
			}
		}
		r := denied(t, "github", claims, "orders-db")
		s, err := suggest(t, f, r)
		if err != nil {
			unfit := false
			for _, name := range append(slices.Clone(told), "repository_id") {
				text, _ := claims[name].(string)
				unfit = unfit || len(text) > 1024 || name == "repository_id" && text == "" || strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r == 0x7F })
			}
			if !unfit {
				rt.Fatalf("nothing is suggested for %q: %v", claims, err)
			}
			return
		}
		made++
		book := adopt(t, f, s)
		rules := 0
		for info := range book.Rules() {
			if rules++; info.ID == s.Rule && !slices.Equal(info.Grants, []string{"orders-db"}) {
				rt.Fatalf("it gives %q", info.Grants)
			}
		}
		if rules != 2 || len(book.Repos()) != 2 {
			rt.Fatalf("the policy has %d rules and %d repos now:\n%+v", rules, len(book.Repos()), s)
		}
		if !gives(t, book, "github", claims, "orders-db") {
			rt.Fatalf("the request is still denied: %q\n%+v", claims, s)
		}
		for _, name := range append(slices.Clone(told), "repository_id", "repository_owner_id") {
			text, there := claims[name].(string)
			for _, other := range []string{text + "x", strings.ToUpper(text) + "X", "x" + text, hostile().Draw(rt, "other "+name)} {
				if !there || other == text {
					continue
				}
				if gives(t, book, "github", with(claims, broker.Claims{name: other}), "orders-db") {
					rt.Fatalf("it also gives it to %s %q\n%+v", name, other, s)
				}
			}
			missing := maps.Clone(claims)
			if delete(missing, name); there && gives(t, book, "github", missing, "orders-db") {
				rt.Fatalf("it also gives it without %s", name)
			}
		}
		for _, p := range s.Parts {
			if strings.ContainsFunc(p.Text, func(r rune) bool {
				return r < 0x20 && r != '\n' || r == 0x7F || r == 0x2028 || r == 0x202E || r == 0x85
			}) {
				rt.Fatalf("characters that a terminal acts on: %q", p.Text)
			}
		}
	})
	if made < 10 {
		t.Errorf("only %d suggestions were made: the test shows nothing", made)
	}
}
