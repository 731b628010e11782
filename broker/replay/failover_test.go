package replay_test

import (
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// door is an address behind which the server can be exchanged, as a service
// name or a floating address does in a failover.
type door struct {
	l  net.Listener
	mu sync.Mutex // guards what follows
	to string
	in []net.Conn
}

func newDoor(t *testing.T, to *servers.Redis) *door {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{l: l, to: to.Addr()}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { d.pass(in) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); d.lead(to); serving.Wait() })
	return d
}

func (d *door) url() string { return "redis://" + d.l.Addr().String() }

// lead sends whoever comes through the door to another server, those who are
// in already by hanging up on them.
func (d *door) lead(to *servers.Redis) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to = to.Addr()
	for _, c := range d.in {
		_ = c.Close()
	}
	d.in = nil
}

func (d *door) pass(in net.Conn) {
	defer func() { _ = in.Close() }()
	d.mu.Lock()
	to := d.to
	d.in = append(d.in, in)
	d.mu.Unlock()
	out, err := net.Dial("tcp4", to)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(in, out); _ = in.Close() })
	_, _ = io.Copy(out, in)
	_ = out.Close()
	back.Wait()
}

// follow makes one server the replica of another, and waits until it is.
func follow(t *testing.T, replica, master *servers.Redis) {
	t.Helper()
	op, at := admin(t, replica), strconv.Itoa(master.Port())
	do(t, op, "REPLICAOF", "127.0.0.1", at)
	inStep(t, op)
}

func inStep(t *testing.T, replica *redis.Client) {
	t.Helper()
	eventually(t, "the replica does not catch up", func() error {
		if role := do(t, replica, "ROLE").([]any); len(role) > 3 && role[3] == "connected" {
			return nil
		}
		return errors.New("not connected")
	})
}

func promote(t *testing.T, replica *servers.Redis) {
	t.Helper()
	do(t, admin(t, replica), "REPLICAOF", "NO", "ONE")
}

// The attack: a marker that the promoted replica never got.
func TestAPromotedReplicaThatLostAMarkerRefusesTheToken(t *testing.T) {
	t.Parallel()
	a, b, c := startRedis(t), startRedis(t), startRedis(t)
	follow(t, b, a)
	follow(t, c, a)
	d := newDoor(t, a)
	conf := config(d.url())
	conf.Replicas = 1
	r := serve(t, conf)
	used := claimFresh(t, r)

	if err := b.Pause(); err != nil { // b hears nothing of what follows; c acknowledges
		t.Fatal(err)
	}
	lost := fresh()
	if err := r.Claim(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	promote(t, b)
	if err := admin(t, b).Del(t.Context(), marker(lost)).Err(); err != nil { // in case the kernel had passed it on
		t.Fatal(err)
	}
	follow(t, c, b)
	d.lead(b)

	eventually(t, "the lost token is not stale", func() error { return stillStale(t, r, lost) })
	wantCode(t, r.Claim(t.Context(), used), broker.TokenStale)
	claimFresh(t, r)
	wantCode(t, r.Claim(t.Context(), lost), broker.TokenStale)
}

// The attack: A fails over to B, a token is used there, and A comes back with
// the data and the fence it had, having never been restarted.
func TestAServerThatComesBackDoesNotBringItsOldFence(t *testing.T) {
	t.Parallel()
	a, b := startRedis(t), startRedis(t)
	d := newDoor(t, a)
	r := serve(t, config(d.url()))
	claimFresh(t, r)
	d.lead(b)
	used := claimFresh(t, r)
	d.lead(a)
	eventually(t, "the token used elsewhere is not stale", func() error { return stillStale(t, r, used) })
	claimFresh(t, r)
}

func TestAMasterThatIsPromotedAgainDoesNotKeepItsFence(t *testing.T) {
	t.Parallel()
	a, b, c := startRedis(t), startRedis(t), startRedis(t)
	follow(t, b, a)
	follow(t, c, a)
	d := newDoor(t, a)
	conf := config(d.url())
	conf.Replicas = 1
	r := serve(t, conf)
	first := claimFresh(t, r)
	promote(t, b)
	follow(t, c, b)
	follow(t, a, b)
	d.lead(b)
	second := claimFresh(t, r)
	promote(t, a)
	follow(t, c, a)
	follow(t, b, a)
	d.lead(a)
	for _, used := range []broker.Claim{first, second} {
		eventually(t, "a used token is not stale", func() error { return stillStale(t, r, used) })
	}
	claimFresh(t, r)
}

// The attack: a master is demoted and promoted again before any broker looks.
// It is the same process, its data is another's, and the fence there names it.
func TestAMasterThatWasAReplicaForAMomentDoesNotKeepItsFence(t *testing.T) {
	t.Parallel()
	a, b, c := startRedis(t), startRedis(t), startRedis(t)
	follow(t, b, a)
	follow(t, c, a)
	conf := config(a.URL())
	conf.Replicas = 1
	r := serve(t, conf)
	used := claimFresh(t, r)
	promote(t, b)
	do(t, admin(t, b), "DEL", marker(used)) // as if it had never got there
	follow(t, a, b)
	promote(t, a)
	follow(t, c, a)
	follow(t, b, a)
	if n := do(t, admin(t, a), "EXISTS", marker(used)); n != int64(0) {
		t.Fatal("the marker is still there: this tests nothing")
	}
	eventually(t, "the used token is not stale", func() error { return stillStale(t, r, used) })
	claimFresh(t, r)
}

func TestAReplicaClaimsNothingEvenWhereItCanBeWritten(t *testing.T) {
	t.Parallel()
	a, b := startRedis(t), startRedis(t, "--replica-read-only", "no")
	d := newDoor(t, b)
	r := serve(t, config(d.url()))
	claimFresh(t, r)
	follow(t, b, a)
	for range 5 {
		err := r.Claim(t.Context(), fresh())
		wantCode(t, err, broker.Unavailable)
		if err != nil && !strings.Contains(err.Error(), "replica") && !strings.Contains(err.Error(), "role") {
			t.Errorf("a replica's answer: %v", err)
		}
	}
}

func TestAMasterWhoseReplicasAreGoneClaimsNothing(t *testing.T) {
	t.Parallel()
	a, b := startRedis(t), startRedis(t)
	follow(t, b, a)
	conf := config(a.URL())
	conf.Replicas, conf.Timeout = 1, 500*time.Millisecond
	r := serve(t, conf)
	claimFresh(t, r)
	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // what was under way
	token := fresh()
	err := r.Claim(t.Context(), token)
	wantCode(t, err, broker.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "0 of 1 replicas") {
		t.Errorf("got %v", err)
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not ready again", func() error { return r.Ready(t.Context()) })
	wantCode(t, r.Claim(t.Context(), token), broker.TokenReused) // it was spent: refused is refused
	claimFresh(t, r)
}

func TestFewerAcknowledgementsThanHalfTheNodesAreNotEnough(t *testing.T) {
	t.Parallel()
	a, b := startRedis(t), startRedis(t)
	follow(t, b, a)
	r := open(t, config(a.URL())) // replicas: 0
	eventually(t, "it is fit", func() error {
		if r.Check(t.Context()) == nil {
			return errors.New("a master with a replica is served without waiting for it")
		}
		return nil
	})
	wantCode(t, r.Claim(t.Context(), fresh()), broker.Unavailable)
}

// The attack: a token that was used on a master whose clock was ahead, with an
// iat ahead of that, is offered to its successor, whose clock is right.
func TestASuccessorWhoseClockIsBehindDoesNotAcceptWhatWasUsedBefore(t *testing.T) {
	t.Parallel()
	a, b := startRedis(t), startRedis(t)
	d := newDoor(t, a)
	r := confirmed(t, config(d.url()))
	ahead := time.Now().Add(4 * time.Second)
	r.Saw(ahead)
	used := brokertest.NewClaim(ahead.Add(maxAhead))
	d.lead(b)
	eventually(t, "not ready", func() error { return errors.Join(r.Check(t.Context()), r.Ready(t.Context())) })
	for used.IssuedAt.After(time.Now().Add(maxAhead - 500*time.Millisecond)) {
		time.Sleep(50 * time.Millisecond)
	}
	wantCode(t, r.Claim(t.Context(), used), broker.TokenStale)
}

// The attack: a node that is cut off is asked, refuses, and would write a fence
// that names it; later it joins, takes over, and is found to have vouched for
// the time when tokens were used elsewhere.
func TestANodeThatWasAskedAloneVouchesForNothingWhenItRejoins(t *testing.T) {
	t.Parallel()
	a, x := startRedis(t), startRedis(t)
	c := startRedis(t)
	follow(t, c, a)
	d := newDoor(t, a)
	conf := config(d.url())
	conf.Replicas, conf.Timeout = 1, time.Second
	r := serve(t, conf)
	claimFresh(t, r)
	d.lead(x)
	for range 30 {
		wantCode(t, r.Claim(t.Context(), fresh()), broker.Unavailable)
		time.Sleep(100 * time.Millisecond)
	}
	if f := do(t, admin(t, x), "EVAL", "return redis.call('HGET', KEYS[1], 'fence') or 'none'", 1, fenceKey); f != "none" {
		t.Errorf("a node that stands alone has the fence %v", f)
	}
	d.lead(a)
	used := claimFresh(t, r)
	follow(t, c, x)
	d.lead(x)
	eventually(t, "the used token is not stale", func() error { return stillStale(t, r, used) })
	claimFresh(t, r)
}
