package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
	"github.com/daypass-dev/daypass/policy"
)

// told is all that a caller can read of an answer, without what is drawn anew
// for each.
func (b *bench) told(t *testing.T, token, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.server.URL+"/v1/exchange", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := b.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	id := resp.Header.Get("X-Request-Id")
	if id == "" || !bytes.Contains(text, []byte(id)) {
		t.Fatalf("no request id in %s", text)
	}
	resp.Header.Del("Date")
	headers, err := json.Marshal(resp.Header)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(fmt.Sprintf("%d\n%s\n%s", resp.StatusCode, headers, text), id, "(request id)")
}

// rule puts rules in force, beside one that gives `other` to acme/app.
func (b *bench) rule(t *testing.T, rules string) {
	t.Helper()
	known := policy.Known{Issuers: map[string]policy.Issuer{"github": {Shared: true,
		ImmutableIDs: []string{"repository_owner_id", "repository_id"}, OwnerIDs: []string{"repository_owner_id"}}},
		Grants: map[string]broker.Grant{}}
	for _, name := range []string{"db", "other"} {
		known.Grants[name] = broker.Grant{Name: name, Kind: "jwt", Target: "jwt", MaxTTL: time.Hour}
	}
	text := `
repos:
  app: {issuer: github, name: acme/app, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - {name: other, for: [app], allow: [{grant: other}]}
` + rules
	book, err := policy.Load(fstest.MapFS{"p.yaml": {Data: []byte(text)}}, known)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	b.d.policy.Swap(book)
}

// job is a token of a job on a branch of acme/app, changed as told.
func (b *bench) job(t *testing.T, changes map[string]any) string {
	t.Helper()
	set := map[string]any{"repository": "acme/app", "repository_id": "5678", "repository_owner": "acme", "repository_owner_id": "1234",
		"ref": "refs/heads/dev", "event_name": "push"}
	maps.Copy(set, changes)
	token, err := b.ci.Token(fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: b.d.config.Audience, Set: set})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// What a stranger is told must not depend on any rule, or it could learn what
// there is, for whom, and when it ends, one question at a time.
func TestAStrangerIsToldTheSameWhateverRulesThereAre(t *testing.T) {
	b := openBench(t)
	stranger := b.job(t, map[string]any{"repository_id": "666", "repository_owner_id": "667", "repository_owner": "mallory"})
	first := ""
	for name, rules := range map[string]string{
		"none that is about it":       "",
		"one that would give, but id": `  - {name: a, issuer: github, match: {repository_owner_id: "1234", ref: refs/heads/dev}, explain: full, allow: [{grant: db}]}`,
		"one that pins half of it":    `  - {name: a, issuer: github, match: {repository_owner_id: "1", repository_id: "666"}, explain: full, allow: [{grant: db}]}`,
		"one that gave it before":     `  - {name: a, issuer: github, match: {repository_owner_id: "667"}, until: 2001-01-01, explain: full, allow: [{grant: db}]}`,
		"one that only reports":       `  - {name: a, issuer: github, mode: report, match: {repository_owner_id: "667"}, explain: full, allow: [{grant: db}]}`,
		"one that denies it":          `  - {name: a, issuer: github, match: {repository_owner_id: "667"}, deny: [db, other]}`,
		"one that denies everybody":   `  - {name: a, deny: ["*"]}`,
		"one that denies by name":     `  - {name: a, issuer: github, match: {repository_owner: mallory}, deny: [db]}`,
		"one with an expression":      `  - {name: a, deny: [db], when: 'claims.nosuch == "x"'}`,
		"one that reports a denial":   `  - {name: a, mode: report, deny: ["*"]}`,
	} {
		b.rule(t, rules)
		for _, body := range []string{
			`{"grants":[{"name":"db"}]}`, `{"grants":[{"name":"no-such-grant"}]}`, `{"grants":[{"name":"db","ttl":"1s"},{"name":"other"}]}`,
			`{"grants":[]}`, `{"dry_run":true}`, `{"grants":[{"name":"db"}],"dry_run":true}`, `{"grants":[{"name":"no-such-grant"}],"dry_run":true}`,
		} {
			got := b.told(t, stranger, body)
			if first == "" {
				first = got
			}
			if got != first || !strings.HasPrefix(got, "403") {
				t.Errorf("%s: to %s it is told\n%s\nand elsewhere\n%s", name, body, got, first)
			}
		}
	}
}

// A rule that denies is there to stay unseen: somebody who could tell it from
// no rule at all could search for what it does not cover.
func TestARuleThatDeniesCannotBeToldFromNoRuleAtAll(t *testing.T) {
	b := openBench(t)
	job := b.job(t, nil)
	bodies := []string{
		`{"grants":[{"name":"db"}]}`, `{"grants":[{"name":"db"}],"dry_run":true}`, `{"dry_run":true}`,
		`{"grants":[{"name":"db"},{"name":"other"}]}`, `{"grants":[{"name":"other"},{"name":"db","ttl":"10m"}],"dry_run":true}`,
		`{"grants":[{"name":"db"},{"name":"no-such-grant"}]}`,
	}
	b.rule(t, "")
	without := map[string]string{}
	for _, body := range bodies {
		without[body] = b.told(t, job, body)
	}
	allow := `  - {name: main, for: [app], match: {ref: refs/heads/main}, explain: full, allow: [{grant: db}]}
  - {name: any, for: [app], allow: [{grant: db, ttl: 5m}]}
`
	never := `  - {name: main, for: [app], match: {ref: refs/heads/main}, explain: full, allow: [{grant: db}]}
`
	for name, deny := range map[string]string{
		"for everybody":                `deny: ["d*"], match: {ref: refs/heads/dev}`,
		"of the grant":                 `deny: [db]`,
		"for the repository":           `for: [app], deny: [db]`,
		"on a condition":               `deny: [db], match: {ref: {not: refs/heads/main}}`,
		"on a claim that is not there": `deny: [db], match: {team: {not: ops}}`,
		"on an expression":             `deny: [db], when: 'claims.ref.startsWith("refs/heads/secret-word") || true'`,
		"on an expression that fails":  `deny: [db], when: 'claims.secret_word == 1'`,
		"by the name of the owner":     `issuer: github, match: {repository_owner: acme}, deny: [db]`,
	} {
		for _, others := range []string{allow, never} {
			b.rule(t, others+"  - {name: secret-rule, "+deny+"}\n")
			for _, body := range bodies {
				got := b.told(t, job, body)
				if got != without[body] {
					t.Errorf("%s: to %s the job is told\n%s\nand without any rule for the grant\n%s", name, body, got, without[body])
				}
				if strings.Contains(got, "secret") {
					t.Errorf("%s: the job is told of it:\n%s", name, got)
				}
			}
		}
	}
}

// TestAKnownJobIsToldWhatFailedAndNoMore holds what explanations over HTTP
// leave out.
func TestAKnownJobIsToldWhatFailedAndNoMore(t *testing.T) {
	b := openBench(t)
	b.rule(t, `  - {name: plain, for: [app], match: {ref: refs/heads/main}, when: 'claims.actor == "secret-word"', allow: [{grant: db}]}
`)
	job := b.job(t, nil)
	got := b.told(t, job, `{"grants":[{"name":"db"}],"dry_run":true}`)
	if !strings.Contains(got, `"claim":"ref","saw":"refs/heads/dev"}`) || strings.Contains(got, "refs/heads/main") || strings.Contains(got, "secret") {
		t.Errorf("told\n%s", got)
	}
	b.rule(t, `  - {name: full, for: [app], explain: full, match: {ref: refs/heads/main}, when: 'claims.actor == "secret-word"', allow: [{grant: db}]}
`)
	got = b.told(t, job, `{"grants":[{"name":"db"}]}`)
	if !strings.Contains(got, `"saw":"refs/heads/dev","wanted":"refs/heads/main"`) || strings.Contains(got, "secret") {
		t.Errorf("told\n%s", got)
	}
	got = b.told(t, b.job(t, map[string]any{"ref": "refs/heads/main"}), `{"grants":[{"name":"db"}]}`)
	if !strings.Contains(got, `"claim":"when","saw":null}`) || strings.Contains(got, "secret") {
		t.Errorf("told\n%s", got)
	}
	// None of this spent the token, and a preview names what would be given.
	b.rule(t, "")
	if got := b.told(t, job, `{"dry_run":true}`); !strings.Contains(got, `"grants":[{"name":"other","rule":"p/other","ttl":"1h","kind":"jwt","takeback":"expiry"}],"credentials":[]`) {
		t.Errorf("told\n%s", got)
	}
}

func TestATokenIsVerifiedBeforeItIsExplained(t *testing.T) {
	b := openBench(t)
	config := b.d.config.Node.File()
	file := filepath.Join(t.TempDir(), "token")
	explain := func(token string, more ...string) (string, int) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		p := process{env: os.LookupEnv, stdout: &out, stderr: &out}
		code := run(t.Context(), append([]string{"policy", "explain", "--config", config, "--token-file", file, "--grant", "web-identity"}, more...), p)
		if strings.Contains(out.String(), token[:40]) {
			t.Errorf("the token is printed:\n%s", out.String())
		}
		return out.String(), code
	}
	sound := b.job(t, map[string]any{"ref": "refs/heads/main"})
	if out, code := explain(sound); code != exitOK || !strings.Contains(out, "ALLOWED  web-identity, to a job of issuer github") || strings.Contains(out, "NOT verified") {
		t.Errorf("a sound token: exit code %d\n%s", code, out)
	}
	if out, code := explain(b.job(t, nil)); code != exitFailed || !strings.Contains(out, "NO   ref") {
		t.Errorf("a token that policy denies: exit code %d\n%s", code, out)
	}
	forged := sound[:len(sound)-8] + "AAAAAAAA"
	if out, code := explain(forged); code != exitUsage || strings.Contains(out, "ALLOWED") {
		t.Errorf("a forged token: exit code %d\n%s", code, out)
	}
	if out, code := explain(forged, "--unverified"); code != exitOK || !strings.Contains(out, "NOT verified") {
		t.Errorf("a forged token that is to be believed: exit code %d\n%s", code, out)
	}
	if out, code := explain(sound, "--issuer", "gitlab"); code != exitUsage || !strings.Contains(out, "the token is of issuer github") {
		t.Errorf("another issuer than is said: exit code %d\n%s", code, out)
	}
}

// What a dry run says of a grant is what an exchange then gives, and asking
// spends nothing.
func TestADryRunListsWhatAnExchangeThenGives(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	b.fresh() // from here on tokens are taken at once
	token := r.token(b, nil)
	var listed []map[string]any
	for range 3 {
		status, body := b.call(http.MethodPost, "/v1/exchange", token, map[string]any{"dry_run": true})
		if status != http.StatusOK || body["session"] != nil {
			t.Fatalf("%d %v", status, body)
		}
		listed = nil
		for _, g := range body["grants"].([]any) {
			listed = append(listed, g.(map[string]any))
		}
	}
	if len(listed) != 2 || listed[0]["name"] != "orders-db" || listed[1]["name"] != "web-identity" {
		t.Fatalf("listed %v", listed)
	}
	var wants []map[string]any
	for _, g := range listed {
		wants = append(wants, map[string]any{"name": g["name"]})
	}
	before := len(r.users())
	status, a := b.exchange(token, wants...)
	if status != http.StatusOK {
		t.Fatalf("the token was spent by asking: %d %v", status, a.body)
	}
	for i, g := range listed {
		c := a.credential(i)
		life, err := time.ParseDuration(g["ttl"].(string))
		if err != nil {
			t.Fatal(err)
		}
		lives := mustTime(t, c["expires_at"]).Sub(mustTime(t, c["issued_at"]))
		if c["grant"] != g["name"] || c["kind"] != g["kind"] || c["takeback"] != g["takeback"] || g["takeback"] == nil || lives > life || lives < life-time.Minute {
			t.Errorf("listed %v, given %v for %s", g, c, lives)
		}
	}
	if after := len(r.users()); after != before+1 {
		t.Errorf("%d users were made, want 1", after-before)
	}
}
