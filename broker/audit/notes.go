package audit

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// noteWindow is how long notes of the same kind are gathered.
const noteWindow = time.Minute

// Bounds of what notes may take between two flushes: maxNotes records of at
// most maxNote bytes, some 16 MiB at the very worst.
const (
	maxNotes = 1024
	maxNote  = 16 << 10
)

// noteKey says which notes count as the same: what became of sessions and leases
// by their ids (see [broker.Journal]: a store is rebuilt from these), a token
// that is offered again by its id, all else by the owner that the token speaks
// for. Nothing that a stranger can vary at will may be part of it, or one job
// could crowd out everybody's notes.
type noteKey struct {
	event                 broker.Event
	reason, issuer, about string
}

func keyOf(r broker.Record) noteKey {
	k := noteKey{event: r.Event, reason: r.Reason, issuer: r.Issuer}
	switch {
	case r.Session != nil:
		k.about = "session " + string(r.Session.ID)
	case len(r.Leases) > 0:
		k.about = "lease " + string(r.Leases[0].Handle)
	case (r.Event == broker.EventReused || r.Event == broker.EventAgain) && !r.Token.IsZero():
		k.about = "token " + r.Token.String()
	case r.Job != nil && r.Job.OwnerID != "":
		k.about = "owner " + r.Job.OwnerID
	case r.Job != nil && r.Job.RepositoryID != "":
		k.about = "repository " + r.Job.RepositoryID
	case r.Job != nil && r.Job.Repository != "":
		k.about = "repository name " + r.Job.Repository
	case !r.Token.IsZero():
		k.about = "token " + r.Token.String()
	}
	return k
}

// notes gathers records that nobody waits for. The first of a kind keeps its
// details; those after it are counted.
type notes struct {
	mu      sync.Mutex // held for map work only, never while writing
	byKey   map[noteKey]int
	kept    []broker.Record // in order of arrival
	dropped int
}

// add keeps or counts a record. It never waits for the disk.
func (n *notes) add(r broker.Record) {
	key := keyOf(r)
	more := max(r.Count, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if i, ok := n.byKey[key]; ok {
		n.kept[i].Count = max(n.kept[i].Count, 1) + more
		return
	}
	if len(n.kept) == maxNotes {
		n.dropped += more
		return
	}
	r, ok := slim(r)
	if !ok {
		n.dropped += more
		return
	}
	if n.byKey == nil {
		n.byKey = map[noteKey]int{}
	}
	n.byKey[key] = len(n.kept)
	n.kept = append(n.kept, r)
}

// slim returns a record that is small enough to be kept: whole, or without
// what a token or many rules can blow up; or false.
func slim(r broker.Record) (broker.Record, bool) {
	fits := func() bool {
		b, err := json.Marshal(r)
		return err == nil && len(b) <= maxNote
	}
	if fits() {
		return r, true
	}
	r.Claims, r.Denials, r.Grants, r.Session = nil, nil, nil, nil
	r.DeniedBy, r.Reported = nil, nil
	return r, fits()
}

// take hands over what has been gathered, and a record that counts what had no
// room.
func (n *notes) take(now time.Time) []broker.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.kept
	if n.dropped > 0 {
		out = append(out, broker.Record{Event: broker.EventDropped, At: now, Count: n.dropped,
			Detail: "more kinds of notes within a minute than are kept; these were counted only"})
	}
	n.byKey, n.kept, n.dropped = nil, nil, 0
	return out
}
