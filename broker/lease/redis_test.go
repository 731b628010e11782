package lease_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
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

// The attacks: somebody who can write to Redis writes a lease by hand to have
// a database user dropped, moves records about, or changes them.
func TestARecordThatWasTamperedWithIsRefused(t *testing.T) {
	for name, forge := range map[string]func(t *testing.T, b *bench, victim, other broker.Lease, raw string) string{
		"nothing of ours": func(*testing.T, *bench, broker.Lease, broker.Lease, string) string { return "hello" },
		"JSON without a code": func(_ *testing.T, _ *bench, _, _ broker.Lease, raw string) string {
			return raw[strings.Index(raw, "{"):]
		},
		"a code of zeros": func(_ *testing.T, _ *bench, _, _ broker.Lease, raw string) string {
			return raw[:2] + strings.Repeat("0", 64) + raw[66:]
		},
		"another handle": func(_ *testing.T, _ *bench, v, _ broker.Lease, raw string) string {
			return strings.Replace(raw, string(v.Handle), "postgres", 1)
		},
		"another time in front":  func(_ *testing.T, _ *bench, _, _ broker.Lease, raw string) string { return raw[:67] + "1" + raw[67:] },
		"another format":         func(_ *testing.T, _ *bench, _, _ broker.Lease, raw string) string { return "2" + raw[1:] },
		"more behind":            func(_ *testing.T, _ *bench, _, _ broker.Lease, raw string) string { return raw + " " },
		"a code that is no code": func(_ *testing.T, _ *bench, _, _ broker.Lease, raw string) string { return "1:zz:" + raw[67:] },
		"no code":                func(_ *testing.T, _ *bench, _, _ broker.Lease, raw string) string { return "1:" },
		"the record of another": func(t *testing.T, b *bench, _, o broker.Lease, _ string) string {
			return b.do(t, "GET", b.key("lease", string(o.ID))).(string)
		},
		"the record of a session": func(t *testing.T, b *bench, _, o broker.Lease, _ string) string {
			return b.do(t, "GET", b.key("session", string(o.Session))).(string)
		},
		"a record of another key": func(t *testing.T, b *bench, v, _ broker.Lease, _ string) string {
			c := config(shared.server)
			c.Key, c.Deployment = [32]byte{9}, b.prefix[4:8]
			foreign := open(t, c)
			s := brokertest.NewSession(time.Now())
			must(t, foreign.Start(t.Context(), s))
			l := v
			l.Session, l.State = s.ID, broker.LeasePending
			b.do(t, "DEL", b.key("lease", string(v.ID)))
			must(t, foreign.Open(t.Context(), []broker.Lease{l}, broker.Caps{}))
			return b.do(t, "GET", b.key("lease", string(v.ID))).(string)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.session(t)
			victim, other := b.active(t, s), b.active(t, s)
			key := b.key("lease", string(victim.ID))
			raw := b.do(t, "GET", key).(string)
			forged := forge(t, b, victim, other, raw)
			b.do(t, "SET", key, forged)

			_, err := b.Lease(t.Context(), victim.ID)
			wantCode(t, err, broker.Unavailable)
			wantCode(t, b.Close(t.Context(), victim.ID), broker.Unavailable)
			wantCode(t, b.Postpone(t.Context(), victim), broker.Unavailable)
			wantCode(t, b.Activate(t.Context(), []broker.Minted{{ID: victim.ID}}), broker.Unavailable)
			must(t, b.Shut(t.Context(), s.ID, b.clock.Now()))
			b.clock.Advance(2 * time.Hour)
			due, list := b.due(t, 10), must1(b.List(t.Context(), broker.LeaseFilter{}))
			if len(due) != 1 || due[0].ID != other.ID || len(list) != 1 || list[0].ID != other.ID {
				t.Errorf("due are %v, listed %v; want the other lease alone", due, list)
			}
			if got := b.do(t, "GET", key); got != forged {
				t.Errorf("the forged record was acted on: it is %q now", got)
			}
			if b.Forged() < 5 {
				t.Errorf("%d refusals were counted", b.Forged())
			}
			if n := strings.Count(b.log.String(), "refused"); n < 1 || n > 2 {
				t.Errorf("%d log lines tell of it:\n%s", n, b.log)
			}
		})
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestASessionThatWasTamperedWithMintsNothing(t *testing.T) {
	b := newBench(t)
	s, other := b.session(t), b.session(t)
	l := brokertest.NewLease(s, b.clock.Now())
	must(t, b.Open(t.Context(), []broker.Lease{l}, broker.Caps{}))
	key := b.key("session", string(s.ID))
	raw := b.do(t, "GET", key).(string)
	refused := func(what string, code broker.Code) {
		t.Helper()
		_, err := b.Session(t.Context(), s.ID)
		for _, err := range []error{err,
			b.Open(t.Context(), []broker.Lease{brokertest.NewLease(s, b.clock.Now())}, broker.Caps{}),
			b.Extend(t.Context(), s.ID, s.For, s.Expires.Add(time.Hour)),
		} {
			if broker.CodeOf(err) != code {
				t.Errorf("%s: %v, want %s", what, err, code)
			}
		}
		if err := b.Activate(t.Context(), []broker.Minted{{ID: l.ID}}); err == nil {
			t.Errorf("%s: a lease was activated", what)
		}
	}
	b.do(t, "SET", key, strings.Replace(raw, "refs", "xxxx", 1)+" ")
	refused("changed", broker.Unavailable)
	b.do(t, "SET", key, b.do(t, "GET", b.key("session", string(other.ID))))
	refused("of another", broker.Unavailable)
	b.do(t, "DEL", key)
	refused("deleted", broker.SessionExpired)
	b.do(t, "SET", key, raw)
	must(t, b.Extend(t.Context(), s.ID, s.For, s.Expires)) // as it was written, it serves
}

// The attack: so many forged records at the head of the queue that a sweep
// sees nothing else.
func TestForgedRecordsDoNotStarveTheSweeper(t *testing.T) {
	b := newBench(t)
	l := b.active(t, b.session(t))
	b.clock.Set(l.NotAfter)
	for i := range 1000 {
		id := fmt.Sprintf("dpl_forged%d", i)
		b.do(t, "SET", b.key("lease", id), "1:00:0:{}")
		b.do(t, "ZADD", b.key("due", "pg"), 1, id)
	}
	for i := range 1000 {
		b.do(t, "ZADD", b.key("due", "pg"), 1, fmt.Sprintf("dpl_nothing%d", i))
	}
	if due := b.due(t, 50); len(due) != 1 || due[0].ID != l.ID {
		t.Errorf("due are %v, want the one lease", due)
	}
	if n := b.do(t, "ZCARD", b.key("due", "pg")); n != int64(1001) {
		t.Errorf("%d entries are left: those without a record should be gone", n)
	}
}

// The attack: a valid lease is put where it does not belong, to have it taken
// back early or by the wrong target.
func TestAnIndexThatWasTamperedWithIsPutRight(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	l := b.active(t, s)
	b.do(t, "ZADD", b.key("due", "pg"), 1, string(l.ID))
	b.do(t, "ZADD", b.key("due", "mysql"), 1, string(l.ID))
	if due := b.due(t, 10); len(due) != 0 {
		t.Errorf("a lease is due early: %v", due)
	}
	if due := must1(b.Due(t.Context(), "mysql", b.clock.Now(), 10)); len(due) != 0 {
		t.Errorf("a lease is due at another target: %v", due)
	}
	if n := must1(b.Live(t.Context(), broker.LeaseFilter{Target: "mysql"})); n != 0 {
		t.Errorf("%d leases are left at the other target", n)
	}
	b.clock.Set(l.NotAfter)
	if due := b.due(t, 10); len(due) != 1 {
		t.Errorf("the lease is not due at its end: %v", due)
	}

	mine := b.session(t)
	b.do(t, "SADD", b.key("of", string(mine.ID)), string(l.ID))
	if list := must1(b.List(t.Context(), broker.LeaseFilter{Session: mine.ID})); len(list) != 0 {
		t.Errorf("a session lists another's lease: %v", list)
	}
	victim := b.active(t, s)
	b.do(t, "SADD", b.key("of", string(mine.ID)), string(victim.ID))
	must(t, b.Shut(t.Context(), mine.ID, b.clock.Now()))
	if got := must1(b.Lease(t.Context(), victim.ID)); !got.Due.Equal(victim.Due) {
		t.Error("shutting a session made another's lease due")
	}
}

func TestALeaseDeletedByHandFreesItsRoom(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	caps := broker.Caps{LivePerPlace: 1}
	fresh := func() []broker.Lease {
		l := brokertest.NewLease(s, b.clock.Now())
		l.Grant.MaxLive = 1
		return []broker.Lease{l}
	}
	first := fresh()
	must(t, b.Open(t.Context(), first, caps))
	wantCode(t, b.Open(t.Context(), fresh(), caps), broker.RateLimited)
	b.do(t, "DEL", b.key("lease", string(first[0].ID)))
	must(t, b.Open(t.Context(), fresh(), caps))
	wantCode(t, b.Open(t.Context(), fresh(), caps), broker.RateLimited)
	if list := must1(b.List(t.Context(), broker.LeaseFilter{})); len(list) != 1 {
		t.Errorf("listed are %v", list)
	}
	if n := must1(b.Live(t.Context(), broker.LeaseFilter{})); n != 1 {
		t.Errorf("%d live after the listing found that one is missing", n)
	}
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

func TestNoTokenAndNoKeyLiesInRedis(t *testing.T) {
	c := config(startRedis(t))
	c.Key = [32]byte([]byte("a key that must not be seen 1234"))
	r := open(t, c)
	token, id, err := broker.NewSessionToken(rand.Reader)
	must(t, err)
	s := brokertest.NewSession(time.Now())
	s.ID = id
	must(t, r.Ready(t.Context()))
	must(t, r.Start(t.Context(), s))
	must(t, r.Open(t.Context(), []broker.Lease{brokertest.NewLease(s, time.Now())}, broker.Caps{}))
	hand := redis.NewClient(&redis.Options{Addr: strings.TrimSuffix(strings.TrimPrefix(c.URL, "redis://"), "/0"), Protocol: 2})
	t.Cleanup(func() { _ = hand.Close() })
	var dump strings.Builder
	for _, key := range must1(hand.Keys(t.Context(), "*").Result()) {
		dump.WriteString(key)
		for _, read := range [][]any{{"GET", key}, {"SMEMBERS", key}, {"ZRANGE", key, 0, -1}} {
			if v, err := hand.Do(t.Context(), read...).Result(); err == nil {
				fmt.Fprint(&dump, v)
			}
		}
	}
	if !strings.Contains(dump.String(), "repo:acme/api") {
		t.Fatal("the dump does not hold the session: this tests nothing")
	}
	for _, secret := range []string{token.Reveal(), token.Reveal()[4:], string(c.Key[:]), hex.EncodeToString(c.Key[:])} {
		if strings.Contains(dump.String(), secret) {
			t.Error("a secret lies in redis")
		}
	}
}

func TestBrokersWithDifferentKeysFindOut(t *testing.T) {
	c := config(shared.server)
	must(t, open(t, c).Ready(t.Context()))
	must(t, open(t, c).Ready(t.Context()))
	c.Key = [32]byte{4}
	if err := open(t, c).Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("got %v", err)
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
	if n := must1(r.Live(t.Context(), broker.LeaseFilter{})); n != 0 {
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
		"sentinel":           {func(c *lease.RedisConfig) { c.Mode = "sentinel" }, "sentinel is not supported yet"},
		"cluster":            {func(c *lease.RedisConfig) { c.Mode = "cluster" }, `mode "cluster"`},
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
