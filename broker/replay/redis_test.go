package replay_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"log/slog"
	"os"
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
	return replay.RedisConfig{URL: url, Deployment: "test", Key: [32]byte{1, 2, 3}, UnsafeNoPersistence: true,
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
	brokertest.TestAnswers(t, func(*testing.T) (broker.Answers, broker.Answers) { return a, b })
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

func TestAClockOfRedisThatWentBackIsFenced(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := serve(t, config(server.URL()))
	used := claimFresh(t, r)
	// As if the clock had stood an hour ahead for a while, and the marker had
	// expired there.
	op := admin(t, server)
	do(t, op, "EVAL", `redis.call('HSET', 'dp:{test}:fence', 'seen', ARGV[1])
		for _, k in ipairs(redis.call('KEYS', 'dp:{test}:used:*')) do redis.call('DEL', k) end return 1`, 0, r.SealSeen(time.Now().Add(time.Hour)))
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
