package broker_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// buys says whether a repository may make an exchange now, and if not, how
// long it is told to wait.
func (r *rig) buys(repository string) (bool, time.Duration) {
	r.t.Helper()
	token := r.token(job(repository, "job-1"))
	_, err := r.Exchange(context.Background(), token, ask())
	if err == nil {
		return true, 0
	}
	wait := r.refused(err, broker.RateLimited).RetryAfter
	if wait <= 0 {
		r.t.Fatalf("refused, and told to wait %v", wait)
	}
	return false, wait
}

func TestARepositoryMakesSoManyExchangesAMinute(t *testing.T) {
	for name, perMinute := range map[string]int{"1": 1, "7": 7, "60": 60, "90": 90} {
		t.Run(name+" a minute", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(c *broker.Config) { c.Limits.ExchangesPerMinute = perMinute })
				allowed := 0
				for range 3 * perMinute {
					if ok, _ := r.buys("1"); ok {
						allowed++
					}
				}
				if allowed != perMinute {
					t.Errorf("%d exchanges at once, want %d", allowed, perMinute)
				}
				if ok, _ := r.buys("2"); !ok {
					t.Error("one repository takes what is another's")
				}
				time.Sleep(5 * time.Minute)
				allowed = 0
				for range 3 * perMinute {
					if ok, _ := r.buys("1"); ok {
						allowed++
					}
				}
				if allowed != perMinute {
					t.Errorf("%d exchanges at once after five idle minutes, want %d", allowed, perMinute)
				}
			})
		})
	}
}

// TestWhoWaitsAsToldBuysOnce: not never, and not twice.
func TestWhoWaitsAsToldBuysOnce(t *testing.T) {
	for name, perMinute := range map[string]int{"1": 1, "7": 7, "13": 13, "60": 60, "999": 999} {
		t.Run(name+" a minute", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(c *broker.Config) { c.Limits.ExchangesPerMinute = perMinute })
				for range perMinute {
					r.buys("1")
				}
				for range 20 {
					ok, wait := r.buys("1")
					if ok || wait > time.Minute/time.Duration(perMinute)+time.Microsecond {
						t.Fatalf("allowed %v, wait %v", ok, wait)
					}
					time.Sleep(wait)
					if ok, _ := r.buys("1"); !ok {
						t.Fatal("refused after the wait it was told")
					}
				}
			})
		})
	}
}

// TestARateLimitedRequestKeepsItsToken and touches nothing.
func TestARateLimitedRequestKeepsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *broker.Config) { c.Limits.ExchangesPerMinute = 1 })
		r.exchange()
		token := r.token(job("1", "job-1"))
		r.course.forget()
		_, err := r.Exchange(context.Background(), token, ask("db"))
		e := r.refused(err, broker.RateLimited)
		r.untouched()
		time.Sleep(e.RetryAfter)
		if _, err := r.Exchange(context.Background(), token, ask("db")); err != nil {
			t.Errorf("the token is spent: %v", err)
		}
	})
}

func TestWhatIsDeniedCostsNoAllowance(t *testing.T) {
	r := newRig(t, func(c *broker.Config) { c.Limits.ExchangesPerMinute = 1 })
	for range 50 {
		_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("nothing"))
		r.refused(err, broker.Denied)
	}
	r.exchange("db")
}

func TestASessionIsRateLimitedLikeItsRepository(t *testing.T) {
	r := newRig(t, func(c *broker.Config) { c.Limits.ExchangesPerMinute = 3 })
	first := r.exchange()
	for range 2 {
		if _, err := r.More(context.Background(), first.Token, ask("db")); err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.More(context.Background(), first.Token, ask("db"))
	r.refused(err, broker.RateLimited)
	if ok, _ := r.buys("1"); ok {
		t.Error("exchanges are counted apart")
	}
}

// TestTheAllowanceHoldsUnderContention counts what 64 clients get at once.
func TestTheAllowanceHoldsUnderContention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *broker.Config) { c.Limits.ExchangesPerMinute = 20 })
		var allowed atomic.Int64
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				if _, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask()); err == nil {
					allowed.Add(1)
				}
			})
		}
		all.Wait()
		if allowed.Load() != 20 {
			t.Errorf("%d exchanges, want 20", allowed.Load())
		}
	})
}

// watch samples how many leases a filter picks, until it is told to stop, and
// returns the most it saw.
func (r *rig) watch(f broker.LeaseFilter) (most func() int) {
	stop, seen := make(chan struct{}), make(chan int)
	go func() {
		top := 0
		for {
			n, err := r.store.LeaseBook.Live(context.Background(), f)
			if err != nil {
				r.t.Error(err)
			}
			top = max(top, n[0])
			select {
			case <-stop:
				seen <- top
				return
			default:
			}
		}
	}()
	return func() int { close(stop); return <-seen }
}

// TestCapsAreNeverPassed lets 64 clients at a time take and give back, and
// holds both caps at every moment, in the books and in the target.
func TestCapsAreNeverPassed(t *testing.T) {
	const place, grant = 5, 2 // the grant few has room for two
	r := newRig(t, func(c *broker.Config) { c.Limits.LivePerPlace = place })
	var top, now atomic.Int64 // keys of few in the target
	r.course.meanwhile("mint few", func(context.Context) error {
		n := now.Add(1)
		for seen := top.Load(); n > seen && !top.CompareAndSwap(seen, n); seen = top.Load() {
		}
		return nil
	})
	r.course.meanwhile("revoke few", func(context.Context) error { now.Add(-1); return nil })
	ofPlace, ofGrant := r.watch(broker.LeaseFilter{Place: "ci/1"}), r.watch(broker.LeaseFilter{Grant: "few"})
	var granted, refused atomic.Int64
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for range 5 {
				answer, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask([]string{"few", "db"}[i%2]))
				switch {
				case err == nil:
					granted.Add(1)
					if _, err := r.GiveBack(context.Background(), answer.Token, "req_back"); err != nil {
						t.Error(err)
					}
				case broker.CodeOf(err) == broker.RateLimited && broker.ReasonOf(err) == "too_many_live":
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := ofPlace(); n > place {
		t.Errorf("the repository had %d leases at a time, want %d at most", n, place)
	}
	if n := ofGrant(); n > grant || top.Load() > grant {
		t.Errorf("the grant had %d leases and %d keys at a time, want %d at most", n, top.Load(), grant)
	}
	if granted.Load() == 0 || granted.Load()+refused.Load() != 64*5 {
		t.Errorf("%d granted, %d refused", granted.Load(), refused.Load())
	}
	r.nothingIsLeft()
}

// TestCapsFillUpExactly: nobody gives back, so exactly as many get one as there
// is room for.
func TestCapsFillUpExactly(t *testing.T) {
	for name, c := range map[string]struct {
		limits broker.Limits
		grant  string
		want   int64
	}{
		"of a repository":            {broker.Limits{LivePerPlace: 7}, "db", 7},
		"of a grant":                 {broker.Limits{}, "few", 2},
		"of both, the grant's first": {broker.Limits{LivePerPlace: 7}, "few", 2},
		"of both, the other first":   {broker.Limits{LivePerPlace: 1}, "few", 1},
		"of neither":                 {broker.Limits{}, "db", 64},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(config *broker.Config) { config.Limits = c.limits })
			var granted atomic.Int64
			var all sync.WaitGroup
			for range 64 {
				all.Go(func() {
					_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask(c.grant))
					if err == nil {
						granted.Add(1)
					} else if broker.ReasonOf(err) != "too_many_live" {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if granted.Load() != c.want || int64(r.left.left()) != c.want || int64(len(r.leases())) != c.want {
				t.Errorf("%d granted, %d keys, %d leases, want %d", granted.Load(), r.left.left(), len(r.leases()), c.want)
			}
		})
	}
}

// TestTheCapOfARuleFillsUpExactly, over all its grants and jobs, and what is
// refused says which cap it was.
func TestTheCapOfARuleFillsUpExactly(t *testing.T) {
	const most = 5
	r := newRig(t, nil)
	r.statute.answer = func(d broker.Decision) broker.Decision {
		for i := range d.Permits {
			d.Permits[i].MaxLive = most
		}
		return d
	}
	var granted atomic.Int64
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			_, err := r.Exchange(context.Background(), r.token(job([]string{"1", "2"}[i%2], "job-1")), ask([]string{"db", "queue"}[i/2%2]))
			if err == nil {
				granted.Add(1)
			} else if e := r.refused(err, broker.RateLimited); e.Reason != "too_many_live" || !strings.HasPrefix(e.Public, "rule rules.yaml/all has as many") {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if granted.Load() != most || len(r.leases()) != most {
		t.Errorf("%d granted, %d leases, want %d", granted.Load(), len(r.leases()), most)
	}
}

// TestAFullRuleKeepsTheToken, where two grants of one request would pass its cap
// together, and asks the books once.
func TestAFullRuleKeepsTheToken(t *testing.T) {
	r := newRig(t, func(c *broker.Config) { c.Limits.LivePerPlace = 50 })
	r.statute.answer = func(d broker.Decision) broker.Decision {
		for i := range d.Permits {
			d.Permits[i].MaxLive = 2
		}
		return d
	}
	r.exchange("db")
	token := r.token(job("1", "job-1"))
	r.course.forget()
	_, err := r.Exchange(context.Background(), token, ask("few", "queue"))
	r.refused(err, broker.RateLimited)
	if steps := r.course.of("claim", "intent", "mint"); len(steps) != 0 || r.course.happened("live") != 1 {
		t.Errorf("it went on to %q, and counted %d times", steps, r.course.happened("live"))
	}
	if _, err := r.Exchange(context.Background(), token, ask("queue")); err != nil {
		t.Errorf("the token is spent, or the room is not there: %v", err)
	}
}

// TestAFullCapKeepsTheToken: what can be known before the claim is refused
// before it, all grants of the request together.
func TestAFullCapKeepsTheToken(t *testing.T) {
	r := newRig(t, func(c *broker.Config) { c.Limits.LivePerPlace = 3 })
	first := r.exchange("db", "queue")
	token := r.token(job("1", "job-1"))
	r.course.forget()
	_, err := r.Exchange(context.Background(), token, ask("db", "queue")) // room for one of them
	if e := r.refused(err, broker.RateLimited); e.RetryAfter <= 0 {
		t.Error("it is not told to come again")
	}
	if steps := r.course.of("claim", "intent", "mint"); len(steps) != 0 {
		t.Errorf("it went on to %q", steps)
	}
	other := job("2", "job-1")
	if _, err := r.Exchange(context.Background(), r.token(other), ask("db", "queue")); err != nil {
		t.Errorf("one repository's leases count for another: %v", err)
	}
	if _, err := r.GiveBack(context.Background(), first.Token, "req_back"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Exchange(context.Background(), token, ask("db", "queue")); err != nil {
		t.Errorf("what was given back makes no room, or the token is spent: %v", err)
	}
}

// TestExpiredLeasesMakeRoom once they are gone, and not before.
func TestExpiredLeasesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.exchange("few")
		r.exchange("few")
		time.Sleep(time.Hour + time.Second)
		token := r.token(job("1", "job-1"))
		_, err := r.Exchange(context.Background(), token, ask("few"))
		r.refused(err, broker.RateLimited)
		r.sweepUntil(30*time.Second, r.clean)
		if _, err := r.Exchange(context.Background(), token, ask("few")); err != nil {
			t.Error(err)
		}
	})
}
