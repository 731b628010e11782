package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/audit"
)

const recordedConfig = `
url: https://daypass.example.com
deployment: prod
broker: b0
state: embedded
issuers: {github: {profile: github}}
targets: {pg: {kind: postgres, admin: "env:ADMIN_URL"}}
grants:
  orders-db: {target: pg, max_ttl: 1h, params: {roles: [orders_rw]}}
  orders-ro: {target: pg, max_ttl: 1h, params: {roles: [orders_ro]}}
`

const recordedPolicy = `
repos:
  shop: {issuer: github, name: acme/app, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - {name: migrate, for: [shop], match: {ref: refs/heads/main}, allow: [{grant: orders-db, ttl: 15m}]}
  - {name: trusted, for: [shop], match: {user_email: boss@acme.example}, allow: [{grant: orders-ro}]}
`

// desk is a data directory as a broker leaves it, and its configuration.
type desk struct {
	t       *testing.T
	dir     string
	config  string
	version string
	journal *audit.Journal
}

var recordedAt = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, dir: t.TempDir()}
	d.config = d.write("daypass.yaml", recordedConfig)
	d.write("policies/shop.yaml", recordedPolicy)
	source, err := openPolicySource(d.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	book, err := source.book()
	if err != nil {
		t.Fatal(err)
	}
	files, err := book.Keep()
	if err != nil {
		t.Fatal(err)
	}
	d.version = book.Version()
	if err := audit.StoreVersion(filepath.Join(d.dir, "data/versions"), strings.TrimPrefix(d.version, "sha256:"), files); err != nil {
		t.Fatal(err)
	}
	d.journal, err = audit.Open(audit.Config{Dir: filepath.Join(d.dir, "data/journal"), Deployment: "prod", Broker: "b0", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.journal.Close(context.Background()) })
	return d
}

func (d *desk) write(name, text string) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

func (d *desk) record(r broker.Record) {
	d.t.Helper()
	r.At, r.Policy, r.Issuer = recordedAt, d.version, "github"
	if err := d.journal.Append(d.t.Context(), r); err != nil {
		d.t.Fatal(err)
	}
}

// explain runs the command, and returns what it prints and its exit code.
func (d *desk) explain(args ...string) (string, int) {
	d.t.Helper()
	var out bytes.Buffer
	p := process{env: func(string) (string, bool) { return "", false }, stdout: &out, stderr: &out}
	code := run(d.t.Context(), append([]string{"policy", "explain", "--config", d.config}, args...), p)
	return out.String(), code
}

func shopClaims(ref string) broker.Claims {
	return broker.Claims{"repository_owner_id": "1234", "repository_id": "5678", "ref": ref}
}

func TestAJournalledRequestIsExplainedUnderItsOwnVersion(t *testing.T) {
	d := newDesk(t)
	job := &broker.Job{Repository: "acme/app", RepositoryID: "5678", OwnerID: "1234"}
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_denied", Job: job, Claims: shopClaims("refs/heads/dev"), Grants: []string{"orders-db", broker.UnknownGrant}})
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_mail", Job: job, Claims: shopClaims("refs/heads/dev"), Grants: []string{"orders-ro"}})
	whole := broker.Session{For: broker.Identity{Issuer: "github", Claims: shopClaims("refs/heads/main")}}
	lease := broker.Lease{Grant: broker.Grant{Name: "orders-db"}, Opened: recordedAt.Add(700 * time.Millisecond), NotAfter: recordedAt.Add(5 * time.Minute)} // cut to a whole second
	d.record(broker.Record{Event: broker.EventIntent, Request: "req_given", Session: &whole, Grants: []string{"orders-db"}, Rules: []string{"shop/migrate"}, Leases: []broker.Lease{lease}})
	d.record(broker.Record{Event: broker.EventIssued, Request: "req_given", Grants: []string{"orders-db"}, Leases: []broker.Lease{lease}})
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_stranger", Reason: "denied_stranger", Job: job, Count: 7})
	d.write("policies/shop.yaml", strings.ReplaceAll(recordedPolicy, "refs/heads/main", "refs/heads/dev")) // later, other rules

	for name, c := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"a denial": {[]string{"--request-id", "req_denied"}, exitFailed, []string{
			"request req_denied, recorded at 2027-03-01T12:00:00Z: denied\n", `repository "acme/app" (id "5678", owner "1234")`,
			"DENIED   orders-db, to a job of issuer github, at 2027-03-01T12:00:00Z", `NO   ref                  "refs/heads/dev"`, "policy " + d.version}},
		"a denial, by the policy of now": {[]string{"--request-id", "req_denied", "--current"}, exitOK, []string{
			"under another version than the one recorded, " + d.version, "ALLOWED  orders-db"}},
		"a denial, by a folder": {[]string{"--request-id", "req_denied", filepath.Join(d.dir, "policies")}, exitOK, []string{"ALLOWED  orders-db"}},
		"what was not journalled cannot be said": {[]string{"--request-id", "req_mail"}, exitFailed, []string{
			"not all claims of the token are known", "?    user_email           (not known)"}},
		"what was given":             {[]string{"--request-id", "req_given"}, exitOK, []string{"recorded at 2027-03-01T12:00:00Z: allowed", "rule shop/migrate gives it for 5m, what was asked for"}},
		"another grant of the job's": {[]string{"--request-id", "req_given", "--grant", "orders-ro"}, exitFailed, []string{"DENIED   orders-ro", "NO   user_email"}},
		"a stranger of whom little is": {[]string{"--request-id", "req_stranger", "--grant", "orders-db"}, exitFailed, []string{
			"(denied_stranger)", "the first of 7 that were alike", "no claim was journalled", "(not known)"}},
		"a stranger without a grant":    {[]string{"--request-id", "req_stranger"}, exitUsage, []string{"say with --grant"}},
		"a request that there was not":  {[]string{"--request-id", "req_none"}, exitUsage, []string{`no decision on request "req_none" is among the`}},
		"a journal that there is not":   {[]string{"--request-id", "req_denied", "--journal", filepath.Join(d.dir, "none")}, exitUsage, []string{"read journal"}},
		"a journal elsewhere":           {[]string{"--request-id", "req_denied", "--journal", filepath.Join(d.dir, "data/journal")}, exitFailed, []string{"DENIED"}},
		"as JSON, with what was record": {[]string{"--request-id", "req_denied", "--output", "json"}, exitFailed, []string{`"source": "journal"`, `"event": "denied"`, `"why": "conditions"`, `"trimmed": true`}},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := d.explain(c.args...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if strings.Contains(strings.Join(c.args, " "), "json") && !json.Valid([]byte(out)) {
				t.Errorf("no JSON:\n%s", out)
			}
		})
	}
}

// Who can write to the data directory must not make the past look otherwise
// without its showing.
func TestAJournalOrAVersionThatWasTamperedWithExplainsNothing(t *testing.T) {
	d := newDesk(t)
	d.record(broker.Record{Event: broker.EventDenied, Request: "req_denied", Claims: shopClaims("refs/heads/dev"), Grants: []string{"orders-db"}})
	if err := d.journal.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(d.dir, "data/versions", strings.TrimPrefix(d.version, "sha256:"), "policies/shop.yaml")
	edit := func(path, old, text string) func() {
		before := readAll(t, path)
		if !strings.Contains(before, old) {
			t.Fatalf("no %q in %s", old, path)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(before, old, text)), 0o600); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	undo := edit(kept, "refs/heads/main", "refs/heads/dev")
	if out, code := d.explain("--request-id", "req_denied"); code != exitUsage || !strings.Contains(out, "is not what it was") {
		t.Errorf("a version that was changed: exit code %d\n%s", code, out)
	}
	undo()
	files, err := filepath.Glob(filepath.Join(d.dir, "data/journal/*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	undo = edit(files[0], "refs/heads/dev", "refs/heads/main")
	if out, code := d.explain("--request-id", "req_denied"); code != exitUsage || !strings.Contains(out, "hash mismatch") {
		t.Errorf("a journal that was changed: exit code %d\n%s", code, out)
	}
	undo()
	f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"v":1,"deploym`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if out, code := d.explain("--request-id", "req_denied"); code != exitFailed {
		t.Errorf("a line that a broker is just writing: exit code %d\n%s", code, out)
	}
	if err := os.RemoveAll(filepath.Join(d.dir, "data/versions")); err != nil {
		t.Fatal(err)
	}
	if out, code := d.explain("--request-id", "req_denied"); code != exitUsage || !strings.Contains(out, "--current") {
		t.Errorf("a version that is gone: exit code %d\n%s", code, out)
	}
}
