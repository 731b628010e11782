package broker_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// A CI token stays in logs and caches after it was used.
func TestAUsedTokenTakesFromTheAllowanceOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *broker.Config) { c.Limits.ExchangesPerMinute = 2 })
		used := r.token(job("1", "job-1"))
		if _, err := r.Exchange(context.Background(), used, ask()); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			for range 50 {
				_, err := r.Exchange(context.Background(), used, ask())
				r.refused(err, broker.TokenReused)
			}
			time.Sleep(time.Minute)
		}
		for range 2 {
			r.exchange()
		}
	})
}

func TestADeniedTokenIsWrittenDownSoManyTimesAMinuteAndThenCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		token := r.token(job("1", "job-1"))
		for range 500 {
			_, err := r.Exchange(context.Background(), token, ask("nothing"))
			r.refused(err, broker.Denied)
		}
		waited, noted := r.journal.count(broker.EventDenied)
		if waited != 60 || noted != 440 {
			t.Errorf("%d denials were waited for and %d were noted, want 60 and 440", waited, noted)
		}
		// What another repository is denied is still written down at once.
		_, err := r.Exchange(context.Background(), r.token(job("2", "job-2")), ask("nothing"))
		r.refused(err, broker.Denied)
		if waited, _ := r.journal.count(broker.EventDenied); waited != 61 {
			t.Error("another repository's denial was only counted")
		}
	})
}

func TestASessionThatIsGivenBackAgainAndAgainIsWrittenDownOnce(t *testing.T) {
	r := newRig(t, nil)
	a := r.exchange("db")
	r.left.course.breaks("revoke db", errBroken) // so that the session lives on
	for range 100 {
		if _, err := r.GiveBack(context.Background(), a.Token, "req_again"); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ := r.journal.count(broker.EventShut); n != 1 {
		t.Errorf("%d records of one session's end", n)
	}
}

// A target lends few connections for taking back.
func TestALeaseThatIsGivenBackByManyAtOnceIsTakenBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		a := r.exchange("db", "few")
		r.course.meanwhile("revoke db", func(context.Context) error { time.Sleep(15 * time.Second); return nil })
		id := a.Granted[0].Lease.ID
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				if o, err := r.GiveBackLease(context.Background(), a.Token, id, "req_again"); err != nil || o.State != broker.StateRevoked {
					t.Errorf("%v, %v", o.State, err)
				}
			})
		}
		time.Sleep(time.Second)
		// A sweep takes up what else is due meanwhile, and does not wait.
		if err := r.store.Shut(context.Background(), a.Session.ID, time.Now()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		r.SweepTarget(context.Background(), "left")
		if took := time.Since(began); took > time.Second {
			t.Errorf("the sweep took %v", took)
		}
		all.Wait()
		if n := len(r.course.of("revoke")); n != 2 {
			t.Errorf("the target was asked %d times to take two keys back", n)
		}
		if n, _ := r.journal.count(broker.EventRevoked); n != 2 {
			t.Errorf("%d records of it", n)
		}
		r.nothingIsLeft()
	})
}

func TestALeaseThatHangsIsReportedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		a := r.exchange("db")
		r.course.meanwhile("revoke db", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				began := time.Now()
				o, err := r.GiveBackLease(context.Background(), a.Token, a.Granted[0].Lease.ID, "req_again")
				if err != nil || o.State != broker.StateRevoking || time.Since(began) > 21*time.Second {
					t.Errorf("after %v: %v, %v", time.Since(began), o.State, err)
				}
			})
		}
		all.Wait()
		if n := len(r.course.of("revoke")); n != 1 {
			t.Errorf("the target was asked %d times", n)
		}
	})
}

// count returns how many records of an event were waited for, and how many
// were only noted.
func (l *ledger) count(e broker.Event) (waited, noted int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.lines {
		if r.Event == e {
			waited++
		}
	}
	for _, r := range l.notes {
		if r.Event == e {
			noted++
		}
	}
	return waited, noted
}

// A job is told that its session is over; a full disk must not bring it back
// with the next start.
func TestWhatCouldNotBeJournalledIsHandedOverAgain(t *testing.T) {
	r := newRig(t, nil)
	a := r.exchange("db")
	r.journal.close(errBroken)
	if _, err := r.GiveBack(context.Background(), a.Token, "req_back"); err != nil {
		t.Fatal(err)
	}
	for _, e := range []broker.Event{broker.EventShut, broker.EventRevoked} {
		if waited, noted := r.journal.count(e); waited != 0 || noted != 1 {
			t.Errorf("%s: %d appended, %d noted, want 0 and 1", e, waited, noted)
		}
	}
	if shut := r.journal.of(broker.EventShut); len(shut) != 1 || shut[0].Session == nil || shut[0].Session.ID != a.Session.ID {
		t.Errorf("the note does not say which session: %+v", shut)
	}
}
