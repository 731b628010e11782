package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// Paused reports whether nothing is taken back unless somebody asks for it.
func (b *Broker) Paused() bool { return b.revoking == RevokingAsked }

// requested are the leases that somebody asked this broker to take back while
// revoking is paused: only they are retried.
type requested struct {
	mu  sync.Mutex // guards ids
	ids map[LeaseID]bool
}

// asked remembers that a lease is to go, where nobody else would know.
func (b *Broker) asked(id LeaseID) {
	if !b.Paused() {
		return
	}
	b.requested.mu.Lock()
	defer b.requested.mu.Unlock()
	if b.requested.ids == nil {
		b.requested.ids = make(map[LeaseID]bool)
	}
	b.requested.ids[id] = true
}

// dueAsked returns what was asked for of a target, and is due.
func (b *Broker) dueAsked(ctx context.Context, target string) ([]Lease, error) {
	b.requested.mu.Lock()
	ids := slices.Collect(maps.Keys(b.requested.ids))
	b.requested.mu.Unlock()
	var due []Lease
	for _, id := range ids {
		l, err := b.book.Lease(ctx, id)
		switch {
		case errors.Is(err, ErrNoLease):
			b.requested.mu.Lock()
			delete(b.requested.ids, id)
			b.requested.mu.Unlock()
		case err != nil:
			return due, err
		case l.Grant.Target == target && !l.Due.After(b.now()):
			due = append(due, l)
		}
	}
	return due, nil
}
