package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// running lets the rig's broker sweep until the test's function returns.
func (r *rig) running(t *testing.T, test func()) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { r.Run(ctx); close(ended) }()
	test()
	stop()
	<-ended
}

// goneBy waits until the target holds nothing, for as long as limit at most.
func (l *locksmith) goneBy(t *testing.T, what string, limit time.Duration) {
	t.Helper()
	for end := time.Now().Add(limit); l.left() > 0; time.Sleep(time.Second) {
		if !time.Now().Before(end) {
			t.Errorf("%s: after %v the target holds %d keys", what, limit, l.left())
			return
		}
		synctest.Wait()
	}
}

func TestACredentialIsGoneThirtySecondsAfterItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		answer := r.exchange("db", "queue")
		r.running(t, func() {
			time.Sleep(time.Until(answer.Granted[0].Lease.NotAfter) - time.Millisecond)
			synctest.Wait()
			if r.left.left() != 1 || r.right.left() != 1 {
				t.Error("it was taken back before its end")
			}
			r.left.goneBy(t, "left", 30*time.Second)
			r.right.goneBy(t, "right", 30*time.Second)
		})
		r.nothingIsLeft()
		for _, rec := range r.journal.of(broker.EventRevoked) {
			if rec.Reason != "expired" {
				t.Errorf("journalled because of %s", rec.Reason)
			}
		}
	})
}

// TestATargetThatWasDownForADayIsCleanedWithinThirtySeconds, however long the
// back-off might have grown.
func TestATargetThatWasDownForADayIsCleanedWithinThirtySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range 5 {
			r.exchange("db")
		}
		r.course.breaks("revoke db", errors.New("connection refused"))
		r.course.breaks("held left", errors.New("connection refused"))
		r.running(t, func() {
			time.Sleep(25 * time.Hour)
			if r.left.left() != 5 || len(r.leases()) != 5 {
				t.Errorf("%d keys, %d leases after a day", r.left.left(), len(r.leases()))
			}
			if live, lag := r.tally.swept(); live != 5 || lag < 23*time.Hour || lag > 25*time.Hour {
				t.Errorf("the meter says %d live, %v late", live, lag)
			}
			r.course.breaks("revoke db", nil)
			r.course.breaks("held left", nil)
			r.left.goneBy(t, "left", 30*time.Second)
			time.Sleep(10 * time.Second)
			if live, lag := r.tally.swept(); live != 0 || lag != 0 {
				t.Errorf("the meter says %d live, %v late", live, lag)
			}
		})
		r.nothingIsLeft()
		if n := len(r.journal.of(broker.EventUnrevoked)); n > 5*14 {
			t.Errorf("a day of failures fills the journal with %d records", n)
		}
		if tries := r.course.happened("revoke db"); tries < 24*60 || tries > 5*24*3600/10 {
			t.Errorf("it was tried %d times", tries)
		}
	})
}

func TestALostTargetDoesNotHoldUpAnother(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, lose := range map[string]func(*rig){
		"it refuses": func(r *rig) { r.course.breaks("revoke db", errBroken); r.course.breaks("held left", errBroken) },
		"it hangs": func(r *rig) {
			r.course.meanwhile("revoke db", hang)
			r.course.meanwhile("held left", hang)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				for range 10 {
					r.exchange("db")
				}
				r.exchange("queue")
				lose(r)
				r.running(t, func() {
					time.Sleep(time.Hour)
					r.right.goneBy(t, "right", 30*time.Second)
				})
			})
		})
	}
}

// TestATargetThatHungIsSweptAgain: what hangs is given up, so that the loop
// lives to see the target come back.
func TestATargetThatHungIsSweptAgain(t *testing.T) {
	for _, at := range []string{"held left", "revoke db", "due", "list", "live", "postpone", "close"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				// Something that has every call made: one lease that is due, one
				// key that no lease knows.
				r.exchange("db")
				r.left.foreign = []broker.Held{orphan(t, 1)}
				r.course.meanwhile(at, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
				ctx, stop := context.WithCancel(context.Background())
				ended := make(chan struct{})
				go func() { r.Run(ctx); close(ended) }()
				time.Sleep(2 * time.Hour)
				r.course.meanwhile(at, nil)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if n := r.left.left(); n != 0 {
					t.Errorf("two minutes after it came back there are %d keys", n)
				}
				stop()
				<-ended
			})
		})
	}
}

// orphan is a key under our name that is overdue.
func orphan(t *testing.T, n int) broker.Held {
	t.Helper()
	ended := time.Now().Add(-time.Hour).Truncate(time.Second)
	h, err := broker.NewHandle("test", ended, broker.LeaseID(fmt.Sprintf("dpl_lost%d", n)))
	if err != nil {
		t.Fatal(err)
	}
	return broker.Held{Handle: h, Expires: ended, Overdue: true}
}

// TestLeasesThatNeverGoDoNotHoldUpOthers: sixty roles that own objects cannot
// be dropped; promise 1 still holds for those that can, whether or not the
// target can be asked for what it holds.
func TestLeasesThatNeverGoDoNotHoldUpOthers(t *testing.T) {
	for name, held := range map[string]error{"on a target that lists": nil, "on a target that does not list": errBroken} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				buy := func(name string, ttl time.Duration) broker.Lease {
					request := ask(name)
					request.Wants[0].TTL = ttl
					answer, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), request)
					if err != nil {
						t.Fatal(err)
					}
					return answer.Granted[0].Lease
				}
				for range 60 {
					r.course.breaks("drop "+string(buy("db", 30*time.Minute).Handle), errors.New("role owns objects"))
				}
				fresh := []broker.Lease{buy("few", 40*time.Minute), buy("few", 50*time.Minute)}
				r.course.breaks("held left", held)
				r.running(t, func() {
					time.Sleep(35 * time.Minute) // all of them fail, again and again
					for _, l := range fresh {
						time.Sleep(time.Until(l.NotAfter) + 30*time.Second)
						synctest.Wait()
						if r.left.holds(l.Handle) {
							t.Errorf("%v after its end %s is still there", time.Since(l.NotAfter), l.Handle)
						}
					}
				})
			})
		})
	}
}

// TestLeasesThatNeverGoDoNotHoldUpOrphans either.
func TestLeasesThatNeverGoDoNotHoldUpOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range 60 {
			h := r.exchange("db").Granted[0].Lease.Handle
			r.course.breaks("drop "+string(h), errors.New("role owns objects"))
		}
		r.running(t, func() {
			time.Sleep(65 * time.Minute)
			r.left.mu.Lock()
			r.left.foreign = append(r.left.foreign, orphan(t, 1))
			r.left.mu.Unlock()
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if n := r.left.left(); n != 60 {
				t.Errorf("%d keys are left, and sixty cannot go", n)
			}
		})
	})
}

// TestASlowMintIsNotDisturbed: a sweeper on the same clock does not take a mint
// that is under way for one that was abandoned.
func TestASlowMintIsNotDisturbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.course.meanwhile("mint db", func(context.Context) error { time.Sleep(19 * time.Second); return nil })
		r.running(t, func() {
			if answer := r.exchange("db"); !r.left.holds(answer.Granted[0].Lease.Handle) {
				t.Error("its key is gone")
			}
			if n := r.course.happened("revoke db"); n != 0 {
				t.Errorf("it was revoked %d times", n)
			}
		})
	})
}

func TestAnAbandonedMintIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		answer := r.exchange() // a session for it
		h, err := broker.NewHandle("test", time.Now().Add(time.Hour), "dpl_abandoned")
		if err != nil {
			t.Fatal(err)
		}
		pending := broker.Lease{ID: "dpl_abandoned", Handle: h, Grant: r.statute.grants["db"], Session: answer.Session.ID, Place: "ci/1",
			State: broker.LeasePending, Opened: time.Now(), NotAfter: time.Now().Add(time.Hour), Due: time.Now().Add(25 * time.Second)}
		if err := r.store.Leases.Open(context.Background(), []broker.Lease{pending}, broker.Caps{}); err != nil {
			t.Fatal(err)
		}
		r.left.keys = map[broker.Handle]time.Time{h: pending.NotAfter} // its mint came through before the crash
		r.running(t, func() {
			time.Sleep(24 * time.Second)
			synctest.Wait()
			if !r.left.holds(h) {
				t.Error("a mint that may be under way is disturbed")
			}
			r.left.goneBy(t, "left", 10*time.Second)
		})
		r.nothingIsLeft()
		if rec := r.journal.of(broker.EventRevoked); len(rec) != 1 || rec[0].Reason != "abandoned" {
			t.Errorf("journalled as %+v", rec)
		}
	})
}

func TestOnlyOverdueOrphansAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		mine := r.exchange("db").Granted[0].Lease
		lost, living := orphan(t, 1), orphan(t, 2)
		living.Overdue = false // by the target's own clock, which is the one that counts
		r.left.foreign = []broker.Held{lost, living}
		if more := r.SweepTarget(context.Background(), "left"); more {
			t.Error("it says that there is more")
		}
		if got := []bool{r.left.holds(mine.Handle), len(r.left.foreign) == 1 && r.left.foreign[0].Handle == living.Handle}; !got[0] || !got[1] {
			t.Errorf("left are %v and %v", r.left.keys, r.left.foreign)
		}
		rec := r.journal.of(broker.EventOrphan)
		if len(rec) != 1 || rec[0].Leases[0].Handle != lost.Handle || rec[0].Leases[0].Grant.Target != "left" {
			t.Errorf("journalled as %+v", rec)
		}
	})
}

// TestOrphansAreDroppedWithoutTheBooks: the target holds the truth, also while
// the store is lost.
func TestOrphansAreDroppedWithoutTheBooks(t *testing.T) {
	r := newRig(t, nil)
	for _, step := range []string{"due", "list", "live", "lease"} {
		r.course.breaks(step, errors.New("store is down"))
	}
	r.left.foreign = []broker.Held{orphan(t, 1), orphan(t, 2)}
	r.SweepTarget(context.Background(), "left")
	if r.left.left() != 0 {
		t.Errorf("%d keys are left", r.left.left())
	}
}

// TestLosingTheStoreLeaksNothing: all leases are forgotten, and what they were
// for is gone 30 s after its end all the same.
func TestLosingTheStoreLeaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.exchange("db", "queue")
		for _, l := range r.leases() {
			if err := r.store.Leases.Close(context.Background(), l.ID); err != nil {
				t.Fatal(err)
			}
		}
		r.running(t, func() {
			time.Sleep(59 * time.Minute)
			if r.left.left() != 1 {
				t.Error("it was dropped before its time")
			}
			time.Sleep(time.Minute)
			r.left.goneBy(t, "left", 30*time.Second)
			r.right.goneBy(t, "right", 30*time.Second)
		})
	})
}

// TestOrphansThatNeverGoDoNotHoldUpOthers, whatever the order is in which the
// target lists them.
func TestOrphansThatNeverGoDoNotHoldUpOthers(t *testing.T) {
	for name, good := range map[string]int{"listed after them": 6, "listed before them": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				for n := range 7 {
					r.left.foreign = append(r.left.foreign, orphan(t, n))
				}
				all, err := r.left.Held(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				for i, h := range all {
					if i != good {
						r.course.breaks("drop "+string(h.Handle), errors.New("role owns objects"))
					}
				}
				r.running(t, func() { time.Sleep(2 * time.Minute); synctest.Wait() })
				if n := r.left.left(); n != 6 {
					t.Errorf("%d of 7 are left, and one could be dropped", n)
				}
			})
		})
	}
}

// TestAFewFailuresDoNotEndAPassOverOrphans: only failures in a row say that the
// target is lost. Two passes, since the order is random and three in a row may
// happen to one of them.
func TestAFewFailuresDoNotEndAPassOverOrphans(t *testing.T) {
	r := newRig(t, nil)
	for n := range 200 {
		h := orphan(t, n)
		r.left.foreign = append(r.left.foreign, h)
		if n%34 == 0 {
			r.course.breaks("drop "+string(h.Handle), errors.New("role owns objects"))
		}
	}
	for range 2 {
		r.SweepTarget(context.Background(), "left")
	}
	if n := r.left.left(); n != 6 {
		t.Errorf("%d of 200 are left, and six could not be dropped", n)
	}
}

// TestKnownLeasesDoNotHideOrphans: 250 credentials that are overdue and known
// come first in the target's list.
func TestKnownLeasesDoNotHideOrphans(t *testing.T) {
	r := newRig(t, nil)
	session := r.exchange().Session.ID
	for n := range 250 {
		h := orphan(t, n)
		h.Handle = broker.Handle("dp_test_000000_" + string(h.Handle)[len(h.Handle)-12:]) // sorts before the others
		l := broker.Lease{ID: broker.LeaseID(fmt.Sprintf("dpl_known%d", n)), Handle: h.Handle, Grant: r.statute.grants["db"], Session: session,
			State: broker.LeasePending, Opened: time.Now(), NotAfter: h.Expires, Due: time.Now().Add(time.Hour)}
		if err := r.store.Leases.Open(context.Background(), []broker.Lease{l}, broker.Caps{}); err != nil {
			t.Fatal(err)
		}
		l.State, l.Attempts = broker.LeaseRevoking, 9 // failed again and again, and due later
		if err := r.store.Leases.Postpone(context.Background(), l); err != nil {
			t.Fatal(err)
		}
		r.left.foreign = append(r.left.foreign, h)
	}
	lost := orphan(t, 1000)
	r.left.foreign = append(r.left.foreign, lost)
	r.SweepTarget(context.Background(), "left")
	if n := r.course.happened("drop " + string(lost.Handle)); n != 1 {
		t.Errorf("the orphan was dropped %d times", n)
	}
	if n := r.left.left(); n != 250 {
		t.Errorf("%d keys are left; those that are known have their own back-off", n)
	}
}

// TestTheTargetsClockDecides: a broker whose clock is slow takes back what the
// target says is overdue.
func TestTheTargetsClockDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		lease := r.exchange("db").Granted[0].Lease
		r.left.clockAhead = 10 * time.Minute
		r.running(t, func() {
			time.Sleep(time.Until(lease.NotAfter) - 10*time.Minute - time.Second)
			synctest.Wait()
			if !r.left.holds(lease.Handle) {
				t.Error("it is gone before its end by the target's clock")
			}
			r.left.goneBy(t, "left", 30*time.Second)
		})
		r.nothingIsLeft()
	})
}

// TestAStoreThatCannotForgetDoesNotMakeTheSweeperSpin: the credentials are
// gone, their leases cannot be closed, and they are still due.
func TestAStoreThatCannotForgetDoesNotMakeTheSweeperSpin(t *testing.T) {
	for name, broken := range map[string][]string{
		"it cannot close":                {"close"},
		"it cannot be written":           {"close", "postpone"},
		"it cannot be written or listed": {"close", "postpone", "list"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				for range 250 {
					r.exchange("db")
				}
				time.Sleep(time.Hour + time.Second)
				for _, step := range broken {
					r.course.breaks(step, errBroken)
				}
				passes := 0
				for passes < 20 && r.SweepTarget(context.Background(), "left") {
					passes++
				}
				if passes == 20 {
					t.Error("it always says that there is more, and would be called again at once")
				}
				for _, step := range broken {
					r.course.breaks(step, nil)
				}
				r.sweepUntil(30*time.Second, r.clean)
			})
		})
	}
}

func TestMoreThanOnePassIsTakenUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range 450 {
			r.exchange("db")
		}
		r.course.breaks("held left", errBroken) // no help from there
		time.Sleep(time.Hour + time.Second)
		r.running(t, func() {
			time.Sleep(time.Second)
			synctest.Wait()
			if n := r.left.left(); n != 0 {
				t.Errorf("%d of 450 wait for the next tick", n)
			}
		})
	})
}

// What is due is taken back while records of it wait for the disk, and each is
// in the journal when the pass is over.
func TestASweepDoesNotWaitForTheJournalBetweenRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range 50 {
			r.exchange("db")
		}
		time.Sleep(time.Hour + time.Second)
		synced := make(chan struct{})
		r.course.meanwhile("revoked", func(context.Context) error { <-synced; return nil })
		swept := make(chan struct{})
		go func() { r.SweepTarget(context.Background(), "left"); close(swept) }()
		synctest.Wait()
		if n := r.left.left(); n != 0 {
			t.Errorf("%d of 50 wait for the journal", n)
		}
		select {
		case <-swept:
			t.Error("the pass is over before the journal has it")
		default:
		}
		close(synced)
		<-swept
		if n := len(r.journal.of(broker.EventRevoked)); n != 50 {
			t.Errorf("%d of 50 are in the journal", n)
		}
	})
}

func TestTwoBrokersMaySweepTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range 50 {
			r.exchange("db", "queue")
		}
		r.left.foreign = []broker.Held{orphan(t, 1)}
		second, err := broker.New(r.config(nil))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { second.Run(ctx); close(ended) }()
		r.running(t, func() {
			time.Sleep(time.Hour)
			r.left.goneBy(t, "left", 30*time.Second)
			r.right.goneBy(t, "right", 30*time.Second)
		})
		stop()
		<-ended
		r.nothingIsLeft()
	})
}

// TestALeaseThatAnotherBrokerFreedIsNotLate: the lag is of leases that are
// still there.
func TestALeaseThatAnotherBrokerFreedIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		lease := r.exchange("db").Granted[0].Lease
		r.course.breaks("revoke db", errBroken)
		r.running(t, func() {
			time.Sleep(2 * time.Hour)
			if _, lag := r.tally.swept(); lag < 50*time.Minute {
				t.Errorf("it is %v late", lag)
			}
			if err := r.store.Leases.Close(context.Background(), lease.ID); err != nil {
				t.Fatal(err)
			}
			r.left.mu.Lock()
			clear(r.left.keys)
			r.left.mu.Unlock()
			time.Sleep(10 * time.Second)
			if live, lag := r.tally.swept(); live != 0 || lag != 0 {
				t.Errorf("%d live, %v late", live, lag)
			}
		})
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a bubble ends only when all its goroutines have
		r := newRig(t, nil)
		r.exchange("db")
		ctx, stop := context.WithCancel(context.Background())
		stop()
		r.Run(ctx)
		ctx, stop = context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		began := time.Now()
		r.Run(ctx)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

// TestStoppingDoesNotCutARevocationShort: what was begun is finished, within
// its own deadline.
func TestStoppingDoesNotCutARevocationShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.exchange("db")
		time.Sleep(time.Hour)
		ctx, stop := context.WithCancel(context.Background())
		r.course.meanwhile("revoke db", func(ctx context.Context) error {
			stop()
			time.Sleep(time.Second)
			return ctx.Err()
		})
		r.Run(ctx)
		r.nothingIsLeft()
	})
}
