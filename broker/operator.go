package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Act says who asks for what an operator may do, for the journal.
type Act struct {
	Request string // its id
	By      string
	Reason  string // why, in the operator's words; needed to forget
}

const (
	markedAtOnce   = 16  // leases that are marked at the same time
	leasesInRecord = 100 // at most; a record has a longest line
	maxReason      = 500 // bytes
)

// Stray is a credential that is overdue by its target's clock, has no lease,
// and is left alone because revoking is paused.
type Stray struct {
	Target string
	Held
}

// Leases lists leases for an operator, oldest first.
func (b *Broker) Leases(ctx context.Context, f LeaseFilter) ([]Lease, error) {
	leases, err := b.book.List(ctx, f)
	if err != nil {
		return nil, asError(err, Unavailable, "the lease store cannot be read")
	}
	return leases, nil
}

// Lease returns one lease for an operator.
func (b *Broker) Lease(ctx context.Context, id LeaseID) (Lease, error) {
	l, err := b.book.Lease(ctx, id)
	if err != nil {
		return Lease{}, asError(err, Unavailable, "the lease store cannot be read")
	}
	return l, nil
}

// Strays lists, by target and name, what would be dropped without a lease if
// revoking were not paused, as it was found a few seconds ago.
func (b *Broker) Strays() []Stray {
	var strays []Stray
	for _, target := range slices.Sorted(maps.Keys(b.lanes)) {
		ln := b.lanes[target]
		ln.mu.Lock()
		for _, h := range ln.strays {
			strays = append(strays, Stray{target, h})
		}
		ln.mu.Unlock()
	}
	return strays
}

// RevokeLease takes back one lease by an operator's word.
func (b *Broker) RevokeLease(ctx context.Context, id LeaseID, a Act) (Outcome, error) {
	l, err := b.Lease(ctx, id)
	if err != nil {
		return Outcome{}, err
	}
	b.tell(ctx, b.acted(a, "revoke", a.By, []Lease{l}))
	return b.revokeAsked(ctx, l, a.Request, "operator"), nil
}

// RevokeLeases marks all that a filter picks, and returns it: the sweepers of
// all brokers take it back, as fast as its targets let them. What is minted
// meanwhile is not among it, except where the filter names a job session, which
// is shut. A filter that picks everything is refused.
func (b *Broker) RevokeLeases(ctx context.Context, f LeaseFilter, a Act) ([]Lease, error) {
	if f == (LeaseFilter{}) {
		return nil, fail(BadRequest, nil, "say which leases: all of them is not an answer")
	}
	leases, err := b.Leases(ctx, f)
	if err == nil && f.Session != "" {
		leases, err = b.shutFor(ctx, f, leases, a)
	}
	if err != nil {
		return nil, err
	}
	for some := range slices.Chunk(leases, leasesInRecord) {
		b.tell(ctx, b.acted(a, "revoke", a.By+": "+f.String(), some))
	}
	marked, err := b.mark(ctx, leases)
	for _, ln := range b.lanes {
		tell(ln.due)
	}
	if err != nil {
		return marked, &Error{Code: Unavailable, Reason: "lease_store", RetryAfter: retrySoon, Err: err,
			Public: fmt.Sprintf("%d of %d leases could be marked; ask again for the rest", len(marked), len(leases))}
	}
	return marked, nil
}

// shutFor ends a job session by an operator's word, and returns what it had
// before or has by then: the sweepers take it up as soon as it is shut. A session
// that is not known can be ended no further.
func (b *Broker) shutFor(ctx context.Context, f LeaseFilter, had []Lease, a Act) ([]Lease, error) {
	err := b.sessions.Shut(ctx, f.Session, b.now())
	if errors.Is(err, ErrNoSession) {
		return had, nil
	}
	if err != nil {
		return nil, asError(err, Unavailable, "the session store cannot be written")
	}
	b.tell(ctx, Record{Event: EventShut, At: b.now(), Request: a.Request, Session: &Session{ID: f.Session, Closing: true}, Reason: "operator", Detail: a.By})
	now, err := b.Leases(ctx, f)
	for _, l := range now {
		if !slices.ContainsFunc(had, func(h Lease) bool { return h.ID == l.ID }) {
			had = append(had, l)
		}
	}
	return had, err
}

// mark makes leases due for revoking, and returns those that are.
func (b *Broker) mark(ctx context.Context, leases []Lease) (marked []Lease, err error) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), b.revokeTimeout)
	defer done()
	var mu sync.Mutex // guards marked and err
	todo := make(chan Lease)
	var crew sync.WaitGroup
	for range min(markedAtOnce, len(leases)) {
		crew.Go(func() {
			for l := range todo {
				due, failure := b.hasten(ctx, l)
				mu.Lock()
				if failure == nil {
					marked = append(marked, due)
				} else {
					err = failure
				}
				mu.Unlock()
			}
		})
	}
	for _, l := range leases {
		todo <- l
	}
	close(todo)
	crew.Wait()
	return marked, err
}

// Forget closes the leases of a target, or one of them where only is set,
// without touching the target: for one that is gone for good. The credentials
// may exist; what is returned names them for whoever looks for them later.
//
// It is refused where the target could be asked: one that is configured, is not
// retired, and answers. Leases of a server that is not the target's any more
// are forgotten all the same, if they are being revoked.
func (b *Broker) Forget(ctx context.Context, target string, only LeaseID, a Act) ([]Lease, error) {
	if err := checkReason(a.Reason); err != nil {
		return nil, err
	}
	leases, err := b.toForget(ctx, target, only)
	if err != nil {
		return nil, err
	}
	if ln, ok := b.lanes[target]; ok && !ln.info.Retired {
		if _, err := b.held(ctx, ln); err == nil {
			leases = b.ofOtherServer(ctx, ln, leases)
			if len(leases) == 0 {
				return nil, fail(Conflict, nil, "target %s answers, so its leases are revoked, not forgotten", target)
			}
		}
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer done()
	var forgotten []Lease
	for some := range slices.Chunk(leases, leasesInRecord) {
		rec := b.acted(a, "forget", a.By+": "+a.Reason, some)
		rec.Event = EventForgotten
		if err := b.journal.Append(ctx, rec); err != nil {
			return forgotten, &Error{Code: Unavailable, Reason: "journal", RetryAfter: retrySoon, Err: err,
				Public: "the journal could not be written, so nothing more was forgotten"}
		}
		for _, l := range some {
			if err := b.leases.Close(ctx, l.ID); err != nil {
				return forgotten, asError(err, Unavailable, "the lease store cannot be written; ask again for the rest")
			}
			b.stuck.freed(l.ID)
			forgotten = append(forgotten, l)
		}
	}
	return forgotten, nil
}

func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" || len(reason) > maxReason {
		return fail(BadRequest, nil, "say why, in at most %d bytes: it is all that the journal will know", maxReason)
	}
	return nil
}

// toForget are the leases meant.
func (b *Broker) toForget(ctx context.Context, target string, only LeaseID) ([]Lease, error) {
	if target == "" {
		return nil, fail(BadRequest, nil, "say of which target")
	}
	if only == "" {
		return b.Leases(ctx, LeaseFilter{Target: target})
	}
	l, err := b.Lease(ctx, only)
	if err != nil {
		return nil, err
	}
	if l.Grant.Target != target {
		return nil, fail(BadRequest, nil, "the lease is not of that target")
	}
	return []Lease{l}, nil
}

// ofOtherServer are the leases that are to go and that a target refuses to
// know, since it is not the server that they are of. Those that go are gone.
func (b *Broker) ofOtherServer(ctx context.Context, ln *lane, leases []Lease) []Lease {
	var others []Lease
	for _, l := range leases {
		if ctx.Err() != nil {
			break
		}
		if l.State != LeaseRevoking {
			continue
		}
		if errors.Is(ln.revoke(ctx, l), ErrOtherServer) {
			others = append(others, l)
		}
	}
	return others
}

// acted is the record of an operator's act on leases, with no more of them than
// tells which they are.
func (b *Broker) acted(a Act, reason, detail string, leases []Lease) Record {
	rec := Record{Event: EventOperator, At: b.now(), Request: a.Request, Reason: reason, Detail: detail}
	for _, l := range leases {
		l.Grant.Params, l.Grant.Labels = nil, nil
		rec.Leases = append(rec.Leases, l)
	}
	return rec
}

// String says what a filter picks, for the journal.
func (f LeaseFilter) String() string {
	var parts []string
	for _, p := range []struct{ name, value string }{
		{"session", string(f.Session)}, {"place", f.Place}, {"rule", f.Rule}, {"grant", f.Grant}, {"target", f.Target},
	} {
		if p.value != "" {
			parts = append(parts, p.name+" "+strconv.Quote(p.value))
		}
	}
	return strings.Join(parts, ", ")
}
