package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

var byOps = broker.Act{Request: "req_op", By: "ops", Reason: "the datacentre burnt down"}

// TestAnOperatorRevokesWhatAFilterPicksAndNothingElse.
func TestAnOperatorRevokesWhatAFilterPicksAndNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		filter func(mine broker.Answer) broker.LeaseFilter
		left   int // of four: db and queue of repository 1, db of another job there, db of repository 2
	}{
		"of a job session": {func(a broker.Answer) broker.LeaseFilter { return broker.LeaseFilter{Session: a.Session.ID} }, 2},
		"of a repository":  {func(broker.Answer) broker.LeaseFilter { return broker.LeaseFilter{Place: "ci/1"} }, 1},
		"of a grant":       {func(broker.Answer) broker.LeaseFilter { return broker.LeaseFilter{Grant: "db"} }, 1},
		"of a target":      {func(broker.Answer) broker.LeaseFilter { return broker.LeaseFilter{Target: "right"} }, 3},
		"of a rule":        {func(broker.Answer) broker.LeaseFilter { return broker.LeaseFilter{Rule: "rules.yaml/all"} }, 0},
		"of two together": {func(broker.Answer) broker.LeaseFilter {
			return broker.LeaseFilter{Place: "ci/1", Target: "right"}
		}, 3},
		"of none": {func(broker.Answer) broker.LeaseFilter { return broker.LeaseFilter{Rule: "rules.yaml/other"} }, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				mine := r.exchange("db", "queue")
				r.exchange("db")
				if _, err := r.Exchange(context.Background(), r.token(job("2", "job-2")), ask("db")); err != nil {
					t.Fatal(err)
				}
				r.running(t, func() {
					f := c.filter(mine)
					marked, err := r.RevokeLeases(context.Background(), f, byOps)
					if err != nil || len(marked) != 4-c.left {
						t.Errorf("marked are %d, %v", len(marked), err)
					}
					synctest.Wait() // no tick has passed: the sweepers were woken
					if n := r.left.left() + r.right.left(); n != c.left {
						t.Errorf("%d keys are left, want %d", n, c.left)
					}
					acts := r.journal.of(broker.EventOperator)
					if c.left == 4 {
						if len(acts) != 0 {
							t.Errorf("journalled as %+v", acts)
						}
						return
					}
					if len(acts) != 1 || acts[0].Reason != "revoke" || acts[0].Detail != "ops: "+f.String() || len(acts[0].Leases) != len(marked) {
						t.Errorf("journalled as %+v", acts)
					}
					for _, rec := range r.journal.of(broker.EventRevoked) {
						if rec.Reason != "asked" {
							t.Errorf("gone because of %s", rec.Reason)
						}
					}
				})
				_, err := r.More(context.Background(), mine.Token, ask("queue"))
				if shut := name == "of a job session"; (err != nil) != shut {
					t.Errorf("the session mints on: %v", err)
				}
			})
		})
	}
}

func TestRevokingEverythingByAnEmptyFilterIsRefused(t *testing.T) {
	r := newRig(t, nil)
	r.exchange("db")
	_, err := r.RevokeLeases(context.Background(), broker.LeaseFilter{}, byOps)
	r.refused(err, broker.BadRequest)
	if len(r.journal.of(broker.EventOperator)) != 0 || r.leases()[0].State != broker.LeaseActive {
		t.Error("and yet something happened")
	}
}

// TestAMintThatIsUnderWayIsRevokedToo: what an operator revokes does not come
// to life afterwards.
func TestAMintThatIsUnderWayIsRevokedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.course.meanwhile("mint db", func(context.Context) error {
			if _, err := r.RevokeLeases(context.Background(), broker.LeaseFilter{Grant: "db"}, byOps); err != nil {
				return err
			}
			time.Sleep(15 * time.Second)
			if n := r.course.happened("revoke db"); n != 0 {
				t.Error("a sweeper got ahead of the mint, and could have closed the lease of what is made after it")
			}
			return nil
		})
		r.running(t, func() {
			_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db"))
			r.refused(err, broker.Conflict)
			r.left.goneBy(t, "left", 40*time.Second)
		})
		r.nothingIsLeft()
	})
}

// TestManyRevokedLeasesAreJournalledInRecordsThatFit a line.
func TestManyRevokedLeasesAreJournalledInRecordsThatFit(t *testing.T) {
	r := newRig(t, nil)
	for range 250 {
		r.exchange("db")
	}
	if _, err := r.RevokeLeases(context.Background(), broker.LeaseFilter{Grant: "db"}, byOps); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, rec := range r.journal.of(broker.EventOperator) {
		if len(rec.Leases) > 100 || rec.Leases[0].Grant.Params != nil {
			t.Errorf("a record holds %d leases with %s", len(rec.Leases), rec.Leases[0].Grant.Params)
		}
		n += len(rec.Leases)
	}
	if n != 250 {
		t.Errorf("%d leases are journalled", n)
	}
}

// TestAStoreThatBreaksWhileManyAreMarkedIsTold, with how far it came.
func TestAStoreThatBreaksWhileManyAreMarkedIsTold(t *testing.T) {
	r := newRig(t, nil)
	r.exchange("db")
	r.course.breaks("postpone", errBroken)
	marked, err := r.RevokeLeases(context.Background(), broker.LeaseFilter{Grant: "db"}, byOps)
	if e := r.refused(err, broker.Unavailable); len(marked) != 0 || !strings.Contains(e.Public, "0 of 1") {
		t.Errorf("marked %v, %v", marked, err)
	}
}

// TestOnlyALostTargetIsForgotten: what can be taken back is taken back.
func TestOnlyALostTargetIsForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*broker.Config)
		before func(*rig)
		ok     bool
	}{
		"one that answers": {},
		"one that hangs": {before: func(r *rig) {
			r.course.meanwhile("held left", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		}, ok: true},
		"one that is away":                 {before: func(r *rig) { r.course.breaks("held left", errBroken) }, ok: true},
		"one that is retired":              {edit: func(c *broker.Config) { c.About = map[string]broker.TargetInfo{"left": {Retired: true}} }, ok: true},
		"one that is no longer configured": {edit: func(c *broker.Config) { delete(c.Targets, "left") }, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				first := r.exchange("db", "queue")
				b, err := broker.New(r.config(c.edit))
				if err != nil {
					t.Fatal(err)
				}
				if c.before != nil {
					c.before(r)
				}
				r.course.forget()
				forgotten, err := b.Forget(context.Background(), "left", "", byOps)
				if steps := r.course.of("revoke", "drop", "mint"); len(steps) != 0 {
					t.Errorf("the target was touched: %q", steps)
				}
				if !c.ok {
					r.refused(err, broker.Conflict)
					if len(r.leases()) != 2 || len(r.journal.of(broker.EventForgotten)) != 0 {
						t.Error("and yet something was forgotten")
					}
					return
				}
				if err != nil || len(forgotten) != 1 || forgotten[0].Handle != first.Granted[0].Lease.Handle {
					t.Fatalf("forgotten are %+v, %v", forgotten, err)
				}
				rec := r.journal.of(broker.EventForgotten)
				if len(rec) != 1 || rec[0].Leases[0].Handle != forgotten[0].Handle || rec[0].Detail != "ops: "+byOps.Reason || rec[0].Request != "req_op" {
					t.Errorf("journalled as %+v", rec)
				}
				if ls := r.leases(); len(ls) != 1 || ls[0].Grant.Name != "queue" {
					t.Errorf("the books say %+v", ls)
				}
			})
		})
	}
}

// TestWhatWasForgottenIsFoundByItsNameIfTheTargetComesBack after all.
func TestWhatWasForgottenIsFoundByItsNameIfTheTargetComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.exchange("db")
		r.course.breaks("held left", errBroken)
		if _, err := r.Forget(context.Background(), "left", "", byOps); err != nil {
			t.Fatal(err)
		}
		r.course.breaks("held left", nil)
		r.running(t, func() {
			time.Sleep(time.Hour)
			r.left.goneBy(t, "left", 30*time.Second)
		})
	})
}

func TestForgettingNeedsAReasonAJournalAndTheRightTarget(t *testing.T) {
	r := newRig(t, nil)
	id := r.exchange("db").Granted[0].Lease.ID
	r.course.breaks("held left", errBroken)
	for reason, code := range map[string]broker.Code{"": broker.BadRequest, " \n": broker.BadRequest, strings.Repeat("x", 501): broker.BadRequest} {
		_, err := r.Forget(context.Background(), "left", "", broker.Act{By: "ops", Reason: reason})
		r.refused(err, code)
	}
	for _, c := range []struct {
		target string
		id     broker.LeaseID
		code   broker.Code
	}{{"", id, broker.BadRequest}, {"right", id, broker.BadRequest}, {"left", "dpl_neverwas", broker.NotFound}} {
		_, err := r.Forget(context.Background(), c.target, c.id, byOps)
		r.refused(err, c.code)
	}
	r.journal.close(errBroken)
	_, err := r.Forget(context.Background(), "left", id, byOps)
	r.refused(err, broker.Unavailable)
	if len(r.leases()) != 1 {
		t.Error("it is forgotten without a record")
	}
	r.journal.close(nil)
	if forgotten, err := r.Forget(context.Background(), "left", id, byOps); err != nil || len(forgotten) != 1 || len(r.leases()) != 0 {
		t.Errorf("forgotten are %v, %v", forgotten, err)
	}
}

// TestLeasesOfAServerThatIsNoMoreAreForgottenOneByOne: the target answers, and
// is another server than the one that some of its leases are of.
func TestLeasesOfAServerThatIsNoMoreAreForgottenOneByOne(t *testing.T) {
	r := newRig(t, nil)
	old, fresh := r.exchange("few").Granted[0].Lease, r.exchange("db").Granted[0].Lease
	r.course.breaks("revoke few", broker.ErrOtherServer)
	_, err := r.Forget(context.Background(), "left", "", byOps)
	r.refused(err, broker.Conflict) // nothing is being revoked yet
	if _, err := r.RevokeLease(context.Background(), old.ID, byOps); err != nil {
		t.Fatal(err)
	}
	forgotten, err := r.Forget(context.Background(), "left", "", byOps)
	if err != nil || len(forgotten) != 1 || forgotten[0].ID != old.ID {
		t.Errorf("forgotten are %+v, %v", forgotten, err)
	}
	if ls := r.leases(); len(ls) != 1 || ls[0].ID != fresh.ID || ls[0].State != broker.LeaseActive {
		t.Errorf("the books say %+v", ls)
	}
}

func paused(c *broker.Config) { c.Revoking = broker.RevokingAsked }

// TestWhilePausedNothingGoesByItself: the state came from a backup, and may be
// wrong about everything.
func TestWhilePausedNothingGoesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, paused)
		for range 5 {
			r.exchange("db", "queue")
		}
		stray := orphan(t, 1)
		r.left.foreign = []broker.Held{stray}
		r.running(t, func() {
			time.Sleep(3 * time.Hour)
			synctest.Wait()
			if steps := r.course.of("revoke", "drop", "close"); len(steps) != 0 {
				t.Errorf("and yet: %q", steps[:min(5, len(steps))])
			}
			if n := len(r.leases()); n != 10 {
				t.Errorf("%d leases are on the books", n)
			}
			strays := r.Strays()
			if len(strays) != 1 || strays[0].Target != "left" || strays[0].Handle != stray.Handle {
				t.Errorf("what would be dropped is %+v", strays)
			}
		})
		again, err := broker.New(r.config(nil)) // and then without the pause
		if err != nil {
			t.Fatal(err)
		}
		r.Broker = again
		r.sweepUntil(30*time.Second, r.clean)
	})
}

// TestWhilePausedWhatIsAskedForGoes, and is tried until it does; the rest stays.
func TestWhilePausedWhatIsAskedForGoes(t *testing.T) {
	for name, asks := range map[string]func(*rig, broker.Answer) error{
		"by a job, all of it": func(r *rig, a broker.Answer) error {
			_, err := r.GiveBack(context.Background(), a.Token, "req_back")
			return err
		},
		"by a job, one": func(r *rig, a broker.Answer) error {
			_, err := r.GiveBackLease(context.Background(), a.Token, a.Granted[0].Lease.ID, "req_back")
			return err
		},
		"by an operator, one": func(r *rig, a broker.Answer) error {
			_, err := r.RevokeLease(context.Background(), a.Granted[0].Lease.ID, byOps)
			return err
		},
		"by an operator, by a filter": func(r *rig, a broker.Answer) error {
			_, err := r.RevokeLeases(context.Background(), broker.LeaseFilter{Session: a.Session.ID}, byOps)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, paused)
				r.exchange("db") // overdue, and nobody's wish
				time.Sleep(2 * time.Hour)
				mine := r.exchange("db")
				r.course.breaks("revoke db", errors.New("not now"))
				r.running(t, func() {
					if err := asks(r, mine); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Minute)
					r.course.breaks("revoke db", nil)
					time.Sleep(30 * time.Second)
					synctest.Wait()
					if r.left.holds(mine.Granted[0].Lease.Handle) {
						t.Error("what was asked for is still there")
					}
					if n := r.left.left(); n != 1 || len(r.leases()) != 1 {
						t.Errorf("%d keys and %d leases are left, want the one that nobody asked about", n, len(r.leases()))
					}
				})
			})
		})
	}
}

// TestWhilePausedEachTargetsSweeperKeepsToItsOwn.
func TestWhilePausedEachTargetsSweeperKeepsToItsOwn(t *testing.T) {
	r := newRig(t, paused)
	a := r.exchange("db")
	if _, err := r.RevokeLeases(context.Background(), broker.LeaseFilter{Session: a.Session.ID}, byOps); err != nil {
		t.Fatal(err)
	}
	r.SweepTarget(context.Background(), "right")
	if r.left.left() != 1 {
		t.Error("it took up what is another's")
	}
	r.SweepTarget(context.Background(), "left")
	r.nothingIsLeft()
}

func TestAMintThatFailsWhilePausedIsUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, paused)
		r.course.breaks("mint db", errBroken)
		r.course.breaks("revoke db", errBroken)
		_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db"))
		r.refused(err, broker.MintFailed)
		r.course.breaks("revoke db", nil)
		r.sweepUntil(30*time.Second, r.clean)
	})
}
