package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/audit"
)

// tell sends one command to Redis, as another client of it could, and returns
// the first line of the answer.
func (r *rig) tellRedis(args ...string) string {
	r.t.Helper()
	c, err := net.DialTimeout("tcp", r.redis.Addr(), 5*time.Second)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := c.Write([]byte(b.String())); err != nil {
		r.t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		r.t.Fatal(err)
	}
	if line = strings.TrimSpace(line); strings.HasPrefix(line, "-") {
		r.t.Fatalf("redis: %v: %s", args, line)
	}
	return line
}

func sessionKey(token string) string {
	return "dp:{test}:session:" + string(broker.SessionIDOf(broker.NewSecret(token)))
}

func TestWhoCanWriteToRedisCannotBecomeAnotherJob(t *testing.T) {
	r := newRig(t)
	r.withRedis()
	b := r.broker("one", "redis")
	_, a := b.fresh()
	const mine = "dps_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" // a session token of the attacker's own making
	r.tellRedis("COPY", sessionKey(a.session()), sessionKey(mine))
	for _, call := range []struct {
		method, path string
		body         any
	}{{http.MethodPost, "/v1/credentials", grantBody("orders-db")}, {http.MethodGet, "/v1/session", nil}, {http.MethodDelete, "/v1/session", nil}} {
		if status, body := b.call(call.method, call.path, mine, call.body); status != http.StatusServiceUnavailable {
			t.Errorf("%s %s with a session that was copied in Redis: %d %v", call.method, call.path, status, body)
		}
	}
	// A lease under another name, and one that was moved away.
	lease, _ := a.credential(0)["lease_id"].(string)
	forged := "dpl_" + strings.Repeat("a", 26)
	r.tellRedis("COPY", "dp:{test}:lease:"+lease, "dp:{test}:lease:"+forged)
	if status, body := b.call(http.MethodDelete, "/v1/leases/"+forged, a.session(), nil); status != http.StatusServiceUnavailable {
		t.Errorf("a lease that was copied in Redis: %d %v", status, body)
	}
	if users := r.users(); len(users) != 1 {
		t.Errorf("PostgreSQL has %v, want the one user", users)
	}
	if status, body := b.call(http.MethodDelete, "/v1/session", a.session(), nil); status != http.StatusOK {
		t.Errorf("the real session: %d %v", status, body)
	}
	if users := r.users(); len(users) != 0 {
		t.Errorf("PostgreSQL still has %v", users)
	}
}

// forged reads a counter of the metrics page.
func (b *broker1) forged(store string) (n int) {
	b.rig.t.Helper()
	_, body := b.call(http.MethodGet, "/metrics", strings.TrimSpace(readAll(b.rig.t, b.data+"/admin.token")), nil)
	text, _ := body["text"].(string)
	_, after, found := strings.Cut(text, fmt.Sprintf("\ndaypass_forged_records_total{store=%q} ", store))
	if _, err := fmt.Sscan(after, &n); !found || err != nil {
		b.rig.t.Fatalf("the metrics do not say how many records of %s were forged: %v\n%s", store, err, text)
	}
	return n
}

func TestForgedRecordsAreOnTheMetricsPageAndInTheLogOnceAMinute(t *testing.T) {
	r := newRig(t)
	r.withRedis()
	b := r.broker("one", "redis")
	token, a := b.fresh()
	if n, m := b.forged("replay"), b.forged("leases"); n != 0 || m != 0 {
		t.Fatalf("before anybody forged anything: %d and %d", n, m)
	}
	for i := range 5 { // sessions that lie where no broker put them
		mine := fmt.Sprintf("dps_%043d", i)
		r.tellRedis("COPY", sessionKey(a.session()), sessionKey(mine))
		if status, body := b.call(http.MethodGet, "/v1/session", mine, nil); status != http.StatusServiceUnavailable {
			t.Errorf("a session that was copied: %d %v", status, body)
		}
	}
	var used string
	for id, c := range r.usedTokens(b) {
		if c.Session == broker.SessionIDOf(broker.NewSecret(a.session())) {
			used = "dp:{test}:used:" + base64.RawURLEncoding.EncodeToString(id[:])
		}
	}
	r.tellRedis("SET", used, "1:used:::", "XX")
	if status, a := b.exchange(token); status != http.StatusServiceUnavailable {
		t.Errorf("a used token whose mark was forged: %d %v", status, a.body)
	}
	if n, m := b.forged("replay"), b.forged("leases"); n != 1 || m != 5 {
		t.Errorf("%d and %d forged records are counted, want 1 and 5", n, m)
	}
	if n := strings.Count(b.out.String(), "a record in redis is refused"); n != 2 {
		t.Errorf("%d lines tell of it, want one for each store\n%s", n, b.out)
	}
}

// usedTokens are the tokens that a broker's journal says were used.
func (r *rig) usedTokens(b *broker1) map[broker.TokenID]broker.Claim {
	r.t.Helper()
	var failed error
	used := map[broker.TokenID]broker.Claim{}
	for c := range usedTokens(filepath.Join(b.data, "journal"), &failed) {
		if used[c.Token].Session == "" { // the intent tells it, what follows does not
			used[c.Token] = c
		}
	}
	if failed != nil {
		r.t.Fatal(failed)
	}
	return used
}

func TestKeysOfTheWrongTypeStopIssuingAndNothingElse(t *testing.T) {
	r := newRig(t)
	r.withRedis()
	b := r.broker("one", "redis")
	b.fresh(map[string]any{"name": "orders-db", "ttl": "6s"})
	wrong := func(key string) {
		r.tellRedis("DEL", "dp:{test}:"+key)
		r.tellRedis("SET", "dp:{test}:"+key, "not what it was")
	}
	for _, key := range []string{"leases", "due:orders-pg", "grant:orders-db", "place:" + placeKey("github/5678"), "fence"} {
		wrong(key)
		if status, a := b.exchange(r.token(b, nil)); status == http.StatusOK || status == http.StatusInternalServerError {
			t.Errorf("%s: %d %v", key, status, a.body)
		}
		r.tellRedis("DEL", "dp:{test}:"+key)
	}
	wrong("leases")
	wrong("due:orders-pg")
	r.eventually(45*time.Second, func() error { // the target knows what is overdue
		if users := r.users(); len(users) > 0 {
			return fmt.Errorf("PostgreSQL still has %v", users)
		}
		return nil
	})
}

func TestARedisThatIsFlushedInTheMidstOfExchangesForgetsNothing(t *testing.T) {
	const rounds, each = 3, 30
	r := newRig(t)
	r.withRedis()
	one, two := r.broker("one", "redis"), r.broker("two", "redis")
	one.fresh()
	two.fresh()
	var tokens []string
	var mu sync.Mutex
	bought := map[string]int{}
	for range rounds {
		var all sync.WaitGroup
		for i := range each {
			token := r.token(one, nil)
			tokens = append(tokens, token)
			for range 2 {
				all.Go(func() {
					if status, _ := []*broker1{one, two}[i%2].exchange(token, map[string]any{"name": "orders-db", "ttl": "20s"}); status == http.StatusOK {
						mu.Lock()
						bought[token]++
						mu.Unlock()
					}
				})
			}
		}
		time.Sleep(60 * time.Millisecond)
		r.tellRedis("FLUSHALL")
		all.Wait()
	}
	r.eventually(20*time.Second, func() error {
		if status, _ := one.call(http.MethodGet, "/readyz", "", nil); status != http.StatusOK {
			return fmt.Errorf("not ready")
		}
		return nil
	})
	for _, token := range tokens { // all of them are from before the last flush
		for _, b := range []*broker1{one, two} {
			if status, a := b.exchange(token); status == http.StatusOK {
				t.Errorf("a token from before the flush bought an exchange: %v", a.body["request_id"])
				bought[token]++
			}
		}
	}
	n := 0
	for _, times := range bought {
		n += times
		if times > 1 {
			t.Errorf("one token bought %d exchanges", times)
		}
	}
	t.Logf("%d of %d exchanges were made", n, len(tokens))
	r.eventually(60*time.Second, func() error {
		for _, user := range r.users() {
			if _, expires, ok := broker.ParseHandle("test", user); ok && time.Until(expires) < time.Minute {
				return fmt.Errorf("PostgreSQL still has %s", user)
			}
		}
		return nil
	})
}

func TestABrokerThatIsStoppedInTheMidstOfExchangesLosesNothing(t *testing.T) {
	for _, state := range []string{"embedded", "redis"} {
		t.Run(state, func(t *testing.T) {
			const underWay = 50
			r := newRig(t)
			if state == "redis" {
				r.withRedis()
			}
			b := r.broker("one", state)
			b.fresh()
			statuses, answers := make([]int, underWay), make([]answer, underWay)
			tokens := make([]string, underWay)
			for i := range tokens {
				tokens[i] = r.token(b, nil)
			}
			var all sync.WaitGroup
			for i := range underWay {
				all.Go(func() { statuses[i], answers[i] = b.exchange(tokens[i]) })
			}
			r.eventually(20*time.Second, func() error {
				if len(r.users()) < 5 {
					return fmt.Errorf("too few users to stop in the midst of")
				}
				return nil
			})
			b.stop() // it must end in order
			all.Wait()
			delivered := map[string]bool{}
			for i, status := range statuses {
				switch {
				case status == http.StatusOK:
					delivered[answers[i].field(0, "username")] = true
				case status != 0 && status < 500:
					t.Errorf("while stopping: %d %v", status, answers[i].body)
				}
			}
			issued := map[string]bool{}
			for e, err := range audit.Read(filepath.Join(b.data, "journal")) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Event == broker.EventIssued {
					for _, l := range e.Leases {
						issued[string(l.Handle)] = true
					}
				}
			}
			for user := range delivered {
				if !issued[user] {
					t.Errorf("%s was delivered, and the journal does not say so", user)
				}
			}
			t.Logf("%d of %d were delivered", len(delivered), underWay)
			if len(delivered) == 0 || len(r.users()) != len(delivered)+1 {
				t.Errorf("%d users are left, %d were delivered beside the first", len(r.users()), len(delivered))
			}
			b.start()
			for i, status := range statuses {
				if status == http.StatusOK {
					if s, body := b.call(http.MethodDelete, "/v1/session", answers[i].session(), nil); s != http.StatusOK {
						t.Errorf("give back after the restart: %d %v", s, body)
					}
					if _, a := b.exchange(tokens[i]); a.code() != "token_reused" {
						t.Errorf("a used token after the restart: %v", a.body)
					}
				}
			}
			if users := r.users(); len(users) != 1 {
				t.Errorf("PostgreSQL still has %d users", len(users))
			}
		})
	}
}

// TestNothingIsOpenToOthersWhateverTheUmask looks at every file that a broker
// made.
func TestNothingIsOpenToOthersWhateverTheUmask(t *testing.T) {
	r := newRig(t)
	b := r.under("umask 0; exec", "one", "embedded")
	b.fresh()
	for _, dir := range []string{b.data, filepath.Join(r.dir, "keys")} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has the mode %04o", path, info.Mode().Perm())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// placeKey is how the index of a place is named.
func placeKey(place string) string {
	sum := sha256.Sum256([]byte(place))
	return hex.EncodeToString(sum[:16])
}
