package brokertest

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// TestSessions checks that stores keep the contract of [broker.Sessions]. Each
// call of open returns an empty store that goes by now.
func TestSessions(t *testing.T, open func(t *testing.T, now func() time.Time) LeaseStore) {
	for name, test := range map[string]func(*testing.T, *leaseBench){
		"a session comes back as it was stored":                    sessionWhole,
		"an unknown session is not found":                          sessionUnknown,
		"a session is started once":                                sessionStartTwice,
		"a session that expired is gone":                           sessionExpires,
		"a session outlives its expiry while a lease lives":        sessionOutlives,
		"a session with pending leases outlives its expiry too":    sessionOutlivesPending,
		"extending replaces the identity and the expiry":           sessionExtend,
		"extending never shortens":                                 sessionExtendShort,
		"a session that is closing cannot be extended":             sessionExtendClosing,
		"shutting makes what is not being revoked due at once":     sessionShut,
		"shutting one session leaves the others alone":             sessionShutOthers,
		"shutting and extending at once: it is closing afterwards": sessionShutRace,
		"shutting and opening at once: nothing stays undue":        sessionOpenRace,
	} {
		t.Run(name, func(t *testing.T) { test(t, newLeaseBench(t, open)) })
	}
}

func (b *leaseBench) kept(t *testing.T, id broker.SessionID) broker.Session {
	t.Helper()
	s, err := b.Session(t.Context(), id)
	must(t, err)
	return s
}

func (b *leaseBench) wantGone(t *testing.T, id broker.SessionID) {
	t.Helper()
	if _, err := b.Session(t.Context(), id); !errors.Is(err, broker.ErrNoSession) {
		t.Errorf("got %v, want no such session", err)
	}
}

func sessionWhole(t *testing.T, b *leaseBench) {
	s := b.session(t)
	got := b.kept(t, s.ID)
	sameJSON(t, "session", got, s)
	if n, ok := got.For.Claims["run_id"].(json.Number); !ok || n != "12345678901234567" {
		t.Errorf("a number came back as %#v", got.For.Claims["run_id"])
	}
	if v, ok := got.For.Claims.Lookup("/nested/null"); !ok || v != nil {
		t.Errorf("a null came back as %#v, %t", v, ok)
	}
}

func sessionUnknown(t *testing.T, b *leaseBench) {
	at := b.clock.Now()
	for _, id := range []broker.SessionID{"", "nobody", broker.SessionID(make([]byte, 1<<16))} {
		b.wantGone(t, id)
		if err := b.Extend(t.Context(), id, broker.Identity{}, at); !errors.Is(err, broker.ErrNoSession) {
			t.Errorf("extend: %v", err)
		}
		if err := b.Shut(t.Context(), id, at); !errors.Is(err, broker.ErrNoSession) {
			t.Errorf("shut: %v", err)
		}
	}
}

func sessionStartTwice(t *testing.T, b *leaseBench) {
	s := b.session(t)
	must(t, b.Shut(t.Context(), s.ID, b.clock.Now()))
	if err := b.Start(t.Context(), s); err == nil {
		t.Error("a session was started twice")
	}
	if !b.kept(t, s.ID).Closing {
		t.Error("starting it again opened a session that was shut")
	}
	if err := b.Start(t.Context(), broker.Session{Expires: s.Expires}); err == nil {
		t.Error("a session without an id was started")
	}
}

func sessionExpires(t *testing.T, b *leaseBench) {
	s := b.session(t)
	b.clock.Set(s.Expires.Add(-time.Second))
	b.kept(t, s.ID)
	b.clock.Set(s.Expires)
	b.wantGone(t, s.ID)
	if err := b.Open(t.Context(), []broker.Lease{NewLease(s, b.clock.Now())}, broker.Caps{}); !errors.Is(err, broker.ErrNoSession) {
		t.Errorf("open: %v", err)
	}
	if err := b.Extend(t.Context(), s.ID, s.For, s.Expires.Add(time.Hour)); !errors.Is(err, broker.ErrNoSession) {
		t.Errorf("extend: %v", err)
	}
	b.session(t) // a store may clean up here
	b.wantGone(t, s.ID)
}

func sessionOutlives(t *testing.T, b *leaseBench) {
	s := b.session(t)
	one, two := b.active(t, s), b.active(t, s)
	b.clock.Advance(72 * time.Hour) // the target has been away for days
	b.session(t)
	b.kept(t, s.ID)
	must(t, b.Close(t.Context(), one.ID))
	b.kept(t, s.ID)
	must(t, b.Shut(t.Context(), s.ID, b.clock.Now()))
	must(t, b.Close(t.Context(), two.ID))
	b.wantGone(t, s.ID)
}

func sessionOutlivesPending(t *testing.T, b *leaseBench) {
	s := b.session(t)
	l := b.open(t, s)
	b.clock.Set(s.Expires.Add(time.Minute))
	b.kept(t, s.ID)
	must(t, b.Close(t.Context(), l.ID))
	b.wantGone(t, s.ID)
}

func sessionExtend(t *testing.T, b *leaseBench) {
	s := b.session(t)
	fresh := NewSession(b.clock.Advance(5 * time.Minute)).For
	fresh.Claims = broker.Claims{"ref": "refs/heads/other"}
	until := b.clock.Now().Add(time.Hour)
	must(t, b.Extend(t.Context(), s.ID, fresh, until))
	want := s
	want.For, want.Expires = fresh, until
	sameJSON(t, "extended", b.kept(t, s.ID), want)
	b.clock.Set(s.Expires.Add(time.Minute)) // its first end
	b.open(t, want)
	b.kept(t, s.ID)
}

func sessionExtendShort(t *testing.T, b *leaseBench) {
	s := b.session(t)
	must(t, b.Extend(t.Context(), s.ID, s.For, s.Expires.Add(-5*time.Minute)))
	if got := b.kept(t, s.ID); !got.Expires.Equal(s.Expires) {
		t.Errorf("it expires at %s, was %s", got.Expires, s.Expires)
	}
}

func sessionExtendClosing(t *testing.T, b *leaseBench) {
	s := b.session(t)
	must(t, b.Shut(t.Context(), s.ID, b.clock.Now()))
	if err := b.Extend(t.Context(), s.ID, s.For, s.Expires.Add(time.Hour)); !errors.Is(err, broker.ErrClosing) {
		t.Errorf("got %v", err)
	}
	if got := b.kept(t, s.ID); !got.Closing || !got.Expires.Equal(s.Expires) {
		t.Errorf("it is %+v", got)
	}
}

func sessionShut(t *testing.T, b *leaseBench) {
	s := b.session(t)
	pending, active, revoking := b.open(t, s), b.active(t, s), b.active(t, s)
	revoking.Due, revoking.Attempts = b.clock.Now().Add(20*time.Second), 4
	must(t, b.Postpone(t.Context(), revoking))
	revoking = b.get(t, revoking.ID)
	at := b.clock.Advance(time.Second)
	for range 2 {
		must(t, b.Shut(t.Context(), s.ID, at))
	}
	if !b.kept(t, s.ID).Closing {
		t.Error("the session is not closing")
	}
	if got := b.get(t, active.ID); got.State != broker.LeaseActive || !got.Due.Equal(at) || !got.NotAfter.Equal(active.NotAfter) {
		t.Errorf("the active lease: %+v", got)
	}
	if got := b.get(t, pending.ID); got.State != broker.LeasePending || !got.Due.Equal(at) {
		t.Errorf("the pending lease: %+v", got)
	}
	sameJSON(t, "the lease that is being revoked", b.get(t, revoking.ID), revoking)
	due, err := b.Due(t.Context(), "pg", at, 10)
	must(t, err)
	if len(due) != 2 {
		t.Errorf("%d leases are due, want 2", len(due))
	}
	later := b.clock.Advance(time.Second)
	must(t, b.Shut(t.Context(), s.ID, later))
	if got := b.get(t, active.ID); !got.Due.Equal(at) {
		t.Error("shutting again put off what was due")
	}
}

func sessionShutOthers(t *testing.T, b *leaseBench) {
	s, other := b.session(t), b.session(t)
	l := b.active(t, other)
	must(t, b.Shut(t.Context(), s.ID, b.clock.Now()))
	if b.kept(t, other.ID).Closing {
		t.Error("another session is closing")
	}
	sameJSON(t, "another's lease", b.get(t, l.ID), l)
}

func sessionShutRace(t *testing.T, b *leaseBench) {
	for range 25 {
		s := b.session(t)
		together(3, func(i int) {
			var err error
			if i == 0 {
				err = b.Shut(t.Context(), s.ID, b.clock.Now())
			} else {
				err = b.Extend(t.Context(), s.ID, s.For, s.Expires.Add(time.Hour))
			}
			if err != nil && !errors.Is(err, broker.ErrClosing) {
				t.Error(err)
			}
		})
		if !b.kept(t, s.ID).Closing {
			t.Error("extending opened a session that was shut")
		}
	}
}

func sessionOpenRace(t *testing.T, b *leaseBench) {
	for range 25 {
		s := b.session(t)
		together(4, func(i int) {
			l := NewLease(s, b.clock.Now())
			l.Due = l.NotAfter // as if it were active
			var err error
			if i == 0 {
				err = b.Shut(t.Context(), s.ID, b.clock.Now())
			} else {
				err = b.Open(t.Context(), []broker.Lease{l}, broker.Caps{})
			}
			if err != nil && !errors.Is(err, broker.ErrClosing) {
				t.Error(err)
			}
		})
		leases, err := b.List(t.Context(), broker.LeaseFilter{Session: s.ID})
		must(t, err)
		for _, l := range leases {
			if l.Due.After(b.clock.Now()) {
				t.Error("a lease of a session that was shut is not due")
			}
		}
	}
}
