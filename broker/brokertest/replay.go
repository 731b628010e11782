package brokertest

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// TestReplay checks that stores keep the contract of [broker.Replay]. Each
// call of open returns two clients of one store, which are ready, accept a
// token issued now, and go by the system's clock; they may be one and the same.
func TestReplay(t *testing.T, open func(t *testing.T) (a, b broker.Replay)) {
	for name, test := range map[string]func(*testing.T, broker.Replay, broker.Replay){
		"a token is claimed once":                                   claimOnce,
		"a second claim is told of the first":                       claimOwned,
		"a token claimed by one broker is refused by another":       claimElsewhere,
		"tokens issued in the same second are told apart":           claimNeighbours,
		"64 claims at once through each of two brokers: one wins":   claimAtOnce,
		"a token issued in the store's future is not consumed":      claimAhead,
		"a claim that cannot be kept is refused and never a pass":   claimNothing,
		"a claim under a cancelled context is refused":              claimCancelled,
		"a token is remembered at least until its claim says so":    claimUntil,
		"a token that has expired long ago is still remembered now": claimExpired,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t)
			for _, r := range []broker.Replay{a, b} {
				if err := r.Ready(t.Context()); err != nil {
					t.Fatalf("a store that serves is not ready: %v", err)
				}
			}
			test(t, a, b)
		})
	}
}

// NewClaim is the claim of a token that nobody has seen, issued at the given
// time for five minutes.
func NewClaim(issued time.Time) broker.Claim {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return broker.Claim{
		Token:    broker.NewTokenID("test", string(id[:])),
		IssuedAt: issued.Truncate(time.Second), // tokens carry whole seconds
		Until:    issued.Add(6 * time.Minute),
	}
}

func claimOnce(t *testing.T, a, _ broker.Replay) {
	c := NewClaim(time.Now())
	if err := a.Claim(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wantCode(t, a.Claim(t.Context(), c), broker.TokenReused)
	}
}

func claimOwned(t *testing.T, a, b broker.Replay) {
	for _, owner := range []broker.Owner{{}, broker.OwnerOf([]byte("a key"))} {
		for _, session := range []broker.SessionID{"", "dps_aaaaaaaaaaaaaaaaaaaaaaaaaa"} {
			first := NewClaim(time.Now())
			first.Owner, first.Session = owner, session
			if err := a.Claim(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			second := first
			second.Owner, second.Session = broker.OwnerOf([]byte("another key")), "dps_bbbbbbbbbbbbbbbbbbbbbbbbbb"
			for range 2 { // the second has left no trace
				err := b.Claim(t.Context(), second)
				wantCode(t, err, broker.TokenReused)
				used, ok := errors.AsType[*broker.Used](err)
				if !ok {
					t.Fatalf("%v does not tell of the first use", err)
				}
				if used.Owner != owner || used.Session != session {
					t.Errorf("the first use was by %v for %q, want %v for %q", used.Owner, used.Session, owner, session)
				}
				if time.Since(used.At).Abs() > 3*time.Second {
					t.Errorf("the first use was at %s", used.At)
				}
			}
		}
	}
}

func claimElsewhere(t *testing.T, a, b broker.Replay) {
	c := NewClaim(time.Now())
	if err := a.Claim(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	wantCode(t, b.Claim(t.Context(), c), broker.TokenReused)
	c.IssuedAt, c.Until = c.IssuedAt.Add(time.Second), c.Until.Add(time.Hour)
	wantCode(t, b.Claim(t.Context(), c), broker.TokenReused) // it is the id that counts
}

func claimNeighbours(t *testing.T, a, b broker.Replay) {
	now := time.Now()
	for range 50 {
		for _, r := range []broker.Replay{a, b} {
			if err := r.Claim(t.Context(), NewClaim(now)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func claimAtOnce(t *testing.T, a, b broker.Replay) {
	for range 5 {
		c := NewClaim(time.Now())
		var won, reused atomic.Int32
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range 128 {
			r := a
			if i%2 == 1 {
				r = b
			}
			wg.Go(func() {
				<-start
				switch err := r.Claim(t.Context(), c); {
				case err == nil:
					won.Add(1)
				case broker.CodeOf(err) == broker.TokenReused:
					reused.Add(1)
				default:
					t.Errorf("claim: %v", err)
				}
			})
		}
		close(start)
		wg.Wait()
		if won.Load() != 1 || reused.Load() != 127 {
			t.Errorf("%d claims of one token succeeded, %d were refused as used", won.Load(), reused.Load())
		}
	}
}

func claimAhead(t *testing.T, a, b broker.Replay) {
	c := NewClaim(time.Now())
	ahead := c
	ahead.IssuedAt = time.Now().Add(20 * time.Second)
	err := a.Claim(t.Context(), ahead)
	wantCode(t, err, broker.TokenInvalid)
	if got := broker.ReasonOf(err); got != "issued_in_future" {
		t.Errorf("reason %q", got)
	}
	if e, ok := errors.AsType[*broker.Error](err); ok && (e.RetryAfter < 10*time.Second || e.RetryAfter > 30*time.Second) {
		t.Errorf("retry after %s for a token that is 20 s ahead", e.RetryAfter)
	}
	if err := b.Claim(t.Context(), c); err != nil {
		t.Errorf("the refused claim consumed the token: %v", err)
	}
}

func claimNothing(t *testing.T, a, _ broker.Replay) {
	for name, spoil := range map[string]func(*broker.Claim){
		"no token":       func(c *broker.Claim) { c.Token = broker.TokenID{} },
		"no issue time":  func(c *broker.Claim) { c.IssuedAt = time.Time{} },
		"no end":         func(c *broker.Claim) { c.Until = time.Time{} },
		"very long ago":  func(c *broker.Claim) { c.IssuedAt = time.Unix(-1<<40, 0) },
		"far in future":  func(c *broker.Claim) { c.IssuedAt = time.Unix(1<<50, 0) },
		"endless memory": func(c *broker.Claim) { c.Until = time.Unix(1<<55, 0) },
	} {
		c := NewClaim(time.Now())
		spoil(&c)
		if err := a.Claim(t.Context(), c); err == nil {
			t.Errorf("%s: the claim passed", name)
		} else if broker.CodeOf(err) == broker.Internal {
			t.Errorf("%s: %v is not an error of the contract", name, err)
		}
	}
}

func claimCancelled(t *testing.T, a, _ broker.Replay) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantCode(t, a.Claim(ctx, NewClaim(time.Now())), broker.Unavailable)
}

func claimUntil(t *testing.T, a, b broker.Replay) {
	c := NewClaim(time.Now())
	c.Until = time.Now().Add(1500 * time.Millisecond)
	if err := a.Claim(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for time.Now().Before(c.Until) {
		wantCode(t, b.Claim(t.Context(), c), broker.TokenReused)
		time.Sleep(50 * time.Millisecond)
	}
}

func claimExpired(t *testing.T, a, b broker.Replay) {
	c := NewClaim(time.Now())
	c.Until = time.Now().Add(-time.Hour) // the verifier's business, but it must not make the token endless
	if err := a.Claim(t.Context(), c); err == nil {
		wantCode(t, b.Claim(t.Context(), c), broker.TokenReused)
	}
}

// wantCode fails the test unless err is a [*broker.Error] with the code.
func wantCode(t *testing.T, err error, code broker.Code) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %s", code)
		return
	}
	if e, ok := errors.AsType[*broker.Error](err); !ok || e.Code != code {
		t.Errorf("%v, want %s", err, code)
	}
}
