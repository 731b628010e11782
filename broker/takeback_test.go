package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func TestGivingBackTakesEverythingBack(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db", "queue")
	if _, err := r.More(context.Background(), first.Token, ask("db")); err != nil {
		t.Fatal(err)
	}
	other := r.exchange("db")
	outcomes, err := r.GiveBack(context.Background(), first.Token, "req_back")
	if err != nil || len(outcomes) != 3 {
		t.Fatalf("it says %+v, %v", outcomes, err)
	}
	for _, o := range outcomes {
		if o.State != broker.StateRevoked || o.Lease.Session != first.Session.ID {
			t.Errorf("lease %s of %s is %s", o.Lease.ID, o.Lease.Session, o.State)
		}
	}
	if !r.left.holds(other.Granted[0].Lease.Handle) || len(r.leases()) != 1 {
		t.Error("somebody else's went with it")
	}
	revoked := r.journal.of(broker.EventRevoked)
	if len(revoked) != 3 || revoked[0].Reason != "given_back" || revoked[0].Request != "req_back" || len(r.journal.of(broker.EventShut)) != 1 {
		t.Errorf("journalled as %+v", revoked)
	}
	if r.tally.of("revoked key ok") != 3 {
		t.Errorf("counted as %v", r.tally.counts)
	}
}

// stateOf returns what became of the lease of a grant; empty if there is none.
func stateOf(outcomes []broker.Outcome, grant string) string {
	for _, o := range outcomes {
		if o.Lease.Grant.Name == grant {
			return o.State
		}
	}
	return ""
}

func TestGivingBackTwiceIsFine(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db", "queue")
	for i := range 3 {
		outcomes, err := r.GiveBack(context.Background(), first.Token, "req_back")
		if gone := broker.CodeOf(err) == broker.SessionExpired; err != nil && (i == 0 || !gone) {
			t.Fatalf("time %d: %v", i, err)
		}
		if i > 0 && len(outcomes) != 0 {
			t.Errorf("time %d takes back %+v", i, outcomes)
		}
	}
	r.nothingIsLeft()
	if n := len(r.journal.of(broker.EventRevoked)); n != 2 {
		t.Errorf("%d leases were journalled as revoked", n)
	}
}

func TestGivingBackGoesOnWhileTheJournalIsDown(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db", "queue")
	r.journal.close(errors.New("no space left on device"))
	outcomes, err := r.GiveBack(context.Background(), first.Token, "req_back")
	if err != nil || len(outcomes) != 2 || outcomes[0].State != broker.StateRevoked || outcomes[1].State != broker.StateRevoked {
		t.Errorf("it says %+v, %v", outcomes, err)
	}
	r.nothingIsLeft()
	if !strings.Contains(r.log.String(), "could not be journalled") {
		t.Error("nobody is told that it was not journalled")
	}
}

func TestGivingBackOneLeaseGoesOnWhileTheJournalIsDown(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db", "queue")
	r.journal.close(errors.New("no space left on device"))
	outcome, err := r.GiveBackLease(context.Background(), first.Token, first.Granted[0].Lease.ID, "req_back")
	if err != nil || outcome.State != broker.StateRevoked || r.left.left() != 0 || r.right.left() != 1 {
		t.Errorf("it says %+v, %v", outcome, err)
	}
}

// TestALeaseIsGivenBackByItsOwnerOnly: another session is told that there is no
// such lease, as it is told of leases that never were.
func TestALeaseIsGivenBackByItsOwnerOnly(t *testing.T) {
	r := newRig(t, nil)
	mine, yours := r.exchange("db"), r.exchange("db")
	lease := yours.Granted[0].Lease
	r.course.forget()
	_, errForeign := r.GiveBackLease(context.Background(), mine.Token, lease.ID, "req_back")
	_, errNever := r.GiveBackLease(context.Background(), mine.Token, "dpl_neverwas", "req_back")
	r.refused(errForeign, broker.NotFound)
	if r.refused(errNever, broker.NotFound).Error() != errForeign.Error() {
		t.Errorf("a foreign lease is %q and one that never was %q", errForeign, errNever)
	}
	for name, token := range map[string]broker.Secret{
		"a guessed token": broker.NewSecret("dps_guessed"), "no token": {}, "the session's id": broker.NewSecret(string(lease.Session)),
	} {
		if _, err := r.GiveBackLease(context.Background(), token, lease.ID, "req_back"); broker.CodeOf(err) != broker.SessionExpired {
			t.Errorf("%s gives it back: %v", name, err)
		}
	}
	if len(r.course.of("revoke", "close", "postpone")) != 0 || !r.left.holds(lease.Handle) {
		t.Error("and yet the target was asked")
	}
	outcome, err := r.GiveBackLease(context.Background(), yours.Token, lease.ID, "req_back")
	if err != nil || outcome.State != broker.StateRevoked || outcome.Lease.ID != lease.ID || r.left.holds(lease.Handle) {
		t.Errorf("its owner is told %+v, %v", outcome, err)
	}
}

func TestALeaseGivenBackTwiceIsNotFound(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db", "queue")
	id := first.Granted[0].Lease.ID
	if _, err := r.GiveBackLease(context.Background(), first.Token, id, "req_1"); err != nil {
		t.Fatal(err)
	}
	r.course.forget()
	_, err := r.GiveBackLease(context.Background(), first.Token, id, "req_2")
	r.refused(err, broker.NotFound)
	if len(r.course.of("revoke")) != 0 {
		t.Error("the target was asked again")
	}
	if _, err := r.More(context.Background(), first.Token, ask("db")); err != nil {
		t.Errorf("the session is closed with its lease: %v", err)
	}
}

// TestAnExpiredSessionStillGivesBack: it mints no more, and gives back as long
// as a lease lives.
func TestAnExpiredSessionStillGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		id := job("1", "job-1")
		id.Expires, id.KeepUntil = time.Now().Add(time.Minute), time.Now().Add(2*time.Minute)
		first, err := r.Exchange(context.Background(), r.token(id), ask("db", "queue"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Minute)
		if _, err := r.GiveBackLease(context.Background(), first.Token, first.Granted[0].Lease.ID, "req_1"); err != nil {
			t.Errorf("one lease: %v", err)
		}
		if _, err := r.GiveBack(context.Background(), first.Token, "req_2"); err != nil {
			t.Errorf("the rest: %v", err)
		}
		r.nothingIsLeft()
	})
}

func TestWhatATargetDoesNotTakeBackStaysWithTheSweeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		first := r.exchange("db", "queue")
		r.course.breaks("revoke db", errors.New("role owns objects"))
		outcomes, err := r.GiveBack(context.Background(), first.Token, "req_back")
		if err != nil || len(outcomes) != 2 || stateOf(outcomes, "db") != broker.StateRevoking || stateOf(outcomes, "queue") != broker.StateRevoked {
			t.Fatalf("it says %+v, %v", outcomes, err)
		}
		left := r.leases()
		if len(left) != 1 || left[0].State != broker.LeaseRevoking || left[0].Attempts != 1 || !left[0].Due.After(time.Now()) || !strings.Contains(left[0].LastErr, "owns objects") {
			t.Errorf("the books say %+v", left)
		}
		if len(r.journal.of(broker.EventUnrevoked)) != 1 || r.tally.of("revoked key failed") != 1 {
			t.Errorf("journalled %+v, counted %v", r.journal.of(broker.EventUnrevoked), r.tally.counts)
		}
		r.course.breaks("revoke db", nil)
		r.sweepUntil(30*time.Second, r.clean)
	})
}

// TestALeaseThatCannotBeClosedIsTriedAgainSoon: its credential is gone, and so
// is the store for a moment; the lease does not count for the rest of its hour.
func TestALeaseThatCannotBeClosedIsTriedAgainSoon(t *testing.T) {
	for name, giveBack := range map[string]func(*rig, broker.Answer) (broker.Outcome, error){
		"by its job": func(r *rig, a broker.Answer) (broker.Outcome, error) {
			return r.GiveBackLease(context.Background(), a.Token, a.Granted[0].Lease.ID, "req_back")
		},
		"by an operator": func(r *rig, a broker.Answer) (broker.Outcome, error) {
			return r.RevokeLease(context.Background(), a.Granted[0].Lease.ID, broker.Act{Request: "req_op", By: "unix user ops"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				first := r.exchange("db")
				r.course.breaks("close", errBroken)
				outcome, err := giveBack(r, first)
				if err != nil || outcome.State != broker.StateRevoking || r.left.left() != 0 {
					t.Fatalf("it says %s, %v", outcome.State, err)
				}
				r.course.breaks("close", nil)
				r.sweepUntil(30*time.Second, r.clean)
				if n := len(r.journal.of(broker.EventRevoked)); n != 1 {
					t.Errorf("journalled %d times", n)
				}
			})
		})
	}
}

// TestWhatOnlyExpiresStaysListedUntilThen, and is closed at its end without the
// target's help.
func TestWhatOnlyExpiresStaysListedUntilThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.left.expiresOnly = true
		first := r.exchange("db", "queue")
		if first.Granted[0].Lease.Takeback != broker.TakebackExpiry {
			t.Errorf("its takeback is %q", first.Granted[0].Lease.Takeback)
		}
		for range 2 {
			outcomes, err := r.GiveBack(context.Background(), first.Token, "req_back")
			if err != nil || stateOf(outcomes, "db") != broker.StateExpires {
				t.Fatalf("it says %+v, %v", outcomes, err)
			}
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { r.Run(ctx); close(ended) }()
		time.Sleep(time.Until(first.Granted[0].Lease.NotAfter) - time.Second)
		synctest.Wait()
		if ls := r.leases(); len(ls) != 1 || ls[0].ID != first.Granted[0].Lease.ID {
			t.Errorf("a second before its end the books say %+v", ls)
		}
		if n := r.course.happened("revoke db"); n > 4 {
			t.Errorf("the target was asked %d times for what it cannot do", n)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if ls := r.leases(); len(ls) != 0 {
			t.Errorf("30 s after its end the books say %+v", ls)
		}
		last := r.journal.of(broker.EventRevoked)
		if len(last) != 2 || last[1].Reason != "expired" {
			t.Errorf("journalled as %+v", last)
		}
		if len(r.journal.of(broker.EventUnrevoked)) != 0 || r.tally.of("revoked key failed") != 0 {
			t.Error("it is told as a failure")
		}
		stop()
		<-ended
	})
}

// TestGivingBackEndsInTime: a target that hangs does not hold the request for
// each of its leases in turn; they are due at once, and the sweeper's.
func TestGivingBackEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *broker.Config) { c.MintTimeout, c.RevokeTimeout = 20*time.Second, 20*time.Second })
		first := r.exchange("db")
		for range 9 {
			if _, err := r.More(context.Background(), first.Token, ask("db")); err != nil {
				t.Fatal(err)
			}
		}
		r.course.meanwhile("revoke db", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		began := time.Now()
		outcomes, err := r.GiveBack(context.Background(), first.Token, "req_back")
		if err != nil || len(outcomes) != 10 {
			t.Fatalf("it says %+v, %v", outcomes, err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		for _, o := range outcomes {
			if o.State != broker.StateRevoking {
				t.Errorf("lease %s is %s", o.Lease.ID, o.State)
			}
		}
		r.course.meanwhile("revoke db", nil)
		r.sweepUntil(30*time.Second, r.clean)
	})
}

// TestASessionIsShutEvenIfItsLeasesCannotBeListed: shutting makes them due, and
// the sweeper finds them when the books can be read again.
func TestASessionIsShutEvenIfItsLeasesCannotBeListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		first := r.exchange("db", "queue")
		r.course.breaks("list", errBroken)
		_, err := r.GiveBack(context.Background(), first.Token, "req_back")
		r.refused(err, broker.Unavailable)
		r.course.breaks("list", nil)
		if _, err := r.More(context.Background(), first.Token, ask("db")); err == nil {
			t.Error("the session still buys")
		}
		r.sweepUntil(30*time.Second, r.clean)
	})
}

// TestAClientThatHangsUpWhileGivingBack has given back all the same.
func TestAClientThatHangsUpWhileGivingBack(t *testing.T) {
	for _, at := range []string{"closing", "shut", "revoke db", "close", "revoke queue"} {
		t.Run("at "+at, func(t *testing.T) {
			r := newRig(t, nil)
			first := r.exchange("db", "queue")
			ctx, hangUp := context.WithCancel(context.Background())
			r.course.meanwhile(at, func(context.Context) error { hangUp(); return nil })
			if _, err := r.GiveBack(ctx, first.Token, "req_back"); err != nil {
				t.Error(err)
			}
			r.nothingIsLeft()
		})
	}
}

func TestAnOperatorRevokesAnyLease(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db", "queue")
	outcome, err := r.RevokeLease(context.Background(), first.Granted[0].Lease.ID, broker.Act{Request: "req_op", By: "unix user ops"})
	if err != nil || outcome.State != broker.StateRevoked || r.left.left() != 0 || r.right.left() != 1 {
		t.Fatalf("it says %+v, %v", outcome, err)
	}
	acts, revoked := r.journal.of(broker.EventOperator), r.journal.of(broker.EventRevoked)
	if len(acts) != 1 || acts[0].Detail != "unix user ops" || acts[0].Request != "req_op" || acts[0].Leases[0].ID != outcome.Lease.ID {
		t.Errorf("the act is journalled as %+v", acts)
	}
	if len(revoked) != 1 || revoked[0].Reason != "operator" {
		t.Errorf("its effect is journalled as %+v", revoked)
	}
	_, err = r.RevokeLease(context.Background(), "dpl_neverwas", broker.Act{Request: "req_op", By: "unix user ops"})
	r.refused(err, broker.NotFound)
	ls, err := r.Leases(context.Background(), broker.LeaseFilter{Target: "right"})
	if err != nil || len(ls) != 1 || ls[0].Grant.Name != "queue" {
		t.Errorf("listed are %+v, %v", ls, err)
	}
}

// TestALeaseOfATargetThatIsNoLongerConfiguredIsKept: forgetting it would leak
// the credential. The operator is told what to do.
func TestALeaseOfATargetThatIsNoLongerConfiguredIsKept(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db")
	without, err := broker.New(r.config(func(c *broker.Config) { delete(c.Targets, "left") }))
	if err != nil {
		t.Fatal(err)
	}
	outcomes, err := without.GiveBack(context.Background(), first.Token, "req_back")
	if err != nil || len(outcomes) != 1 || outcomes[0].State != broker.StateRevoking {
		t.Fatalf("it says %+v, %v", outcomes, err)
	}
	ls := r.leases()
	if len(ls) != 1 || !strings.Contains(ls[0].LastErr, "retired: true") {
		t.Errorf("the books say %+v", ls)
	}
}

// TestALeaseIsTakenBackAsItWasMade: a grant edited meanwhile does not change
// what its older leases carry.
func TestALeaseIsTakenBackAsItWasMade(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db")
	r.statute.change(func(p *statute) {
		g := p.grants["db"]
		g.Target, g.Params = "right", []byte(`{"door":"back"}`)
		p.grants["db"] = g
	})
	if _, err := r.More(context.Background(), first.Token, ask("db")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.GiveBack(context.Background(), first.Token, "req_back"); err != nil {
		t.Fatal(err)
	}
	r.nothingIsLeft()
	var doors []string
	for _, rec := range r.journal.of(broker.EventRevoked) {
		doors = append(doors, rec.Leases[0].Grant.Target+string(rec.Leases[0].Grant.Params))
	}
	slices.Sort(doors)
	if want := []string{`left{"door":"front"}`, `right{"door":"back"}`}; !slices.Equal(doors, want) {
		t.Errorf("taken back by %q", doors)
	}
}

// TestALongErrorIsClippedOnTheBooks, and stays text.
func TestALongErrorIsClippedOnTheBooks(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db")
	r.course.breaks("revoke db", fmt.Errorf("x%s", strings.Repeat("é", 4000)))
	if _, err := r.GiveBack(context.Background(), first.Token, "req_back"); err != nil {
		t.Fatal(err)
	}
	ls := r.leases()
	if len(ls) != 1 || len(ls[0].LastErr) > 500 || len(ls[0].LastErr) < 400 {
		t.Fatalf("the books say %+v", ls)
	}
	if strings.ToValidUTF8(ls[0].LastErr, "") != ls[0].LastErr {
		t.Errorf("it is cut in the midst of a letter: %q", ls[0].LastErr[len(ls[0].LastErr)-4:])
	}
}
