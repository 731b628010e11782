package broker_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// take removes a key behind the broker's back.
func (l *locksmith) take(h broker.Handle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, h)
}

// TestACredentialThatSomebodyDroppedIsClosed within some minutes, and counts no
// longer.
func TestACredentialThatSomebodyDroppedIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		gone, kept := r.exchange("db").Granted[0].Lease, r.exchange("db").Granted[0].Lease
		r.running(t, func() {
			time.Sleep(90 * time.Second)
			r.left.take(gone.Handle)
			time.Sleep(3 * time.Minute)
			synctest.Wait()
		})
		if ls := r.leases(); len(ls) != 1 || ls[0].ID != kept.ID || !r.left.holds(kept.Handle) {
			t.Errorf("the books say %+v", ls)
		}
		rec := r.journal.of(broker.EventVanished)
		if len(rec) != 1 || rec[0].Leases[0].ID != gone.ID || r.tally.of("found left vanished") != 1 {
			t.Errorf("journalled as %+v, counted %v", rec, r.tally.counts)
		}
	})
}

// TestTheLastCredentialOfATargetMayVanishToo: an empty list is a list.
func TestTheLastCredentialOfATargetMayVanishToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		gone := r.exchange("db").Granted[0].Lease
		r.left.take(gone.Handle)
		r.running(t, func() { time.Sleep(3 * time.Minute) })
		if len(r.leases()) != 0 || len(r.journal.of(broker.EventVanished)) != 1 {
			t.Errorf("the books say %+v", r.leases())
		}
	})
}

// TestNothingVanishesThatMayStillBeThere: what a target does not list proves
// nothing where it cannot list, was not asked twice, is another server, or
// where the lease was on its way.
func TestNothingVanishesThatMayStillBeThere(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*broker.Config)
		make func(*rig, broker.Lease) // what is wrong
		run  time.Duration
		says string
	}{
		"after one look": {make: func(r *rig, l broker.Lease) { r.left.take(l.Handle) }, run: 50 * time.Second},
		"in a target that cannot list": {make: func(r *rig, l broker.Lease) {
			r.left.take(l.Handle)
			r.left.listsNothing = true
		}, run: 10 * time.Minute},
		"in a target that fails to list now and then": {make: func(r *rig, l broker.Lease) {
			r.left.take(l.Handle)
			n := 0
			r.course.meanwhile("held left", func(context.Context) error {
				if n++; n%6 == 0 {
					return errBroken
				}
				return nil
			})
		}, run: 20 * time.Minute},
		"in another server": {make: func(r *rig, l broker.Lease) {
			r.left.take(l.Handle)
			r.course.breaks("revoke db", broker.ErrOtherServer)
		}, run: 20 * time.Minute, says: "found left target_changed"},
		"while revoking is paused": {edit: paused, make: func(r *rig, l broker.Lease) { r.left.take(l.Handle) }, run: 20 * time.Minute},
		"while the books cannot be read": {make: func(r *rig, l broker.Lease) {
			r.left.take(l.Handle)
			r.course.breaks("list", errBroken)
		}, run: 20 * time.Minute},
		"that is there": {make: func(r *rig, l broker.Lease) {}, run: 20 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.edit)
				lease := r.exchange("db").Granted[0].Lease
				c.make(r, lease)
				r.running(t, func() { time.Sleep(c.run); synctest.Wait() })
				r.course.breaks("list", nil)
				if ls := r.leases(); len(ls) != 1 || ls[0].State != broker.LeaseActive || ls[0].Attempts != 0 {
					t.Errorf("the books say %+v", ls)
				}
				if len(r.journal.of(broker.EventVanished)) != 0 {
					t.Error("it is journalled as vanished")
				}
				if c.says != "" && r.tally.of(c.says) == 0 {
					t.Errorf("counted as %v", r.tally.counts)
				}
				if n := strings.Count(r.log.String(), "another server now"); c.says != "" && n != 1 {
					t.Errorf("the log says so %d times", n)
				}
			})
		})
	}
}

// TestAMintThatTakesLongIsNotMissed: its lease is pending while there is
// nothing to find.
func TestAMintThatTakesLongIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *broker.Config) { c.MintTimeout = 10 * time.Minute })
		r.course.meanwhile("mint db", func(context.Context) error { time.Sleep(5 * time.Minute); return nil })
		r.left.hidden = true
		r.running(t, func() {
			go func() { time.Sleep(5 * time.Minute); r.left.mu.Lock(); r.left.hidden = false; r.left.mu.Unlock() }()
			r.exchange("db")
			time.Sleep(5 * time.Minute)
		})
		if len(r.journal.of(broker.EventVanished)) != 0 || len(r.leases()) != 1 {
			t.Errorf("the books say %+v", r.leases())
		}
	})
}
