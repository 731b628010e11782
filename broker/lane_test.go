package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// crowd counts how many are inside at once.
type crowd struct{ now, most atomic.Int64 }

// stays lets whoever comes stay for so long.
func (c *crowd) stays(d time.Duration) func(context.Context) error {
	return func(context.Context) error {
		n := c.now.Add(1)
		for seen := c.most.Load(); n > seen && !c.most.CompareAndSwap(seen, n); seen = c.most.Load() {
		}
		time.Sleep(d)
		c.now.Add(-1)
		return nil
	}
}

// withRevokers sets how many revocations of the target left run at once.
func withRevokers(n int) func(*broker.Config) {
	return func(c *broker.Config) { c.About = map[string]broker.TargetInfo{"left": {Kind: "key", Revokers: n}} }
}

func TestRevocationsOfATargetRunSeveralAtOnceAndNoMore(t *testing.T) {
	for name, swept := range map[string]bool{"by a sweeper": true, "by their jobs": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, withRevokers(3))
				var answers []broker.Answer
				for i := range 12 {
					answers = append(answers, r.exchangeAs(fmt.Sprint(1+i%2), "db"))
				}
				var inside crowd
				r.course.meanwhile("revoke db", inside.stays(time.Second))
				began := time.Now()
				if swept {
					time.Sleep(time.Hour)
					began = time.Now()
					r.SweepTarget(context.Background(), "left")
				} else {
					var all sync.WaitGroup
					for _, a := range answers {
						all.Go(func() {
							if _, err := r.GiveBack(context.Background(), a.Token, "req_back"); err != nil {
								t.Error(err)
							}
						})
					}
					all.Wait()
				}
				if took := time.Since(began); took != 4*time.Second || inside.most.Load() != 3 {
					t.Errorf("twelve of a second each took %v, %d at once; want 4s and 3", took, inside.most.Load())
				}
				r.nothingIsLeft()
			})
		})
	}
}

// TestABacklogIsClearedAtTheTargetsPace, and whoever wants a credential
// meanwhile does not wait for it.
func TestABacklogIsClearedAtTheTargetsPace(t *testing.T) {
	const many, each, atOnce = 1000, 10 * time.Millisecond, 4
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withRevokers(atOnce))
		for range many / 10 {
			first := r.exchange("db")
			for range 9 {
				if _, err := r.More(context.Background(), first.Token, ask("db")); err != nil {
					t.Fatal(err)
				}
			}
		}
		var inside crowd
		r.course.meanwhile("revoke db", inside.stays(each))
		time.Sleep(time.Hour - time.Second)
		r.running(t, func() {
			time.Sleep(time.Second)
			for began := time.Now(); r.left.left() > 0; time.Sleep(100 * time.Millisecond) {
				if took := time.Since(began); took > sweepInterval+many*each/atOnce*11/10 {
					t.Fatalf("after %v the target holds %d keys", took, r.left.left())
				}
				asked := time.Now()
				if _, err := r.Exchange(context.Background(), r.token(job("2", "job-2")), ask("queue")); err != nil {
					t.Fatal(err)
				}
				answer, err := r.Exchange(context.Background(), r.token(job("2", "job-2")), ask("db"))
				if err != nil || time.Since(asked) != 0 {
					t.Fatalf("an exchange meanwhile took %v: %v", time.Since(asked), err)
				}
				if _, err := r.GiveBack(context.Background(), answer.Token, "req_back"); err != nil {
					t.Fatal(err)
				}
			}
		})
		if inside.most.Load() != atOnce {
			t.Errorf("%d at once, want %d", inside.most.Load(), atOnce)
		}
		if n := len(r.journal.of(broker.EventOrphan)); n != 0 {
			t.Errorf("%d leases were taken for orphans", n)
		}
		for i, seen := range r.revokedTwice() {
			t.Errorf("%s is journalled as revoked again (%d)", seen, i)
		}
	})
}

// TestATargetsTurnsAreNotIdleWhileTheJournalIsWritten, which on a slow disk
// takes as long as a revocation does.
func TestATargetsTurnsAreNotIdleWhileTheJournalIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withRevokers(4))
		for i := range 160 {
			r.exchangeAs(fmt.Sprint(1+i%2), "db")
		}
		var inside crowd
		r.course.meanwhile("revoke db", inside.stays(10*time.Millisecond))
		r.course.meanwhile("revoked", func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil })
		time.Sleep(time.Hour)
		began := time.Now()
		r.SweepTarget(context.Background(), "left")
		if took := time.Since(began); took > 450*time.Millisecond || inside.most.Load() != 4 {
			t.Errorf("160 of 10 ms each, four at once, took %v, %d at once", took, inside.most.Load())
		}
		r.nothingIsLeft()
	})
}

const sweepInterval = 5 * time.Second

// revokedTwice are the leases that more than one record says are gone.
func (r *rig) revokedTwice() []broker.LeaseID {
	var twice []broker.LeaseID
	seen := make(map[broker.LeaseID]bool)
	for _, rec := range r.journal.of(broker.EventRevoked) {
		for _, l := range rec.Leases {
			if seen[l.ID] {
				twice = append(twice, l.ID)
			}
			seen[l.ID] = true
		}
	}
	return twice
}

// TestALostTargetIsTriedWithOneRevocationAtATime, at most 15 s apart, for ever.
func TestALostTargetIsTriedWithOneRevocationAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range 50 {
			r.exchange("db")
		}
		time.Sleep(time.Hour)
		r.course.breaks("held left", errBroken)
		var mu sync.Mutex
		var tries []time.Time
		r.course.meanwhile("revoke db", func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			tries = append(tries, time.Now())
			return errBroken
		})
		r.running(t, func() {
			time.Sleep(2 * time.Minute) // it is known to be lost by now
			mu.Lock()
			tries = nil
			mu.Unlock()
			time.Sleep(time.Hour)
			synctest.Wait()
			mu.Lock()
			for i, at := range tries[1:] {
				if gap := at.Sub(tries[i]); gap < time.Second || gap > 20*time.Second {
					t.Errorf("two tries %v apart", gap)
				}
			}
			if n := len(tries); n < 3600/20 || n > 3600/10 {
				t.Errorf("%d tries in an hour", n)
			}
			mu.Unlock()
			if lost := r.tally.lostFor("left"); lost < time.Hour {
				t.Errorf("the meter says that it is lost for %v", lost)
			}
			if lost := r.tally.lostFor("right"); lost != 0 {
				t.Errorf("the meter says that another is lost for %v", lost)
			}
			r.course.meanwhile("revoke db", nil)
			r.course.breaks("held left", nil)
			r.left.goneBy(t, "left", 30*time.Second)
			time.Sleep(sweepInterval)
			if lost := r.tally.lostFor("left"); lost != 0 {
				t.Errorf("the meter says that it is lost for %v", lost)
			}
		})
	})
}

func (t *tally) lostFor(target string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost[target]
}

// TestNothingIsIssuedAtALostTarget: the job is told at once, and keeps its
// token; the target's name is for the log.
func TestNothingIsIssuedAtALostTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.running(t, func() {
			r.course.breaks("held left", errBroken)
			time.Sleep(time.Minute)
			token := r.token(job("1", "job-1"))
			r.course.forget()
			began := time.Now()
			_, err := r.Exchange(context.Background(), token, ask("queue", "db"))
			e := r.refused(err, broker.Unavailable)
			if e.Reason != "target_lost" || e.RetryAfter <= 0 || time.Since(began) != 0 {
				t.Errorf("after %v it says %+v", time.Since(began), e)
			}
			if strings.Contains(e.Public, "left") || !strings.Contains(e.Public, "db") || !strings.Contains(e.Err.Error(), `"left"`) {
				t.Errorf("told %q, logged %q", e.Public, e.Err)
			}
			if steps := r.course.of("claim", "intent", "mint"); len(steps) != 0 {
				t.Errorf("it went on to %q", steps)
			}
			r.exchange("queue") // another target's grants are issued
			r.course.breaks("held left", nil)
			time.Sleep(30 * time.Second)
			if _, err := r.Exchange(context.Background(), token, ask("queue", "db")); err != nil {
				t.Errorf("30 s after it came back: %v", err)
			}
		})
	})
}

// TestATargetIsLostByTheThirdFailureInARowAndNotBefore.
func TestATargetIsLostByTheThirdFailureInARowAndNotBefore(t *testing.T) {
	r := newRig(t, nil)
	r.course.breaks("held left", errBroken)
	for _, c := range []struct {
		looks int
		lost  bool
	}{{2, false}, {2, false}, {3, true}, {1, true}} { // what is issued in between is a sign of life
		for range c.looks {
			r.SweepTarget(context.Background(), "left")
		}
		_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db"))
		if lost := broker.ReasonOf(err) == "target_lost"; lost != c.lost || (err != nil) != c.lost {
			t.Errorf("after %d looks that failed: %v", c.looks, err)
		}
	}
}

// TestAJobAtALostTargetIsToldAtOnce, and what it gave back goes when the target
// is there again, long before its end.
func TestAJobAtALostTargetIsToldAtOnce(t *testing.T) {
	for name, giveBack := range map[string]func(*rig, broker.Answer) error{
		"who gives back all": func(r *rig, a broker.Answer) error {
			_, err := r.GiveBack(context.Background(), a.Token, "req_back")
			return err
		},
		"who gives back one": func(r *rig, a broker.Answer) error {
			_, err := r.GiveBackLease(context.Background(), a.Token, a.Granted[0].Lease.ID, "req_back")
			return err
		},
		"an operator": func(r *rig, a broker.Answer) error {
			_, err := r.RevokeLease(context.Background(), a.Granted[0].Lease.ID, broker.Act{Request: "req_back", By: "ops"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				a := r.exchange("db")
				hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				r.course.meanwhile("revoke db", hang)
				r.course.meanwhile("held left", hang)
				r.running(t, func() {
					time.Sleep(2 * time.Minute)
					began := time.Now()
					if err := giveBack(r, a); err != nil || time.Since(began) != 0 {
						t.Errorf("after %v: %v", time.Since(began), err)
					}
					if l := r.leases(); len(l) != 1 || l[0].Due.After(time.Now()) {
						t.Errorf("the books say %+v", l)
					}
					r.course.meanwhile("revoke db", nil)
					r.course.meanwhile("held left", nil)
					r.left.goneBy(t, "left", 30*time.Second)
				})
				r.nothingIsLeft()
			})
		})
	}
}

// TestWhatCannotBeDroppedDoesNotLoseItsTarget: a job that leaves objects behind
// keeps neither others from buying nor what is due from going, whatever the
// order is in which it comes due.
func TestWhatCannotBeDroppedDoesNotLoseItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var good []broker.Handle
		for i := range 120 {
			h := r.exchange("db").Granted[0].Lease.Handle
			if i%20 == 19 {
				good = append(good, h)
				continue
			}
			r.course.breaks("drop "+string(h), errors.New("role owns objects"))
		}
		r.running(t, func() {
			time.Sleep(time.Hour + 10*time.Second)
			synctest.Wait()
			for _, h := range good {
				if r.left.holds(h) {
					t.Errorf("%s is still there", h)
				}
			}
			for range 12 {
				r.exchange("queue")
				if _, err := r.Exchange(context.Background(), r.token(job("2", "job-2")), ask("db")); err != nil {
					t.Error(err)
				}
				time.Sleep(5 * time.Second)
			}
		})
	})
}

// TestManyThatCannotBeDroppedDoNotHaveTheTargetListedEachTime.
func TestManyThatCannotBeDroppedDoNotHaveTheTargetListedEachTime(t *testing.T) {
	r := newRig(t, withRevokers(1))
	for range 150 {
		r.exchange("db")
	}
	r.course.breaks("revoke db", errors.New("role owns objects"))
	if _, err := r.RevokeLeases(context.Background(), broker.LeaseFilter{Grant: "db"}, byOps); err != nil {
		t.Fatal(err)
	}
	r.SweepTarget(context.Background(), "left")
	if n := r.course.happened("revoke db"); n != 150 {
		t.Errorf("%d were tried", n)
	}
	if n := r.course.happened("held left"); n > 8 {
		t.Errorf("the target was listed %d times", n)
	}
}

// TestAMintThatFailsDoesNotLoseItsTarget while it can be listed.
func TestAMintThatFailsDoesNotLoseItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.course.breaks("mint db", errors.New("no such group"))
		r.running(t, func() {
			for range 20 {
				_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db"))
				r.refused(err, broker.MintFailed)
			}
			r.exchange("few") // of the same target
		})
	})
}

// TestALeaseThatIsRevokedMeanwhileIsNoOrphan: between asking the target and
// reading the books, another broker was done with it.
func TestALeaseThatIsRevokedMeanwhileIsNoOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.exchange("db")
		second, err := broker.New(r.config(nil))
		if err != nil {
			t.Fatal(err)
		}
		r.left.clockAhead = 2 * time.Hour // so that it is overdue there, and not by the books
		id := r.leases()[0].ID
		r.course.meanwhile("list", func(context.Context) error {
			if r.course.happened("held left") != 1 || len(r.journal.of(broker.EventOperator)) > 0 {
				return nil
			}
			_, err := second.RevokeLease(context.Background(), id, broker.Act{Request: "req_op", By: "ops"})
			return err
		})
		r.SweepTarget(context.Background(), "left")
		if len(r.journal.of(broker.EventOperator)) != 1 {
			t.Error("it was not revoked meanwhile")
		}
		if orphans := r.journal.of(broker.EventOrphan); len(orphans) != 0 {
			t.Errorf("it is journalled as %+v", orphans)
		}
		r.nothingIsLeft()
	})
}

func TestOrphansAreCountedUnderTheKindOfTheirTarget(t *testing.T) {
	r := newRig(t, withRevokers(2))
	r.left.foreign = []broker.Held{orphan(t, 1), orphan(t, 2)}
	r.SweepTarget(context.Background(), "left")
	if r.tally.of("revoked key ok") != 2 || r.tally.of("revoked  ok") != 0 {
		t.Errorf("counted as %v", r.tally.counts)
	}
}

// TestAThousandOrphansAreDroppedAtTheTargetsPace: the books were lost.
func TestAThousandOrphansAreDroppedAtTheTargetsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withRevokers(5)) // one of them for what has a lease
		for n := range 1000 {
			r.left.foreign = append(r.left.foreign, orphan(t, n))
		}
		r.course.meanwhile("revoke ", func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil })
		began := time.Now()
		r.SweepTarget(context.Background(), "left")
		if took := time.Since(began); took != 2500*time.Millisecond || r.left.left() != 0 {
			t.Errorf("after %v there are %d", took, r.left.left())
		}
	})
}
