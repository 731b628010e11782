package lease

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// books are leases and sessions in memory, and where to find them. They are
// not safe for concurrent use.
type books struct {
	leases   map[broker.LeaseID]broker.Lease
	sessions map[broker.SessionID]broker.Session

	// Which leases belong to what; no empty set is kept.
	places, grants, rules, targets, owners map[string]ids
}

type ids map[broker.LeaseID]struct{}

func newBooks() books {
	return books{
		leases:   make(map[broker.LeaseID]broker.Lease),
		sessions: make(map[broker.SessionID]broker.Session),
		places:   make(map[string]ids), grants: make(map[string]ids), rules: make(map[string]ids),
		targets: make(map[string]ids), owners: make(map[string]ids),
	}
}

// put stores a lease, or replaces one.
func (b *books) put(l broker.Lease) {
	b.drop(l.ID)
	b.leases[l.ID] = l
	for key, index := range b.indexes(l) {
		if index[key] == nil {
			index[key] = make(ids)
		}
		index[key][l.ID] = struct{}{}
	}
}

// drop forgets a lease, if it is there.
func (b *books) drop(id broker.LeaseID) {
	l, ok := b.leases[id]
	if !ok {
		return
	}
	delete(b.leases, id)
	for key, index := range b.indexes(l) {
		delete(index[key], id)
		if len(index[key]) == 0 {
			delete(index, key)
		}
	}
}

// indexes yields each index that has to know of a lease, under its key.
func (b *books) indexes(l broker.Lease) iter.Seq2[string, map[string]ids] {
	return func(yield func(string, map[string]ids) bool) {
		_ = yield(l.Place, b.places) && yield(l.Grant.Name, b.grants) && yield(l.Rule, b.rules) &&
			yield(l.Grant.Target, b.targets) && yield(string(l.Session), b.owners)
	}
}

// pick returns the leases of a filter in no order.
func (b *books) pick(f broker.LeaseFilter) []broker.Lease {
	candidates := maps.Keys(b.leases)
	switch { // the smallest sets first
	case f.Session != "":
		candidates = maps.Keys(b.owners[string(f.Session)])
	case f.Place != "":
		candidates = maps.Keys(b.places[f.Place])
	case f.Rule != "":
		candidates = maps.Keys(b.rules[f.Rule])
	case f.Grant != "":
		candidates = maps.Keys(b.grants[f.Grant])
	case f.Target != "":
		candidates = maps.Keys(b.targets[f.Target])
	}
	var picked []broker.Lease
	for id := range candidates {
		if l := b.leases[id]; picks(f, l) {
			picked = append(picked, l)
		}
	}
	return picked
}

// falling is a lease by when it is due.
type falling struct {
	due time.Time
	id  broker.LeaseID
}

// due finds the leases of a target that are due. Thousands may be, and everybody
// waits meanwhile: they are put in order, and the first of them copied, apart.
func (b *books) due(target string, at time.Time) []falling {
	var found []falling
	for id := range b.targets[target] {
		if due := b.leases[id].Due; !due.After(at) {
			found = append(found, falling{due, id})
		}
	}
	return found
}

// inOrder puts the most overdue first.
func inOrder(found []falling) {
	slices.SortFunc(found, func(x, y falling) int { return cmp.Or(x.due.Compare(y.due), cmp.Compare(x.id, y.id)) })
}

// stillDue copies the first of those that are due as when they were found, up to
// limit.
func (b *books) stillDue(found []falling, at time.Time, limit int) []broker.Lease {
	leases := make([]broker.Lease, 0, min(limit, len(found)))
	for _, f := range found {
		if len(leases) == limit {
			break
		}
		if l, ok := b.leases[f.id]; ok && !l.Due.After(at) {
			leases = append(leases, l)
		}
	}
	return leases
}

// count is how many leases a filter picks.
func (b *books) count(f broker.LeaseFilter) int {
	switch f {
	case broker.LeaseFilter{}:
		return len(b.leases)
	case broker.LeaseFilter{Place: f.Place}:
		return len(b.places[f.Place])
	case broker.LeaseFilter{Rule: f.Rule}:
		return len(b.rules[f.Rule])
	case broker.LeaseFilter{Grant: f.Grant}:
		return len(b.grants[f.Grant])
	}
	return len(b.pick(f))
}

// keeps reports whether a session has to be kept.
func (b *books) keeps(s broker.Session, now time.Time) bool {
	return now.Before(s.Expires) || len(b.owners[string(s.ID)]) > 0
}

func (b *books) prune(now time.Time) {
	maps.DeleteFunc(b.sessions, func(_ broker.SessionID, s broker.Session) bool { return !b.keeps(s, now) })
}

// end ends a session, if it is kept, and makes leases of it due.
func (b *books) end(id broker.SessionID, e ending) {
	s, ok := b.sessions[id]
	if !ok {
		return
	}
	leases := b.pick(broker.LeaseFilter{Session: id})
	b.sessions[id] = e.of(s, leases)
	for _, l := range leases {
		if l, changed := hastened(l, e.at); changed && e.takes(l) {
			b.put(l)
		}
	}
}
