package broker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	sweepEvery = 5 * time.Second
	sweepBatch = 1000       // leases taken up in one pass of one target
	crewFactor = 2          // workers for each turn: while some wait for the books, others have the turns
	sweepShift = sweepEvery // how long a pass works before the next looks at what is due by then

	courtesy     = 4 // steps that a sweep lets issuing go first, before each revocation
	courtesyStep = 500 * time.Microsecond
)

// Run takes back what is due until ctx ends. Each target has two loops of its
// own, so that a slow or lost one holds up nobody else: one takes up the leases
// that are due, the other looks at what the target holds. It returns when all
// have ended. Where revoking is paused only what somebody asked for is taken back.
func (b *Broker) Run(ctx context.Context) {
	var loops sync.WaitGroup
	for _, ln := range b.lanes {
		loops.Go(func() { b.sweeps(ctx, ln) })
		loops.Go(func() { b.looks(ctx, ln) })
	}
	loops.Go(func() {
		for {
			b.report(ctx)
			if !rest(ctx, sweepEvery, nil) {
				return
			}
		}
	})
	loops.Wait()
}

// rest waits for d, or until it is woken. It reports whether to go on.
func rest(ctx context.Context, d time.Duration, woken <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-woken:
	case <-t.C:
	}
	return ctx.Err() == nil
}

// sweeps takes up what is due in one target, for ever. A lost target is tried
// with one revocation at a time, less and less often.
func (b *Broker) sweeps(ctx context.Context, ln *lane) {
	var crew sync.WaitGroup
	defer crew.Wait()
	for probes := 0; ; {
		for ctx.Err() == nil && b.sweepDue(ctx, ln, shift{&crew, time.After(sweepShift)}) {
		}
		if !rest(ctx, ln.pace(&probes), ln.due) {
			return
		}
	}
}

// pace is how long to wait before a target is turned to again; probes counts
// how often it was while it was lost.
func (ln *lane) pace(probes *int) time.Duration {
	if ln.lost().IsZero() {
		*probes = 0
		return sweepEvery
	}
	*probes++
	return min(backoff(*probes), maxProbe)
}

// SweepTarget makes one pass over one target: it revokes the leases that are
// due, then drops what the target itself says is ours and overdue and no lease
// knows. Brokers need no leader for it: all of it is idempotent. It reports
// whether more may be due than one pass took up.
func (b *Broker) SweepTarget(ctx context.Context, target string) (more bool) {
	ln, ok := b.lanes[target]
	if !ok {
		return false
	}
	var crew sync.WaitGroup
	more = b.sweepDue(ctx, ln, shift{crew: &crew})
	crew.Wait()
	b.look(ctx, ln, shift{crew: &crew})
	crew.Wait()
	return more
}

// sweepDue makes one pass over the leases of a target that are due, and reports
// whether more may be. What is not taken up by the end of the shift is due as
// before: a revocation that takes long must not hold up what ends meanwhile.
// Nobody waits for the journal but whoever waits for the crew.
func (b *Broker) sweepDue(ctx context.Context, ln *lane, s shift) (more bool) {
	due, err := b.due(ctx, ln.target)
	if err != nil {
		b.quietly(ctx, "due leases cannot be read", ln.target, err)
	}
	if !ln.lost().IsZero() {
		slices.Reverse(due) // for the older ones it is too late anyway
	}
	inTurn(due)
	n, ended := work(ctx, b, ln, s, due, func(l Lease) result {
		if b.underWay.has(l.ID) { // somebody waits for it already, and it may take long
			return skipped
		}
		b.letIssue()
		outcome, told := b.revokeUntold(ctx, l, "", sweepReason(l))
		if told != nil {
			s.crew.Go(func() { b.tell(ctx, *told) })
		}
		if outcome.State == StateRevoking {
			return failed
		}
		return gone
	})
	return !ended || len(due) == sweepBatch && n == len(due)
}

// letIssue lets what is being issued go first, for a moment: somebody waits for
// that, and nobody for a sweep. More than that would be starving.
func (b *Broker) letIssue() {
	for range courtesy {
		if b.issuing.Load() == 0 {
			return
		}
		time.Sleep(courtesyStep)
	}
}

// inTurn puts leases in the order in which they are taken up. What was never tried
// goes first: leases that fail for ever must not hold up one that has just expired.
// Among them the first of each place goes before the second of any.
func inTurn(due []Lease) {
	nth := make(map[LeaseID]int, len(due))
	places := make(map[string]int)
	for _, l := range due {
		nth[l.ID] = places[l.Place]
		places[l.Place]++
	}
	slices.SortStableFunc(due, func(x, y Lease) int {
		return cmp.Or(cmp.Compare(min(x.Attempts, 1), min(y.Attempts, 1)), cmp.Compare(nth[x.ID], nth[y.ID]))
	})
}

// due bounds the wait for the store: one that hangs must not end a sweeper's
// loop.
func (b *Broker) due(ctx context.Context, target string) ([]Lease, error) {
	ctx, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	if b.Paused() {
		return b.dueAsked(ctx, target)
	}
	return b.book.Due(ctx, target, b.now(), sweepBatch)
}

func sweepReason(l Lease) string {
	switch {
	case l.State == LeasePending:
		return "abandoned"
	case l.State == LeaseRevoking && l.Attempts > 0:
		return "retried"
	case l.State == LeaseRevoking || l.Due.Before(l.NotAfter): // its session was shut, or an operator said so
		return "asked"
	default:
		return "expired"
	}
}

// quietly logs what a sweep could not do, unless we are being stopped.
func (b *Broker) quietly(ctx context.Context, what, target string, err error) {
	if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		b.log.Warn("sweep: "+what, "target", target, "err", err)
	}
}

// report tells the meter how many leases live and how long the most overdue
// one has been waiting.
func (b *Broker) report(ctx context.Context) {
	ctx, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	for _, ln := range b.lanes {
		b.meter.Reached(ln.target, ln.silence(b.now()))
	}
	live, err := b.live(ctx, LeaseFilter{})
	if err != nil {
		b.quietly(ctx, "leases cannot be counted", "", err)
		return
	}
	b.meter.Swept(live, b.stuck.lag(b.now(), func(id LeaseID) bool {
		_, err := b.book.Lease(ctx, id)
		return errors.Is(err, ErrNoLease) // another broker freed it
	}))
}

// silence is how long the target has been lost; 0: it answers.
func (ln *lane) silence(now time.Time) time.Duration {
	since := ln.lost()
	if since.IsZero() {
		return 0
	}
	return max(time.Second, now.Sub(since))
}

// live counts the leases of one filter.
func (b *Broker) live(ctx context.Context, f LeaseFilter) (int, error) {
	n, err := b.book.Live(ctx, f)
	if err != nil {
		return 0, err
	}
	return n[0], nil
}
