package broker_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// hangs takes as long as it may.
func hangs(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// A job can leave so much behind that taking it back takes as long as it may,
// once for each of its credentials, and again at every try. Promise 1 still holds
// for what others have in the same target, whichever way the job's credentials
// come up: at their end, or because it gives them back by the dozen, for ever.
func TestCredentialsThatHangHoldUpNoOtherRepositorys(t *testing.T) {
	const many = 50
	for name, givesBack := range map[string]bool{"at their end": false, "given back all the time": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, withRevokers(3))
				buy := func(repository string, ttl time.Duration) broker.Answer {
					request := ask("db")
					request.Wants[0].TTL = ttl
					answer, err := r.Exchange(context.Background(), r.token(job(repository, "job-"+repository)), request)
					if err != nil {
						t.Fatal(err)
					}
					return answer
				}
				var slow []broker.Answer
				for range many {
					a := buy("1", 20*time.Minute)
					r.course.meanwhile("drop "+string(a.Granted[0].Lease.Handle), hangs)
					slow = append(slow, a)
				}
				var others []broker.Lease
				for i := range 20 {
					others = append(others, buy("2", 20*time.Minute+time.Duration(i)*7*time.Second).Granted[0].Lease)
				}
				stopped, stop := context.WithCancel(context.Background())
				var jobs sync.WaitGroup
				r.running(t, func() {
					time.Sleep(19 * time.Minute)
					for _, a := range slow {
						if givesBack {
							jobs.Go(func() {
								for stopped.Err() == nil {
									if _, err := r.GiveBackLease(stopped, a.Token, a.Granted[0].Lease.ID, "req_again"); err != nil {
										t.Error(err)
									}
								}
							})
						}
					}
					for _, l := range others {
						time.Sleep(time.Until(l.NotAfter) + 30*time.Second)
						synctest.Wait()
						if r.left.holds(l.Handle) {
							t.Errorf("%v after its end %s is still there", time.Since(l.NotAfter), l.Handle)
						}
					}
					stop()
					jobs.Wait()
				})
			})
		})
	}
}
