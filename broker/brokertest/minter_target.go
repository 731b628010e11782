package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// The part of the suite for kinds that hold something in a target: what is
// taken back, what is left alone, and what gets in between.

func (r *minterRun) expiryIsNative(t *testing.T) {
	made := r.mint(t, r.minter, 90*time.Second)
	at, err := r.Target.Expiry(t.Context(), made.lease.Handle)
	if err != nil || !at.Equal(made.order.NotAfter) {
		t.Errorf("the target has %v (%v), want %v", at, err, made.order.NotAfter)
	}
}

func (r *minterRun) revoke(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	r.wantRevoked(t, made)
}

func (r *minterRun) wantRevoked(t *testing.T, made issued) {
	t.Helper()
	if err := r.minter.Revoke(t.Context(), made.lease); err != nil {
		t.Errorf("revoke: %v", err)
	}
	r.wantExists(t.Context(), t, string(made.lease.Handle), false)
	if len(made.credential.Fields) > 0 && r.Works(t.Context(), made.credential) == nil {
		t.Error("a revoked credential works")
	}
}

func (r *minterRun) revokeTwice(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	r.wantRevoked(t, made)
	r.wantRevoked(t, made)
}

func (r *minterRun) revokeNothing(t *testing.T) {
	o := r.order(t, time.Minute)
	h, err := r.minter.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.minter.Revoke(t.Context(), broker.Lease{ID: o.Lease, Handle: h, Grant: o.Grant, NotAfter: o.NotAfter}); err != nil {
		t.Errorf("revoking what never was: %v", err)
	}
}

func (r *minterRun) revokeHalf(t *testing.T) {
	o := r.order(t, time.Minute)
	h, err := r.minter.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	r.plant(t, string(h))
	r.wantRevoked(t, issued{lease: broker.Lease{ID: o.Lease, Handle: h, Grant: o.Grant, NotAfter: o.NotAfter}})
}

func (r *minterRun) foreignNames(t *testing.T) {
	past := time.Now().Add(-time.Hour).Unix()
	for i, name := range []string{
		"alice", "dp_test_admin", "DP_TEST_0ABCDE_ABCDEFGHIJKL",
		fmt.Sprintf("dp_test_%06x_abcdefghijkl_", past%0xffffff), fmt.Sprintf("xdp_test_%06x_abcdefghijkl", past%0xffffff),
		"dpxtest_tabcde_abcdefghijkl", // "_" is a wildcard for some
		"dp_test_%", `dp_test_'"\;-- {{.}} $$`, "dp_test_000000_aaaaaaaaaaaa\n", "dp_test_000000_aaaaaaaaaaaa'",
	} {
		r.plant(t, name)
		if err := r.minter.Revoke(t.Context(), broker.Lease{Handle: broker.Handle(name), Grant: r.Grant}); err == nil {
			t.Errorf("%d: revoking %q was not refused", i, name)
		}
		r.wantExists(t.Context(), t, name, true)
		r.wantHeld(t, broker.Handle(name), false)
	}
}

func (r *minterRun) neighbour(t *testing.T) {
	other := r.open(t, neighbourDeployment)
	made := r.mint(t, other, time.Minute)
	if err := r.minter.Revoke(t.Context(), made.lease); err == nil {
		t.Error("revoking a neighbour's credential was not refused")
	}
	r.wantHeld(t, made.lease.Handle, false)
	if err := r.Works(t.Context(), made.credential); err != nil {
		t.Errorf("a neighbour's credential was harmed: %v", err)
	}
	if err := other.Revoke(t.Context(), made.lease); err != nil {
		t.Errorf("its owner cannot revoke it: %v", err)
	}
}

func (r *minterRun) wrongServer(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	elsewhere := made.lease
	elsewhere.ServerID = "another server"
	if err := r.minter.Revoke(t.Context(), elsewhere); !errors.Is(err, broker.ErrOtherServer) {
		t.Errorf("revoking a lease of another server gave %v, want ErrOtherServer", err)
	}
	if err := r.Works(t.Context(), made.credential); err != nil {
		t.Errorf("and the credential was harmed: %v", err)
	}
	r.wantRevoked(t, made)
	if err := r.minter.Revoke(t.Context(), elsewhere); !errors.Is(err, broker.ErrOtherServer) {
		t.Errorf("not found here counted on another server: %v", err)
	}
}

func (r *minterRun) held(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	h := r.wantHeld(t, made.lease.Handle, true)
	if h.Overdue || !h.Expires.Equal(made.order.NotAfter) {
		t.Errorf("held as %+v, want expiry %v and not overdue", h, made.order.NotAfter)
	}
	r.wantRevoked(t, made)
	r.wantHeld(t, made.lease.Handle, false)
	empty := r.open(t, "none") // of a deployment that has made nothing
	if held, err := empty.Held(t.Context()); err != nil || held == nil || len(held) != 0 {
		t.Errorf("where there is nothing to hold the list is %#v, %v; nil says that none can be held", held, err)
	}
}

func (r *minterRun) overdue(t *testing.T) {
	past, err := broker.NewHandle(suiteDeployment, time.Now().Add(-time.Hour), "dpl_overdue")
	if err != nil {
		t.Fatal(err)
	}
	r.plant(t, string(past))
	if h := r.wantHeld(t, past, true); !h.Overdue {
		t.Errorf("an hour past its expiry: %+v", h)
	}
	r.wantRevoked(t, issued{lease: broker.Lease{Handle: past, Grant: broker.Grant{Target: r.Grant.Target}}}) // as a sweeper does
}

func (r *minterRun) pastOrder(t *testing.T) {
	made, err := r.tryMint(t.Context(), r.minter, r.order(t, -time.Minute))
	if err == nil {
		t.Error("a credential that has expired was minted")
	}
	r.wantExists(t.Context(), t, string(made.lease.Handle), false)
}

func (r *minterRun) concurrent(t *testing.T) {
	orders := make([]broker.Order, 32)
	for i := range orders {
		orders[i] = r.order(t, time.Minute)
	}
	var wg sync.WaitGroup
	for _, o := range orders {
		wg.Go(func() {
			made, err := r.tryMint(t.Context(), r.minter, o)
			if err != nil {
				t.Errorf("mint: %v", err)
				return
			}
			if err := r.minter.Revoke(t.Context(), made.lease); err != nil {
				t.Errorf("revoke: %v", err)
			}
			r.wantExists(t.Context(), t, string(made.lease.Handle), false)
		})
	}
	wg.Wait()
}

func (r *minterRun) concurrentRevoke(t *testing.T) {
	brokers := []broker.Minter{r.minter, r.open(t, suiteDeployment), r.open(t, suiteDeployment)}
	for range 8 {
		made := r.mint(t, r.minter, time.Minute)
		var wg sync.WaitGroup
		for _, m := range brokers {
			wg.Go(func() {
				if err := m.Revoke(t.Context(), made.lease); err != nil {
					t.Errorf("revoke: %v", err)
				}
			})
		}
		wg.Wait()
		r.wantExists(t.Context(), t, string(made.lease.Handle), false)
	}
}

// cancelled gives up on a mint ever later, and revokes at once, as the broker
// does: whatever the target goes on with must not outlive the revocation.
func (r *minterRun) cancelled(t *testing.T) {
	var gone []string
	for after := time.Duration(0); after < 20*time.Millisecond; after += 500 * time.Microsecond {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		made, _ := r.tryMint(ctx, r.minter, r.order(t, time.Minute))
		cancel()
		made.lease.ServerID = ""
		if err := r.minter.Revoke(t.Context(), made.lease); err != nil {
			t.Errorf("revoke after %v: %v", after, err)
		}
		r.wantExists(t.Context(), t, string(made.lease.Handle), false)
		gone = append(gone, string(made.lease.Handle))
	}
	time.Sleep(100 * time.Millisecond) // for whatever the target may still be at
	for _, name := range gone {
		r.wantExists(t.Context(), t, name, false)
	}
}

func (r *minterRun) outage(t *testing.T) {
	before := r.mint(t, r.minter, time.Minute)
	if err := r.Target.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := r.tryMint(ctx, r.minter, r.order(t, time.Minute)); err == nil {
		t.Error("minted in a target that is down")
	}
	if err := r.minter.Revoke(ctx, before.lease); err == nil {
		t.Error("revoked in a target that is down")
	}
	if _, err := r.minter.Held(ctx); err == nil {
		t.Error("listed a target that is down")
	}
	if err := r.Target.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	made := r.mint(t, r.minter, time.Minute)
	if err := r.Works(t.Context(), made.credential); err != nil {
		t.Errorf("after the outage: %v", err)
	}
	r.wantRevoked(t, before)
	r.wantRevoked(t, made)
}

func (r *minterRun) plant(t *testing.T, name string) {
	t.Helper()
	if err := r.Target.Plant(t.Context(), name); err != nil {
		t.Fatalf("plant %q: %v", name, err)
	}
}

func (r *minterRun) wantExists(ctx context.Context, t *testing.T, name string, want bool) {
	t.Helper()
	if exists, err := r.Target.Exists(ctx, name); err != nil || exists != want {
		t.Errorf("%q exists: %v (%v), want %v", name, exists, err, want)
	}
}

func (r *minterRun) wantHeld(t *testing.T, h broker.Handle, want bool) broker.Held {
	t.Helper()
	held, err := r.minter.Held(t.Context())
	if err != nil {
		t.Fatalf("held: %v", err)
	}
	for _, one := range held {
		if one.Handle == h {
			if !want {
				t.Errorf("%q is held", h)
			}
			return one
		}
	}
	if want {
		t.Errorf("%q is not held", h)
	}
	return broker.Held{}
}
