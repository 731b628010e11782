package replay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/replay"
)

// size picks between `make test` and `make soak`.
func size(test, soak int) int {
	if os.Getenv("DAYPASS_SOAK") == "1" {
		return soak
	}
	return test
}

// Every client offers tokens as fast as it can, the same ones as the others;
// in the long form every one of them.
func TestOf5000TokensExactly5000AreAccepted(t *testing.T) {
	const tokens, clients, stores = 5000, 64, 3
	server := startRedis(t)
	c := config(server.URL())
	c.Timeout = 10 * time.Second // a busy machine is no attack
	var brokers []*replay.Redis
	for range stores {
		r := serve(t, c)
		eventually(t, "a token issued now is not accepted", func() error {
			return r.Claim(t.Context(), brokertest.NewClaim(time.Now()))
		})
		brokers = append(brokers, r)
	}
	var offered [tokens]broker.Claim
	for i := range offered {
		offered[i] = brokertest.NewClaim(time.Now())
	}
	h := newHistory()
	each := size(4, clients*stores) // clients that offer a token
	var all sync.WaitGroup
	for n := range clients * stores {
		all.Go(func() {
			for i := range offered {
				if (n+i*7)%(clients*stores) < each {
					h.claim(t, n, brokers[n%stores], offered[i])
				}
			}
		})
	}
	all.Wait()
	accepted, claims := h.check(t)
	if accepted != tokens {
		t.Errorf("%d tokens of %d were accepted", accepted, tokens)
	}
	t.Logf("%d claims of %d tokens by %d clients through %d stores: %d accepted", claims, tokens, clients*stores, stores, accepted)
}

// lane is a Redis that is broken again and again, two brokers, and clients
// that go on offering tokens meanwhile.
type lane struct {
	brokers []*replay.Redis
	break1  func(t *testing.T) // breaks it once, and returns when it is whole
	h       *history
	waits   []time.Duration // until a fresh token was accepted again
}

const (
	// soon is within what a fresh token is to be accepted again. It is held
	// against the median of a lane, for a round may fall into a moment when
	// the machine is busy with something else; no round may take longer than
	// late.
	soon = 10 * time.Second
	late = 40 * time.Second
)

func TestNoTokenIsAcceptedTwiceHoweverRedisForgets(t *testing.T) {
	for name, build := range map[string]func(*testing.T) (replay.RedisConfig, func(*testing.T)){
		"restarts without persistence":           laneOfRestarts,
		"flushes":                                laneOfFlushes,
		"failovers of Sentinel to a lagging one": laneOfFailovers,
		"from A to B and back with no claim":     laneOfReturns,
		"isolated nodes that rejoin":             laneOfIsolation,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lanes, rounds := size(1, 2), size(50, 100)
			for i := range lanes {
				t.Run(fmt.Sprint("lane ", i), func(t *testing.T) {
					t.Parallel()
					c, break1 := build(t)
					l := &lane{brokers: []*replay.Redis{serve(t, c), serve(t, c)}, break1: break1, h: newHistory()}
					l.run(t, rounds)
					tokens, claims := l.h.check(t)
					slices.Sort(l.waits)
					median := l.waits[len(l.waits)/2]
					if median > soon {
						t.Errorf("a fresh token was accepted after %s", median)
					}
					t.Logf("%d rounds: %d claims, %d tokens accepted; a fresh one after %s, at most %s",
						len(l.waits), claims, tokens, median.Round(100*time.Millisecond), l.waits[len(l.waits)-1].Round(100*time.Millisecond))
				})
			}
		})
	}
}

func (l *lane) run(t *testing.T, rounds int) {
	ctx, stop := context.WithCancel(t.Context())
	var storm sync.WaitGroup
	defer storm.Wait()
	defer stop()
	l.again(t)
	l.waits = nil
	for n := range 3 {
		storm.Go(func() { l.offer(ctx, t, n+1) })
	}
	for range rounds {
		time.Sleep(200 * time.Millisecond)
		l.break1(t)
		l.again(t)
		if t.Failed() {
			return
		}
	}
}

// again waits until a token is accepted that is issued when it is offered.
func (l *lane) again(t *testing.T) {
	begun := time.Now()
	for l.h.claim(t, 0, l.brokers[rand.IntN(len(l.brokers))], brokertest.NewClaim(time.Now())) != claimed {
		if time.Since(begun) > late {
			t.Errorf("no fresh token was accepted for %s: %v", late, l.brokers[0].Ready(t.Context()))
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	l.waits = append(l.waits, time.Since(begun))
}

// offer offers fresh tokens, issued as far ahead as is let pass, and older
// ones again and again.
func (l *lane) offer(ctx context.Context, t *testing.T, client int) {
	var recent []broker.Claim
	for ctx.Err() == nil {
		c := fresh()
		if len(recent) > 0 && rand.IntN(4) > 0 {
			c = recent[rand.IntN(len(recent))]
		} else if recent = append(recent, c); len(recent) > 60 {
			recent = recent[1:]
		}
		l.h.claim(t, client, l.brokers[rand.IntN(len(l.brokers))], c)
		time.Sleep(time.Duration(5+rand.IntN(20)) * time.Millisecond)
	}
}

func laneOfRestarts(t *testing.T) (replay.RedisConfig, func(*testing.T)) {
	server := startRedis(t)
	return config(server.URL()), func(t *testing.T) {
		if err := server.Kill(); err != nil {
			t.Error(err)
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func laneOfFlushes(t *testing.T) (replay.RedisConfig, func(*testing.T)) {
	server := startRedis(t)
	op := admin(t, server)
	return config(server.URL()), func(t *testing.T) { do(t, op, "FLUSHALL") }
}

// lag cuts a replica off while claims go on, so that it does not have them.
func lag(t *testing.T, replica *servers.Redis) {
	do(t, admin(t, replica), "REPLICAOF", "127.0.0.1", "1")
	time.Sleep(300 * time.Millisecond)
}

func laneOfFailovers(t *testing.T) (replay.RedisConfig, func(*testing.T)) {
	a, b, c := startRedis(t), startRedis(t), startRedis(t, "--replica-priority", "0") // c acknowledges, and is never promoted
	follow(t, b, a)
	follow(t, c, a)
	s := startSentinel(t, a)
	conf := sentinelConfig(s)
	op := redis.NewSentinelClient(&redis.Options{Addr: s.Addr(), Protocol: 2})
	t.Cleanup(func() { _ = op.Close() })
	return conf, func(t *testing.T) {
		lag(t, b)
		failOver(t, op, b)
		follow(t, a, b) // sooner than Sentinel would see to it
		follow(t, c, b)
		a, b = b, a
	}
}

// failOver has Sentinel promote a replica. It gives up one that is slow to
// answer, and is then asked again.
func failOver(t *testing.T, op *redis.SentinelClient, to *servers.Redis) {
	var state string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		m, err := op.Master(t.Context(), "main").Result()
		if err != nil {
			state = err.Error()
			continue
		}
		busy := strings.Contains(m["flags"], "failover")
		if !busy && m["port"] == fmt.Sprint(to.Port()) {
			return
		}
		state = "the master is at " + m["port"] + ", " + m["flags"]
		if err := op.Failover(t.Context(), "main").Err(); !busy && err != nil {
			state = err.Error()
		}
	}
	t.Errorf("sentinel does not fail over: %s", state)
}

func startSentinel(t *testing.T, master *servers.Redis) *servers.Sentinel {
	t.Helper()
	s, err := servers.StartSentinel(t.Context(), servers.SentinelConfig{Name: "main", Master: master, Down: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "sentinel does not find the replicas", func() error {
		if strings.Count(s.Log(), "+slave slave") < 2 {
			return errors.New(s.Log())
		}
		return nil
	})
	return s
}

func sentinelConfig(s *servers.Sentinel) replay.RedisConfig {
	c := config("")
	c.Mode, c.Replicas = "sentinel", 1
	c.Sentinel = replay.SentinelConfig{Master: "main", Sentinels: []string{s.Addr()}}
	return c
}

func laneOfReturns(t *testing.T) (replay.RedisConfig, func(*testing.T)) {
	a, b, c := startRedis(t), startRedis(t), startRedis(t)
	follow(t, b, a)
	follow(t, c, a)
	conf := config(a.URL())
	conf.Replicas = 1
	return conf, func(t *testing.T) {
		lag(t, b)
		promote(t, b)
		follow(t, a, b) // and takes what b has
		promote(t, a)
		follow(t, c, a)
		follow(t, b, a)
	}
}

func laneOfIsolation(t *testing.T) (replay.RedisConfig, func(*testing.T)) {
	a, x, c := startRedis(t), startRedis(t), startRedis(t)
	follow(t, x, a)
	follow(t, c, a)
	d := newDoor(t, a)
	conf := config(d.url())
	conf.Replicas = 1
	return conf, func(t *testing.T) {
		lag(t, x)
		promote(t, x)
		d.lead(x)
		time.Sleep(1500 * time.Millisecond) // it is asked and probed, alone
		follow(t, c, x)
		follow(t, a, x)
		a, x = x, a
	}
}

func TestSentinelNamesTheMasterAndHowManyNodesThereAre(t *testing.T) {
	t.Parallel()
	a, b, c := startRedis(t), startRedis(t), startRedis(t)
	follow(t, b, a)
	follow(t, c, a)
	s := startSentinel(t, a)
	conf := sentinelConfig(s)
	r := serve(t, conf)
	used := claimFresh(t, r)
	wantCode(t, r.Claim(t.Context(), used), broker.TokenReused)

	// Two replicas are away: sentinel knows of them all the same, so a new
	// broker does not take the master for one that stands alone.
	for _, gone := range []*servers.Redis{b, c} {
		do(t, admin(t, gone), "REPLICAOF", "127.0.0.1", "1")
	}
	err := open(t, conf).Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), "0 of the 1 replicas") {
		t.Errorf("without its replicas: %v", err)
	}
	wantCode(t, r.Claim(t.Context(), fresh()), broker.Unavailable)

	wrong := conf
	wrong.Sentinel.Master = "other"
	if err := open(t, wrong).Check(t.Context()); err == nil {
		t.Error("a master that nobody knows was found")
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, conf).Check(t.Context()); err == nil {
		t.Error("found a master without a Sentinel")
	}
}
