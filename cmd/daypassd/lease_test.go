package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/daypass-dev/daypass/broker"
)

// aListedLease is one whose every column is as wide as it can be.
func aListedLease() listedLease {
	l := listedLease{Lease: broker.Lease{ID: "dpl_aaaaaaaaaaaaaaaaaaaaaaaaaa", Handle: "dp_test_t00000_aaaaaaaaaaaa", State: broker.LeaseRevoking,
		Repo: "a-long-organisation/and-a-long-repository", Rule: "teams/shop/main", NotAfter: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		Due: time.Date(2026, 11, 23, 12, 0, 20, 0, time.UTC), Attempts: 1, LastErr: "no\x1b[2J route " + strings.Repeat("é", 400)}}
	l.Grant.Name, l.Grant.Kind, l.Grant.Target = "a-grant-whose-name-is-of-sixty-three-letters", "postgres", "orders-pg"
	return l
}

func TestTheTableOfLeasesFitsOneHundredAndTwentyColumns(t *testing.T) {
	for _, paused := range []bool{false, true} {
		var out bytes.Buffer
		if err := printLeases(&out, leaseList{Paused: paused, Leases: []listedLease{aListedLease()}}, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); n > 120 || strings.TrimRight(line, " ") != line || strings.Contains(line, "\x1b") {
				t.Errorf("%d columns: %q", n, line)
			}
		}
		if starred := strings.Contains(out.String(), "revoking*"); starred != paused {
			t.Errorf("paused %v:\n%s", paused, out.String())
		}
	}
}

func TestWhyALeaseCannotBeTakenBackStandsUnderTheTable(t *testing.T) {
	l := aListedLease()
	l.LastErr = "no\x1b[2J route"
	var out bytes.Buffer
	if err := printLeases(&out, leaseList{Leases: []listedLease{l}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 || lines[2] != `dpl_aaaaaaaaaaaaaaaaaaaaaaaaaa: 1 failed attempt: no\x1b[2J route` {
		t.Errorf("got\n%s", out.String())
	}
}

func TestALeaseIsShownWithAllThatSaysWhyItIsStillThere(t *testing.T) {
	var out bytes.Buffer
	if err := printLease(&out, aListedLease()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"revoking, next tried 2026-11-23T12:00:20Z", "failed attempts  1", `no\x1b[2J route`, "dp_test_t00000_aaaaaaaaaaaa", "orders-pg", "teams/shop/main"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}

// fakeAdmin is an admin listener that holds leases and lets so many go each
// time that it is asked for a list.
type fakeAdmin struct {
	leases  []listedLease
	goes    int
	fails   bool // those that are left have failed once
	deleted []string
}

func (f *fakeAdmin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := leaseList{Leases: f.leases}
	if r.Method == http.MethodDelete {
		f.deleted = append(f.deleted, r.URL.RequestURI()+" by "+r.Header.Get("Daypass-Operator"))
	} else if len(f.deleted) > 0 {
		f.leases = f.leases[min(f.goes, len(f.leases)):]
		for i := range f.leases {
			if f.fails {
				f.leases[i].Attempts++
			}
		}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (f *fakeAdmin) revoking(t *testing.T, output string, wait time.Duration) (revoking, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	var out, progress bytes.Buffer
	return revoking{process: process{stdout: &out, stderr: &progress}, output: output, wait: wait,
		admin: &adminClient{base: server.URL, token: broker.NewSecret("dpa_x"), operator: "alice", http: server.Client()}}, &out, &progress
}

func someLeases(n int) []listedLease {
	leases := make([]listedLease, n)
	for i := range leases {
		leases[i].ID, leases[i].Takeback = broker.LeaseID(fmt.Sprintf("dpl_%d", i)), broker.TakebackNow
	}
	return leases
}

func TestManyLeasesAreWatchedUntilTheyAreGone(t *testing.T) {
	f := &fakeAdmin{leases: someLeases(7), goes: 3}
	r, out, progress := f.revoking(t, "text", time.Minute)
	if err := r.all(context.Background(), leaseFilter{place: "github/5678"}); err != nil {
		t.Error(err)
	}
	if out.String() != "7 revoked\n" || !strings.Contains(progress.String(), "7 leases are being taken back") || !strings.Contains(progress.String(), "3 of 7 are done") {
		t.Errorf("got %q and %q", out, progress)
	}
	if len(f.deleted) != 1 || f.deleted[0] != "/admin/v1/leases?place=github%2F5678 by alice" {
		t.Errorf("asked %q", f.deleted)
	}
}

func TestWhatRemainsIsToldAndIsAFailure(t *testing.T) {
	for name, row := range map[string]struct {
		f    *fakeAdmin
		wait time.Duration
	}{
		"it fails":          {&fakeAdmin{leases: someLeases(3), goes: 0, fails: true}, time.Minute},
		"it takes too long": {&fakeAdmin{leases: someLeases(3)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r, out, _ := row.f.revoking(t, "json", row.wait)
			err := r.all(context.Background(), leaseFilter{rule: "shop/main"})
			if s, ok := err.(silent); !ok || s.code != exitFailed || strings.Count(out.String(), `"revoking"`) != 3 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestWhatEndsByItselfIsNoFailure(t *testing.T) {
	f := &fakeAdmin{leases: someLeases(1)}
	f.leases[0].Takeback, f.leases[0].NotAfter = broker.TakebackExpiry, time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	f.leases[0].Due = f.leases[0].NotAfter
	r, out, _ := f.revoking(t, "text", time.Minute)
	if err := r.all(context.Background(), leaseFilter{rule: "shop/main"}); err != nil || !strings.Contains(out.String(), "1 cannot be taken back, and end at their expiry") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestNothingIsRevokedOrForgottenWithoutAYes(t *testing.T) {
	f := &fakeAdmin{leases: someLeases(7)}
	r, _, _ := f.revoking(t, "text", 0)
	if err := r.ask(context.Background(), leaseFilter{place: "a"}); err == nil || !strings.Contains(err.Error(), "7 leases are meant; nothing was done") {
		t.Errorf("got %v", err)
	}
	err := forgetting{process: r.process, admin: r.admin, target: "pg", lease: "dpl_3"}.ask(context.Background())
	if err == nil || !strings.Contains(err.Error(), "1 lease is meant") || len(f.deleted) != 0 {
		t.Errorf("got %v, asked %q", err, f.deleted)
	}
}

// TestTheOperatorRevokesByRepositoryAndForgetsALostTarget, against a broker that
// runs.
func TestTheOperatorRevokesByRepositoryAndForgetsALostTarget(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	lease := func(args ...string) (string, int) {
		return r.command(nil, "daypassd", append([]string{"lease", args[0], "--config", b.config}, args[1:]...)...)
	}
	_, a := b.fresh()
	id := a.credential(0)["lease_id"].(string)
	if out, code := lease("show", id); code != 0 || !strings.Contains(out, "acme/shop") || !strings.Contains(out, "active") {
		t.Errorf("show: exit %d: %s", code, out)
	}
	if out, code := lease("list", "--output", "json"); code != 0 || !strings.Contains(out, `"max_ttl": "30m"`) {
		t.Errorf("list: exit %d: %s", code, out)
	}
	for _, args := range [][]string{{"revoke"}, {"revoke", id, "--grant", "orders-db"}, {"revoke", "--grant", "orders-db"}, {"forget", "--target", "orders-pg"},
		{"forget", "--target", "orders-pg", "--reason", "lost"}, {"show", id, id}} {
		if out, code := lease(args...); code != exitUsage {
			t.Errorf("%v: exit %d: %s", args, code, out)
		}
	}
	if out, code := lease("forget", "--target", "orders-pg", "--reason", "lost", "--yes"); code != exitFailed || !strings.Contains(out, "answers") {
		t.Errorf("forgetting a target that is there: exit %d: %s", code, out)
	}
	if n := len(r.users()); n != 1 {
		t.Fatalf("%d users of ours", n)
	}
	if out, code := lease("revoke", "--place", "github/5678", "--yes"); code != 0 || !strings.Contains(out, "revoked") {
		t.Errorf("revoke --place: exit %d: %s", code, out)
	}
	if users := r.users(); len(users) != 0 {
		t.Errorf("users of ours are left: %v", users)
	}
	_, a = b.fresh()
	if err := r.pg.Stop(); err != nil {
		t.Fatal(err)
	}
	user := a.field(0, "username")
	if out, code := lease("forget", "--target", "orders-pg", "--reason", "its disk is lost", "--yes"); code != 0 || !strings.Contains(out, user) {
		t.Errorf("forget: exit %d: %s", code, out)
	}
	if out, _ := lease("list", "--output", "json"); strings.Contains(out, user) {
		t.Errorf("list: %s", out)
	}
	if err := r.journalled(b, "its disk is lost"); err != nil || journalled(t, b)[broker.EventForgotten] != 1 {
		t.Errorf("the journal does not say who forgot what, and why: %v", err)
	}
}

// TestAPausedBrokerSaysSoAndTakesNothingBackByItself.
func TestAPausedBrokerSaysSoAndTakesNothingBackByItself(t *testing.T) {
	r := newRig(t)
	b := r.prepare("one", "embedded", func(config string) string { return config })
	b.shell = `set -- "$@" --pause-revocation; exec`
	b.start()
	_, short := b.fresh(map[string]any{"name": "orders-db", "ttl": "2s"})
	_, asked := b.fresh()
	time.Sleep(12 * time.Second)
	users := strings.Join(r.users(), " ")
	if !strings.Contains(users, short.field(0, "username")) {
		t.Error("what expired was taken back")
	}
	out, code := r.command(nil, "daypassd", "lease", "list", "--config", b.config)
	if code != 0 || !strings.Contains(out, "active*") || !strings.Contains(out, "Revocation is paused") {
		t.Errorf("list: exit %d: %s", code, out)
	}
	session := string(broker.SessionIDOf(broker.NewSecret(asked.session())))
	if out, code = r.command(nil, "daypassd", "lease", "revoke", "--config", b.config, "--session", session, "--yes"); code != 0 || strings.Contains(strings.Join(r.users(), " "), asked.field(0, "username")) {
		t.Errorf("revoke: exit %d: %s", code, out)
	}
	if status, body := b.call(http.MethodGet, "/readyz", "", nil); status != http.StatusOK || !strings.Contains(fmt.Sprint(body), "revocation is paused") {
		t.Errorf("ready: %d %v", status, body)
	}
	if err := b.metric("daypass_revocation_paused 1"); err != nil {
		t.Error(err)
	}
	if err := r.journalled(b, "pause_revocation"); err != nil {
		t.Error(err)
	}
	b.stop()
	b.shell = "exec"
	b.start()
	r.eventually(30*time.Second, func() error {
		if users := r.users(); len(users) > 0 {
			return fmt.Errorf("users of ours are left: %v", users)
		}
		return nil
	})
}
