package policy_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// bounded is a folder with ceilings for two teams, one of them with a folder of
// its own within, and more files.
func bounded(more map[string]string) map[string]string {
	files := map[string]string{
		"repos.yaml": `
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
  web: {issuer: github, name: acme/web, match: {repository_owner_id: "1234", repository_id: "9"}}
`,
		"ceilings.yaml": `
ceilings:
  - {folder: teams/payments, repos: [api], grants: ["payments-*"], max_ttl: 20m}
  - {folder: teams/payments/night, grants: [payments-ro], max_ttl: 30m}
  - {folder: teams/web, repos: ["*"], grants: [web-identity]}
`,
		"teams/payments/deploy.yaml": "rules: [{name: deploy, for: [api], allow: [{grant: payments-db}, {grant: payments-ro, ttl: 5m}]}]",
	}
	maps.Copy(files, more)
	maps.DeleteFunc(files, func(_, text string) bool { return text == "" })
	return files
}

func loadAll(t *testing.T, files map[string]string) *policy.Book {
	t.Helper()
	book, err := policy.Load(folder(files), known())
	if err != nil {
		t.Fatal(err)
	}
	return book
}

func TestALifeIsCutToEveryCeilingAbove(t *testing.T) {
	book := loadAll(t, bounded(map[string]string{
		"teams/payments/night/job.yaml": "rules: [{name: x, for: [api], match: {actor: x}, allow: [{grant: payments-ro, ttl: 1h}]}]",
		"teams/web/web.yaml":            "rules: [{name: x, for: [api, web], allow: [{grant: web-identity}]}]",
	}))
	for grant, want := range map[string]time.Duration{
		"payments-db": 20 * time.Minute, "payments-ro": 5 * time.Minute, "web-identity": 30 * time.Minute,
	} {
		if d := decide(t, book, job(nil), grant); !d.Allowed || d.Permits[0].TTL != want {
			t.Errorf("%s: %+v", grant, d)
		}
	}
	// The folder within has a longer life in its own ceiling than in the one above.
	if d := decide(t, book, job(broker.Claims{"actor": "x"}), "payments-ro"); !d.Allowed || d.Permits[0].TTL != 20*time.Minute {
		t.Errorf("%+v", d)
	}
}

func TestAFolderGivesNothingBeyondItsCeiling(t *testing.T) {
	for name, c := range map[string]struct {
		file, text, want string
	}{
		"a repository of others": {"teams/payments/x.yaml", "rules: [{name: x, for: [web], allow: [{grant: payments-db}]}]",
			`teams/payments/x.yaml:1:25: rules[0].for[0]: rule "x": the ceiling of teams/payments (ceilings.yaml:3) does not have repo "web"`},
		"a grant of others": {"teams/payments/x.yaml", "rules: [{name: x, for: [api], allow: [{grant: web-identity}]}]",
			`the ceiling of teams/payments (ceilings.yaml:3) does not have grant "web-identity"`},
		"a folder within, beyond its own": {"teams/payments/night/x.yaml", "rules: [{name: x, for: [api], allow: [{grant: payments-db}]}]",
			`the ceiling of teams/payments/night (ceilings.yaml:4) does not have grant "payments-db"`},
		"a folder within, beyond the one above": {"teams/payments/night/x.yaml", "rules: [{name: x, for: [web], allow: [{grant: payments-ro}]}]",
			`does not have repo "web"`},
		"a folder within that is not listed itself": {"teams/payments/a/b/x.yaml", "rules: [{name: x, for: [web], allow: [{grant: payments-ro}]}]",
			`the ceiling of teams/payments (ceilings.yaml:3) does not have repo "web"`},
		"ids instead of a name": {"teams/payments/x.yaml", `rules: [{name: x, issuer: github, match: {repository_owner_id: "1234"}, allow: [{grant: payments-db}]}]`,
			"say for which of its repos the rule is, with for"},
		"a folder that no ceiling lists": {"teams/new/x.yaml", "rules: [{name: x, for: [api], allow: [{grant: payments-db}]}]",
			"no ceiling lists the folder of teams/new/x.yaml, so nothing can be given from here"},
		"the folder itself": {"x.yaml", "rules: [{name: x, for: [api], allow: [{grant: payments-db}]}]",
			"no ceiling lists the folder of x.yaml"},
		"a rule that only reports, all the same": {"teams/new/x.yaml", "rules: [{name: x, mode: report, for: [api], allow: [{grant: payments-db}]}]",
			"no ceiling lists the folder"},
		"a folder whose name begins alike": {"teams/payments-too/x.yaml", "rules: [{name: x, for: [api], allow: [{grant: payments-db}]}]",
			"no ceiling lists the folder"},
		"a folder whose name differs in case": {"teams/Payments/x.yaml", "rules: [{name: x, for: [api], allow: [{grant: payments-db}]}]",
			"no ceiling lists the folder"},
		"a ceiling of its own making": {"teams/payments/x.yaml", "ceilings: [{folder: teams/payments/a, repos: [api], grants: [payments-db]}]",
			"the ceiling of teams/payments (ceilings.yaml:3) binds this folder: ceilings are defined outside of it"},
		"a ceiling for a folder elsewhere": {"teams/payments/x.yaml", "ceilings: [{folder: mine, repos: [\"*\"], grants: [\"*\"]}]",
			"ceilings are defined outside of it"},
		"a name for ids of its own making": {"teams/web/x.yaml", `repos: {evil: {issuer: github, name: x, match: {repository_owner_id: "666"}}}`,
			"repos are defined outside of it"},
		"to deny what others give": {"teams/payments/x.yaml", "rules: [{name: x, deny: [web-identity]}]",
			`the ceiling of teams/payments (ceilings.yaml:3) does not have grant "web-identity"`},
		"to deny what others give, by glob": {"teams/payments/x.yaml", "rules: [{name: x, deny: [\"web-*\"]}]",
			"matches no grant"},
		"to deny to others": {"teams/payments/x.yaml", "rules: [{name: x, for: [web], deny: [payments-db]}]",
			`does not have repo "web"`},
		"to deny to all of an issuer": {"teams/payments/x.yaml", "rules: [{name: x, issuer: github, deny: [payments-db]}]",
			"say for which of its repos the rule is, with for"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policy.Load(folder(bounded(map[string]string{c.file: c.text})), known())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("want one fault with %q, have\n%v", c.want, err)
			}
		})
	}
}

func TestCeilingsThatSayNothingClearAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ ceiling, want string }{
		"no folder":               {`repos: [api], grants: ["*"]`, "folder is missing"},
		"an empty folder":         {`folder: "", repos: [api], grants: ["*"]`, "is empty: name a folder"},
		"everything":              {`folder: ".", repos: [api], grants: ["*"]`, "is no folder within the policy folder"},
		"a folder from the root":  {`folder: /etc, repos: [api], grants: ["*"]`, "is no folder within the policy folder"},
		"a folder above":          {`folder: teams/../x, repos: [api], grants: ["*"]`, "is no folder within the policy folder"},
		"a slash at its end":      {`folder: teams/, repos: [api], grants: ["*"]`, "is no folder within the policy folder"},
		"a folder that has one":   {`folder: teams/web, repos: [api], grants: ["*"]`, "has a ceiling already, in ceilings.yaml:5"},
		"no repos":                {`folder: x, grants: ["*"]`, `repos is missing: list what the folder may name; ["*"] is everything`},
		"no grants":               {`folder: x, repos: [api]`, "grants is missing"},
		"a list without grants":   {`folder: x, repos: [api], grants: []`, "grants: is empty"},
		"an unknown repository":   {`folder: x, repos: [aip], grants: ["*"]`, `no repo is called "aip"`},
		"an unknown grant":        {`folder: x, repos: [api], grants: [payments-bd]`, `no grant is called "payments-bd"`},
		"a glob that is none":     {`folder: x, repos: [api], grants: ["a***"]`, "is not a glob"},
		"more than the one above": {`folder: teams/payments/b, repos: [web]`, `the ceiling of teams/payments (ceilings.yaml:3) does not have "web"`},
		"a life of no seconds":    {`folder: x, repos: [api], grants: ["*"], max_ttl: 0s`, "max_ttl: must be whole seconds, one at least"},
		"a life without a unit":   {`folder: x, repos: [api], grants: ["*"], max_ttl: 5`, "must be a duration with its unit"},
		"an unknown key":          {`folder: x, repos: [api], grants: ["*"], max_tll: 5m`, `unknown key; did you mean "max_ttl"?`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policy.Load(folder(bounded(map[string]string{"more.yaml": "ceilings: [{" + c.ceiling + "}]"})), known())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("want one fault with %q, have\n%v", c.want, err)
			}
		})
	}
}

func TestADenyUnderACeilingBindsOnlyWhatItsFolderMayGive(t *testing.T) {
	files := bounded(map[string]string{
		"teams/web/web.yaml": "rules: [{name: x, for: [api, web], allow: [{grant: web-identity}]}]",
	})
	web := job(broker.Claims{"repository_id": "9"})
	for name, c := range map[string]struct {
		file, text     string
		db, token, web bool // allowed: payments-db and web-identity to api, web-identity to web
	}{
		"none":               {"z.yaml", "description: nothing", true, true, true},
		"of one team":        {"teams/payments/x.yaml", `rules: [{name: x, deny: ["*"]}]`, false, true, true},
		"of another":         {"teams/web/x.yaml", `rules: [{name: x, deny: ["*"]}]`, true, false, false},
		"for a repository":   {"teams/web/x.yaml", `rules: [{name: x, for: [web], deny: [web-identity]}]`, true, true, false},
		"of those above all": {"z.yaml", `rules: [{name: x, deny: ["*"]}]`, false, false, false},
		"from a new folder":  {"new/z.yaml", `rules: [{name: x, issuer: github, deny: [web-identity]}]`, true, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			all := maps.Clone(files)
			all[c.file] = c.text
			book := loadAll(t, all)
			got := [3]bool{
				decide(t, book, job(nil), "payments-db").Allowed,
				decide(t, book, job(nil), "web-identity").Allowed,
				decide(t, book, web, "web-identity").Allowed,
			}
			if got != [3]bool{c.db, c.token, c.web} {
				t.Errorf("allowed %v", got)
			}
		})
	}
}

// A link gives a file another path, and the path says what binds it.
func TestALinkTakesNoFilePastACeiling(t *testing.T) {
	for name, c := range map[string]struct{ link, to, want string }{
		"to the rules of another team":            {"teams/web/borrowed", "../payments", `the ceiling of teams/web (ceilings.yaml:5) does not have grant "payments-db"`},
		"from a folder that no ceiling lists":     {"mine", "teams/payments", "no ceiling lists the folder of mine/deploy.yaml"},
		"from beside the folder":                  {"deploy.yaml", "teams/payments/deploy.yaml", "no ceiling lists the folder of deploy.yaml"},
		"to what defines ceilings and repos":      {"teams/web/own.yaml", "../../ceilings.yaml", "ceilings are defined outside of it"},
		"of a name that differs in case":          {"teams/Payments", "payments", "no ceiling lists the folder of teams/Payments/deploy.yaml"},
		"to a folder within, which binds no less": {"teams/payments/night/all", "..", "leads back to a folder above it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files := bounded(map[string]string{
				c.link:                            "->" + c.to,
				"teams/web/web.yaml":              "rules: [{name: x, for: [web], allow: [{grant: web-identity}]}]",
				"teams/payments/night/night.yaml": "rules: [{name: x, for: [api], allow: [{grant: payments-ro}]}]",
			})
			write(t, dir, files)
			_, err := policy.LoadDir(dir, known())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %q, have\n%v", c.want, err)
			}
		})
	}
}
