package broker_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// TestThePromisesHoldWhateverFails lets eight jobs do what jobs do, with two
// brokers on the same stores, while any call to any part fails now and then,
// with or without its effect. What must hold then is what DESIGN promises.
func TestThePromisesHoldWhateverFails(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(c *broker.Config) { c.Limits.LivePerPlace = 40 })
				second, err := broker.New(r.config(func(c *broker.Config) { c.Limits.LivePerPlace = 40 }))
				if err != nil {
					t.Fatal(err)
				}
				r.guard("few")
				w := &weather{odds: rand.New(rand.NewPCG(seed, 1)), share: []float64{0, 0.02, 0.05, 0.15}[seed%4]}
				r.course.leaveToChance(w.strike)
				ctx, stop := context.WithCancel(context.Background())
				var sweepers, jobs sync.WaitGroup
				for _, b := range []*broker.Broker{r.Broker, second} {
					sweepers.Go(func() { b.Run(ctx) })
				}
				all := make([]*busyJob, 8)
				for i := range all {
					all[i] = &busyJob{rig: r, brokers: []*broker.Broker{r.Broker, second}, key: fmt.Sprint("job-", i),
						odds: rand.New(rand.NewPCG(seed, uint64(i+2))), bought: make(map[string]int)}
					jobs.Go(all[i].work)
				}
				jobs.Wait()
				r.course.leaveToChance(nil)
				time.Sleep(time.Hour + 30*time.Second)
				synctest.Wait()
				stop()
				sweepers.Wait()
				r.nothingIsLeft()
				checkPromises(t, r, all)
			})
		})
	}
}

// weather makes a share of all steps fail.
type weather struct {
	mu    sync.Mutex // guards odds
	odds  *rand.Rand
	share float64
}

func (w *weather) strike(step string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.odds.Float64() >= w.share || step == "verify" || strings.HasPrefix(step, "note") {
		return nil
	}
	return fmt.Errorf("%s struck by lightning", step)
}

// busyJob is one CI job that makes the most of its tokens.
type busyJob struct {
	rig     *rig
	brokers []*broker.Broker
	key     string
	odds    *rand.Rand

	got      []broker.Granted
	sessions []broker.Secret
	tokens   []broker.Secret
	bought   map[string]int // by token: how often it bought something
}

// work does forty things, with pauses.
func (j *busyJob) work() {
	ctx := context.Background()
	for range 40 {
		time.Sleep(time.Duration(j.odds.Int64N(int64(40 * time.Second))))
		b := j.brokers[j.odds.IntN(len(j.brokers))]
		switch j.odds.IntN(8) {
		case 0, 1:
			j.exchange(b, j.fresh())
		case 2:
			j.exchange(b, one(j, j.tokens)) // once more
		case 3, 4:
			answer, _ := b.More(ctx, one(j, j.sessions), j.wants())
			j.keep(answer)
		case 5:
			token := j.fresh()
			if _, err := b.Extend(ctx, one(j, j.sessions), token, "req_ext"); err == nil {
				j.bought[token.Reveal()]++
			}
		case 6:
			_, _ = b.GiveBack(ctx, one(j, j.sessions), "req_back")
		case 7:
			_, _ = b.GiveBackLease(ctx, one(j, j.sessions), one(j, j.got).Lease.ID, "req_back")
		}
	}
}

func (j *busyJob) exchange(b *broker.Broker, token broker.Secret) {
	answer, err := b.Exchange(context.Background(), token, j.wants())
	if err == nil {
		j.bought[token.Reveal()]++
	}
	j.keep(answer)
}

func (j *busyJob) keep(a broker.Answer) {
	j.got = append(j.got, a.Granted...)
	if !a.Token.IsZero() {
		j.sessions = append(j.sessions, a.Token)
	}
}

func (j *busyJob) fresh() broker.Secret {
	token := j.rig.token(job("1", j.key))
	j.tokens = append(j.tokens, token)
	return token
}

func (j *busyJob) wants() broker.Request {
	return ask([][]string{{"db"}, {"queue", "db"}, {"few", "queue"}, {}}[j.odds.IntN(4)]...)
}

// one picks any of those that there are; the zero value if there is none.
func one[T any](j *busyJob, from []T) T {
	var none T
	if len(from) == 0 {
		return none
	}
	return from[j.odds.IntN(len(from))]
}

// checkPromises holds promises 2, 3 and 6 over all that happened.
func checkPromises(t *testing.T, r *rig, all []*busyJob) {
	t.Helper()
	intended, issued := handlesOf(r.journal.of(broker.EventIntent)), handlesOf(r.journal.of(broker.EventIssued))
	for _, h := range slices.Concat(r.left.ever, r.right.ever) {
		if !intended[h] {
			t.Errorf("%s was made, and there is no intent", h)
		}
	}
	exchanges := 0
	var sessions []broker.Secret
	for _, j := range all {
		for _, g := range j.got {
			if !issued[g.Lease.Handle] {
				t.Errorf("%s was delivered, and is not journalled as issued", g.Lease.Handle)
			}
		}
		for token, n := range j.bought {
			exchanges++
			if n > 1 {
				t.Errorf("token %s bought %d times", token, n)
			}
		}
		sessions = append(sessions, j.sessions...)
	}
	if len(r.left.ever) == 0 {
		t.Errorf("after %d exchanges nothing was ever made, so nothing is shown", exchanges)
	}
	r.noSecretIsWritten(sessions...)
}

func handlesOf(records []broker.Record) map[broker.Handle]bool {
	found := make(map[broker.Handle]bool)
	for _, r := range records {
		for _, l := range r.Leases {
			found[l.Handle] = true
		}
	}
	return found
}
