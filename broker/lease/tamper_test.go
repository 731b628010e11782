package lease_test

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
)

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
			if n := strings.Count(b.log.String(), "a record in redis is refused"); n < 1 || n > 2 {
				t.Errorf("%d log lines tell of it:\n%s", n, b.log)
			}
		})
	}
}

func TestTheLogHearsOfRefusedRecordsOnceAMinute(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	read := func(n int) {
		t.Helper()
		for range n {
			l := b.active(t, s)
			b.do(t, "SET", b.key("lease", string(l.ID)), "forged")
			_, err := b.Lease(t.Context(), l.ID)
			wantCode(t, err, broker.Unavailable)
		}
	}
	read(5)
	b.clock.Advance(59 * time.Second)
	read(1)
	if lines := b.log.String(); strings.Count(lines, "a record in redis is refused") != 1 {
		t.Errorf("within a minute:\n%s", lines)
	}
	b.clock.Advance(time.Second)
	read(1)
	if lines := b.log.String(); strings.Count(lines, "a record in redis is refused") != 2 || !strings.Contains(lines, "refused_since_last=6") {
		t.Errorf("after a minute:\n%s", lines)
	}
	if b.Forged() != 7 {
		t.Errorf("%d were counted, want 7", b.Forged())
	}
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
	if n := must1(b.Live(t.Context(), broker.LeaseFilter{Target: "mysql"}))[0]; n != 0 {
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
	if n := must1(b.Live(t.Context(), broker.LeaseFilter{}))[0]; n != 1 {
		t.Errorf("%d live after the listing found that one is missing", n)
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
