package lease_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/lease"
)

// shared is a server for all tests that do not harm it; each takes a
// deployment of its own.
var shared struct {
	server      *servers.Redis
	deployments atomic.Uint32
}

func TestMain(m *testing.M) {
	server, err := servers.StartRedis(context.Background(), servers.RedisConfig{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.server = server
	code := m.Run()
	if err := server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func newDeployment() string { return fmt.Sprintf("t%03d", shared.deployments.Add(1)) }

func startRedis(t *testing.T, args ...string) *servers.Redis {
	t.Helper()
	r, err := servers.StartRedis(t.Context(), servers.RedisConfig{Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func config(server *servers.Redis) lease.RedisConfig {
	return lease.RedisConfig{URL: server.URL(), Deployment: newDeployment(), Key: [32]byte{1, 2, 3},
		Now: time.Now, Log: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, c lease.RedisConfig) *lease.Redis {
	t.Helper()
	r, err := lease.NewRedis(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Disconnect() })
	return r
}

func openRedis(t *testing.T, now func() time.Time) brokertest.LeaseStore {
	c := config(shared.server)
	c.Now = now
	return open(t, c)
}

func TestRedisKeepsTheContractOfLeases(t *testing.T)   { brokertest.TestLeases(t, openRedis) }
func TestRedisKeepsTheContractOfSessions(t *testing.T) { brokertest.TestSessions(t, openRedis) }
func TestRedisKeepsTheContractOfAlarms(t *testing.T)   { brokertest.TestAlarms(t, openRedis) }

func TestAUserWithTheDocumentedCommandsIsEnough(t *testing.T) {
	hand := redis.NewClient(&redis.Options{Addr: shared.server.Addr(), Protocol: 2})
	t.Cleanup(func() { _ = hand.Close() })
	setUser := []any{"ACL", "SETUSER", "daypass", "on", ">open sesame", "~dp:{t*", "-@all"}
	for command := range strings.FieldsSeq("eval evalsha time get mget set del exists type persist pexpireat pttl " +
		"sadd srem scard sismember smembers zadd zrem zcard zrange zrangebyscore") {
		setUser = append(setUser, "+"+command)
	}
	must(t, hand.Do(t.Context(), setUser...).Err())
	asUser := func(t *testing.T, now func() time.Time) brokertest.LeaseStore {
		c := config(shared.server)
		c.Now, c.URL = now, "redis://daypass:open%20sesame@"+shared.server.Addr()
		r := open(t, c)
		must(t, r.Ready(t.Context()))
		return r
	}
	brokertest.TestLeases(t, asUser)
	brokertest.TestSessions(t, asUser)
	brokertest.TestAlarms(t, asUser)
}

// bench is a store, and the hand of somebody who can write to its Redis.
type bench struct {
	*lease.Redis
	hand   *redis.Client
	prefix string
	clock  *brokertest.Clock
	log    *lines
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{clock: brokertest.NewClock(time.Now().Truncate(time.Second)), log: &lines{}}
	c := config(shared.server)
	c.Now, c.Log = b.clock.Now, slog.New(slog.NewTextHandler(b.log, nil))
	b.Redis, b.prefix = open(t, c), "dp:{"+c.Deployment+"}:"
	b.hand = redis.NewClient(&redis.Options{Addr: shared.server.Addr(), Protocol: 2})
	t.Cleanup(func() { _ = b.hand.Close() })
	return b
}

func (b *bench) do(t *testing.T, args ...any) any {
	t.Helper()
	v, err := b.hand.Do(t.Context(), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatalf("%v: %v", args, err)
	}
	return v
}

func (b *bench) key(parts ...string) string { return b.prefix + strings.Join(parts, ":") }

func (b *bench) session(t *testing.T) broker.Session {
	t.Helper()
	s := brokertest.NewSession(b.clock.Now())
	must(t, b.Start(t.Context(), s))
	return s
}

func (b *bench) active(t *testing.T, s broker.Session) broker.Lease {
	t.Helper()
	l := brokertest.NewLease(s, b.clock.Now())
	must(t, b.Open(t.Context(), []broker.Lease{l}, broker.Caps{}))
	must(t, b.Activate(t.Context(), []broker.Minted{{ID: l.ID}}))
	l, err := b.Lease(t.Context(), l.ID)
	must(t, err)
	return l
}

func (b *bench) due(t *testing.T, limit int) []broker.Lease {
	t.Helper()
	due, err := b.Due(t.Context(), "pg", b.clock.Now(), limit)
	must(t, err)
	return due
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code broker.Code) {
	t.Helper()
	if e, ok := errors.AsType[*broker.Error](err); !ok || e.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestTwoBrokersRarelyTakeTheSameLease(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	for range 20 {
		b.active(t, s)
	}
	b.clock.Advance(2 * time.Hour)
	seen := make(map[broker.LeaseID]int)
	for range 4 {
		for _, l := range b.due(t, 5) {
			seen[l.ID]++
		}
	}
	if len(seen) != 20 {
		t.Errorf("four sweeps of five saw %d different leases", len(seen))
	}
	if due := b.due(t, 5); len(due) != 0 {
		t.Errorf("%d leases were handed out again at once", len(due))
	}
	b.clock.Advance(5 * time.Second) // whoever took them died
	if due := b.due(t, 100); len(due) != 20 {
		t.Errorf("%d leases are due again, want 20", len(due))
	}
}

func TestASessionIsKeptInRedisAsLongAsALeaseLives(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	key := b.key("session", string(s.ID))
	expires := func() time.Time {
		ms := b.do(t, "PEXPIRETIME", key).(int64)
		if ms < 0 {
			return time.Time{}
		}
		return time.UnixMilli(ms)
	}
	if at := expires(); !at.Equal(s.Expires.Add(time.Hour)) {
		t.Errorf("a fresh session is forgotten at %s", at)
	}
	until := s.Expires.Add(30 * time.Minute)
	must(t, b.Extend(t.Context(), s.ID, s.For, until))
	if at := expires(); !at.Equal(until.Add(time.Hour)) {
		t.Errorf("an extended session is forgotten at %s", at)
	}
	one, two := b.active(t, s), b.active(t, s)
	for _, change := range []func() error{
		func() error { return nil },
		func() error { return b.Extend(t.Context(), s.ID, s.For, until) },
		func() error { return b.Shut(t.Context(), s.ID, b.clock.Now()) },
		func() error { return b.Close(t.Context(), one.ID) },
	} {
		must(t, change())
		if at := expires(); !at.IsZero() {
			t.Errorf("a session with a lease is forgotten at %s", at)
		}
	}
	must(t, b.Close(t.Context(), two.ID))
	if at := expires(); !at.Equal(until.Add(time.Hour)) {
		t.Errorf("a session without leases is forgotten at %s", at)
	}
}

func TestNothingIsLeftInRedisWhenAllIsOver(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	for range 3 {
		l := b.active(t, s)
		must(t, b.Close(t.Context(), l.ID))
	}
	keys := must1(b.hand.Keys(t.Context(), b.prefix+"*").Result())
	if len(keys) != 1 || keys[0] != b.key("session", string(s.ID)) {
		t.Errorf("keys are left: %v", keys)
	}
}

func TestAnUnreachableRedisIsUnavailable(t *testing.T) {
	server := startRedis(t)
	c := config(server)
	c.Timeout = 300 * time.Millisecond
	r := open(t, c)
	s := brokertest.NewSession(time.Now())
	must(t, r.Start(t.Context(), s))
	l := brokertest.NewLease(s, time.Now())
	must(t, r.Open(t.Context(), []broker.Lease{l}, broker.Caps{}))
	for _, what := range []string{"frozen", "dead"} {
		must(t, map[string]func() error{"frozen": server.Pause, "dead": server.Kill}[what]())
		ctx := t.Context()
		calls := map[string]func() error{
			"open":     func() error { return r.Open(ctx, []broker.Lease{brokertest.NewLease(s, time.Now())}, broker.Caps{}) },
			"activate": func() error { return r.Activate(ctx, []broker.Minted{{ID: l.ID}}) },
			"postpone": func() error { return r.Postpone(ctx, l) },
			"close":    func() error { return r.Close(ctx, l.ID) },
			"lease":    func() error { _, err := r.Lease(ctx, l.ID); return err },
			"list":     func() error { _, err := r.List(ctx, broker.LeaseFilter{}); return err },
			"list one": func() error { _, err := r.List(ctx, broker.LeaseFilter{Session: s.ID}); return err },
			"due":      func() error { _, err := r.Due(ctx, "pg", time.Now(), 1); return err },
			"live":     func() error { _, err := r.Live(ctx, broker.LeaseFilter{}); return err },
			"start":    func() error { return r.Start(ctx, brokertest.NewSession(time.Now())) },
			"session":  func() error { _, err := r.Session(ctx, s.ID); return err },
			"extend":   func() error { return r.Extend(ctx, s.ID, s.For, time.Now()) },
			"shut":     func() error { return r.Shut(ctx, s.ID, time.Now()) },
			"alarm":    func() error { _, err := r.Alarm(ctx, s.ID, s.Expires, time.Now()); return err },
			"ready":    func() error { return r.Ready(ctx) },
		}
		for name, call := range calls {
			begun := time.Now()
			err := call()
			if e, ok := errors.AsType[*broker.Error](err); !ok || e.Code != broker.Unavailable || e.RetryAfter == 0 {
				t.Errorf("%s server, %s: %v", what, name, err)
			}
			if took := time.Since(begun); took > 2*time.Second {
				t.Errorf("%s server, %s took %s", what, name, took)
			}
		}
	}
}

func TestAFullRedisKeepsWhatItHas(t *testing.T) {
	server := startRedis(t)
	c := config(server)
	r := open(t, c)
	s := brokertest.NewSession(time.Now())
	must(t, r.Start(t.Context(), s))
	l := brokertest.NewLease(s, time.Now())
	must(t, r.Open(t.Context(), []broker.Lease{l}, broker.Caps{}))
	hand := redis.NewClient(&redis.Options{Addr: server.Addr(), Protocol: 2})
	t.Cleanup(func() { _ = hand.Close() })
	must(t, hand.ConfigSet(t.Context(), "maxmemory", "1kb").Err())
	wantCode(t, r.Open(t.Context(), []broker.Lease{brokertest.NewLease(s, time.Now())}, broker.Caps{}), broker.Unavailable)
	wantCode(t, r.Activate(t.Context(), []broker.Minted{{ID: l.ID}}), broker.Unavailable)
	if list := must1(r.List(t.Context(), broker.LeaseFilter{})); len(list) != 1 || list[0].State != broker.LeasePending {
		t.Errorf("listed are %v", list)
	}
	must(t, r.Close(t.Context(), l.ID)) // what frees memory goes on
	if n := must1(r.Live(t.Context(), broker.LeaseFilter{}))[0]; n != 0 {
		t.Errorf("%d leases live", n)
	}
}

func TestAServerThatForgotTheScriptsIsToldThemAgain(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	b.active(t, s)
	b.do(t, "SCRIPT", "FLUSH")
	b.active(t, s)
	b.clock.Advance(2 * time.Hour)
	if due := b.due(t, 10); len(due) != 2 {
		t.Errorf("due are %v", due)
	}
}

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*lease.RedisConfig)
		says   string
	}{
		"sentinel alone":     {func(c *lease.RedisConfig) { c.Mode = "sentinel" }, "needs master"},
		"cluster":            {func(c *lease.RedisConfig) { c.Mode = "cluster" }, "cluster is not supported"},
		"a wrong deployment": {func(c *lease.RedisConfig) { c.Deployment = "a:b}" }, "four lower-case"},
		"no key":             {func(c *lease.RedisConfig) { c.Key = [32]byte{} }, "key"},
		"no clock":           {func(c *lease.RedisConfig) { c.Now = nil }, "Now"},
		"a negative timeout": {func(c *lease.RedisConfig) { c.Timeout = -1 }, "timeout"},
		"no URL":             {func(c *lease.RedisConfig) { c.URL = "redis://:hunter2@h:%zz" }, "not a URL"},
		"options in the URL": {func(c *lease.RedisConfig) { c.URL = "redis://:hunter2@h/0?db=3" }, "redis url"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(shared.server)
			row.change(&c)
			_, err := lease.NewRedis(c)
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Fatalf("got %v, want something about %q", err, row.says)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
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
