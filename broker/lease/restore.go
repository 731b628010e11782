package lease

import (
	"fmt"
	"iter"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Restore replaces what the store keeps by what the journal tells, oldest
// record first: the leases that are not known to be over, and the job sessions
// that have not expired or have such a lease. A credential that may exist is
// kept, even where the journal is not clear: taking back what is gone does no
// harm. After an error the store is as it was.
//
// A session comes back with the claims that the journal lists, which may be
// fewer than its token had.
func (m *Memory) Restore(records iter.Seq2[broker.Record, error]) error {
	r := restoring{books: newBooks(), shut: make(map[broker.SessionID]time.Time), alarms: make(map[broker.SessionID]alarm)}
	n := 0
	for record, err := range records {
		if err != nil {
			return fmt.Errorf("restore leases after %d records: %w", n, err)
		}
		r.apply(record)
		n++
	}
	for id, at := range r.shut { // an activation may have been told after the shutting
		r.books.end(id, ending{at: at})
	}
	for id, a := range r.alarms {
		r.books.alarm(id, a)
	}
	r.books.prune(m.now())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.books = r.books
	return nil
}

type restoring struct {
	books books
	shut  map[broker.SessionID]time.Time

	alarms map[broker.SessionID]alarm
}

// alarm is the first that was told of a session.
type alarm struct {
	at      time.Time
	onReuse broker.OnReuse
}

// alarm tells a session of an alarm again. That it ended then is known even
// where the leases for which it did are over.
func (b *books) alarm(id broker.SessionID, a alarm) {
	if s, ok := b.sessions[id]; ok && a.onReuse == broker.OnReuseRevoke {
		s.OnReuse = a.onReuse
		b.sessions[id] = s
	}
	b.end(id, ending{at: a.at, reused: true})
}

func (r *restoring) apply(rec broker.Record) {
	switch rec.Event {
	case broker.EventIntent:
		if s := rec.Session; s != nil {
			if _, ok := r.books.sessions[s.ID]; !ok {
				r.books.sessions[s.ID] = *s
			}
		}
		r.put(rec.Leases)
	case broker.EventIssued, broker.EventUnrevoked:
		r.put(rec.Leases)
	case broker.EventUndone, broker.EventRevoked, broker.EventOrphan, broker.EventVanished, broker.EventForgotten:
		r.drop(rec.Leases)
	case broker.EventOperator:
		if rec.Reason == "revoke" {
			r.hasten(rec)
		}
	case broker.EventExtended:
		if s := rec.Session; s != nil {
			r.books.sessions[s.ID] = *s
		}
	case broker.EventShut:
		if s := rec.Session; s != nil {
			if _, ok := r.shut[s.ID]; !ok {
				r.shut[s.ID] = rec.At
			}
		}
	case broker.EventAlarm:
		if s := rec.Session; s != nil {
			if _, ok := r.alarms[s.ID]; !ok {
				r.alarms[s.ID] = alarm{rec.At, s.OnReuse}
			}
		}
	}
}

// put keeps leases that have an id; an orphan has none and is not ours to keep.
func (r *restoring) put(leases []broker.Lease) {
	for _, l := range leases {
		if l.ID != "" {
			r.books.put(l)
		}
	}
}

// hasten makes leases due that an operator wanted gone.
func (r *restoring) hasten(rec broker.Record) {
	for _, l := range rec.Leases {
		if known, ok := r.books.leases[l.ID]; ok {
			known.State, known.Due = broker.LeaseRevoking, rec.At
			r.books.put(known)
		}
	}
}

// drop forgets leases by id, and those of orphans by their name in the target.
func (r *restoring) drop(leases []broker.Lease) {
	for _, l := range leases {
		if l.ID != "" {
			r.books.drop(l.ID)
			continue
		}
		for _, known := range r.books.pick(broker.LeaseFilter{Target: l.Grant.Target}) {
			if known.Handle == l.Handle {
				r.books.drop(known.ID)
			}
		}
	}
}
