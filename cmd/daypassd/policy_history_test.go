package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// daypassd runs a command in the desk's own folder, and returns what it prints and its
// exit code. Its output holds no path of this machine.
func (d *desk) daypassd(args ...string) (string, int) {
	d.t.Helper()
	var out bytes.Buffer
	p := process{env: func(string) (string, bool) { return "", false }, stdout: &out, stderr: &out}
	code := run(d.t.Context(), args, p)
	return strings.ReplaceAll(out.String(), d.dir+string(filepath.Separator), ""), code
}

// mainPush is a job of the desk's repository as GitHub describes it.
func mainPush(changes broker.Claims) broker.Claims {
	claims := broker.Claims{
		"repository_owner_id": "1234", "repository_id": "5678", "repository": "acme/app", "ref": "refs/heads/main", "event_name": "push",
		"job_workflow_ref": "acme/app/.github/workflows/deploy.yml@refs/heads/main", "runner_environment": "github-hosted",
	}
	for name, v := range changes {
		claims[name] = v
	}
	return claims
}

var shopsJob = &broker.Job{Repository: "acme/app", RepositoryID: "5678", OwnerID: "1234"}

// gaveShop is the record of a credential that rule shop/migrate gave.
func gaveShop(request string, life time.Duration) broker.Record {
	claims := mainPush(nil)
	return broker.Record{
		Event: broker.EventIntent, Request: request, Job: shopsJob, Claims: claims, Grants: []string{"orders-db"}, Rules: []string{"shop/migrate"},
		Session:  &broker.Session{For: broker.Identity{Issuer: "github", Claims: claims, Trimmed: true}},
		Leases:   []broker.Lease{{Grant: broker.Grant{Name: "orders-db"}, Opened: recordedAt, NotAfter: recordedAt.Add(life)}},
		Reported: []broker.Reported{{Grant: "orders-db", Rule: "shop/trial", Effect: broker.EffectDeny}},
	}
}

func TestADeniedRequestOfTheJournalBecomesARule(t *testing.T) {
	d := newDesk(t)
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_ro", Job: shopsJob, Claims: mainPush(nil), Grants: []string{"orders-ro"}, Reason: "denied"})
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_pull", Job: shopsJob,
		Claims: mainPush(broker.Claims{"event_name": "pull_request", "ref": "refs/pull/7/merge"}), Grants: []string{"orders-db"}, Reason: "denied"})
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_unknown", Job: shopsJob, Claims: mainPush(nil), Grants: []string{broker.UnknownGrant}, Reason: "denied"})
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_stranger", Job: &broker.Job{Repository: "acme/new", RepositoryID: "7", OwnerID: "1234"}, Reason: "denied_stranger"})
	d.record(gaveShop("req_given", time.Minute))
	before := readAll(t, filepath.Join(d.dir, "policies/shop.yaml"))

	out, code := d.daypassd("policy", "suggest", "--config", d.config, "--request-id", "req_ro")
	const want = `# Suggested for request req_ro, which was denied orders-ro.
# lint: nothing new

# ---- add to policies/shop.yaml
# owner: FILL-IN          # the team that answers for the rules
# review_by: FILL-IN      # the day by which they are to be looked at again, such as DAY
rules:
  - name: suggested-orders-ro
    for: [shop]
    match:
      # chosen by whoever may push a branch or open a pull request
      ref: refs/heads/main
      event_name: push
      # chosen by whoever may push a branch or open a pull request
      job_workflow_ref: acme/app/.github/workflows/deploy.yml@refs/heads/main
      runner_environment: github-hosted
    allow:
      # how long the job asked for is not journalled
      - {grant: orders-ro, ttl: 15m}
`
	day := time.Now().UTC().AddDate(0, 6, 0).Format(time.DateOnly)
	if strings.ReplaceAll(out, day, "DAY") != want || code != exitOK {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if readAll(t, filepath.Join(d.dir, "policies/shop.yaml")) != before {
		t.Error("a policy file was changed")
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"as JSON": {[]string{"--request-id", "req_ro", "--output", "json"}, exitOK, `"rule": "shop/suggested-orders-ro"`},
		"what lint would fail for is shown, and fails": {[]string{"--request-id", "req_pull"}, exitFailed, "# lint: critical DP014"},
		"an unknown grant":             {[]string{"--request-id", "req_unknown"}, exitUsage, "its name is not journalled"},
		"a stranger":                   {[]string{"--request-id", "req_stranger"}, exitUsage, "(id 7, of owner 1234; the job called it acme/new)"},
		"what was allowed":             {[]string{"--request-id", "req_given"}, exitUsage, "was allowed"},
		"no such request":              {[]string{"--request-id", "req_none"}, exitUsage, "no decision on request"},
		"no request":                   {nil, exitUsage, "--request-id is missing"},
		"no configuration":             {[]string{"--request-id", "req_ro", "--config", "none.yaml"}, exitUsage, "none.yaml"},
		"a grant that was not denied":  {[]string{"--request-id", "req_ro", "--grant", "orders-db"}, exitUsage, "was not denied grant"},
		"a word too many":              {[]string{"--request-id", "req_ro", "more"}, exitUsage, "takes flags only"},
		"an output that there is not":  {[]string{"--request-id", "req_ro", "--output", "xml"}, exitUsage, "text or json"},
		"a journal that there is none": {[]string{"--request-id", "req_ro", "--journal", d.dir + "/none"}, exitUsage, "read journal"},
		"help":                         {[]string{"--help"}, exitOK, "daypassd policy suggest --config daypass.yaml --request-id"},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := d.daypassd(append([]string{"policy", "suggest", "--config", d.config}, c.args...)...)
			if code != c.code || !strings.Contains(out, c.want) {
				t.Errorf("exit code %d, want %d, with %q:\n%s", code, c.code, c.want, out)
			}
		})
	}
}

// What suggest prints for a new file loads as it stands, once the comments say who
// answers for it or not.
func TestWhatIsSuggestedLoadsAndAllowsTheRequest(t *testing.T) {
	d := newDesk(t)
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_site", Job: &broker.Job{Repository: "acme/\"site\"\n# x", RepositoryID: "99", OwnerID: "1234"},
		Claims: mainPush(broker.Claims{"repository_id": "99", "repository": "acme/\"site\"\n# x", "ref": "refs/heads/a: {b} #"}), Grants: []string{"orders-ro"}, Reason: "denied"})
	out, code := d.daypassd("policy", "suggest", "--config", d.config, "--request-id", "req_site", "--output", "json")
	var made struct {
		Files []struct {
			File, Text string
			New        bool
		}
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || code == exitUsage || len(made.Files) != 1 || !made.Files[0].New {
		t.Fatalf("exit code %d, %v:\n%s", code, err, out)
	}
	d.write("policies/"+made.Files[0].File, made.Files[0].Text)
	if out, code := d.explain("--request-id", "req_site", "--current"); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if out, code := d.daypassd("policy", "suggest", "--config", d.config, "--request-id", "req_site"); code != exitUsage || !strings.Contains(out, "gives it already") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestTheDocumentedSuggestionIsWhatIsPrinted(t *testing.T) {
	page := readAll(t, "../../docs/policy-history.md")
	_, rest, _ := strings.Cut(page, "```yaml\n")
	want, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("there is no snippet")
	}
	d := newDesk(t)
	d.write("daypass.yaml", strings.ReplaceAll(recordedConfig, "orders-db", "payments-db"))
	removeAll(t, filepath.Join(d.dir, "policies"))
	d.write("policies/repos.yaml", "repos:\n  payments-api: {issuer: github, name: acme/payments-api, match: {repository_owner_id: \"1234\", repository_id: \"5678\"}}\n")
	d.write("policies/teams/payments/deploy.yaml", `owner: team-payments
review_by: 2999-01-01
rules:
  - name: read
    for: [payments-api]
    match: {ref: refs/heads/main, event_name: push, runner_environment: github-hosted}
    allow: [{grant: orders-ro}]
`)
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_k3v7q2mzn5xwdabc", Job: shopsJob, Grants: []string{"payments-db"}, Reason: "denied",
		Claims: mainPush(broker.Claims{"repository": "acme/payments-api", "job_workflow_ref": "acme/payments-api/.github/workflows/deploy.yml@refs/heads/main"})})
	if out, code := d.daypassd("policy", "suggest", "--config", d.config, "--request-id", "req_k3v7q2mzn5xwdabc"); out != want || code != exitOK {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestAJournalIsReplayedAgainstAFolder(t *testing.T) {
	d := newDesk(t)
	d.record(gaveShop("req_given", 15*time.Minute))
	d.record(gaveShop("req_short", 5*time.Minute))
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_dev", Job: shopsJob, Claims: mainPush(broker.Claims{"ref": "refs/heads/dev"}), Grants: []string{"orders-db"}, Reason: "denied"})
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_stranger", Job: &broker.Job{Repository: "acme/new", RepositoryID: "7", OwnerID: "1234"}, Reason: "denied_stranger", Count: 3})
	d.write("longer/shop.yaml", strings.NewReplacer("refs/heads/main", "[refs/heads/main, refs/heads/dev]", "15m", "30m").Replace(recordedPolicy))
	d.write("none/shop.yaml", strings.ReplaceAll(recordedPolicy, "grant: orders-db, ttl: 15m", "grant: orders-ro"))
	d.write("faulty/shop.yaml", "rules: 1\n")
	for name, c := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"the same policy": {nil, exitOK, []string{"6 decisions, recorded from 2027-03-01T12:00:00Z", "3 the same, 0 flip, 3 cannot be said",
			"3      github acme/new (7)", "shop/trial  would deny  2      2"}},
		"and fails for no flip": {[]string{"--fail-on-flip"}, exitOK, []string{"0 flip"}},
		"one that gives more": {[]string{"--policies", d.dir + "/longer", "--fail-on-flip"}, exitFailed, []string{"2 flip", "denied, and would be allowed", "req_dev",
			"shop/migrate for 15m  shop/migrate for 30m"}},
		"without failing":     {[]string{"--policies", d.dir + "/longer"}, exitOK, []string{"2 flip"}},
		"one that gives less": {[]string{"--policies", d.dir + "/none", "--fail-on-flip"}, exitFailed, []string{"allowed, and would be denied", "req_given", "req_short", "denied: no rule gives it"}},
		"as JSON":             {[]string{"--policies", d.dir + "/none", "--output", "json"}, exitOK, []string{`"allow_to_deny": 2`, `"report_rules"`}},
		"of another time":     {[]string{"--until", "2027-03-01"}, exitOK, []string{"no recorded decision"}},
		"since a time":        {[]string{"--since", "2027-03-01T12:00:00Z", "--until", "2027-03-02"}, exitOK, []string{"6 decisions"}},
		"times the wrong way": {[]string{"--since", "2027-03-02", "--until", "2027-03-01"}, exitUsage, []string{"must be before"}},
		"no time":             {[]string{"--since", "yesterday"}, exitUsage, []string{"how long ago, such as 90d"}},
		"a faulty folder":     {[]string{"--policies", d.dir + "/faulty"}, exitUsage, []string{"the policy has faults"}},
		"no folder":           {[]string{"--policies", d.dir + "/nowhere"}, exitUsage, []string{"nowhere"}},
		"no journal":          {[]string{"--journal", d.dir + "/nowhere"}, exitUsage, []string{"read journal"}},
		"help":                {[]string{"--help"}, exitOK, []string{"--fail-on-flip", "Examples:"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := d.daypassd(append([]string{"policy", "report", "--config", d.config}, c.args...)...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

// Who can write to the journal must not make a policy look harmless.
func TestAJournalThatWasTamperedWithIsNotReplayed(t *testing.T) {
	d := newDesk(t)
	d.record(gaveShop("req_given", 15*time.Minute))
	if err := d.journal.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(d.dir, "data/journal/*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	text := readAll(t, files[0])
	if err := os.WriteFile(files[0], []byte(strings.ReplaceAll(text, "refs/heads/main", "refs/heads/much")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"report"}, {"suggest", "--request-id", "req_given"}, {"access", "--unused-for", "1d"}} {
		if out, code := d.daypassd(append([]string{"policy", args[0], "--config", d.config}, args[1:]...)...); code != exitUsage || !strings.Contains(out, "hash mismatch") {
			t.Errorf("%s: exit code %d:\n%s", args[0], code, out)
		}
	}
}
