package broker

import (
	"context"
	"errors"
	"time"
)

// compareEvery is how often the books are held against a target.
const compareEvery = time.Minute

// comparison is what is known of leases that a target does not seem to have.
type comparison struct {
	at       time.Time        // of the last one
	suspects map[LeaseID]bool // not found then
	changed  bool             // the target was another server than theirs, and the log has it
}

// toCompare returns the leases that should be in a target, where a comparison
// is due.
func (b *Broker) toCompare(ctx context.Context, ln *lane) []Lease {
	now := b.now()
	if now.Sub(ln.compare.at).Abs() < compareEvery || b.Paused() {
		return nil
	}
	within, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	leases, err := b.book.List(within, LeaseFilter{Target: ln.target})
	if err != nil {
		b.quietly(ctx, "leases cannot be compared with the target", ln.target, err)
		ln.compare.suspects = nil
		return nil
	}
	ln.compare.at = now
	return leases
}

// missVanished closes the leases whose credentials somebody took out of their
// target: those not found in two comparisons in a row, with looks that found
// others in between. A target that lists nothing, ever, says nothing by it.
//
// To find nothing proves nothing where the target has become another server:
// so each is revoked in due form, which is done only on the server that the
// lease names. Where that is another one nothing is closed.
func (b *Broker) missVanished(ctx context.Context, ln *lane, active []Lease, held []Held) {
	if len(active) == 0 || held == nil {
		return
	}
	there := make(map[Handle]bool, len(held))
	for _, h := range held {
		there[h.Handle] = true
	}
	before := ln.compare.suspects
	ln.compare.suspects = make(map[LeaseID]bool)
	for _, l := range active {
		if there[l.Handle] || !b.shouldBeThere(l) {
			continue
		}
		if !before[l.ID] {
			ln.compare.suspects[l.ID] = true
			continue
		}
		err := b.closeVanished(ctx, ln, l)
		if errors.Is(err, ErrOtherServer) {
			b.targetChanged(ln, l, err)
			return
		}
		if err != nil {
			b.quietly(ctx, "lease of a vanished credential could not be closed", ln.target, err)
			ln.compare.suspects[l.ID] = true
			continue
		}
		ln.compare.changed = false
	}
}

// shouldBeThere reports whether a target that lists has to list a lease's
// credential.
func (b *Broker) shouldBeThere(l Lease) bool {
	return l.State == LeaseActive && l.Takeback == TakebackNow && l.Due.After(b.now()) && !b.underWay.has(l.ID)
}

func (b *Broker) closeVanished(ctx context.Context, ln *lane, l Lease) error {
	ctx = context.WithoutCancel(ctx)
	within, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	now, err := b.book.Lease(within, l.ID)
	if errors.Is(err, ErrNoLease) || (err == nil && now.State != LeaseActive) {
		return nil // it was given back since
	}
	if err != nil {
		return err
	}
	if err := b.takeBack(ctx, l); err != nil {
		return err
	}
	if err := b.close(ctx, l.ID); err != nil {
		return err
	}
	b.stuck.freed(l.ID)
	b.meter.Found(ln.target, "vanished")
	b.log.Warn("credential was gone from its target before its time; its lease is closed", "lease", l.ID, "handle", l.Handle, "target", ln.target)
	b.tell(ctx, Record{Event: EventVanished, At: b.now(), Issuer: l.Issuer, Leases: []Lease{l}, Reason: "vanished"})
	return nil
}

// targetChanged tells that a target is not the server any more that leases are
// of. They stay, and so do what they stand for.
func (b *Broker) targetChanged(ln *lane, l Lease, err error) {
	b.meter.Found(ln.target, "target_changed")
	if !ln.compare.changed {
		b.log.Error("target is another server now: leases of the one before it stay on the books, and cannot be taken back", "target", ln.target, "lease", l.ID, "err", err)
	}
	ln.compare.changed = true
}
