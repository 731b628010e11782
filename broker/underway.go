package broker

import (
	"context"
	"sync"
)

// revocations are those that this broker has under way. A target lends few
// connections for taking back: a job that gives the same lease back a thousand
// times must not hold them all and keep the sweeper out.
type revocations struct {
	mu      sync.Mutex // guards flights, and last until its done is closed
	flights map[LeaseID]*flight
}

type flight struct {
	done chan struct{} // closed when last is there
	last Outcome
}

// once does it, or waits for whoever is doing it, at most until ctx ends.
func (r *revocations) once(ctx context.Context, l Lease, do func() Outcome) Outcome {
	r.mu.Lock()
	if f, ok := r.flights[l.ID]; ok {
		r.mu.Unlock()
		select {
		case <-f.done:
			return f.last
		case <-ctx.Done():
			return Outcome{l, StateRevoking}
		}
	}
	f := &flight{done: make(chan struct{}), last: Outcome{l, StateRevoking}} // what a panic leaves behind
	if r.flights == nil {
		r.flights = make(map[LeaseID]*flight)
	}
	r.flights[l.ID] = f
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.flights, l.ID)
		r.mu.Unlock()
		close(f.done)
	}()
	f.last = do()
	return f.last
}

// has reports whether a lease is being taken back.
func (r *revocations) has(id LeaseID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.flights[id]
	return ok
}
