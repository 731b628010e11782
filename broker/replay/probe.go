package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	probeEvery = time.Second
	// confirmAfter is how long a server life must have lasted before its
	// fence is confirmed.
	confirmAfter = probeEvery * 9 / 10
	// probeLasts is how long the last probe is believed.
	probeLasts = 15 * time.Second
)

// state is what the last probe found.
type state struct {
	err       error     // why claims cannot be served
	at        time.Time // when it was found
	confirmed bool
	newest    time.Time // the newest fence ever seen: older ones are of a server that was left behind
	life      string    // the server life of the last look
	since     time.Time // when we first saw this life without a break
}

// fault says why nothing can be claimed, or nil. A fence that is not confirmed
// is not known here in time: the claim itself finds out.
func (s state) fault(now time.Time) error {
	if s.err != nil {
		return s.err
	}
	if age := now.Sub(s.at); age > probeLasts || age < -probeLasts {
		return fmt.Errorf("redis was not looked at for %s", age.Round(time.Second))
	}
	return nil
}

func (r *Redis) seen() state {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Run probes the server at once and then every second, until ctx ends: it
// checks that the server is fit, and confirms the fence where that is due.
func (r *Redis) Run(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		_ = r.Check(ctx) // kept for Ready, and logged
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Ready implements [broker.Replay]: it says what the last probe found, and
// contacts nothing.
func (r *Redis) Ready(context.Context) error {
	s := r.seen()
	if err := s.fault(r.Now()); err != nil {
		return err
	}
	if !s.confirmed {
		return errors.New("the replay fence is not confirmed yet; it takes a second")
	}
	return nil
}

// Check probes the server now. It returns why claims cannot be served, or nil;
// a fence that is not confirmed yet is no fault of the server's.
func (r *Redis) Check(ctx context.Context) error {
	r.probing.Lock()
	defer r.probing.Unlock()
	was := r.seen()
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	next, err := r.probe(ctx, was)
	next.err, next.at = err, r.Now()
	if err != nil {
		next.confirmed, next.life = false, "" // what happens while we cannot look is not known
	}
	r.tell(was, next)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = next
	return err
}

func (r *Redis) probe(ctx context.Context, s state) (state, error) {
	conn := r.client.Conn()
	defer func() { _ = conn.Close() }()
	info, err := readInfo(ctx, conn)
	if err != nil {
		return s, err
	}
	if err := r.fit(info); err != nil {
		return s, err
	}
	a, err := r.run(ctx, conn, r.look, []string{r.fenceKey()}, s.newest)
	if err != nil {
		return s, err
	}
	if err := r.accept(a); err != nil {
		return s, err
	}
	if a.life != s.life {
		s.life, s.since = a.life, r.Now()
	}
	if a.verdict == "unconfirmed" && r.Now().Sub(s.since) >= confirmAfter {
		if err := r.acknowledged(ctx, conn); err != nil {
			return s, err
		}
		if a, err = r.run(ctx, conn, r.confirm, []string{r.fenceKey()}, s.newest, a.life); err != nil {
			return s, err
		}
		if err := r.accept(a); err != nil {
			return s, err
		}
	}
	s.confirmed = a.verdict == "confirmed"
	if a.since.After(s.newest) {
		s.newest = a.since
	}
	return s, nil
}

// accept refuses an answer of a server that we would not ask to claim.
func (r *Redis) accept(a answer) error {
	if a.verdict != "confirmed" && a.verdict != "unconfirmed" {
		return fmt.Errorf("redis is not fit: %s", a.verdict)
	}
	return r.sameTime(a.now)
}

// info is what the server says of itself.
type info map[string]string

func readInfo(ctx context.Context, conn *redis.Conn) (info, error) {
	text, err := conn.Info(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("ask redis what it is: %w", err)
	}
	fields := make(info)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields, nil
}

// fit lists everything that keeps the server from being asked. A field that is
// missing is a fault: a service that hides it cannot be judged.
func (r *Redis) fit(have info) error {
	nodes, replicas := 1, 0
	if n, err := strconv.Atoi(have["connected_slaves"]); err == nil {
		nodes, replicas = n+1, n
	}
	var faults []error
	for _, row := range []struct {
		bad  bool
		what string
	}{
		{have["cluster_enabled"] != "0", "it is part of a Redis Cluster, which is not supported: use a standalone server"},
		{!atLeast7(have["redis_version"]), fmt.Sprintf("its version is %.20q; 7.0 or later is needed", have["redis_version"])},
		{have["role"] != "master", fmt.Sprintf("its role is %.20q, not master", have["role"])},
		{have["maxmemory_policy"] != "noeviction", fmt.Sprintf("its maxmemory-policy is %.20q; it must be noeviction, or used tokens are forgotten", have["maxmemory_policy"])},
		{have["aof_enabled"] != "1" && !r.UnsafeNoPersistence, "it keeps no append-only file: set appendonly yes, or unsafe_no_persistence: true"},
		{have["aof_enabled"] == "1" && have["aof_last_write_status"] != "ok", "it cannot write its append-only file"},
		{r.Replicas < nodes/2, fmt.Sprintf("it has %d replicas, so replicas must be at least %d, not %d", replicas, nodes/2, r.Replicas)},
		{replicas < r.Replicas, fmt.Sprintf("%d of the %d replicas that must acknowledge are connected", replicas, r.Replicas)},
	} {
		if row.bad {
			faults = append(faults, errors.New("redis is not fit: "+row.what))
		}
	}
	return errors.Join(faults...)
}

func atLeast7(version string) bool {
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	return err == nil && n >= 7
}

// tell logs what changed.
func (r *Redis) tell(was, is state) {
	switch {
	case is.err != nil && (was.err == nil || was.err.Error() != is.err.Error()):
		r.Log.Warn("no token can be claimed", "err", is.err)
	case is.err == nil && is.confirmed && (!was.confirmed || was.err != nil || !was.newest.Equal(is.newest)):
		r.Log.Info("tokens can be claimed", "fenced_since", is.newest)
	case is.err == nil && !is.confirmed && was.confirmed:
		r.Log.Warn("redis may have forgotten tokens; those issued until now are stale")
	}
}
