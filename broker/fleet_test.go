package broker_test

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/lease"
)

// TestTwoBrokersOnOneRedisTakeBackTheSameLeasesWithoutHarm: sweepers of two
// brokers, jobs and an operator, all at the same leases.
func TestTwoBrokersOnOneRedisTakeBackTheSameLeasesWithoutHarm(t *testing.T) {
	server, err := servers.StartRedis(t.Context(), servers.RedisConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	store := func() *lease.Redis {
		s, err := lease.NewRedis(lease.RedisConfig{URL: server.URL(), Deployment: "test", Key: [32]byte{1}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Disconnect() })
		return s
	}
	on := func(s *lease.Redis) func(*broker.Config) {
		return func(c *broker.Config) { c.Leases, c.Book, c.Sessions, c.Alarms = s, s, s, s }
	}
	books := store()
	r := newRig(t, on(books))
	second, err := broker.New(r.config(on(store())))
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	r.course.meanwhile("revoke db", func(context.Context) error {
		asked.Add(1)
		time.Sleep(time.Millisecond)
		return nil
	})
	const many = 120
	var answers []broker.Answer
	for range many {
		answers = append(answers, r.exchange("db"))
	}
	stop := make(chan struct{})
	var sweepers, all sync.WaitGroup
	for _, b := range []*broker.Broker{r.Broker, second} {
		sweepers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					b.SweepTarget(context.Background(), "left")
				}
			}
		})
		all.Go(func() {
			if _, err := b.RevokeLeases(context.Background(), broker.LeaseFilter{Grant: "db"}, byOps); err != nil {
				t.Error(err)
			}
		})
		for _, a := range answers[:many/4] {
			all.Go(func() { _, _ = b.GiveBack(context.Background(), a.Token, "req_back") })
		}
	}
	all.Wait()
	for end := time.Now().Add(20 * time.Second); r.left.left() > 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
	}
	close(stop)
	sweepers.Wait()
	leases, err := books.List(context.Background(), broker.LeaseFilter{})
	if n := r.left.left(); n != 0 || err != nil || len(leases) != 0 {
		t.Errorf("%d keys are left, and %d leases, %v", n, len(leases), err)
	}
	if n := asked.Load(); n < many || n > 3*many {
		t.Errorf("the target was asked %d times for %d keys", n, many)
	}
	if n := len(r.journal.of(broker.EventOrphan)); n != 0 {
		t.Errorf("%d were taken for orphans", n)
	}
	if fails := len(r.journal.of(broker.EventUnrevoked)); fails != 0 {
		t.Errorf("%d revocations failed", fails)
	}
}
