package lease_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
)

// An index leads to leases, and what a lease is stands in its record alone: who
// can write to Redis cannot have an operator revoke, or a sweeper take up, what
// was not meant.
func TestALeaseInAForeignIndexIsNotTakenForWhatTheIndexSays(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	victim, other := b.active(t, s), b.active(t, s)
	for index, filter := range map[string]broker.LeaseFilter{
		b.key("rule", "shop/evil"): {Rule: "shop/evil"}, b.key("grant", "evil"): {Grant: "evil"}, b.key("of", "evil"): {Session: "evil"},
	} {
		b.do(t, "SADD", index, string(victim.ID))
		if got := must1(b.List(t.Context(), filter)); len(got) != 0 {
			t.Errorf("%s leads to %+v", index, got)
		}
	}
	b.do(t, "ZADD", b.key("due", "mysql"), 0, string(victim.ID))
	if got := must1(b.Due(t.Context(), "mysql", time.Now(), 10)); len(got) != 0 {
		t.Errorf("due in another target: %+v", got)
	}
	if got := must1(b.List(t.Context(), broker.LeaseFilter{Rule: victim.Rule})); len(got) != 2 || got[0].ID == got[1].ID {
		t.Errorf("by their rule: %+v", got)
	}
	must(t, b.Close(t.Context(), other.ID))
}

// A rule's cap is not full for ever because records were deleted by hand.
func TestALeaseDeletedByHandFreesTheRoomOfItsRule(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	caps := broker.Caps{LivePerRule: map[string]int{"teams/rule": 1}}
	lost := brokertest.NewLease(s, b.clock.Now())
	must(t, b.Open(t.Context(), []broker.Lease{lost}, caps))
	wantCode(t, b.Open(t.Context(), []broker.Lease{brokertest.NewLease(s, b.clock.Now())}, caps), broker.RateLimited)
	b.do(t, "DEL", b.key("lease", string(lost.ID)))
	must(t, b.Open(t.Context(), []broker.Lease{brokertest.NewLease(s, b.clock.Now())}, caps))
	if n := must1(b.Live(t.Context(), broker.LeaseFilter{Rule: "teams/rule"}))[0]; n != 1 {
		t.Errorf("%d leases of the rule", n)
	}
}

// Two brokers that postpone, close and activate the same lease at once leave it
// gone, or as one of them had it; never back from the dead.
func TestTwoBrokersMayWorkOnTheSameLease(t *testing.T) {
	b := newBench(t)
	s := b.session(t)
	for range 50 {
		l := b.active(t, s)
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				later := l
				later.Attempts, later.Due = 1, b.clock.Now().Add(time.Second)
				if err := b.Postpone(t.Context(), later); err != nil {
					t.Error(err)
				}
				if err := b.Close(t.Context(), l.ID); err != nil {
					t.Error(err)
				}
				if err := b.Postpone(t.Context(), later); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if _, err := b.Lease(t.Context(), l.ID); !errors.Is(err, broker.ErrNoLease) {
			t.Errorf("it is back: %v", err)
		}
	}
	b.clock.Advance(24 * time.Hour)
	if due := b.due(t, 100); len(due) != 0 {
		t.Errorf("due are %v", due)
	}
}
