package replay_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/replay"
)

func TestAFrozenServerIsUnavailableWithinTheTimeout(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	c := config(server.URL())
	c.Timeout = 500 * time.Millisecond
	r := serve(t, c)
	claimFresh(t, r)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	token := fresh()
	begun := time.Now()
	wantCode(t, r.Claim(t.Context(), token), broker.Unavailable)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the answer took %s with a timeout of %s", took, c.Timeout)
	}
	eventually(t, "still ready", func() error {
		if r.Ready(t.Context()) == nil {
			return errors.New("ready with a frozen server")
		}
		return nil
	})
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not ready again", func() error { return r.Ready(t.Context()) })
	// The claim that timed out may lie in the server's socket, and land now:
	// the token must not pass twice.
	passed := 0
	for range 3 {
		if err := r.Claim(t.Context(), token); err == nil {
			passed++
		}
	}
	if passed > 1 {
		t.Errorf("a token passed %d times", passed)
	}
	claimFresh(t, r)
}

func TestAFullServerIsUnavailable(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := serve(t, config(server.URL()))
	claimFresh(t, r)
	op := admin(t, server)
	do(t, op, "CONFIG", "SET", "maxmemory", "1kb")
	for range 3 {
		c := fresh()
		wantCode(t, r.Claim(t.Context(), c), broker.Unavailable)
		if n := do(t, op, "EXISTS", marker(c)); n != int64(0) {
			t.Error("a claim that was refused left a marker")
		}
		wantReason(t, r.Keep(t.Context(), answerKey("x"), broker.Sealed{Enc: []byte{1}, Ciphertext: []byte{2}}, time.Minute), "answer_store")
	}
	eventually(t, "it does not say why it is not ready", func() error {
		if err := r.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "out of memory") {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	do(t, op, "CONFIG", "SET", "maxmemory", "0")
	claimFresh(t, r)
}

func TestAServerThatIsNotFitIsNotReadyAndClaimsNothing(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		args   []string
		order  []any // given to the server once it runs
		change func(*replay.RedisConfig)
		says   string
		lasts  bool // waiting does not help, so no broker starts on it
	}{
		"a policy that evicts":             {args: []string{"--maxmemory-policy", "allkeys-lru"}, says: "noeviction"},
		"no append-only file":              {change: func(c *replay.RedisConfig) { c.UnsafeNoPersistence = false }, says: "unsafe_no_persistence"},
		"a cluster":                        {args: []string{"--cluster-enabled", "yes", "--cluster-port", "0"}, says: "Redis Cluster", lasts: true},
		"a replica":                        {args: []string{"--replicaof", "127.0.0.1 1"}, says: "role"},
		"replicas that are not there":      {change: func(c *replay.RedisConfig) { c.Replicas = 1 }, says: "0 of the 1 replicas"},
		"a clock that is 10 s ahead":       {change: func(c *replay.RedisConfig) { c.Now = off(-10 * time.Second) }, says: "differ by 10s"},
		"a clock that is 10 s behind":      {change: func(c *replay.RedisConfig) { c.Now = off(10 * time.Second) }, says: "differ by 10s"},
		"a clock that is 6 s off":          {change: func(c *replay.RedisConfig) { c.Now = off(-6 * time.Second) }, says: "clocks"},
		"a password that we do not know":   {args: []string{"--requirepass", "sesame"}, says: "NOAUTH"},
		"a user who may not read INFO":     {order: []any{"ACL", "SETUSER", "default", "-info"}, says: "permissions"},
		"a database that is not there":     {change: func(c *replay.RedisConfig) { c.URL = strings.TrimSuffix(c.URL, "0") + "99" }, says: "DB index"},
		"nothing that listens":             {change: func(c *replay.RedisConfig) { c.URL = "redis://127.0.0.1:1" }, says: "refused"},
		"something else than TLS":          {change: func(c *replay.RedisConfig) { c.URL = "rediss" + strings.TrimPrefix(c.URL, "redis") }, says: "deadline"},
		"a broker without a random source": {change: func(c *replay.RedisConfig) { c.Rand = bytes.NewReader(nil) }, says: "nonce"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := row.args
			if strings.Contains(strings.Join(args, " "), "--cluster-port") {
				port, err := servers.FreePort()
				if err != nil {
					t.Fatal(err)
				}
				args = []string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(port)}
			}
			server := startRedis(t, args...)
			if row.order != nil {
				do(t, admin(t, server), row.order...)
			}
			c := config(server.URL())
			if row.change != nil {
				row.change(&c)
			}
			r := open(t, c)
			err := r.Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %v, want something about %q", err, row.says)
			}
			if r.Ready(t.Context()) == nil {
				t.Error("it is ready")
			}
			wantCode(t, r.Claim(t.Context(), fresh()), broker.Unavailable)
			if err := r.Fit(t.Context()); row.says != "nonce" && (err == nil || !strings.Contains(err.Error(), row.says)) {
				t.Errorf("who only looks gets %v, want something about %q", err, row.says)
			}
			if err := r.Startable(t.Context()); (err != nil) != row.lasts || err != nil && !strings.Contains(err.Error(), row.says) {
				t.Errorf("who wants to start on it gets %v; does it last: %t", err, row.lasts)
			}
		})
	}
}

func TestNoBrokerStartsWhereReplicasAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	a, b := startRedis(t), startRedis(t)
	follow(t, b, a)
	c := config(a.URL())
	err := open(t, c).Startable(t.Context())
	if err == nil || !strings.Contains(err.Error(), "2 nodes") || !strings.Contains(err.Error(), "state.replicas is 0: set replicas: 1") {
		t.Errorf("got %v", err)
	}
	if check := open(t, c).Check(t.Context()); check == nil || !strings.Contains(check.Error(), err.Error()) {
		t.Errorf("a probe says it otherwise: %v", check)
	}
	if err := open(t, config(b.URL())).Startable(t.Context()); err != nil {
		t.Errorf("a replica, which may be promoted: %v", err)
	}
	c.Replicas = 1
	if err := open(t, c).Startable(t.Context()); err != nil {
		t.Errorf("where they are waited for: %v", err)
	}
	c.Replicas = 2 // one of them is away
	if err := open(t, c).Startable(t.Context()); err != nil {
		t.Errorf("where one is away, which may come back: %v", err)
	}
}

func TestAServerThatHidesWhetherItIsAClusterIsNotFitAndMayHeal(t *testing.T) {
	t.Parallel()
	r := open(t, config("redis://127.0.0.1:1"))
	var lasting *replay.SetUpError
	err := r.FitOf(map[string]string{"role": "master"})
	if err == nil || !strings.Contains(err.Error(), "does not say whether") || errors.As(err, &lasting) {
		t.Errorf("got %v", err)
	}
}

func off(by time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(by) }
}

func TestAServerThatBecomesUnfitStopsTheClaimsUntilItIsPutRight(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	op := admin(t, server)
	var log lines
	c := config(server.URL())
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	r := serve(t, c)
	claimFresh(t, r)
	do(t, op, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	eventually(t, "still claims", func() error {
		if r.Claim(t.Context(), fresh()) == nil {
			return errors.New("a token was claimed of a server that evicts")
		}
		return nil
	})
	if !strings.Contains(log.String(), "noeviction") {
		t.Errorf("the log does not say why:\n%s", log.String())
	}
	do(t, op, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	claimFresh(t, r)
}

func TestClaimsStopWhenNobodyProbesAnyMore(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	clock := brokertest.NewClock(time.Now())
	c := config(server.URL())
	c.Now = clock.Now
	r := open(t, c)
	if err := r.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock.Advance(time.Minute)
	err := r.Claim(t.Context(), fresh())
	wantCode(t, err, broker.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "not looked at") {
		t.Errorf("got %v", err)
	}
}

func TestAClaimIsRefusedWhereTheClocksDiffer(t *testing.T) {
	t.Parallel()
	clock := brokertest.NewClock(time.Now())
	c := config(startRedis(t).URL())
	c.Now = clock.Now
	r := open(t, c)
	for _, off := range []time.Duration{-8 * time.Second, 8 * time.Second} {
		clock.Set(time.Now())
		if err := r.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		clock.Advance(off)
		err := r.Claim(t.Context(), fresh())
		wantCode(t, err, broker.Unavailable)
		if err == nil || !strings.Contains(err.Error(), "clocks") {
			t.Errorf("%s off: %v", off, err)
		}
	}
}
