package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker/internal/redisconn"
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
	err    error         // why claims cannot be served
	at     time.Time     // when it was found, by our clock
	now    time.Time     // and by the server's
	off    time.Duration // what the server's clock is ahead of ours
	fence  fence         // what claims are held against; zero: it is not confirmed
	latest time.Time     // the latest time that any server told
	newest time.Time     // the newest fence ever seen: older ones are of a server that was left behind
	life   string        // the server life of the last look
	since  time.Time     // when we first saw this life without a break
	nodes  nodes
}

// clock guesses the server's time.
func (s state) clock(ours time.Time) time.Time { return ours.Add(s.off) }

func (s state) confirmed() bool { return s.fence.raw != "" }

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
	if !s.confirmed() {
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
		next.fence, next.life = fence{}, "" // what happens while we cannot look is not known
	}
	r.tell(was, next)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = next
	return err
}

// Fit says why the server cannot serve, or nil, and changes nothing there: it
// is for whoever looks at a server of which he does not have the key.
func (r *Redis) Fit(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	conn := r.client.Conn()
	defer func() { _ = conn.Close() }()
	if _, err := r.judge(ctx, conn, nodes{}); err != nil {
		return err
	}
	now, err := conn.Time(ctx).Result()
	if err != nil {
		return fmt.Errorf("ask redis for the time: %w", err)
	}
	return r.sameTime(now)
}

// Startable returns a [*SetUpError] if no broker may start on this server. What
// may heal by itself, a server that is away among it, is no reason not to start:
// [Redis.Run] goes on looking and [Redis.Ready] says so. Nothing is changed there.
func (r *Redis) Startable(ctx context.Context) error {
	if e, ok := errors.AsType[*SetUpError](r.Fit(ctx)); ok {
		return e
	}
	return nil
}

// SetUpError says what is wrong with how a server, or the configuration for it,
// was set up. Somebody has to change it: waiting does not help.
type SetUpError struct{ Faults []string }

// Error names each fault and what to do about it.
func (e *SetUpError) Error() string { return "redis is not fit: " + strings.Join(e.Faults, "; and ") }

// judge asks the server what it is, and how many others there are.
func (r *Redis) judge(ctx context.Context, conn *redis.Conn, was nodes) (nodes, error) {
	info, err := readInfo(ctx, conn)
	if err != nil {
		return was, err
	}
	is, err := r.count(ctx, was, info)
	if err != nil {
		return was, err
	}
	return is, r.fit(info, is.n)
}

func (r *Redis) probe(ctx context.Context, s state) (state, error) {
	conn := r.client.Conn()
	defer func() { _ = conn.Close() }()
	var err error
	if s.nodes, err = r.judge(ctx, conn, s.nodes); err != nil {
		return s, err
	}
	var mark, last string
	if !s.now.IsZero() {
		last = millis(s.now)
		mark = r.sealer.seal(kindSeen, r.fenceKey(), last)
	}
	a, err := r.run(ctx, conn, r.scripts.look, s, []string{r.fenceKey()}, mark, last)
	if err != nil {
		return s, err
	}
	s.now, s.off = a.now, a.now.Sub(r.Now())
	if a.life != s.life {
		s.life, s.since = a.life, r.Now()
	}
	if s, err = r.learn(ctx, conn, s, a); err != nil || s.confirmed() || r.Now().Sub(s.since) < confirmAfter {
		return s, err
	}
	return r.confirm(ctx, conn, s)
}

// confirm vouches for the server from its present time on. It is done in two
// steps, since the server knows the time and we have the key.
func (r *Redis) confirm(ctx context.Context, conn *redis.Conn, s state) (state, error) {
	a, err := r.run(ctx, conn, r.scripts.draft, s, []string{r.fenceKey()}, s.life)
	if err != nil || a.verdict != "drafted" {
		return r.learnIf(ctx, conn, s, a, err)
	}
	if err := r.acknowledged(ctx, conn); err != nil {
		return s, err
	}
	// A server that takes over from one whose clock was ahead vouches for
	// nothing that was claimed there.
	since := latestOf(a.now, s.latest)
	sealed := r.sealer.fence(r.fenceKey(), a.life, a.evicted, since)
	a, err = r.run(ctx, conn, r.scripts.confirm, s, []string{r.fenceKey()}, a.nonce, sealed)
	return r.learnIf(ctx, conn, s, a, err)
}

func (r *Redis) learnIf(ctx context.Context, conn *redis.Conn, s state, a answer, err error) (state, error) {
	if err != nil {
		return s, err
	}
	return r.learn(ctx, conn, s, a)
}

// learn takes over the fence that an answer tells of, if a broker of ours put
// it there, and has it destroyed if not.
func (r *Redis) learn(ctx context.Context, conn *redis.Conn, s state, a answer) (state, error) {
	s.fence = fence{}
	if a.verdict != "confirmed" && a.verdict != "unconfirmed" {
		return s, fmt.Errorf("redis is not fit: %s", a.verdict)
	}
	if err := r.sameTime(a.now); err != nil {
		return s, err
	}
	s.latest = latestOf(s.latest, a.now)
	var found fence
	var err error
	if a.fence != "" {
		found, err = r.sealer.openFence(r.fenceKey(), a.fence)
	}
	if a.seen != "" && err == nil {
		_, err = r.sealer.open(kindSeen, r.fenceKey(), a.seen)
	}
	if err != nil {
		_, dropErr := r.run(ctx, conn, r.scripts.drop, s, []string{r.fenceKey()}, a.fence, a.seen)
		return s, errors.Join(r.refused(r.fenceKey(), err), dropErr)
	}
	if a.verdict == "confirmed" && found.life == a.life && found.evicted == a.evicted && !found.since.Before(s.newest) {
		s.fence, s.newest = found, found.since
	}
	return s, nil
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

// nodes is how many servers there are, those that are away included.
type nodes struct {
	n  int
	at time.Time // when Sentinel was asked
}

// count counts the servers. A master that was cut off sees fewer than there
// are, and must not think itself the majority: so standalone goes by the most
// it has seen since the start, and with Sentinel the Sentinels are asked.
func (r *Redis) count(ctx context.Context, was nodes, have info) (nodes, error) {
	here := 1
	if n, err := strconv.Atoi(have["connected_slaves"]); err == nil {
		here += n
	}
	if r.Mode != redisconn.Sentinel {
		return nodes{n: max(was.n, here)}, nil
	}
	if age := r.Now().Sub(was.at); was.n > 0 && age.Abs() < askSentinelEvery {
		return nodes{n: max(was.n, here), at: was.at}, nil
	}
	known, err := r.askSentinels(ctx)
	if err != nil && was.n == 0 {
		return was, err
	}
	if err != nil { // the master serves on without them
		return nodes{n: max(was.n, here), at: was.at}, nil
	}
	return nodes{n: max(known, here), at: r.Now()}, nil
}

// fit lists everything that keeps the server from being asked; first, as one
// [*SetUpError], what does not heal. A field that is missing is a fault: a service
// that hides it cannot be judged.
func (r *Redis) fit(have info, nodes int) error {
	replicas, _ := strconv.Atoi(have["connected_slaves"]) // 0 if it is hidden
	used, _ := strconv.ParseUint(have["used_memory"], 10, 64)
	most, _ := strconv.ParseUint(have["maxmemory"], 10, 64)
	var faults []error
	if lasting := r.setUp(have, nodes); lasting != nil {
		faults = append(faults, lasting)
	}
	for _, row := range []struct {
		bad  bool
		what string
	}{
		{have["cluster_enabled"] != "0" && have["cluster_enabled"] != "1", "it does not say whether it is part of a Redis Cluster"},
		{!atLeast7(have["redis_version"]), fmt.Sprintf("its version is %.20q; 7.0 or later is needed", have["redis_version"])},
		{have["role"] != "master", fmt.Sprintf("its role is %.20q, not master", have["role"])},
		{have["maxmemory_policy"] != "noeviction", fmt.Sprintf("its maxmemory-policy is %.20q; it must be noeviction, or used tokens are forgotten", have["maxmemory_policy"])},
		{have["aof_enabled"] != "1" && !r.UnsafeNoPersistence, "it keeps no append-only file: set appendonly yes, or unsafe_no_persistence: true"},
		{have["aof_enabled"] == "1" && have["aof_last_write_status"] != "ok", "it cannot write its append-only file"},
		{most > 0 && used > most, fmt.Sprintf("it is out of memory: it uses %d of maxmemory %d bytes", used, most)},
		{replicas < r.Replicas, fmt.Sprintf("%d of the %d replicas that must acknowledge are connected", replicas, r.Replicas)},
	} {
		if row.bad {
			faults = append(faults, errors.New("redis is not fit: "+row.what))
		}
	}
	return errors.Join(faults...)
}

// setUp finds what only a change of set-up mends: a Cluster, where neither the
// fence nor WAIT holds, and replicas too many of which may not know of a claim.
// A server that is itself a replica says nothing of those.
func (r *Redis) setUp(have info, nodes int) error {
	e := &SetUpError{}
	if have["cluster_enabled"] == "1" {
		e.Faults = append(e.Faults, "it is part of a Redis Cluster (cluster-enabled yes), which is not supported: let state.url name a standalone server, or use mode: sentinel")
	}
	if least := nodes / 2; have["role"] == "master" && r.Replicas < least {
		counted := "as it counts them"
		if r.Mode == redisconn.Sentinel {
			counted = "as the Sentinels count them; SENTINEL RESET forgets those that are gone for good"
		}
		e.Faults = append(e.Faults, fmt.Sprintf("it has replicas (%d nodes in all, %s), and state.replicas is %d: set replicas: %d, so that at least half of the nodes know of a claim, or a master that was cut off goes on claiming",
			nodes, counted, r.Replicas, least))
	}
	if len(e.Faults) == 0 {
		return nil
	}
	return e
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
	case is.err == nil && is.confirmed() && (!was.confirmed() || was.err != nil || !was.newest.Equal(is.newest)):
		r.Log.Info("tokens can be claimed", "fenced_since", is.newest)
	case is.err == nil && !is.confirmed() && was.confirmed():
		r.Log.Warn("redis may have forgotten tokens; those issued until now are stale")
	}
}
