package brokertest

import (
	"errors"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// TestAlarms checks that stores keep the contract of [broker.Alarms]. Each call
// of open returns an empty store that goes by now.
func TestAlarms(t *testing.T, open func(t *testing.T, now func() time.Time) LeaseStore) {
	for name, test := range map[string]func(*testing.T, *leaseBench){
		"what a lease says ends the session, and that lease":            alarmLease,
		"what its exchange bought ends a session that gave it back":     alarmExchange,
		"where nothing says so a session goes on, but not for all":      alarmSilent,
		"a session can be given back after an alarm":                    alarmThenShut,
		"a session that is given back stays so":                         alarmAfterShut,
		"extending a session does not forget an alarm":                  alarmExtend,
		"a session that was told before it was there does not start":    alarmBefore,
		"one of which nothing says so starts with the mark":             alarmBeforeSilent,
		"a session that is over is told nothing":                        alarmOver,
		"an alarm without a session is refused":                         alarmNobody,
		"alarm and opening at once: nothing that says so stays undue":   alarmOpenRace,
		"alarm and activating at once: nothing that says so stays":      alarmActivateRace,
		"alarm and starting at once: nothing that says so can be had":   alarmStartRace,
		"an alarm for one session leaves the others and theirs as were": alarmOthers,
	} {
		t.Run(name, func(t *testing.T) { test(t, newLeaseBench(t, open)) })
	}
}

// revoking is a lease whose grant says that a reuse takes it back.
func revoking(l *broker.Lease) {
	l.Grant.Name, l.Grant.OnReuse = "guarded", broker.OnReuseRevoke
}

func (b *leaseBench) alarm(t *testing.T, s broker.Session) broker.Session {
	t.Helper()
	got, err := b.Alarm(t.Context(), s.ID, s.Expires, b.clock.Now())
	must(t, err)
	if got.ID != s.ID || !got.Reused {
		t.Errorf("the alarm says %+v", got)
	}
	return got
}

// wantRefused checks that a session gives no lease, guarded or not.
func (b *leaseBench) wantRefused(t *testing.T, s broker.Session, change ...func(*broker.Lease)) {
	t.Helper()
	l := NewLease(s, b.clock.Now())
	for _, c := range change {
		c(&l)
	}
	if err := b.Open(t.Context(), []broker.Lease{l}, broker.Caps{}); broker.ReasonOf(err) != broker.ErrReused.Reason {
		t.Errorf("open: %v, want %v", err, broker.ErrReused)
	}
}

func alarmLease(t *testing.T, b *leaseBench) {
	s := b.session(t)
	guarded, other, pending := b.active(t, s, revoking), b.active(t, s), b.open(t, s, revoking)
	waiting := b.open(t, s)
	at := b.clock.Advance(time.Second)
	for range 2 {
		if got := b.alarm(t, s); got.OnReuse != broker.OnReuseRevoke || got.Closing {
			t.Errorf("it is %+v", got)
		}
		b.clock.Advance(time.Second)
	}
	kept := b.kept(t, s.ID)
	if broker.ReasonOf(kept.Ended()) != broker.ErrReused.Reason {
		t.Errorf("it has ended: %v", kept.Ended())
	}
	for _, l := range []broker.Lease{guarded, pending} {
		if got := b.get(t, l.ID); !got.Due.Equal(at) || got.State != l.State {
			t.Errorf("the %s lease that says so: %+v", l.State, got)
		}
	}
	sameJSON(t, "the other lease", b.get(t, other.ID), other)
	sameIDs(t, "due", b.due(t, "pg", 10), inOrder(guarded.ID, pending.ID)...)
	b.wantRefused(t, s)
	b.wantRefused(t, s, revoking)
	for _, l := range []broker.Lease{pending, waiting} {
		if err := b.Activate(t.Context(), made(l)); broker.ReasonOf(err) != broker.ErrReused.Reason {
			t.Errorf("activate: %v", err)
		}
	}
	if err := b.Extend(t.Context(), s.ID, s.For, s.Expires.Add(time.Hour)); broker.ReasonOf(err) != broker.ErrReused.Reason {
		t.Errorf("extend: %v", err)
	}
}

// inOrder sorts ids as leases that are due at once are.
func inOrder(a, b broker.LeaseID) []broker.LeaseID {
	if b < a {
		a, b = b, a
	}
	return []broker.LeaseID{a, b}
}

func alarmExchange(t *testing.T, b *leaseBench) {
	s := NewSession(b.clock.Now())
	s.OnReuse = broker.OnReuseRevoke
	must(t, b.Start(t.Context(), s))
	must(t, b.Close(t.Context(), b.active(t, s, revoking).ID))
	b.alarm(t, s)
	b.wantRefused(t, s)
}

func alarmSilent(t *testing.T, b *leaseBench) {
	s := b.session(t)
	l := b.active(t, s)
	if got := b.alarm(t, s); got.OnReuse != broker.OnReuseKeep || got.Ended() != nil {
		t.Errorf("it is %+v", got)
	}
	sameJSON(t, "its lease", b.get(t, l.ID), l)
	b.active(t, s)
	b.wantRefused(t, s, revoking)
	mixed := []broker.Lease{NewLease(s, b.clock.Now()), NewLease(s, b.clock.Now())}
	revoking(&mixed[1])
	if err := b.Open(t.Context(), mixed, broker.Caps{}); broker.ReasonOf(err) != broker.ErrReused.Reason {
		t.Errorf("open both: %v", err)
	}
	if n := b.live(t, broker.LeaseFilter{Session: s.ID}); n != 2 {
		t.Errorf("%d leases, want 2", n)
	}
}

func alarmThenShut(t *testing.T, b *leaseBench) {
	s := b.session(t)
	guarded, other := b.active(t, s, revoking), b.active(t, s)
	b.alarm(t, s)
	must(t, b.Close(t.Context(), guarded.ID))
	at := b.clock.Advance(time.Second)
	must(t, b.Shut(t.Context(), s.ID, at))
	if got := b.get(t, other.ID); !got.Due.Equal(at) {
		t.Errorf("the other lease: %+v", got)
	}
	if got := b.kept(t, s.ID); !got.Closing || !got.Reused {
		t.Errorf("it is %+v", got)
	}
}

func alarmAfterShut(t *testing.T, b *leaseBench) {
	s := b.session(t)
	b.active(t, s)
	must(t, b.Shut(t.Context(), s.ID, b.clock.Now()))
	if got := b.alarm(t, s); !got.Closing {
		t.Errorf("an alarm opened it: %+v", got)
	}
	if err := b.kept(t, s.ID).Ended(); broker.ReasonOf(err) != broker.ReasonOf(broker.ErrClosing) {
		t.Errorf("it has ended: %v", err)
	}
}

func alarmExtend(t *testing.T, b *leaseBench) {
	s := b.session(t)
	b.alarm(t, s)
	fresh := s.For
	fresh.Expires = s.Expires.Add(time.Hour)
	must(t, b.Extend(t.Context(), s.ID, fresh, fresh.Expires))
	b.open(t, s)
	b.wantRefused(t, s, revoking)
}

func alarmBefore(t *testing.T, b *leaseBench) {
	s := NewSession(b.clock.Now())
	s.OnReuse = broker.OnReuseRevoke
	b.alarm(t, s)
	for range 2 {
		if err := b.Start(t.Context(), s); broker.ReasonOf(err) != broker.ErrReused.Reason {
			t.Fatalf("start: %v", err)
		}
	}
	b.wantRefused(t, s, revoking)
}

func alarmBeforeSilent(t *testing.T, b *leaseBench) {
	s := NewSession(b.clock.Now())
	b.alarm(t, s)
	must(t, b.Start(t.Context(), s))
	want := s
	want.Reused = true
	sameJSON(t, "the session", b.kept(t, s.ID), want)
	if err := b.Start(t.Context(), s); err == nil {
		t.Error("it was started twice")
	}
	b.active(t, s)
	b.wantRefused(t, s, revoking)
	b.clock.Set(s.Expires.Add(time.Minute))
	b.kept(t, s.ID) // as long as the lease lives
}

func alarmOver(t *testing.T, b *leaseBench) {
	s := b.session(t)
	b.clock.Set(s.Expires)
	for range 3 {
		b.alarm(t, s)
		b.wantGone(t, s.ID)
	}
}

func alarmNobody(t *testing.T, b *leaseBench) {
	if _, err := b.Alarm(t.Context(), "", b.clock.Now().Add(time.Hour), b.clock.Now()); err == nil {
		t.Error("nobody was told of an alarm")
	}
}

func alarmOpenRace(t *testing.T, b *leaseBench) {
	for range 25 {
		s := b.session(t)
		together(4, func(i int) {
			l := NewLease(s, b.clock.Now())
			l.Due = l.NotAfter // as if it were active
			if i%2 == 0 {
				revoking(&l)
			}
			var err error
			if i == 3 {
				_, err = b.Alarm(t.Context(), s.ID, s.Expires, b.clock.Now())
			} else {
				err = b.Open(t.Context(), []broker.Lease{l}, broker.Caps{})
			}
			if err != nil && broker.ReasonOf(err) != broker.ErrReused.Reason {
				t.Error(err)
			}
		})
		b.wantNoneGuarded(t, s)
		b.wantRefused(t, s, revoking)
	}
}

// wantNoneGuarded checks that no lease that says so is kept but as due.
func (b *leaseBench) wantNoneGuarded(t *testing.T, s broker.Session) {
	t.Helper()
	leases, err := b.List(t.Context(), broker.LeaseFilter{Session: s.ID})
	must(t, err)
	for _, l := range leases {
		if l.Grant.OnReuse == broker.OnReuseRevoke && l.Due.After(b.clock.Now()) {
			t.Error("a lease of a session whose token was reused is not due")
		}
	}
}

func alarmActivateRace(t *testing.T, b *leaseBench) {
	for range 25 {
		s := b.session(t)
		l := b.open(t, s, revoking)
		var activated error
		together(2, func(i int) {
			if i == 0 {
				activated = b.Activate(t.Context(), made(l))
			} else if _, err := b.Alarm(t.Context(), s.ID, s.Expires, b.clock.Now()); err != nil {
				t.Error(err)
			}
		})
		if activated != nil && broker.ReasonOf(activated) != broker.ErrReused.Reason {
			t.Error(activated)
		}
		b.wantNoneGuarded(t, s)
	}
}

func alarmStartRace(t *testing.T, b *leaseBench) {
	for i := range 25 {
		s := NewSession(b.clock.Now())
		if i%2 == 0 {
			s.OnReuse = broker.OnReuseRevoke
		}
		var starting error
		together(2, func(i int) {
			if i == 0 {
				starting = b.Start(t.Context(), s)
			} else if _, err := b.Alarm(t.Context(), s.ID, s.Expires, b.clock.Now()); err != nil {
				t.Error(err)
			}
		})
		if starting != nil && (s.OnReuse == broker.OnReuseKeep || broker.ReasonOf(starting) != broker.ErrReused.Reason) {
			t.Error(starting)
		}
		if got := b.kept(t, s.ID); !got.Reused || (got.Ended() == nil) != (s.OnReuse == broker.OnReuseKeep) && starting == nil {
			t.Errorf("it is %+v", got)
		}
		b.wantRefused(t, s, revoking)
	}
}

func alarmOthers(t *testing.T, b *leaseBench) {
	s, other := b.session(t), b.session(t)
	b.active(t, s, revoking)
	l := b.active(t, other, revoking)
	b.alarm(t, s)
	if got := b.kept(t, other.ID); got.Reused || got.Ended() != nil {
		t.Errorf("another session is %+v", got)
	}
	sameJSON(t, "another's lease", b.get(t, l.ID), l)
	if _, err := b.Session(t.Context(), s.ID); errors.Is(err, broker.ErrNoSession) {
		t.Error(err)
	}
}
