package brokertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// LeaseStore is all that a store of leases and job sessions implements.
type LeaseStore interface {
	broker.Leases
	broker.LeaseBook
	broker.Sessions
	broker.Alarms
}

// TestLeases checks that stores keep the contracts of [broker.Leases] and
// [broker.LeaseBook]. Each call of open returns an empty store that goes by
// now.
func TestLeases(t *testing.T, open func(t *testing.T, now func() time.Time) LeaseStore) {
	for name, test := range map[string]func(*testing.T, *leaseBench){
		"a lease goes from pending to active to gone":                    leaseLife,
		"a lease comes back as it was stored":                            leaseWhole,
		"leases are opened for a known session only":                     leaseNoSession,
		"leases are opened all or none":                                  leaseAllOrNone,
		"the cap of a place holds":                                       leasePlaceCap,
		"the cap of a grant holds":                                       leaseGrantCap,
		"the cap of a rule holds over its grants":                        leaseRuleCap,
		"a refusal names the cap":                                        leaseNamesCap,
		"several filters are counted at once":                            leaseCountsMany,
		"no cap is passed by 64 openings at once":                        leaseCapsAtOnce,
		"a lease counts until it is closed":                              leaseCounts,
		"activating after the session was shut fails":                    leaseActivateShut,
		"activating is all or none":                                      leaseActivateAll,
		"activating twice, or what was never opened, fails":              leaseActivateOdd,
		"activating and shutting at once: never active and not due":      leaseActivateRace,
		"postponing keeps what the lease is":                             leasePostpone,
		"postponing a lease that is gone leaves it gone":                 leasePostponeGone,
		"closing is idempotent":                                          leaseCloseTwice,
		"due leases come most overdue first, and no more than the limit": leaseDueOrder,
		"pending leases are due soon, active ones at their end":          leaseDuePending,
		"due leases are those of the target":                             leaseDueTarget,
		"a list is filtered, and oldest first":                           leaseList,
		"an unknown lease is not found":                                  leaseUnknown,
		"many openings, activations and closings at once":                leaseCrowd,
	} {
		t.Run(name, func(t *testing.T) { test(t, newLeaseBench(t, open)) })
	}
}

func leaseLife(t *testing.T, b *leaseBench) {
	s := b.session(t)
	l := b.open(t, s)
	if got := b.get(t, l.ID); got.State != broker.LeasePending || !got.Due.Equal(l.Due) {
		t.Errorf("opened: %+v", got)
	}
	must(t, b.Activate(t.Context(), made(l)))
	got := b.get(t, l.ID)
	if got.State != broker.LeaseActive || got.ServerID != "server-7" || got.Takeback != broker.TakebackNow || !got.Due.Equal(l.NotAfter) {
		t.Errorf("activated: %+v", got)
	}
	must(t, b.Close(t.Context(), l.ID))
	if _, err := b.Lease(t.Context(), l.ID); !errors.Is(err, broker.ErrNoLease) {
		t.Errorf("closed: %v", err)
	}
	sameIDs(t, "closed and listed", b.list(t, broker.LeaseFilter{}))
}

func leaseWhole(t *testing.T, b *leaseBench) {
	l := b.open(t, b.session(t), func(l *broker.Lease) { l.Repo = "acme/\u2028<&>\x00'; DROP" })
	sameJSON(t, "lease", b.get(t, l.ID), l)
	listed, err := b.List(t.Context(), broker.LeaseFilter{})
	must(t, err)
	sameJSON(t, "list", listed, []broker.Lease{l})
}

func leaseNoSession(t *testing.T, b *leaseBench) {
	l := NewLease(NewSession(b.clock.Now()), b.clock.Now())
	if err := b.Open(t.Context(), []broker.Lease{l}, broker.Caps{}); !errors.Is(err, broker.ErrNoSession) {
		t.Errorf("unknown session: %v", err)
	}
	s := b.session(t)
	must(t, b.Shut(t.Context(), s.ID, b.clock.Now()))
	l = NewLease(s, b.clock.Now())
	if err := b.Open(t.Context(), []broker.Lease{l}, broker.Caps{}); !errors.Is(err, broker.ErrClosing) {
		t.Errorf("closing session: %v", err)
	}
	if n := b.live(t, broker.LeaseFilter{}); n != 0 {
		t.Errorf("%d leases were stored", n)
	}
}

func leaseAllOrNone(t *testing.T, b *leaseBench) {
	s := b.session(t)
	known := b.open(t, s)
	fresh := NewLease(s, b.clock.Now())
	for name, leases := range map[string][]broker.Lease{
		"none":               {},
		"one that exists":    {fresh, known},
		"one twice":          {fresh, fresh},
		"of two sessions":    {fresh, NewLease(b.session(t), b.clock.Now())},
		"one that is active": {fresh, func() broker.Lease { l := NewLease(s, b.clock.Now()); l.State = broker.LeaseActive; return l }()},
	} {
		if err := b.Open(t.Context(), leases, broker.Caps{}); err == nil {
			t.Errorf("opening %s passed", name)
		}
	}
	sameIDs(t, "after all", b.list(t, broker.LeaseFilter{}), known.ID)
}

func leasePlaceCap(t *testing.T, b *leaseBench) {
	s, other := b.session(t), NewSession(b.clock.Now())
	other.For.Job.RepositoryID = "78"
	must(t, b.Start(t.Context(), other))
	caps := broker.Caps{LivePerPlace: 3}
	open := func(s broker.Session, n int) error {
		leases := make([]broker.Lease, n)
		for i := range leases {
			leases[i] = NewLease(s, b.clock.Now())
		}
		return b.Open(t.Context(), leases, caps)
	}
	must(t, open(s, 2))
	wantCode(t, open(s, 2), broker.RateLimited)
	if n := b.live(t, broker.LeaseFilter{Place: s.For.Place()}); n != 2 {
		t.Errorf("%d leases live after a refusal, want 2", n)
	}
	must(t, open(s, 1))
	wantCode(t, open(s, 1), broker.RateLimited)
	must(t, open(other, 3)) // another place has room of its own
	must(t, b.Close(t.Context(), b.list(t, broker.LeaseFilter{Place: s.For.Place()})[0]))
	must(t, open(s, 1))
}

func leaseGrantCap(t *testing.T, b *leaseBench) {
	s := b.session(t)
	lease := func(grant string, most int) broker.Lease {
		l := NewLease(s, b.clock.Now())
		l.Grant.Name, l.Grant.MaxLive = grant, most
		return l
	}
	open := func(leases ...broker.Lease) error { return b.Open(t.Context(), leases, broker.Caps{}) }
	must(t, open(lease("a", 2), lease("b", 1), lease("c", 0)))
	wantCode(t, open(lease("a", 2), lease("a", 2)), broker.RateLimited)
	wantCode(t, open(lease("c", 0), lease("b", 1)), broker.RateLimited)
	must(t, open(lease("a", 2), lease("c", 0)))
	wantCode(t, open(lease("a", 2)), broker.RateLimited)
	must(t, open(lease("a", 3))) // the operator raised it
	if n := b.live(t, broker.LeaseFilter{Grant: "c"}); n != 2 {
		t.Errorf("%d leases of c, want 2", n)
	}
}

func leaseRuleCap(t *testing.T, b *leaseBench) {
	s, other := b.session(t), NewSession(b.clock.Now())
	other.For.Job.RepositoryID = "78"
	must(t, b.Start(t.Context(), other))
	caps := broker.Caps{LivePerRule: map[string]int{"teams/a": 3, "teams/b": 1}}
	lease := func(s broker.Session, rule, grant string) broker.Lease {
		l := NewLease(s, b.clock.Now())
		l.Rule, l.Grant.Name = rule, grant
		return l
	}
	open := func(leases ...broker.Lease) error { return b.Open(t.Context(), leases, caps) }
	must(t, open(lease(s, "teams/a", "x"), lease(s, "teams/a", "y"), lease(s, "teams/b", "x")))
	wantCode(t, open(lease(s, "teams/a", "x"), lease(s, "teams/a", "z")), broker.RateLimited) // room for one of them
	wantCode(t, open(lease(s, "teams/c", "x"), lease(s, "teams/b", "y")), broker.RateLimited)
	for range 5 {
		must(t, open(lease(s, "teams/c", "x"))) // a rule without a cap
	}
	last := lease(other, "teams/a", "z") // whichever job and grant it is for
	must(t, open(last))
	wantCode(t, open(lease(s, "teams/a", "x")), broker.RateLimited)
	if n := b.live(t, broker.LeaseFilter{Rule: "teams/a"}); n != 3 {
		t.Errorf("%d leases of the rule, want 3", n)
	}
	must(t, b.Close(t.Context(), last.ID))
	must(t, open(lease(s, "teams/a", "x")))
}

func leaseNamesCap(t *testing.T, b *leaseBench) {
	s := b.session(t)
	fill := NewLease(s, b.clock.Now())
	fill.Grant.MaxLive = 1
	must(t, b.Open(t.Context(), []broker.Lease{fill}, broker.Caps{}))
	for says, caps := range map[string]broker.Caps{
		"this repository": {LivePerPlace: 1},
		"grant db":        {},
		"rule teams/rule": {LivePerRule: map[string]int{"teams/rule": 1}},
	} {
		l := NewLease(s, b.clock.Now())
		if says == "grant db" {
			l.Grant.MaxLive = 1
		}
		err := b.Open(t.Context(), []broker.Lease{l}, caps)
		if e, ok := errors.AsType[*broker.Error](err); !ok || e.Reason != "too_many_live" || !strings.HasPrefix(e.Public, says+" ") {
			t.Errorf("%s: %v", says, err)
		}
	}
}

func leaseCountsMany(t *testing.T, b *leaseBench) {
	s := b.session(t)
	b.open(t, s)
	b.open(t, s, func(l *broker.Lease) { l.Grant.Name, l.Rule = "tokens", "teams/other" })
	n, err := b.Live(t.Context(), broker.LeaseFilter{Grant: "tokens"}, broker.LeaseFilter{}, broker.LeaseFilter{Grant: "none"},
		broker.LeaseFilter{Grant: "db", Rule: "teams/other"}, broker.LeaseFilter{Target: "pg"}, broker.LeaseFilter{Rule: "teams/rule"},
		broker.LeaseFilter{Session: s.ID}, broker.LeaseFilter{Grant: "db", Rule: "teams/rule"})
	must(t, err)
	same(t, "counts", n, []int{1, 2, 0, 0, 2, 1, 2, 1}, func(a, b int) bool { return a == b })
	if n, err = b.Live(t.Context()); err != nil || len(n) != 0 {
		t.Errorf("no filters count %v, %v", n, err)
	}
}

func leaseCapsAtOnce(t *testing.T, b *leaseBench) {
	const most = 7
	for name, row := range map[string]struct {
		caps  broker.Caps
		grant int
	}{"place": {broker.Caps{LivePerPlace: most}, 0}, "grant": {broker.Caps{}, most},
		"rule": {broker.Caps{LivePerRule: map[string]int{"rule": most}}, 0}} {
		var opened, refused atomic.Int32
		sessions := make([]broker.Session, 64)
		for i := range sessions {
			sessions[i] = NewSession(b.clock.Now())
			sessions[i].For.Job.RepositoryID = name
			must(t, b.Start(t.Context(), sessions[i]))
		}
		together(64, func(i int) {
			l := NewLease(sessions[i], b.clock.Now())
			l.Grant.Name, l.Grant.MaxLive, l.Rule = name, row.grant, name
			switch err := b.Open(t.Context(), []broker.Lease{l}, row.caps); {
			case err == nil:
				opened.Add(1)
			case broker.CodeOf(err) == broker.RateLimited:
				refused.Add(1)
			default:
				t.Errorf("%s: %v", name, err)
			}
		})
		if opened.Load() != most || refused.Load() != 64-most {
			t.Errorf("%s: %d opened, %d refused, with room for %d", name, opened.Load(), refused.Load(), most)
		}
	}
}

func leaseCounts(t *testing.T, b *leaseBench) {
	s := b.session(t)
	pending, active, revoking := b.open(t, s), b.active(t, s), b.active(t, s)
	must(t, b.Postpone(t.Context(), revoking))
	b.clock.Advance(24 * time.Hour) // an expired lease is one until it is closed
	filters := []broker.LeaseFilter{{}, {Session: s.ID}, {Place: s.For.Place()}, {Grant: "db"}, {Target: "pg"}, {Grant: "db", Target: "pg"}, {Rule: "teams/rule"}}
	for left, close := range []broker.LeaseID{pending.ID, active.ID, revoking.ID} {
		for _, f := range filters {
			if n := b.live(t, f); n != 3-left {
				t.Errorf("filter %+v counts %d, want %d", f, n, 3-left)
			}
		}
		must(t, b.Close(t.Context(), close))
	}
	for _, f := range append(filters, broker.LeaseFilter{Grant: "other"}) {
		if n := b.live(t, f); n != 0 {
			t.Errorf("filter %+v counts %d after all were closed", f, n)
		}
	}
}

func leaseActivateShut(t *testing.T, b *leaseBench) {
	s := b.session(t)
	l := b.open(t, s)
	must(t, b.Shut(t.Context(), s.ID, b.clock.Now()))
	if err := b.Activate(t.Context(), made(l)); !errors.Is(err, broker.ErrClosing) {
		t.Errorf("got %v", err)
	}
	if got := b.get(t, l.ID); got.State != broker.LeasePending || got.Due.After(b.clock.Now()) {
		t.Errorf("it is %s and due at %s", got.State, got.Due)
	}
}

func leaseActivateAll(t *testing.T, b *leaseBench) {
	s := b.session(t)
	one, two := b.open(t, s), b.open(t, s)
	must(t, b.Close(t.Context(), two.ID))
	if err := b.Activate(t.Context(), made(one, two)); !errors.Is(err, broker.ErrClosing) {
		t.Errorf("got %v", err)
	}
	if got := b.get(t, one.ID); got.State != broker.LeasePending {
		t.Errorf("half of it was activated: %s", got.State)
	}
	must(t, b.Activate(t.Context(), nil))
}

func leaseActivateOdd(t *testing.T, b *leaseBench) {
	s := b.session(t)
	l := b.active(t, s)
	if err := b.Activate(t.Context(), made(l)); !errors.Is(err, broker.ErrClosing) {
		t.Errorf("twice: %v", err)
	}
	must(t, b.Postpone(t.Context(), l))
	if err := b.Activate(t.Context(), made(l)); !errors.Is(err, broker.ErrClosing) {
		t.Errorf("while it is revoked: %v", err)
	}
	if err := b.Activate(t.Context(), made(NewLease(s, b.clock.Now()))); !errors.Is(err, broker.ErrClosing) {
		t.Errorf("never opened: %v", err)
	}
}

// The attack: a job gives everything back while a mint is under way, and keeps
// what comes out of it.
func leaseActivateRace(t *testing.T, b *leaseBench) {
	for range 25 {
		s := b.session(t)
		l := b.open(t, s)
		var activated error
		together(2, func(i int) {
			if i == 0 {
				activated = b.Activate(t.Context(), made(l))
			} else if err := b.Shut(t.Context(), s.ID, b.clock.Now()); err != nil {
				t.Error(err)
			}
		})
		if activated != nil && !errors.Is(activated, broker.ErrClosing) {
			t.Errorf("activate: %v", activated)
		}
		got := b.get(t, l.ID)
		if got.Due.After(b.clock.Now()) {
			t.Errorf("a %s lease of a session that was shut is due in %s", got.State, got.Due.Sub(b.clock.Now()))
		}
		if (got.State == broker.LeaseActive) != (activated == nil) {
			t.Errorf("activate says %v, and the lease is %s", activated, got.State)
		}
	}
}

func leasePostpone(t *testing.T, b *leaseBench) {
	l := b.active(t, b.session(t))
	later := broker.Lease{ID: l.ID, Due: b.clock.Now().Add(7 * time.Second), Attempts: 3, LastErr: "no route to host",
		Handle: "dp_test_forged", Place: "elsewhere"} // only what a sweeper learns is taken over
	must(t, b.Postpone(t.Context(), later))
	want := l
	want.State, want.Due, want.Attempts, want.LastErr = broker.LeaseRevoking, later.Due, 3, "no route to host"
	sameJSON(t, "postponed", b.get(t, l.ID), want)
	sameIDs(t, "due at once", b.due(t, "pg", 10))
	b.clock.Advance(7 * time.Second)
	sameIDs(t, "due later", b.due(t, "pg", 10), l.ID)
}

func leasePostponeGone(t *testing.T, b *leaseBench) {
	l := b.active(t, b.session(t))
	must(t, b.Close(t.Context(), l.ID))
	l.Due = b.clock.Now()
	must(t, b.Postpone(t.Context(), l))
	sameIDs(t, "due", b.due(t, "pg", 10))
	if n := b.live(t, broker.LeaseFilter{}); n != 0 {
		t.Errorf("%d leases live", n)
	}
}

func leaseCloseTwice(t *testing.T, b *leaseBench) {
	s := b.session(t)
	l, other := b.active(t, s), b.active(t, s)
	for range 3 {
		must(t, b.Close(t.Context(), l.ID))
	}
	must(t, b.Close(t.Context(), "dpl_neverwas"))
	sameIDs(t, "left", b.list(t, broker.LeaseFilter{}), other.ID)
}

func leaseDueOrder(t *testing.T, b *leaseBench) {
	s := b.session(t)
	now := b.clock.Now()
	due := func(d time.Duration) func(*broker.Lease) {
		return func(l *broker.Lease) { l.Due = now.Add(d) }
	}
	third, first := b.open(t, s, due(-time.Second)), b.open(t, s, due(-time.Hour))
	fourth, second := b.open(t, s, due(0)), b.open(t, s, due(-time.Minute))
	b.open(t, s, due(time.Millisecond))
	sameIDs(t, "limit 0", b.due(t, "pg", 0))
	sameIDs(t, "limit 3", b.due(t, "pg", 3), first.ID, second.ID, third.ID)
	for _, id := range []broker.LeaseID{first.ID, second.ID, third.ID} {
		must(t, b.Close(t.Context(), id))
	}
	sameIDs(t, "the rest", b.due(t, "pg", 3), fourth.ID)
}

func leaseDuePending(t *testing.T, b *leaseBench) {
	s := b.session(t)
	pending, active := b.open(t, s), b.active(t, s)
	sameIDs(t, "at once", b.due(t, "pg", 10))
	b.clock.Advance(30 * time.Second)
	sameIDs(t, "after the mint's time", b.due(t, "pg", 10), pending.ID)
	b.clock.Advance(5 * time.Second)
	sameIDs(t, "still there: its broker died", b.due(t, "pg", 10), pending.ID)
	must(t, b.Close(t.Context(), pending.ID))
	b.clock.Set(active.NotAfter)
	sameIDs(t, "at its end", b.due(t, "pg", 10), active.ID)
}

func leaseDueTarget(t *testing.T, b *leaseBench) {
	s := b.session(t)
	pg := b.open(t, s)
	my := b.open(t, s, func(l *broker.Lease) { l.Grant.Target = "mysql:1" })
	b.clock.Advance(time.Minute)
	sameIDs(t, "pg", b.due(t, "pg", 10), pg.ID)
	sameIDs(t, "mysql", b.due(t, "mysql:1", 10), my.ID)
	sameIDs(t, "none", b.due(t, "other", 10))
}

func leaseList(t *testing.T, b *leaseBench) {
	s, other := b.session(t), NewSession(b.clock.Now())
	other.For.Job.RepositoryID = "78"
	must(t, b.Start(t.Context(), other))
	now := b.clock.Now()
	second := b.open(t, s, func(l *broker.Lease) { l.Opened = now.Add(2 * time.Second) })
	first := b.open(t, s, func(l *broker.Lease) { l.Opened = now.Add(time.Second); l.Grant.Target = "my" })
	third := b.open(t, other, func(l *broker.Lease) {
		l.Opened = now.Add(3 * time.Second)
		l.Grant.Name, l.Rule = "tokens", "teams/other"
	})
	for _, row := range []struct {
		f    broker.LeaseFilter
		want []broker.LeaseID
	}{
		{broker.LeaseFilter{}, []broker.LeaseID{first.ID, second.ID, third.ID}},
		{broker.LeaseFilter{Session: s.ID}, []broker.LeaseID{first.ID, second.ID}},
		{broker.LeaseFilter{Place: other.For.Place()}, []broker.LeaseID{third.ID}},
		{broker.LeaseFilter{Grant: "db"}, []broker.LeaseID{first.ID, second.ID}},
		{broker.LeaseFilter{Target: "pg"}, []broker.LeaseID{second.ID, third.ID}},
		{broker.LeaseFilter{Rule: "teams/rule"}, []broker.LeaseID{first.ID, second.ID}},
		{broker.LeaseFilter{Rule: "teams/other", Place: other.For.Place()}, []broker.LeaseID{third.ID}},
		{broker.LeaseFilter{Session: s.ID, Target: "pg"}, []broker.LeaseID{second.ID}},
		{broker.LeaseFilter{Session: other.ID, Grant: "db"}, nil},
		{broker.LeaseFilter{Place: "nowhere"}, nil},
	} {
		sameIDs(t, fmt.Sprintf("%+v", row.f), b.list(t, row.f), row.want...)
		if n := b.live(t, row.f); n != len(row.want) {
			t.Errorf("%+v counts %d", row.f, n)
		}
	}
}

func leaseUnknown(t *testing.T, b *leaseBench) {
	for _, id := range []broker.LeaseID{"", "dpl_neverwas", "../session", broker.LeaseID(make([]byte, 1<<16))} {
		if _, err := b.Lease(t.Context(), id); !errors.Is(err, broker.ErrNoLease) {
			t.Errorf("lease %.20q: %v", id, err)
		}
	}
}

func leaseCrowd(t *testing.T, b *leaseBench) {
	s := b.session(t)
	together(16, func(i int) {
		for range 5 {
			l := NewLease(s, b.clock.Now())
			err := errors.Join(b.Open(t.Context(), []broker.Lease{l}, broker.Caps{}), b.Activate(t.Context(), made(l)), b.Postpone(t.Context(), l))
			if i%2 == 0 {
				err = errors.Join(err, b.Close(t.Context(), l.ID))
			}
			_, err1 := b.Due(context.Background(), "pg", b.clock.Now(), 10)
			_, err2 := b.List(context.Background(), broker.LeaseFilter{Session: s.ID})
			if err := errors.Join(err, err1, err2); err != nil {
				t.Error(err)
			}
		}
	})
	if n := b.live(t, broker.LeaseFilter{Session: s.ID}); n != 8*5 {
		t.Errorf("%d leases live, want %d", n, 8*5)
	}
	if n := len(b.list(t, broker.LeaseFilter{})); n != 8*5 {
		t.Errorf("%d leases listed, want %d", n, 8*5)
	}
}
