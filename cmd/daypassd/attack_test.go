package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// under starts a broker by way of a shell, which may change its surroundings
// before it runs it.
func (r *rig) under(shell, name, state string) *broker1 {
	r.t.Helper()
	b := r.prepare(name, state, func(config string) string { return config })
	b.shell = shell
	b.start()
	r.t.Cleanup(b.stop)
	return b
}

// changed starts a broker whose configuration differs from the usual one.
func (r *rig) changed(name, state string, edit func(string) string) *broker1 {
	r.t.Helper()
	b := r.prepare(name, state, edit)
	b.start()
	r.t.Cleanup(b.stop)
	return b
}

// journalled counts a broker's records by event, those that stand for several
// once.
func journalled(t *testing.T, b *broker1) map[broker.Event]int {
	t.Helper()
	n := map[broker.Event]int{}
	for e, err := range audit.Read(filepath.Join(b.data, "journal")) {
		if err != nil {
			break // a line that is being written
		}
		n[e.Event]++
	}
	return n
}

func TestAUsedTokenCannotStarveItsRepository(t *testing.T) {
	r := newRig(t)
	b := r.changed("one", "embedded", func(c string) string { return c + "limits: {exchanges_per_minute: 100}\n" })
	used, _ := b.fresh()
	for i := range 300 {
		status, a := b.exchange(used)
		if a.code() != "token_reused" {
			t.Fatalf("offer %d of a used token: %d %v, want token_reused", i+2, status, a.body)
		}
	}
	if status, a := b.exchange(r.token(b, nil)); status != http.StatusOK {
		t.Errorf("a fresh token of the same repository after that: %d %v", status, a.body)
	}
}

func TestADeniedTokenCannotFillTheJournal(t *testing.T) {
	const offers = 2000
	r := newRig(t)
	b := r.broker("one", "embedded")
	b.fresh()
	denied := r.token(b, map[string]any{"event_name": "pull_request"})
	before := dirSize(t, filepath.Join(b.data, "journal"))
	hammer(offers, 16, func() {
		if status, a := b.exchange(denied); a.code() != "denied" {
			t.Errorf("%d %v", status, a.body)
		}
	})
	if grown := dirSize(t, filepath.Join(b.data, "journal")) - before; grown > 512<<10 {
		t.Errorf("%d offers of one denied token made the journal grow by %d KiB", offers, grown>>10)
	}
	b.stop()
	total := 0
	for e, err := range audit.Read(filepath.Join(b.data, "journal")) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Event == broker.EventDenied {
			total += max(e.Count, 1)
		}
	}
	if total != offers {
		t.Errorf("the journal tells of %d denials, want %d", total, offers)
	}
}

func TestASessionCannotFillTheJournal(t *testing.T) {
	const offers = 1000
	r := newRig(t)
	b := r.broker("one", "embedded")
	_, a := b.fresh()
	hammer(offers, 16, func() { b.call(http.MethodDelete, "/v1/session", a.session(), nil) })
	if n := journalled(t, b); n[broker.EventShut] > 16 || n[broker.EventRevoked] > 16 {
		t.Errorf("giving one session back %d times made %d records of it, and %d of the lease that it had", offers, n[broker.EventShut], n[broker.EventRevoked])
	}
}

// hammer does the same n times, some at once.
func hammer(n, atOnce int, do func()) {
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for range n / atOnce {
				do()
			}
		})
	}
	all.Wait()
}

func dirSize(t *testing.T, dir string) int64 {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

func TestTokensOfOneKindAreNoTokensOfAnother(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	used, a := b.fresh(map[string]any{"name": "orders-db"}, map[string]any{"name": "web-identity"})
	admin := strings.TrimSpace(readAll(t, filepath.Join(b.data, "admin.token")))
	ours := a.field(1, "token")
	if ours == "" {
		t.Fatal("no token of our own to try")
	}
	fresh := r.token(b, nil)
	for what, bearer := range map[string]string{
		"a job session": a.session(), "a token that we issued": ours, "the admin token": admin, "a session's id": string(broker.SessionIDOf(broker.NewSecret(a.session()))),
	} {
		if status, body := b.call(http.MethodPost, "/v1/exchange", bearer, grantBody("orders-db")); status != http.StatusUnauthorized {
			t.Errorf("%s as a CI token: %d %v", what, status, body)
		}
		if status, body := b.call(http.MethodPost, "/v1/session/extend", a.session(), map[string]any{"token": bearer}); status < 400 || status >= 500 {
			t.Errorf("%s to extend with: %d %v", what, status, body)
		}
	}
	for what, bearer := range map[string]string{
		"a CI token": fresh, "the used CI token": used, "a token that we issued": ours, "the admin token": admin,
		"a session's id": string(broker.SessionIDOf(broker.NewSecret(a.session()))),
	} {
		for _, call := range []struct {
			method, path string
			body         any
		}{
			{http.MethodPost, "/v1/credentials", grantBody("orders-db")}, {http.MethodGet, "/v1/session", nil}, {http.MethodDelete, "/v1/session", nil},
			{http.MethodDelete, "/v1/leases/" + a.credential(0)["lease_id"].(string), nil}, {http.MethodPost, "/v1/session/extend", map[string]any{"token": fresh}},
		} {
			if status, body := b.call(call.method, call.path, bearer, call.body); status != http.StatusUnauthorized {
				t.Errorf("%s as a job session: %s %s: %d %v", what, call.method, call.path, status, body)
			}
		}
	}
	for what, bearer := range map[string]string{"a CI token": fresh, "a job session": a.session(), "a token that we issued": ours} {
		if status, body := b.call(http.MethodGet, "/admin/v1/leases", bearer, nil); status != http.StatusUnauthorized {
			t.Errorf("%s as the admin token: %d %v", what, status, body)
		}
	}
	if status, a := b.exchange(fresh); status != http.StatusOK {
		t.Errorf("the CI token that was shown in wrong places only: %d %v, want it unused", status, a.body)
	}
	if users := r.users(); len(users) != 2 {
		t.Errorf("PostgreSQL has %v, want the two users that were exchanged for", users)
	}
}

func TestASessionIsExtendedByItsOwnJobOnly(t *testing.T) {
	r := newRig(t)
	b := r.changed("one", "embedded", func(c string) string {
		c = strings.Replace(c, "issuers:\n", fmt.Sprintf("issuers:\n  gitlab: {profile: gitlab, url: %s, insecure: true}\n", r.ci.URL(fakeissuer.GitLab)), 1)
		return c
	})
	_, a := b.fresh()
	extend := func(token string) (int, string) {
		status, body := b.call(http.MethodPost, "/v1/session/extend", a.session(), map[string]any{"token": token})
		return status, answer{body}.code()
	}
	for what, claims := range map[string]map[string]any{
		"another run":        {"run_id": "424242"},
		"another attempt":    {"run_attempt": "7"},
		"another repository": {"repository_id": "1"},
	} {
		if status, code := extend(r.token(b, claims)); status != http.StatusForbidden || code != "denied" {
			t.Errorf("a token of %s: %d %s, want 403 denied", what, status, code)
		}
	}
	foreign, err := r.ci.Token(fakeissuer.Job{Provider: fakeissuer.GitLab, Audience: b.audience})
	if err != nil {
		t.Fatal(err)
	}
	if status, code := extend(foreign); status != http.StatusForbidden || code != "denied" {
		t.Errorf("a token of another issuer: %d %s, want 403 denied", status, code)
	}
	used, _ := b.fresh()
	if status, code := extend(used); status != http.StatusConflict && code != "bad_request" {
		t.Errorf("a used token: %d %s", status, code)
	}
}

func TestOneTokenIDOfTwoIssuersIsTwoTokens(t *testing.T) {
	r := newRig(t)
	b := r.changed("one", "embedded", func(c string) string {
		return strings.Replace(c, "issuers:\n", fmt.Sprintf("issuers:\n  gitlab: {profile: gitlab, url: %s, insecure: true}\n", r.ci.URL(fakeissuer.GitLab)), 1)
	})
	r.write("policies/lab.yaml", `owner: team-lab
rules:
  - name: lab
    issuer: gitlab
    match: {project_id: "77", namespace_id: "78", ref_path: refs/heads/main, ref_protected: "true"}
    allow: [{grant: orders-db}]
`)
	hangup(t, b)
	b.fresh()
	const jti = "7c0c4f9a-5d3c-4f0e-9f4f-3a0b4a4d2c11"
	hub := r.token(b, map[string]any{"jti": jti})
	lab, err := r.ci.Token(fakeissuer.Job{Provider: fakeissuer.GitLab, Audience: b.audience, Set: map[string]any{"jti": jti, "project_id": "77", "namespace_id": "78"}})
	if err != nil {
		t.Fatal(err)
	}
	for what, token := range map[string]string{"the first issuer's": hub, "the second issuer's": lab} {
		if status, a := b.exchange(token); status != http.StatusOK {
			t.Errorf("%s token: %d %v", what, status, a.body)
		}
		if status, a := b.exchange(token); a.code() != "token_reused" {
			t.Errorf("%s token again: %d %v", what, status, a.body)
		}
	}
}

func TestNoSpellingOfAUsedTokenBuysASecondExchange(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	used, _ := b.fresh()
	parts := strings.Split(used, ".")
	last := parts[2][len(parts[2])-1]
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var spelt []string
	for _, c := range alphabet { // the unused bits of the last letter
		if byte(c) != last {
			spelt = append(spelt, used[:len(used)-1]+string(c))
		}
	}
	for i := range parts { // padding, and the other alphabet
		for _, pad := range []string{"=", "==", "A", "%3D"} {
			p := append([]string{}, parts...)
			p[i] += pad
			spelt = append(spelt, strings.Join(p, "."))
		}
		p := append([]string{}, parts...)
		p[i] = strings.NewReplacer("-", "+", "_", "/").Replace(p[i])
		spelt = append(spelt, strings.Join(p, "."))
	}
	spelt = append(spelt, used+".", "."+used, used+"."+parts[2], parts[0]+"."+parts[1]+".", used)
	for _, token := range spelt {
		status, a := b.exchange(token)
		if status == http.StatusOK || status >= 500 {
			t.Errorf("a used token spelt in another way: %d %v", status, a.body)
		}
	}
	if users := r.users(); len(users) != 1 {
		t.Errorf("PostgreSQL has %v, want one user", users)
	}
}

func TestAnOddTTLGivesNothingOrWhatPolicyGives(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	b.fresh()
	for _, ttl := range []any{"1ns", "999ms", "0s", "-1s", "-9223372036854775808ns", "1e9h", "1.5s", "", " 1m", "1m ", "9223372037s", "NaNs", 60, true, nil, []any{"1m"}, "１m"} {
		status, body := b.call(http.MethodPost, "/v1/exchange", r.token(b, nil), map[string]any{"grants": []any{map[string]any{"name": "orders-db", "ttl": ttl}}})
		if status != http.StatusBadRequest {
			t.Errorf("a ttl of %v: %d %v, want 400", ttl, status, body)
		}
	}
	for _, ttl := range []string{"2562047h", "9223372036s", "31m", "1800s"} { // clamped
		status, a := b.exchange(r.token(b, nil), map[string]any{"name": "orders-db", "ttl": ttl})
		if status != http.StatusOK {
			t.Errorf("a ttl of %s: %d %v", ttl, status, a.body)
			continue
		}
		c := a.credential(0)
		if d := mustTime(t, c["expires_at"]).Sub(mustTime(t, c["issued_at"])); d.Minutes() > 30 {
			t.Errorf("a ttl of %s gave a life of %v", ttl, d)
		}
	}
}

func mustTime(t *testing.T, v any) time.Time {
	t.Helper()
	s, _ := v.(string)
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestHostileClaimsLeaveJournalAndLogWhole(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	b.fresh()
	n := 0
	for _, text := range []string{`main"},{"event":"issued"} \n %s ${HOME} '); --`, strings.Repeat("a", 2<<10), strings.Repeat("é", 1<<10), "\U0001f600"} {
		for _, claims := range []map[string]any{{"ref": text}, {"actor": text}} { // one denied, one allowed
			if status, a := b.exchange(r.token(b, claims)); status != http.StatusOK && a.code() != "denied" {
				t.Errorf("%.20q: %d %v", text, status, a.body)
			}
			n++
		}
	}
	for _, text := range []string{"main\n{\"event\":\"issued\"}", "\r", "\x1b[2J", "\x00", "\x7f"} {
		if status, a := b.exchange(r.token(b, map[string]any{"actor": text})); status == http.StatusOK {
			n++
		} else if a.code() != "token_invalid" {
			t.Errorf("%.20q: %d %v", text, status, a.body)
		}
	}
	b.stop()
	if out, code := r.command(nil, "daypassd", "audit", "verify", filepath.Join(b.data, "journal")); code != 0 {
		t.Errorf("the journal does not verify: %s", out)
	}
	seen := 0
	for e, err := range audit.Read(filepath.Join(b.data, "journal")) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Event == broker.EventDenied || e.Event == broker.EventIntent {
			seen++
		}
	}
	if seen != n+1 {
		t.Errorf("the journal tells of %d exchanges and denials, want %d", seen, n+1)
	}
	for line := range strings.Lines(b.out.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line of the log is no record: %q", line)
		}
	}
	b.start() // rebuilt from what it wrote
}
