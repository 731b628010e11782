package lease_test

import (
	"encoding/json"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/lease"
)

func newMemory(t *testing.T, now func() time.Time) *lease.Memory {
	t.Helper()
	m, err := lease.NewMemory(lease.MemoryConfig{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func openMemory(t *testing.T, now func() time.Time) brokertest.LeaseStore { return newMemory(t, now) }

func TestMemoryKeepsTheContractOfLeases(t *testing.T)   { brokertest.TestLeases(t, openMemory) }
func TestMemoryKeepsTheContractOfSessions(t *testing.T) { brokertest.TestSessions(t, openMemory) }
func TestMemoryKeepsTheContractOfAlarms(t *testing.T)   { brokertest.TestAlarms(t, openMemory) }

func TestMemoryNeedsAClock(t *testing.T) {
	if _, err := lease.NewMemory(lease.MemoryConfig{}); err == nil {
		t.Error("made a store without a clock")
	}
}

// journal is what a broker wrote before it was killed.
type journal struct{ records []broker.Record }

func (j *journal) add(r broker.Record) { j.records = append(j.records, r) }

// all yields the records as they are read back: from JSON.
func (j *journal) all(t *testing.T) iter.Seq2[broker.Record, error] {
	return func(yield func(broker.Record, error) bool) {
		for _, r := range j.records {
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			var back broker.Record
			err = json.Unmarshal(text, &back)
			if !yield(back, err) {
				return
			}
		}
	}
}

func activeOf(l broker.Lease) broker.Lease {
	l.State, l.Due, l.ServerID, l.Takeback = broker.LeaseActive, l.NotAfter, "server-7", broker.TakebackNow
	return l
}

func ids(t *testing.T, m *lease.Memory) map[broker.LeaseID]broker.Lease {
	t.Helper()
	leases, err := m.List(t.Context(), broker.LeaseFilter{})
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[broker.LeaseID]broker.Lease)
	for _, l := range leases {
		known[l.ID] = l
	}
	return known
}

func TestRestoreKeepsWhatMayExistAndForgetsWhatIsGone(t *testing.T) {
	clock := brokertest.NewClock(time.Now().Truncate(time.Second))
	now := clock.Now()
	s := brokertest.NewSession(now)
	fresh := func() broker.Lease { return brokertest.NewLease(s, now) }
	crashed, issued, given, undone, stuck, stuckThenGone, orphan := fresh(), fresh(), fresh(), fresh(), fresh(), fresh(), fresh()
	var j journal
	j.add(broker.Record{Event: broker.EventStarted, At: now})
	all := []broker.Lease{crashed, issued, given, undone, stuck, stuckThenGone, orphan}
	j.add(broker.Record{Event: broker.EventIntent, At: now, Session: &s, Leases: all})
	j.add(broker.Record{Event: broker.EventUndone, At: now, Leases: []broker.Lease{undone}})
	j.add(broker.Record{Event: broker.EventIssued, At: now,
		Leases: []broker.Lease{activeOf(issued), activeOf(given), activeOf(stuck), activeOf(stuckThenGone), activeOf(orphan)}})
	j.add(broker.Record{Event: broker.EventRevoked, At: now, Leases: []broker.Lease{given}})
	failed := activeOf(stuck)
	failed.State, failed.Attempts, failed.Due, failed.LastErr = broker.LeaseRevoking, 4, now.Add(8*time.Second), "down"
	j.add(broker.Record{Event: broker.EventUnrevoked, At: now, Leases: []broker.Lease{failed}})
	failed2 := failed
	failed2.ID = stuckThenGone.ID
	j.add(broker.Record{Event: broker.EventUnrevoked, At: now, Leases: []broker.Lease{failed2}})
	j.add(broker.Record{Event: broker.EventRevoked, At: now, Leases: []broker.Lease{failed2}})
	j.add(broker.Record{Event: broker.EventOrphan, At: now, // found in the target by name, without an id
		Leases: []broker.Lease{{Handle: orphan.Handle, Grant: broker.Grant{Target: "pg"}, State: broker.LeaseRevoking}}})
	other := broker.Lease{Handle: issued.Handle, Grant: broker.Grant{Target: "elsewhere"}}
	j.add(broker.Record{Event: broker.EventOrphan, At: now, Leases: []broker.Lease{other}})
	j.add(broker.Record{Event: broker.EventOperator, At: now, Leases: []broker.Lease{issued}})

	m := newMemory(t, clock.Now)
	if err := m.Restore(j.all(t)); err != nil {
		t.Fatal(err)
	}
	known := ids(t, m)
	if len(known) != 3 {
		t.Errorf("%d leases came back, want 3: %v", len(known), known)
	}
	if l := known[crashed.ID]; l.State != broker.LeasePending || !l.Due.Equal(crashed.Due) {
		t.Errorf("the lease without an outcome: %+v", l)
	}
	if l := known[issued.ID]; l.State != broker.LeaseActive || l.ServerID != "server-7" || !l.Due.Equal(issued.NotAfter) {
		t.Errorf("the issued lease: %+v", l)
	}
	if l := known[stuck.ID]; l.State != broker.LeaseRevoking || l.Attempts != 4 || l.LastErr != "down" || !l.Due.Equal(failed.Due) {
		t.Errorf("the lease that could not be revoked: %+v", l)
	}
	got, err := m.Session(t.Context(), s.ID)
	if err != nil || got.For.Subject != s.For.Subject || !got.Expires.Equal(s.Expires) {
		t.Errorf("the session: %+v, %v", got, err)
	}
	if n, err := m.Live(t.Context(), broker.LeaseFilter{Place: s.For.Place()}); err != nil || n[0] != 3 {
		t.Errorf("%d leases count for the place, %v", n, err)
	}
}

// TestRestoreKnowsWhatOperatorsDid: what was to go is due at once, and what was
// given up or had vanished stays closed.
func TestRestoreKnowsWhatOperatorsDid(t *testing.T) {
	clock := brokertest.NewClock(time.Now().Truncate(time.Second))
	now := clock.Now()
	s := brokertest.NewSession(now)
	fresh := func() broker.Lease { return brokertest.NewLease(s, now) }
	revoked, pending, forgotten, vanished, gone, kept := fresh(), fresh(), fresh(), fresh(), fresh(), fresh()
	var j journal
	j.add(broker.Record{Event: broker.EventIntent, At: now, Session: &s, Leases: []broker.Lease{revoked, pending, forgotten, vanished, gone, kept}})
	j.add(broker.Record{Event: broker.EventIssued, At: now,
		Leases: []broker.Lease{activeOf(revoked), activeOf(forgotten), activeOf(vanished), activeOf(gone), activeOf(kept)}})
	j.add(broker.Record{Event: broker.EventRevoked, At: now, Leases: []broker.Lease{gone}})
	brief := broker.Lease{ID: revoked.ID} // operators' records hold no more than tells which it is
	j.add(broker.Record{Event: broker.EventOperator, At: now.Add(time.Second), Reason: "revoke", Leases: []broker.Lease{brief, pending, gone}})
	j.add(broker.Record{Event: broker.EventForgotten, At: now, Reason: "forget", Leases: []broker.Lease{forgotten}})
	j.add(broker.Record{Event: broker.EventVanished, At: now, Leases: []broker.Lease{vanished}})
	j.add(broker.Record{Event: broker.EventOperator, At: now, Reason: "pause_revocation"})

	m := newMemory(t, clock.Now)
	if err := m.Restore(j.all(t)); err != nil {
		t.Fatal(err)
	}
	known := ids(t, m)
	for _, l := range []broker.Lease{revoked, pending} {
		if k := known[l.ID]; k.State != broker.LeaseRevoking || !k.Due.Equal(now.Add(time.Second)) || k.Handle != l.Handle {
			t.Errorf("what an operator wanted gone came back as %+v", k)
		}
	}
	if k := known[kept.ID]; len(known) != 3 || k.State != broker.LeaseActive || !k.Due.Equal(kept.NotAfter) {
		t.Errorf("%d leases came back, and the one that nobody touched as %+v", len(known), k)
	}
}

func TestRestoreKeepsASessionShutAndItsLeasesDue(t *testing.T) {
	clock := brokertest.NewClock(time.Now().Truncate(time.Second))
	now := clock.Now()
	s := brokertest.NewSession(now)
	before, after := brokertest.NewLease(s, now), brokertest.NewLease(s, now)
	shut := now.Add(time.Minute)
	longer := s
	longer.Expires = s.Expires.Add(time.Hour)
	var j journal
	j.add(broker.Record{Event: broker.EventIntent, At: now, Session: &s, Leases: []broker.Lease{before, after}})
	j.add(broker.Record{Event: broker.EventIssued, At: now, Leases: []broker.Lease{activeOf(before)}})
	j.add(broker.Record{Event: broker.EventExtended, At: now, Session: &longer})
	j.add(broker.Record{Event: broker.EventShut, At: shut, Session: &broker.Session{ID: s.ID, Closing: true}})
	j.add(broker.Record{Event: broker.EventIssued, At: shut.Add(time.Second), Leases: []broker.Lease{activeOf(after)}})
	j.add(broker.Record{Event: broker.EventExtended, At: shut, Session: &longer}) // the race the other way round
	m := newMemory(t, clock.Now)
	if err := m.Restore(j.all(t)); err != nil {
		t.Fatal(err)
	}
	got, err := m.Session(t.Context(), s.ID)
	if err != nil || !got.Closing || !got.Expires.Equal(longer.Expires) {
		t.Errorf("the session: %+v, %v", got, err)
	}
	for id, l := range ids(t, m) {
		if !l.Due.Equal(shut) && !l.Due.Before(shut) {
			t.Errorf("lease %s is due at %s, the session was shut at %s", id, l.Due, shut)
		}
	}
	if err := m.Open(t.Context(), []broker.Lease{brokertest.NewLease(s, now)}, broker.Caps{}); !errors.Is(err, broker.ErrClosing) {
		t.Errorf("open: %v", err)
	}
}

func TestRestoreKeepsAnAlarmAndWhatItLeftAlone(t *testing.T) {
	clock := brokertest.NewClock(time.Now().Truncate(time.Second))
	now := clock.Now()
	ended, marked := brokertest.NewSession(now), brokertest.NewSession(now)
	guarded, other, late := brokertest.NewLease(ended, now), activeOf(brokertest.NewLease(ended, now)), brokertest.NewLease(ended, now)
	guarded.Grant.OnReuse, late.Grant.OnReuse = broker.OnReuseRevoke, broker.OnReuseRevoke
	raised := now.Add(time.Minute)
	var j journal
	j.add(broker.Record{Event: broker.EventIntent, At: now, Session: &ended, Leases: []broker.Lease{guarded, other, late}})
	j.add(broker.Record{Event: broker.EventIntent, At: now, Session: &marked})
	j.add(broker.Record{Event: broker.EventAlarm, At: raised, Session: &broker.Session{ID: ended.ID, Reused: true, OnReuse: broker.OnReuseRevoke}})
	j.add(broker.Record{Event: broker.EventAlarm, At: raised, Session: &broker.Session{ID: marked.ID, Reused: true}})
	j.add(broker.Record{Event: broker.EventRevoked, At: raised, Leases: []broker.Lease{guarded}})
	j.add(broker.Record{Event: broker.EventIssued, At: raised.Add(time.Second), Leases: []broker.Lease{activeOf(late), other}})
	j.add(broker.Record{Event: broker.EventAlarm, At: raised.Add(time.Minute), Session: &broker.Session{ID: "nobody", Reused: true}})
	m := newMemory(t, clock.Now)
	if err := m.Restore(j.all(t)); err != nil {
		t.Fatal(err)
	}
	got, err := m.Session(t.Context(), ended.ID)
	if err != nil || broker.ReasonOf(got.Ended()) != broker.ErrReused.Reason || got.Closing {
		t.Errorf("the session that ended: %+v, %v", got, err)
	}
	if got, err := m.Session(t.Context(), marked.ID); err != nil || !got.Reused || got.Ended() != nil {
		t.Errorf("the session that goes on: %+v, %v", got, err)
	}
	left := ids(t, m)
	if len(left) != 2 || left[late.ID].Due.After(raised) || !left[other.ID].Due.Equal(other.NotAfter) {
		t.Errorf("the leases are %+v", left)
	}
}

func TestRestoreForgetsSessionsThatAreOver(t *testing.T) {
	clock := brokertest.NewClock(time.Now().Truncate(time.Second))
	over, living := brokertest.NewSession(clock.Now()), brokertest.NewSession(clock.Now())
	var j journal
	j.add(broker.Record{Event: broker.EventIntent, At: clock.Now(), Session: &over})
	j.add(broker.Record{Event: broker.EventIntent, At: clock.Now(), Session: &living, Leases: []broker.Lease{brokertest.NewLease(living, clock.Now())}})
	clock.Advance(24 * time.Hour)
	m := newMemory(t, clock.Now)
	if err := m.Restore(j.all(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Session(t.Context(), over.ID); !errors.Is(err, broker.ErrNoSession) {
		t.Errorf("a session that is over: %v", err)
	}
	if _, err := m.Session(t.Context(), living.ID); err != nil {
		t.Errorf("a session with a lease: %v", err)
	}
}

func TestRestoreFromABrokenJournalChangesNothing(t *testing.T) {
	m := newMemory(t, time.Now)
	s := brokertest.NewSession(time.Now())
	if err := m.Start(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("line 3: hash does not match")
	err := m.Restore(func(yield func(broker.Record, error) bool) {
		other := brokertest.NewSession(time.Now())
		if yield(broker.Record{Event: broker.EventIntent, Session: &other}, nil) {
			yield(broker.Record{}, broken)
		}
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := m.Session(t.Context(), s.ID); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
}

func TestMemoryForgetsSessionsThatAreOver(t *testing.T) {
	clock := brokertest.NewClock(time.Now())
	m := newMemory(t, clock.Now)
	for range 100 { // a session a minute, each for ten
		if err := m.Start(t.Context(), brokertest.NewSession(clock.Now())); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Minute)
	}
	if n := m.Sessions(); n > 12 {
		t.Errorf("%d sessions are kept, where ten live", n)
	}
}
