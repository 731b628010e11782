package broker

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	lookWithin = 10 * time.Second // how long a target may take to say what it holds
	takenUpIn  = 15 * time.Second // a lease that is due for longer was not taken up by a sweeper
)

// looks asks one target what it holds, for ever; a lost one less often. Doubt
// makes it ask at once, though not more than once a second.
func (b *Broker) looks(ctx context.Context, ln *lane) {
	var crew sync.WaitGroup
	defer crew.Wait()
	for probes := 0; ; {
		b.look(ctx, ln, shift{&crew, time.After(sweepShift)})
		wait := ln.pace(&probes)
		least := min(wait, time.Second)
		if !rest(ctx, least, nil) || !rest(ctx, wait-least, ln.doubt) {
			return
		}
	}
}

// look makes promise 1 hold even where our books were lost, or our clock is
// slow: the target knows what is ours by name, and by its own clock what is
// overdue. Once a minute it also compares the other way: what is on the books
// and not in the target.
func (b *Broker) look(ctx context.Context, ln *lane, s shift) {
	ln.looking.Lock()
	defer ln.looking.Unlock()
	active := b.toCompare(ctx, ln) // before the target is asked: what is made meanwhile is not missing
	held, err := b.held(ctx, ln)
	if err != nil {
		b.quietly(ctx, "target cannot be listed", ln.target, err)
		ln.compare.suspects = nil // its looks have to be whole
		return
	}
	b.missVanished(ctx, ln, active, held)
	overdue := slices.DeleteFunc(held, func(h Held) bool { return !h.Overdue })
	switch {
	case b.Paused():
		b.leaveOverdue(ctx, ln, overdue)
	case len(overdue) > 0:
		b.takeUpOverdue(ctx, ln, s, overdue)
	}
}

// leaveOverdue keeps a list of what would be dropped without a lease if
// revoking were not paused.
func (b *Broker) leaveOverdue(ctx context.Context, ln *lane, overdue []Held) {
	known, err := b.knownHandles(ctx, ln.target)
	if err != nil {
		b.quietly(ctx, "leases cannot be listed", ln.target, err)
		return
	}
	strays := slices.DeleteFunc(overdue, func(h Held) bool { _, leased := known[h.Handle]; return leased })
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.strays = strays
}

// held asks a target what it holds, and learns whether it answers.
func (b *Broker) held(ctx context.Context, ln *lane) ([]Held, error) {
	within, done := context.WithTimeout(ctx, min(lookWithin, b.revokeTimeout))
	defer done()
	held, err := ln.minter.Held(within)
	switch {
	case err == nil:
		ln.answered()
	case ctx.Err() == nil && ln.silent(b.now()):
		b.log.Error("target is lost: nothing is issued there, and one revocation at a time is tried until it answers", "target", ln.target, "err", err)
	}
	return held, err
}

// takeUpOverdue revokes what a target says is overdue and nobody has taken up. What
// was never tried goes first. Random order, so that what cannot be dropped does not
// stand before the rest for ever.
func (b *Broker) takeUpOverdue(ctx context.Context, ln *lane, s shift, overdue []Held) {
	known, err := b.knownHandles(ctx, ln.target)
	if err != nil {
		b.quietly(ctx, "leases cannot be listed; overdue credentials are dropped all the same", ln.target, err)
	}
	var leased []Lease
	var strange []Held
	for _, h := range overdue {
		l, isLeased := known[h.Handle]
		switch {
		case !isLeased:
			strange = append(strange, h)
		case !b.sweeperHas(l):
			leased = append(leased, l)
		}
	}
	inTurn(leased)
	if _, ended := work(ctx, b, ln, s, leased, func(l Lease) result { return b.revokeOverdue(ctx, l) }); !ended {
		return
	}
	orphans := b.orphans(ctx, ln, strange)
	ln.onlyOrphans(orphans)
	rand.Shuffle(len(orphans), func(i, j int) { orphans[i], orphans[j] = orphans[j], orphans[i] })
	slices.SortStableFunc(orphans, func(x, y Held) int {
		return cmp.Compare(min(ln.attempts(x.Handle), 1), min(ln.attempts(y.Handle), 1))
	})
	work(ctx, b, ln, s, orphans, func(h Held) result { return b.dropOrphan(ctx, ln, h) })
}

// sweeperHas reports whether an overdue lease is being seen to: it has its own
// back-off, or is the next that a sweeper takes up.
func (b *Broker) sweeperHas(l Lease) bool {
	late := b.now().Sub(l.Due)
	return l.State == LeaseRevoking || b.underWay.has(l.ID) || (late >= 0 && late < takenUpIn)
}

// revokeOverdue revokes a lease that is overdue by its target's clock and not,
// or for long, by ours. It may be gone since the books were read.
func (b *Broker) revokeOverdue(ctx context.Context, l Lease) result {
	within, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	if _, err := b.book.Lease(within, l.ID); errors.Is(err, ErrNoLease) {
		return skipped
	}
	if b.revoke(ctx, l, "", "expired").State == StateRevoking {
		return failed
	}
	return gone
}

// orphans are those of what no lease knows that the target still holds after
// the books were read: others may just have been revoked and closed.
func (b *Broker) orphans(ctx context.Context, ln *lane, strange []Held) []Held {
	if len(strange) == 0 {
		return nil
	}
	held, err := b.held(ctx, ln)
	if err != nil {
		b.quietly(ctx, "target cannot be listed", ln.target, err)
		return nil
	}
	still := make(map[Handle]bool, len(held))
	for _, h := range held {
		still[h.Handle] = h.Overdue
	}
	return slices.DeleteFunc(strange, func(h Held) bool { return !still[h.Handle] })
}

func (b *Broker) knownHandles(ctx context.Context, target string) (map[Handle]Lease, error) {
	ctx, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	leases, err := b.book.List(ctx, LeaseFilter{Target: target})
	known := make(map[Handle]Lease, len(leases))
	for _, l := range leases {
		known[l.Handle] = l
	}
	return known, err
}

// dropOrphan takes back what no lease is known of, once at a time. That it has
// failed before is all that we know of it.
func (b *Broker) dropOrphan(ctx context.Context, ln *lane, h Held) result {
	l := Lease{Handle: h.Handle, Grant: Grant{Target: ln.target, Kind: ln.info.Kind}, NotAfter: h.Expires, Due: h.Expires, State: LeaseRevoking, Attempts: ln.attempts(h.Handle)}
	key := Lease{ID: LeaseID(h.Handle)}
	if b.underWay.has(key.ID) {
		return skipped
	}
	r := failed
	b.underWay.once(ctx, key, func() Outcome {
		err := b.takeBack(ctx, l)
		switch {
		case errors.Is(err, errBusy):
			r = skipped
		case errors.Is(err, errGaveWay):
			ln.failedOn(h.Handle)
			r = skipped
		case err != nil:
			ln.failedOn(h.Handle)
			b.log.Warn("overdue credential without a lease could not be dropped; it is tried again", "handle", h.Handle, "target", ln.target, "err", err)
		default:
			r = gone
			b.meter.Found(ln.target, "orphan")
			b.tell(ctx, Record{Event: EventOrphan, At: b.now(), Leases: []Lease{l}, Reason: "orphan"})
		}
		return Outcome{l, StateRevoking}
	})
	return r
}

// attempts is how often dropping an orphan has failed.
func (ln *lane) attempts(h Handle) int {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.orphans[h]
}

func (ln *lane) failedOn(h Handle) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.orphans[h]++
}

// onlyOrphans forgets what is not among them.
func (ln *lane) onlyOrphans(still []Held) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	kept := make(map[Handle]int)
	for _, h := range still {
		if n := ln.orphans[h.Handle]; n > 0 {
			kept[h.Handle] = n
		}
	}
	ln.orphans = kept
}
