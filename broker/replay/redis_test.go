package replay_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/replay"
)

func startRedis(t *testing.T, args ...string) *servers.Redis {
	t.Helper()
	r, err := servers.StartRedis(t.Context(), servers.RedisConfig{Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// admin is an operator's connection to a server.
func admin(t *testing.T, server *servers.Redis) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: server.Addr(), Protocol: 2})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func do(t *testing.T, c *redis.Client, args ...any) any {
	t.Helper()
	v, err := c.Do(t.Context(), args...).Result()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return v
}

func config(url string) replay.RedisConfig {
	return replay.RedisConfig{URL: url, Deployment: "test", UnsafeNoPersistence: true,
		Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, c replay.RedisConfig) *replay.Redis {
	t.Helper()
	r, err := replay.NewRedis(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// serve opens a store whose probes run until the test ends.
func serve(t *testing.T, c replay.RedisConfig) *replay.Redis {
	t.Helper()
	r := open(t, c)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	return r
}

const (
	patience = 20 * time.Second
	maxAhead = 3 * time.Second // a token's iat may lie so far in the future
)

// TestMain lets more tests run at once than there are processors: they spend
// their time waiting for fences.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// eventually waits until ok returns nil.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// fresh is the claim of a token issued as far ahead as is let pass: that saves
// waiting, and makes the harder attack of it where it is tried again.
func fresh() broker.Claim { return brokertest.NewClaim(time.Now().Add(maxAhead)) }

// claimFresh waits until a fresh token is accepted, and returns it.
func claimFresh(t *testing.T, r broker.Replay) broker.Claim {
	t.Helper()
	var c broker.Claim
	eventually(t, "a fresh token is not accepted", func() error {
		c = fresh()
		return r.Claim(t.Context(), c)
	})
	return c
}

func wantCode(t *testing.T, err error, code broker.Code) {
	t.Helper()
	if e, ok := errors.AsType[*broker.Error](err); !ok || e.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestRedisKeepsTheContract(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	a, b := serve(t, config(server.URL())), serve(t, config(server.URL()))
	for _, r := range []broker.Replay{a, b} {
		eventually(t, "a token issued now is not accepted", func() error {
			return r.Claim(t.Context(), brokertest.NewClaim(time.Now()))
		})
	}
	eventually(t, "not ready", func() error { return errors.Join(a.Ready(t.Context()), b.Ready(t.Context())) })
	brokertest.TestReplay(t, func(*testing.T) (broker.Replay, broker.Replay) { return a, b })
}

func TestAFreshFenceRefusesEverythingUntilItIsConfirmed(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := open(t, config(server.URL()))
	c := brokertest.NewClaim(time.Now().Add(2 * time.Second))
	wantCode(t, r.Claim(t.Context(), c), broker.Unavailable) // not looked at yet
	for range 3 {                                            // in quick succession: no life has lasted
		if err := r.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := r.Claim(t.Context(), c)
		wantCode(t, err, broker.Unavailable)
		if e, ok := errors.AsType[*broker.Error](err); ok && e.RetryAfter != time.Second {
			t.Errorf("retry after %s", e.RetryAfter)
		}
		if r.Ready(t.Context()) == nil {
			t.Error("ready with an unconfirmed fence")
		}
	}
	time.Sleep(time.Second)
	if err := r.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Ready(t.Context()); err != nil {
		t.Errorf("not ready after the fence was confirmed: %v", err)
	}
	err := r.Claim(t.Context(), brokertest.NewClaim(time.Now()))
	wantCode(t, err, broker.TokenStale)
	if e, ok := errors.AsType[*broker.Error](err); ok && (e.RetryAfter < time.Second || e.RetryAfter > 7*time.Second) {
		t.Errorf("retry after %s", e.RetryAfter)
	}
}

func TestAFlushMakesEveryOlderTokenStale(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := serve(t, config(server.URL()))
	used := claimFresh(t, r)
	unused := fresh()
	do(t, admin(t, server), "FLUSHALL")
	eventually(t, "the used token is not stale", func() error { return stillStale(t, r, used) })
	wantCode(t, r.Claim(t.Context(), unused), broker.TokenStale) // nobody can tell it from a used one
	claimFresh(t, r)
	wantCode(t, r.Claim(t.Context(), used), broker.TokenStale)
}

// stillStale fails the test if the token passes, and is nil once it is stale.
func stillStale(t *testing.T, r broker.Replay, c broker.Claim) error {
	t.Helper()
	err := r.Claim(t.Context(), c)
	switch broker.CodeOf(err) {
	case broker.TokenStale:
		return nil
	case broker.Unavailable, broker.TokenReused:
		return err
	}
	t.Fatalf("a used token: %v", err)
	return nil
}

// The attack: an iat that is ahead of Redis survives a fence that compares
// with the moment of the flush.
func TestATokenIssuedAheadDoesNotSurviveAFlush(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := serve(t, config(server.URL()))
	claimFresh(t, r)
	used := fresh()
	if err := r.Claim(t.Context(), used); err != nil {
		t.Fatal(err)
	}
	do(t, admin(t, server), "FLUSHALL")
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := r.Claim(t.Context(), used); err == nil {
			t.Fatal("a used token passed a second time")
		}
	}
	wantCode(t, r.Claim(t.Context(), used), broker.TokenStale)
	claimFresh(t, r)
}

func TestARestartWithoutPersistenceMakesUsedTokensStale(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := serve(t, config(server.URL()))
	used := claimFresh(t, r)
	for _, end := range []func(*servers.Redis) error{crash, stop} {
		if err := end(server); err != nil {
			t.Fatal(err)
		}
		wantCode(t, r.Claim(t.Context(), used), broker.Unavailable)
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the used token is not stale", func() error { return stillStale(t, r, used) })
	}
	claimFresh(t, r)
}

func crash(r *servers.Redis) error { return r.Kill() }
func stop(r *servers.Redis) error  { return r.Stop() }

func TestAKilledServerWithAnAppendOnlyFileIsFencedToo(t *testing.T) {
	t.Parallel()
	server := startRedis(t, "--appendonly", "yes")
	c := config(server.URL())
	c.UnsafeNoPersistence = false
	r := serve(t, c)
	used := claimFresh(t, r)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the used token is not stale", func() error { return stillStale(t, r, used) })
	claimFresh(t, r)
}

func TestAFrozenServerIsUnavailableWithinTheTimeout(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	c := config(server.URL())
	c.Timeout = 500 * time.Millisecond
	r := serve(t, c)
	claimFresh(t, r)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	token := fresh()
	begun := time.Now()
	wantCode(t, r.Claim(t.Context(), token), broker.Unavailable)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the answer took %s with a timeout of %s", took, c.Timeout)
	}
	eventually(t, "still ready", func() error {
		if r.Ready(t.Context()) == nil {
			return errors.New("ready with a frozen server")
		}
		return nil
	})
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not ready again", func() error { return r.Ready(t.Context()) })
	// The claim that timed out may lie in the server's socket, and land now:
	// the token must not pass twice.
	passed := 0
	for range 3 {
		if err := r.Claim(t.Context(), token); err == nil {
			passed++
		}
	}
	if passed > 1 {
		t.Errorf("a token passed %d times", passed)
	}
	claimFresh(t, r)
}

func TestAFullServerIsUnavailable(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := serve(t, config(server.URL()))
	claimFresh(t, r)
	do(t, admin(t, server), "CONFIG", "SET", "maxmemory", "1kb")
	for range 3 {
		wantCode(t, r.Claim(t.Context(), fresh()), broker.Unavailable)
	}
	do(t, admin(t, server), "CONFIG", "SET", "maxmemory", "0")
	claimFresh(t, r)
}

// The attack: a server that evicts is filled until it forgets a used token,
// then put right again. Its configuration looks fine before and after.
func TestAServerThatEvictedKeysIsFencedAgain(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	op := admin(t, server)
	r := open(t, config(server.URL())) // no probes: the broker notices nothing in between
	probe := func() {
		if err := r.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	probe()
	time.Sleep(time.Second)
	probe()
	var used broker.Claim
	eventually(t, "a fresh token is not accepted", func() error {
		probe()
		used = fresh()
		return r.Claim(t.Context(), used)
	})
	do(t, op, "CONFIG", "SET", "maxmemory-policy", "volatile-random") // evicts what expires, and keeps the fence
	do(t, op, "CONFIG", "SET", "maxmemory", "1kb")
	eventually(t, "nothing is evicted", func() error {
		_ = op.Set(t.Context(), "filler", strings.Repeat("x", 1<<16), 0).Err() // makes room, or fails
		if n := do(t, op, "EXISTS", "dp:{test}:fence"); n != int64(1) {
			t.Fatal("the fence was evicted: this tests nothing")
		}
		if n := do(t, op, "DBSIZE"); n == int64(1) {
			return nil
		}
		return errors.New("the marker is still there")
	})
	do(t, op, "CONFIG", "SET", "maxmemory", "0")
	do(t, op, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	if err := r.Claim(t.Context(), used); broker.CodeOf(err) != broker.Unavailable {
		t.Fatalf("the evicted token: %v", err)
	}
	probe()
	time.Sleep(time.Second)
	probe()
	wantCode(t, r.Claim(t.Context(), used), broker.TokenStale)
}

func TestAServerThatIsNotFitIsNotReadyAndClaimsNothing(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		args   []string
		order  []any // given to the server once it runs
		change func(*replay.RedisConfig)
		says   string
	}{
		"a policy that evicts":             {args: []string{"--maxmemory-policy", "allkeys-lru"}, says: "noeviction"},
		"no append-only file":              {change: func(c *replay.RedisConfig) { c.UnsafeNoPersistence = false }, says: "unsafe_no_persistence"},
		"a cluster":                        {args: []string{"--cluster-enabled", "yes", "--cluster-port", "0"}, says: "Redis Cluster"},
		"a replica":                        {args: []string{"--replicaof", "127.0.0.1 1"}, says: "role"},
		"replicas that are not there":      {change: func(c *replay.RedisConfig) { c.Replicas = 1 }, says: "0 of the 1 replicas"},
		"a clock that is off":              {change: func(c *replay.RedisConfig) { c.Now = late }, says: "clocks"},
		"a password that we do not know":   {args: []string{"--requirepass", "sesame"}, says: "NOAUTH"},
		"a user who may not read INFO":     {order: []any{"ACL", "SETUSER", "default", "-info"}, says: "permissions"},
		"a database that is not there":     {change: func(c *replay.RedisConfig) { c.URL = strings.TrimSuffix(c.URL, "0") + "99" }, says: "DB index"},
		"nothing that listens":             {change: func(c *replay.RedisConfig) { c.URL = "redis://127.0.0.1:1" }, says: "refused"},
		"something else than TLS":          {change: func(c *replay.RedisConfig) { c.URL = "rediss" + strings.TrimPrefix(c.URL, "redis") }, says: "deadline"},
		"a broker without a random source": {change: func(c *replay.RedisConfig) { c.Rand = bytes.NewReader(nil) }, says: "nonce"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := row.args
			if strings.Contains(strings.Join(args, " "), "--cluster-port") {
				port, err := servers.FreePort()
				if err != nil {
					t.Fatal(err)
				}
				args = []string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(port)}
			}
			server := startRedis(t, args...)
			if row.order != nil {
				do(t, admin(t, server), row.order...)
			}
			c := config(server.URL())
			if row.change != nil {
				row.change(&c)
			}
			r := open(t, c)
			err := r.Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %v, want something about %q", err, row.says)
			}
			if r.Ready(t.Context()) == nil {
				t.Error("it is ready")
			}
			wantCode(t, r.Claim(t.Context(), fresh()), broker.Unavailable)
		})
	}
}

func late() time.Time { return time.Now().Add(-6 * time.Second) }

func TestAServerThatBecomesUnfitStopsTheClaimsUntilItIsPutRight(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	op := admin(t, server)
	var log lines
	c := config(server.URL())
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	r := serve(t, c)
	claimFresh(t, r)
	do(t, op, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	eventually(t, "still claims", func() error {
		if r.Claim(t.Context(), fresh()) == nil {
			return errors.New("a token was claimed of a server that evicts")
		}
		return nil
	})
	if !strings.Contains(log.String(), "noeviction") {
		t.Errorf("the log does not say why:\n%s", log.String())
	}
	do(t, op, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	claimFresh(t, r)
}

func TestClaimsStopWhenNobodyProbesAnyMore(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	clock := brokertest.NewClock(time.Now())
	c := config(server.URL())
	c.Now = clock.Now
	r := open(t, c)
	if err := r.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock.Advance(time.Minute)
	err := r.Claim(t.Context(), fresh())
	wantCode(t, err, broker.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "not looked at") {
		t.Errorf("got %v", err)
	}
}

func TestAClaimIsRefusedWhereTheClocksDiffer(t *testing.T) {
	t.Parallel()
	clock := brokertest.NewClock(time.Now())
	c := config(startRedis(t).URL())
	c.Now = clock.Now
	r := open(t, c)
	for _, off := range []time.Duration{-8 * time.Second, 8 * time.Second} {
		clock.Set(time.Now())
		if err := r.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		clock.Advance(off)
		err := r.Claim(t.Context(), fresh())
		wantCode(t, err, broker.Unavailable)
		if err == nil || !strings.Contains(err.Error(), "clocks") {
			t.Errorf("%s off: %v", off, err)
		}
	}
}

func TestAClockOfRedisThatWentBackIsFenced(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := serve(t, config(server.URL()))
	used := claimFresh(t, r)
	// As if the clock had stood an hour ahead for a while, and the marker had
	// expired there.
	op := admin(t, server)
	do(t, op, "EVAL", `redis.call('HSET', 'dp:{test}:fence', 'seen', ARGV[1])
		for _, k in ipairs(redis.call('KEYS', 'dp:{test}:used:*')) do redis.call('DEL', k) end return 1`, 0, time.Now().Add(time.Hour).UnixMilli())
	eventually(t, "the used token is not stale", func() error { return stillStale(t, r, used) })
	claimFresh(t, r)
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
