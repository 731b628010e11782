package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// What these tests have in common: the jobs of repository 1 leave so much behind
// that taking back any of their credentials takes as long as it may, at every try.
// Promise 1 holds all the same.

const hostile = 50 // credentials of repository 1, as many as limits would let it have

// hangs takes as long as it may.
func hangs(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// takes takes as long as it is said, or may.
func takes(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// buy buys db for a repository and so long.
func (r *rig) buy(repository string, ttl time.Duration) broker.Answer {
	r.t.Helper()
	request := ask("db")
	request.Wants[0].TTL = ttl
	answer, err := r.Exchange(context.Background(), r.token(job(repository, "job-"+repository)), request)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

// buyHostile buys what hangs.
func (r *rig) buyHostile(ttl time.Duration) []broker.Answer {
	r.t.Helper()
	var bought []broker.Answer
	for range hostile {
		a := r.buy("1", ttl)
		r.course.meanwhile("drop "+string(a.Granted[0].Lease.Handle), hangs)
		bought = append(bought, a)
	}
	return bought
}

// areGoneInTime waits until 30 s after the end of each.
func (r *rig) areGoneInTime(t *testing.T, leases []broker.Lease) {
	t.Helper()
	for _, l := range leases {
		time.Sleep(time.Until(l.NotAfter) + 30*time.Second)
		synctest.Wait()
		if r.left.holds(l.Handle) {
			t.Errorf("%v after its end %s is still there", time.Since(l.NotAfter), l.Handle)
		}
	}
}

func TestCredentialsThatHangHoldUpNoOtherRepositorys(t *testing.T) {
	for name, c := range map[string]struct {
		edit      func(*locksmith)
		givesBack bool // all the time
	}{
		"at their end":                        {},
		"given back all the time":             {givesBack: true},
		"where the target lists nothing":      {edit: func(l *locksmith) { l.listsNothing = true }},
		"where the target's clock is ahead":   {edit: func(l *locksmith) { l.clockAhead = 3 * time.Minute }},
		"where the target takes long to list": {edit: func(l *locksmith) { l.course.meanwhile("held left", takes(9*time.Second)) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, withRevokers(3))
				if c.edit != nil {
					c.edit(r.left)
				}
				slow := r.buyHostile(20 * time.Minute)
				var others []broker.Lease
				for i := range 40 {
					l := r.buy("2", 20*time.Minute+time.Duration(i/2)*7*time.Second).Granted[0].Lease
					r.course.meanwhile("drop "+string(l.Handle), takes(50*time.Millisecond))
					l.NotAfter = l.NotAfter.Add(-r.left.clockAhead)
					others = append(others, l)
				}
				stopped, stop := context.WithCancel(context.Background())
				var jobs sync.WaitGroup
				r.running(t, func() {
					time.Sleep(16 * time.Minute)
					for _, a := range slow {
						if !c.givesBack {
							break
						}
						jobs.Go(func() {
							for stopped.Err() == nil {
								if _, err := r.GiveBackLease(stopped, a.Token, a.Granted[0].Lease.ID, "req_again"); err != nil {
									t.Error(err)
								}
							}
						})
					}
					r.areGoneInTime(t, others)
					stop()
					jobs.Wait()
				})
			})
		})
	}
}

// One that has failed once is in one line with those that fail for ever.
func TestACredentialThatFailedOnceIsNotHeldUpByThoseThatHang(t *testing.T) {
	for shift := range 8 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, withRevokers(3))
			r.buyHostile(20 * time.Minute)
			l := r.buy("2", 40*time.Minute+time.Duration(shift)*2500*time.Millisecond).Granted[0].Lease
			var once sync.Once
			r.course.meanwhile("drop "+string(l.Handle), func(context.Context) (err error) {
				once.Do(func() { err = errBroken })
				return err
			})
			r.running(t, func() {
				time.Sleep(39 * time.Minute)
				r.areGoneInTime(t, []broker.Lease{l})
			})
		})
	}
}

// What comes first in taking back is quick: no login, no session. So a repository
// cannot keep its own credentials alive by the number of those that take long after
// that, however they end.
func TestEveryCredentialIsTriedInTimeHoweverManyTakeLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withRevokers(3))
		tried := make(map[broker.Handle]time.Duration)
		var mu sync.Mutex // guards tried
		for _, a := range r.buyHostile(20 * time.Minute) {
			l := a.Granted[0].Lease
			r.course.meanwhile("drop "+string(l.Handle), func(ctx context.Context) error {
				mu.Lock()
				if _, again := tried[l.Handle]; !again {
					tried[l.Handle] = time.Since(l.NotAfter)
				}
				mu.Unlock()
				time.Sleep(50 * time.Millisecond)
				broker.Disarmed(ctx)
				return hangs(ctx)
			})
		}
		r.running(t, func() { time.Sleep(21 * time.Minute) })
		for h, after := range tried {
			if after > 30*time.Second {
				t.Errorf("%s was tried %v after its end", h, after)
			}
		}
		if len(tried) != hostile {
			t.Errorf("%d were tried", len(tried))
		}
	})
}

// Giving way costs little where much is honest and slow, and does not make a rush of
// what would be none: no credential works for longer than it may, and what they leave
// behind is removed as it comes.
func TestSlowCredentialsOfManyRepositoriesAreTakenBackAsTheyCome(t *testing.T) {
	const each, quick = 1500 * time.Millisecond, 50 * time.Millisecond
	for name, c := range map[string]struct {
		atOnce int
		every  time.Duration
	}{
		"at three quarters of what there is room for": {0, 700 * time.Millisecond},
		"after two hundred at once":                   {200, 800 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, withRevokers(3))
				var mu sync.Mutex // guards works
				works := make(map[broker.Handle]time.Time)
				buy := func(i int) {
					place := fmt.Sprint(10 + i%20)
					r.statute.change(func(s *statute) { s.places = append(s.places, "ci/"+place) })
					l := r.buy(place, time.Minute).Granted[0].Lease
					mu.Lock()
					works[l.Handle] = l.NotAfter
					mu.Unlock()
					r.course.meanwhile("drop "+string(l.Handle), func(ctx context.Context) error {
						time.Sleep(quick)
						mu.Lock()
						if late := time.Since(works[l.Handle]); late > 30*time.Second && !works[l.Handle].IsZero() {
							t.Errorf("a credential works %v after its end", late)
						}
						works[l.Handle] = time.Time{}
						mu.Unlock()
						broker.Disarmed(ctx)
						return takes(each - quick)(ctx)
					})
				}
				for i := range c.atOnce {
					buy(i)
				}
				r.running(t, func() {
					for i := range 1200 {
						buy(i)
						time.Sleep(c.every)
					}
					time.Sleep(90 * time.Second)
				})
				if n := len(r.journal.of(broker.EventUnrevoked)); n != 0 || r.left.left() > 3 {
					t.Errorf("%d are left, and %d failures are journalled", r.left.left(), n)
				}
			})
		})
	}
}

func TestARepositoryCannotKeepACredentialByGivingOthersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withRevokers(3))
		kept := r.buy("1", 10*time.Minute).Granted[0].Lease
		stopped, stop := context.WithCancel(context.Background())
		var jobs sync.WaitGroup
		r.running(t, func() {
			for i := range 45 {
				jobs.Go(func() {
					time.Sleep(time.Duration(i) * 200 * time.Millisecond)
					for stopped.Err() == nil {
						a := r.buy("1", time.Hour)
						l := a.Granted[0].Lease
						r.course.meanwhile("drop "+string(l.Handle), func(ctx context.Context) error {
							time.Sleep(50 * time.Millisecond)
							broker.Disarmed(ctx)
							return takes(19 * time.Second)(ctx)
						})
						for r.left.holds(l.Handle) && stopped.Err() == nil {
							_, _ = r.GiveBackLease(stopped, a.Token, l.ID, "req_again")
							time.Sleep(time.Millisecond)
						}
					}
				})
			}
			r.areGoneInTime(t, []broker.Lease{kept})
			stop()
			jobs.Wait()
		})
	})
}

// The books were lost: nobody knows whose they are.
func TestOrphansThatHangDoNotHoldUpOneThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withRevokers(3))
		for n := range hostile {
			o := orphan(t, n)
			r.course.meanwhile("drop "+string(o.Handle), hangs)
			r.left.foreign = append(r.left.foreign, o)
		}
		r.running(t, func() {
			time.Sleep(10 * time.Minute)
			for n := range 10 {
				o := orphan(t, hostile+n)
				r.left.mu.Lock()
				r.left.foreign = append(r.left.foreign, o)
				r.left.mu.Unlock()
				time.Sleep(30 * time.Second)
				synctest.Wait()
				if r.left.left() != hostile {
					t.Errorf("after 30 s there are %d", r.left.left())
				}
			}
		})
	})
}

// Whoever waits for an exchange that failed waits for what is undone, too.
func TestUndoingTakesNoLongerThanSomebodyWaits(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			var names []string
			r.statute.change(func(s *statute) {
				for i := range 6 {
					name := fmt.Sprint("g", i)
					s.grants[name] = broker.Grant{Name: name, Kind: "key", Target: "left", MaxTTL: time.Hour, Params: json.RawMessage(`{}`)}
					names = append(names, name)
					r.course.meanwhile("revoke "+name, hangs)
				}
			})
			r.course.breaks("activate", errBroken)
			began := time.Now()
			if _, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask(names...)); err == nil {
				t.Fatal("it did not fail")
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			for _, l := range r.leases() {
				if l.Due.After(time.Now().Add(time.Second)) {
					t.Errorf("%s is due in %v", l.ID, time.Until(l.Due))
				}
			}
		})
	}
}

// A credential that waited for its turn has not failed, nor was it asked for.
func TestWaitingForATurnIsNoFailureAndNoReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withRevokers(3))
		for i := range 8 {
			l := r.buy("1", time.Minute+time.Duration(i)).Granted[0].Lease
			r.course.meanwhile("drop "+string(l.Handle), func(context.Context) error { time.Sleep(15 * time.Second); return nil })
		}
		r.sweepUntil(10*time.Minute, r.clean)
		for _, rec := range r.journal.of(broker.EventRevoked) {
			if rec.Reason != "expired" || rec.Leases[0].Attempts != 0 {
				t.Errorf("journalled as %q after %d failures", rec.Reason, rec.Leases[0].Attempts)
			}
		}
		if n := len(r.journal.of(broker.EventUnrevoked)); n != 0 {
			t.Errorf("%d failures are journalled", n)
		}
	})
}

// What nobody could come to when the broker stops is due for the next one.
func TestAtAStopNothingNewIsBegunAndEverythingStaysDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withRevokers(3))
		r.buyHostile(time.Minute)
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { r.Run(ctx); close(ended) }()
		time.Sleep(5 * time.Minute)
		stop()
		synctest.Wait()
		began, tried := time.Now(), len(r.course.of("drop"))
		<-ended
		if took := time.Since(began); took > 20*time.Second || len(r.course.of("drop")) != tried {
			t.Errorf("it took %v to stop, and %d more were begun", took, len(r.course.of("drop"))-tried)
		}
		for _, l := range r.leases() {
			if l.Due.After(time.Now().Add(21 * time.Second)) {
				t.Errorf("%s is due in %v", l.ID, time.Until(l.Due))
			}
		}
		if _, err := r.Lease(context.Background(), r.leases()[0].ID); errors.Is(err, broker.ErrNoLease) {
			t.Error("a lease is gone from the books")
		}
	})
}
