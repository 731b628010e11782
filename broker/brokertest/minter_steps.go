package brokertest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// The part of the suite that breaks off: a target that is lost at each message
// a minter sends it, a broker that died, and clocks that go wrong.

// maxSteps is more messages than any kind needs for one operation.
const maxSteps = 150

// eachStep does something over and over, each time cut off one message later,
// on both sides of it, until it comes to its end uncut. Each time a fresh
// minter does it, so that connecting is among the steps.
func (r *minterRun) eachStep(t *testing.T, do func(t *testing.T, m broker.Minter, cut *Cutter, at string, n int, when CutWhen) (whole bool)) {
	t.Helper()
	if r.Target.Addr == "" || r.Target.Through == nil {
		t.Fatal("the suite needs MinterTarget.Addr and Through, to lose the target at each step")
	}
	cut := NewCutter(t, r.Target.Addr)
	for _, when := range []CutWhen{CutBefore, CutAfter} {
		for n := 0; ; n++ {
			config := r.Config
			config.Admin = r.Target.Through(cut.Addr())
			m := r.openWith(t, suiteDeployment, config)
			whole := do(t, m, cut, fmt.Sprintf("cut %s message %d", when, n), n, when)
			closeMinter(m)
			if whole && n > 2 {
				t.Logf("%d messages, cut %s each", n, when)
				break
			}
			if n == maxSteps || t.Failed() {
				t.Fatalf("after %d steps it is not at its end", n)
			}
		}
	}
}

func (r *minterRun) mintIsCut(t *testing.T) {
	r.eachStep(t, func(t *testing.T, m broker.Minter, cut *Cutter, at string, n int, when CutWhen) bool {
		cut.Set(n, when)
		made, err := r.tryMint(t.Context(), m, r.order(t, time.Minute))
		whole := !cut.Heal()
		if err != nil && whole {
			t.Errorf("%s: it was not cut, and failed: %v", at, err)
		}
		if err == nil {
			if workErr := r.Works(t.Context(), made.credential); workErr != nil {
				t.Errorf("%s: what was minted does not work: %v", at, workErr)
			}
		}
		made.lease.ServerID = "" // nobody was told
		if err := m.Revoke(t.Context(), made.lease); err != nil {
			t.Errorf("%s: revoke: %v", at, err)
		}
		r.wantExists(t.Context(), t, string(made.lease.Handle), false)
		return whole
	})
}

func (r *minterRun) revokeIsCut(t *testing.T) {
	r.eachStep(t, func(t *testing.T, m broker.Minter, cut *Cutter, at string, n int, when CutWhen) bool {
		made := r.mint(t, r.minter, time.Minute)
		cut.Set(n, when)
		err := m.Revoke(t.Context(), made.lease)
		whole := !cut.Heal()
		if err == nil && r.Works(t.Context(), made.credential) == nil {
			t.Errorf("%s: it counts as revoked, and works", at)
		}
		if err != nil && whole {
			t.Errorf("%s: it was not cut, and failed: %v", at, err)
		}
		if err := m.Revoke(t.Context(), made.lease); err != nil {
			t.Errorf("%s: the next attempt: %v", at, err)
		}
		r.wantExists(t.Context(), t, string(made.lease.Handle), false)
		return whole
	})
}

func (r *minterRun) heldIsCut(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	r.eachStep(t, func(t *testing.T, m broker.Minter, cut *Cutter, at string, n int, when CutWhen) bool {
		cut.Set(n, when)
		held, err := m.Held(t.Context())
		whole := !cut.Heal()
		found := false
		for _, h := range held {
			found = found || h.Handle == made.lease.Handle
		}
		if err == nil && !found {
			t.Errorf("%s: the list lacks what is there, without an error", at)
		}
		return whole
	})
	r.wantRevoked(t, made)
}

// crashed is a broker that died when it had minted: another one, which knows
// the lease as pending, takes it back, while the dead one's connections are
// still there; and what is asked for anew is minted.
func (r *minterRun) crashed(t *testing.T) {
	dead, next := r.open(t, suiteDeployment), r.open(t, suiteDeployment)
	made := r.mint(t, dead, time.Minute)
	made.lease.ServerID = ""
	again := r.mint(t, next, time.Minute)
	if err := next.Revoke(t.Context(), made.lease); err != nil {
		t.Errorf("another broker revokes it: %v", err)
	}
	r.wantExists(t.Context(), t, string(made.lease.Handle), false)
	if err := r.Works(t.Context(), again.credential); err != nil {
		t.Errorf("what was minted after the crash: %v", err)
	}
	r.wantRevoked(t, again)
}

// twice mints one order a second time, as nobody should: there must not be two
// answers for one name.
func (r *minterRun) twice(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	if _, err := r.tryMint(t.Context(), r.minter, made.order); err == nil {
		t.Error("one order was minted twice")
	}
	if err := r.Works(t.Context(), made.credential); err != nil {
		t.Errorf("and the first credential was harmed: %v", err)
	}
	r.wantRevoked(t, made)
}

// clocks gives brokers clocks that are years off: what has expired is for the
// target's own clock to say.
func (r *minterRun) clocks(t *testing.T) {
	past, err := broker.NewHandle(suiteDeployment, time.Now().Add(-time.Hour), "dpl_clocks")
	if err != nil {
		t.Fatal(err)
	}
	r.plant(t, string(past))
	live := r.mint(t, r.minter, time.Minute)
	for _, year := range []int{1990, 2199} {
		config := r.Config
		config.Now = func() time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
		m := r.openWith(t, suiteDeployment, config)
		held, err := m.Held(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, h := range held {
			if h.Handle == past && !h.Overdue || h.Handle == live.lease.Handle && h.Overdue {
				t.Errorf("for a broker that lives in %d: %+v", year, h)
			}
			if h.Handle == past || h.Handle == live.lease.Handle {
				seen++
			}
		}
		if seen != 2 {
			t.Errorf("in %d only %d of two are held", year, seen)
		}
		made := r.mint(t, m, time.Minute)
		if err := r.Works(t.Context(), made.credential); err != nil {
			t.Errorf("minted in %d: %v", year, err)
		}
		r.wantRevoked(t, made)
	}
	r.wantRevoked(t, live)
	r.wantRevoked(t, issued{lease: broker.Lease{Handle: past, Grant: broker.Grant{Target: r.Grant.Target}}})
}

// sessions holds on to the target with a credential that is taken back.
func (r *minterRun) sessions(t *testing.T) {
	if r.Target.Session == nil {
		t.Fatal("the suite needs MinterTarget.Session, to see open sessions end")
	}
	made := r.mint(t, r.minter, time.Minute)
	var uses []func(context.Context) error
	for range 3 {
		use, err := r.Target.Session(t.Context(), made.credential)
		if err != nil {
			t.Fatal(err)
		}
		if err := use(t.Context()); err != nil {
			t.Fatalf("a session that was just opened: %v", err)
		}
		uses = append(uses, use)
	}
	r.wantRevoked(t, made)
	for _, use := range uses {
		if use(t.Context()) == nil {
			t.Error("a session outlived its credential")
		}
	}
}

// disarmed breaks a revocation off where the kind says that the credential works no
// more, as the broker does when others are overdue, and ends it later.
func (r *minterRun) disarmed(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	use, err := r.Target.Session(t.Context(), made.credential)
	if err != nil {
		t.Fatal(err)
	}
	ctx, giveWay := context.WithCancel(t.Context())
	defer giveWay()
	told := false
	err = r.minter.Revoke(broker.OnDisarmed(ctx, func() {
		told = true
		if r.Works(t.Context(), made.credential) == nil {
			t.Error("it still works")
		}
		if use(t.Context()) == nil {
			t.Error("its session goes on")
		}
		giveWay()
	}), made.lease)
	if !told && err != nil {
		t.Errorf("revoke: %v", err)
	}
	if told && err == nil {
		t.Error("what is said to be left to do was done though nobody let it")
	}
	r.wantRevoked(t, made)
}
