package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

func TestATokenOfferedToTwoBrokersAtOnceBuysOneExchange(t *testing.T) {
	const tokens, offers = 200, 8
	r := newRig(t)
	r.withRedis()
	brokers := []*broker1{r.broker("one", "redis"), r.broker("two", "redis")}
	brokers[0].fresh()
	brokers[1].fresh()

	var issued, reused, other atomic.Int64
	var first sync.Map // what an unexpected answer said
	slots := make(chan struct{}, 64)
	var all sync.WaitGroup
	for range tokens {
		token := r.token(brokers[0], nil)
		var got atomic.Int64
		for offer := range offers {
			all.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				status, a := brokers[offer%2].exchange(token)
				if status == 0 { // it was not heard, or the sums below will tell
					status, a = brokers[offer%2].exchange(token)
				}
				switch {
				case status == http.StatusOK:
					issued.Add(1)
					if got.Add(1) > 1 {
						t.Error("one token bought two exchanges")
					}
				case status == http.StatusConflict && a.code() == "token_reused":
					reused.Add(1)
				default:
					other.Add(1)
					first.Store(fmt.Sprint(status), a.body)
				}
			})
		}
	}
	all.Wait()
	first.Range(func(status, body any) bool { t.Errorf("unexpected answer: %v %v", status, body); return true })
	if issued.Load() != tokens || reused.Load() != tokens*(offers-1) || other.Load() != 0 {
		t.Errorf("issued %d, reused %d, other %d; want %d, %d, 0", issued.Load(), reused.Load(), other.Load(), tokens, tokens*(offers-1))
	}
	if users := r.users(); len(users) != tokens+2 {
		t.Errorf("PostgreSQL has %d users of ours, want %d", len(users), tokens+2)
	}
}

func TestWithoutRedisNothingIsMintedAndAfterItOldTokensAreRefused(t *testing.T) {
	r := newRig(t)
	r.withRedis()
	b := r.broker("one", "redis")
	_, a := b.fresh()
	if status, _ := b.call(http.MethodDelete, "/v1/session", a.session(), nil); status != http.StatusOK {
		t.Fatalf("give back: %d", status)
	}

	if err := r.redis.Stop(); err != nil {
		t.Fatal(err)
	}
	old := r.token(b, nil)
	for range 5 {
		status, a := b.exchange(old)
		if status != http.StatusServiceUnavailable || a.code() != "unavailable" {
			t.Errorf("with Redis stopped: %d %v, want 503 unavailable", status, a.body)
		}
	}
	if status, _ := b.call(http.MethodGet, "/readyz", "", nil); status != http.StatusServiceUnavailable {
		t.Errorf("with Redis stopped: /readyz says %d", status)
	}
	if users := r.users(); len(users) != 0 {
		t.Errorf("with Redis stopped, PostgreSQL has users of ours: %v", users)
	}

	if err := r.redis.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	b.fresh()
	t.Logf("a fresh token worked %.1f s after Redis was started", time.Since(began).Seconds())
	status, a := b.exchange(old)
	if status == http.StatusOK || (a.code() != "token_stale" && a.code() != "token_reused") {
		t.Errorf("a token from before the stop: %d %v", status, a.body)
	}
}

func TestAKilledBrokerLeavesNothingThatOutlivesItsExpiry(t *testing.T) {
	const underWay = 50
	r := newRig(t)
	b := r.broker("one", "embedded")
	b.fresh()

	tokens := make([]string, underWay)
	for i := range tokens {
		tokens[i] = r.token(b, nil)
	}
	answers := make([]answer, underWay)
	statuses := make([]int, underWay)
	var all sync.WaitGroup
	short := map[string]any{"name": "orders-db", "ttl": "8s"}
	for i, token := range tokens {
		all.Go(func() { statuses[i], answers[i] = b.exchange(token, short) })
	}
	r.eventually(20*time.Second, func() error { // some are made, some are under way
		if len(r.users()) < 5 {
			return fmt.Errorf("too few users to kill in the middle of")
		}
		return nil
	})
	b.kill()
	all.Wait()
	lastExpiry := time.Now().Add(8 * time.Second)

	before := usedBefore(t, b)
	b.start()
	for i, token := range tokens {
		status, a := b.exchange(token, short)
		switch {
		case statuses[i] == http.StatusOK && a.code() != "token_reused":
			t.Errorf("a token that had bought an exchange before the kill: %d %v", status, a.body)
		case status == http.StatusOK && before[tokenID(t, b, token)]:
			t.Error("a token whose intent was journalled before the kill was accepted again")
		}
		if status == http.StatusOK {
			lastExpiry = time.Now().Add(8 * time.Second)
		}
	}

	time.Sleep(time.Until(lastExpiry))
	r.eventually(30*time.Second, func() error {
		var overdue []string
		for _, user := range r.users() {
			if _, expires, ok := broker.ParseHandle("test", user); ok && time.Now().After(expires) {
				overdue = append(overdue, user)
			}
		}
		if len(overdue) > 0 {
			return fmt.Errorf("overdue users: %v", overdue)
		}
		return nil
	})
	if out, code := r.command(nil, "daypassd", "audit", "verify", b.data+"/journal"); code != 0 {
		t.Errorf("the journal does not verify: %s", out)
	}
}

// usedBefore are the tokens that have an intent in a broker's journal: those
// were used, whatever the client heard.
func usedBefore(t *testing.T, b *broker1) map[broker.TokenID]bool {
	t.Helper()
	used := map[broker.TokenID]bool{}
	for e, err := range audit.Read(b.data + "/journal") {
		if err != nil {
			t.Logf("the journal after the kill: %v", err) // a torn tail is what a kill may leave
			break
		}
		if e.Event == broker.EventIntent {
			used[e.Token] = true
		}
	}
	t.Logf("%d intents were journalled before the kill", len(used))
	return used
}

// tokenID is what replay protection remembers of a token.
func tokenID(t *testing.T, b *broker1, token string) broker.TokenID {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		ID string `json:"jti"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.ID == "" {
		t.Fatalf("no jti: %v", err)
	}
	return broker.NewTokenID(b.rig.ci.URL(fakeissuer.GitHub), claims.ID)
}

func TestWhatAMigrationMadeOutlivesItsUser(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	_, a := b.fresh()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, a.field(0, "url"))
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"CREATE TABLE orders (id int primary key)", "INSERT INTO orders VALUES (1), (2)"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	if status, _ := b.call(http.MethodDelete, "/v1/session", a.session(), nil); status != http.StatusOK {
		t.Fatalf("give back: %d", status)
	}
	if err := conn.Ping(ctx); err == nil {
		t.Error("the session of the user that was given back still lives")
	}
	if users := r.users(); len(users) != 0 {
		t.Errorf("users of ours are left: %v", users)
	}
	if got := r.sql("SELECT tableowner || ' ' || (SELECT count(*) FROM orders) FROM pg_tables WHERE tablename = 'orders'"); len(got) != 1 || got[0] != "orders_rw 2" {
		t.Errorf("the table: %v, want it owned by orders_rw with 2 rows", got)
	}
	if _, err := pgx.Connect(ctx, a.field(0, "url")); err == nil {
		t.Error("the user that was given back can still log in")
	}
}

func TestWhatIsRefusedTouchesNoTargetAndCanBeUsedAgain(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	_, a := b.fresh()
	b.call(http.MethodDelete, "/v1/session", a.session(), nil)
	made := func() int { return strings.Count(readAll(t, r.pg.LogPath()), "CREATE ROLE \"dp_") }
	before := made()
	if before == 0 {
		t.Fatal("PostgreSQL's log does not show the user that was made")
	}

	token := r.token(b, nil)
	for name, request := range map[string]struct {
		token string
		body  any
		code  string
	}{
		"a pull request":          {r.token(b, map[string]any{"event_name": "pull_request"}), grantBody("orders-db"), "denied"},
		"a stranger":              {r.token(b, map[string]any{"repository_id": "666", "repository_owner_id": "667"}), grantBody("orders-db"), "denied"},
		"a grant nobody defined":  {token, grantBody("no-such-grant"), "denied"},
		"a grant twice":           {token, map[string]any{"grants": []any{map[string]any{"name": "orders-db"}, map[string]any{"name": "orders-db"}}}, "bad_request"},
		"a member nobody defined": {token, map[string]any{"grants": []any{}, "role": "admin"}, "bad_request"},
		"a ttl that is no time":   {token, map[string]any{"grants": []any{map[string]any{"name": "orders-db", "ttl": "soon"}}}, "bad_request"},
		"a dry run":               {token, map[string]any{"grants": []any{map[string]any{"name": "orders-db"}}, "dry_run": true}, ""},
	} {
		for range 2 { // the second time shows that the first did not use the token
			status, body := b.call(http.MethodPost, "/v1/exchange", request.token, request.body)
			if got := (answer{body}).code(); got != request.code {
				t.Errorf("%s: %d %v, want %q", name, status, body, request.code)
			}
		}
	}
	if after := made(); after != before {
		t.Errorf("PostgreSQL was told to make %d users", after-before)
	}
	if users := r.users(); len(users) != 0 {
		t.Errorf("users of ours: %v", users)
	}
	if status, a := b.exchange(token); status != http.StatusOK {
		t.Errorf("the token that was refused for what was asked: %d %v, want it usable", status, a.body)
	}
}

func grantBody(name string) any {
	return map[string]any{"grants": []any{map[string]any{"name": name}}}
}

func TestADeniedJobIsToldWhichClaimFailedAndAStrangerIsNot(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	b.fresh()
	_, a := b.exchange(r.token(b, map[string]any{"event_name": "pull_request"}))
	if got := fmt.Sprint(a.body["denials"]); !strings.Contains(got, "event_name") || !strings.Contains(got, "pull_request") || strings.Contains(got, "wanted") {
		t.Errorf("denials: %s", got)
	}
	_, a = b.exchange(r.token(b, map[string]any{"repository_id": "666", "repository_owner_id": "667"}))
	if a.body["denials"] != nil || a.code() != "denied" {
		t.Errorf("a stranger was told %v", a.body)
	}
}

func TestATokenUsedBeforeARestartIsRefusedAfterIt(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	used, a := b.fresh()
	b.stop()
	b.start()
	if status, again := b.exchange(used); again.code() != "token_reused" {
		t.Errorf("a used token after a restart: %d %v", status, again.body)
	}
	// The job session outlives the restart: more, and give back.
	status, more := b.call(http.MethodPost, "/v1/credentials", a.session(), grantBody("web-identity"))
	if status != http.StatusOK {
		t.Errorf("more after a restart: %d %v", status, more)
	}
	if status, body := b.call(http.MethodDelete, "/v1/session", a.session(), nil); status != http.StatusOK {
		t.Errorf("give back after a restart: %d %v", status, body)
	}
	if users := r.users(); len(users) != 0 {
		t.Errorf("users of ours are left: %v", users)
	}
	// A wiped data directory remembers nothing, so it refuses what may have been used.
	token := r.token(b, nil)
	if status, a := b.exchange(token); status != http.StatusOK {
		t.Fatalf("a fresh token: %d %v", status, a.body)
	}
	b.stop()
	removeAll(t, b.data)
	b.start()
	if status, a := b.exchange(token); a.code() != "token_stale" {
		t.Errorf("a used token after the data directory was lost: %d %v, want token_stale", status, a.body)
	}
}

func TestASecondBrokerOnOneDataDirectoryIsRefused(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	second := strings.NewReplacer(b.url, "http://127.0.0.1:1", strings.TrimPrefix(b.url, "http://"), "127.0.0.1:1",
		strings.TrimPrefix(b.admin, "http://"), "127.0.0.1:2").Replace(readAll(t, b.config))
	config := r.write("second.yaml", second)
	out, code := r.command([]string{"ORDERS_ADMIN_URL=" + r.pg.AdminURL("postgres")}, "daypassd", "serve", "--config", config)
	if code != 1 || !strings.Contains(out, "in use") || !strings.Contains(out, b.data) {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestTheOperatorListsAndRevokesLeases(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	_, a := b.fresh()
	lease := a.credential(0)["lease_id"].(string)
	out, code := r.command(nil, "daypassd", "lease", "list", "--config", b.config)
	if code != 0 || !strings.Contains(out, lease) || !strings.Contains(out, "orders-db") || !strings.Contains(out, "acme/shop") {
		t.Fatalf("lease list: exit %d: %s", code, out)
	}
	if out, code = r.command(nil, "daypassd", "lease", "revoke", "--config", b.config, lease); code != 0 || !strings.Contains(out, "revoked") {
		t.Fatalf("lease revoke: exit %d: %s", code, out)
	}
	if users := r.users(); len(users) != 0 {
		t.Errorf("users of ours are left: %v", users)
	}
	if out, code = r.command(nil, "daypassd", "lease", "revoke", "--config", b.config, lease); code != 1 || !strings.Contains(out, "no such lease") {
		t.Errorf("revoking again: exit %d: %s", code, out)
	}
	out, code = r.command(nil, "daypassd", "lease", "list", "--config", b.config, "--output", "json")
	if code != 0 || strings.Contains(out, lease) {
		t.Errorf("lease list: exit %d: %s", code, out)
	}
}

func TestATargetThatIsDownIsRidOfWhatIsOverdueWhenItIsBack(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	b.fresh(map[string]any{"name": "orders-db", "ttl": "5s"})
	if err := r.pg.Stop(); err != nil {
		t.Fatal(err)
	}
	status, a := b.exchange(r.token(b, nil))
	if status != http.StatusBadGateway || a.code() != "mint_failed" || a.session() == "" {
		t.Errorf("with the target down: %d %v, want 502 with the job session", status, a.body)
	}
	time.Sleep(12 * time.Second) // long enough for revocation to have failed
	if err := r.pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventually(30*time.Second, func() error {
		if users := r.users(); len(users) > 0 {
			return fmt.Errorf("users of ours are left: %v", users)
		}
		return nil
	})
	status, more := b.call(http.MethodPost, "/v1/credentials", a.session(), grantBody("orders-db"))
	if status != http.StatusOK {
		t.Errorf("the job session after the target came back: %d %v", status, more)
	}
}

func TestMetricsSayWhatHappened(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	token, _ := b.fresh()
	b.exchange(token)
	if status, _ := b.call(http.MethodGet, "/metrics", "", nil); status != http.StatusUnauthorized {
		t.Errorf("/metrics without the admin token: %d", status)
	}
	status, body := b.call(http.MethodGet, "/metrics", strings.TrimSpace(readAll(t, b.data+"/admin.token")), nil)
	text, _ := body["text"].(string)
	if status != http.StatusOK {
		t.Fatalf("/metrics: %d %v", status, body)
	}
	for _, want := range []string{
		`daypass_exchanges_total{issuer="github",outcome="issued"} 1`, `outcome="token_reused"} 1`,
		`daypass_mint_seconds_count{kind="postgres",outcome="ok"} 1`, "daypass_live_leases 1", "daypass_sweep_lag_seconds 0", "daypass_journal_fsync_seconds_count",
	} {
		if want == "daypass_live_leases 1" {
			r.eventually(15*time.Second, func() error {
				_, body := b.call(http.MethodGet, "/metrics", strings.TrimSpace(readAll(t, b.data+"/admin.token")), nil)
				if text, _ := body["text"].(string); !strings.Contains(text, want) {
					return fmt.Errorf("no %s", want)
				}
				return nil
			})
		} else if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestPolicyIsReloadedOnHangupAndAFaultyOneIsNot(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	b.fresh()
	r.write("policies/shop.yaml", "review_by: 2026-01-31\n"+strings.Replace(rigPolicy, "refs/heads/main", "refs/heads/release", 1))
	hangup(t, b)
	r.eventually(10*time.Second, func() error {
		if status, a := b.exchange(r.token(b, nil)); a.code() != "denied" {
			return fmt.Errorf("main is not denied yet: %d", status)
		}
		return nil
	})
	if !strings.Contains(b.out.String(), "2026-01-31") {
		t.Error("the log says nothing of a file that is past its review_by")
	}
	r.write("policies/shop.yaml", "rules: [")
	hangup(t, b)
	r.eventually(10*time.Second, func() error {
		if !strings.Contains(b.out.String(), "reload failed") {
			return fmt.Errorf("the log says nothing of the fault")
		}
		return nil
	})
	token := r.token(b, map[string]any{"ref": "refs/heads/release"})
	if status, a := b.exchange(token); status != http.StatusOK {
		t.Errorf("under the policy that stayed: %d %v", status, a.body)
	}
}

func TestAForeignHandleIsNeverTouched(t *testing.T) {
	r := newRig(t)
	foreign := "dp_prod_" + strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 36) + "_aaaaaaaaaaaa"
	r.sql(`CREATE ROLE ` + pgx.Identifier{foreign}.Sanitize())
	ours := "dp_test_" + strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 36) + "_aaaaaaaaaaaa"
	r.sql(`CREATE ROLE ` + pgx.Identifier{ours}.Sanitize())
	r.sql(`CREATE ROLE "` + ours + `x"`)
	r.broker("one", "embedded")
	r.eventually(15*time.Second, func() error {
		for _, user := range r.users() {
			if user == ours {
				return fmt.Errorf("an overdue user without a lease is still there")
			}
		}
		return nil
	})
	if users := r.users(); len(users) != 2 {
		t.Errorf("left are %v, want only the two that are not ours", users)
	}
}
