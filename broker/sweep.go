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
	sweepEvery = 5 * time.Second
	sweepBatch = 200              // leases taken up in one pass of one target
	maxBackoff = 20 * time.Second // a target that comes back is rid of what is overdue within 30 s
	giveUpPass = 3                // failures in a row after which a pass leaves the rest for the next
)

// Run sweeps until ctx ends: each target in a loop of its own, so that a slow
// or lost one holds up nobody else. It returns when all loops have ended.
func (b *Broker) Run(ctx context.Context) {
	var loops sync.WaitGroup
	for name := range b.targets {
		loops.Go(func() {
			every(ctx, sweepEvery, func() {
				for ctx.Err() == nil && b.SweepTarget(ctx, name) {
				}
			})
		})
	}
	loops.Go(func() { every(ctx, sweepEvery, func() { b.report(ctx) }) })
	loops.Wait()
}

// every does it at once and then each d, until ctx ends.
func every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// SweepTarget makes one pass over one target: it revokes the leases that are
// due, then drops what the target itself says is ours and overdue and no lease
// knows. Brokers need no leader for it: all of it is idempotent. It reports
// whether more may be due than one pass took up.
func (b *Broker) SweepTarget(ctx context.Context, target string) (more bool) {
	due, err := b.due(ctx, target)
	if err != nil {
		b.quietly(ctx, "due leases cannot be read", target, err)
	}
	// What was never tried goes first: leases that fail for ever must not hold
	// up one that has just expired.
	slices.SortStableFunc(due, func(x, y Lease) int { return cmp.Compare(min(x.Attempts, 1), min(y.Attempts, 1)) })
	failures, skipped := 0, 0
	for _, l := range due {
		if ctx.Err() != nil || failures >= giveUpPass {
			break
		}
		if b.underWay.has(l.ID) { // somebody waits for it already, and it may take long
			skipped++
			continue
		}
		if b.revoke(ctx, l, "", sweepReason(l)).State == StateRevoking {
			failures++
		} else {
			failures = 0
		}
	}
	b.dropOrphans(ctx, target)
	return len(due) == sweepBatch && failures+skipped == 0
}

// due bounds the wait for the store: one that hangs must not end a sweeper's
// loop.
func (b *Broker) due(ctx context.Context, target string) ([]Lease, error) {
	ctx, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	return b.book.Due(ctx, target, b.now(), sweepBatch)
}

func sweepReason(l Lease) string {
	switch l.State {
	case LeasePending:
		return "abandoned"
	case LeaseRevoking:
		return "retried"
	default:
		return "expired"
	}
}

// dropOrphans makes promise 1 hold even where our books were lost, or our clock
// is slow: the target knows what is ours by name, and by its own clock what is
// overdue.
func (b *Broker) dropOrphans(ctx context.Context, target string) {
	overdue, err := b.overdue(ctx, target)
	if err != nil {
		b.quietly(ctx, "target cannot be listed", target, err)
		return
	}
	if len(overdue) == 0 {
		return
	}
	known, err := b.knownHandles(ctx, target)
	if err != nil {
		b.quietly(ctx, "leases cannot be listed; overdue credentials are dropped all the same", target, err)
	}
	failures := 0
	for _, h := range overdue {
		if failures >= giveUpPass || ctx.Err() != nil {
			return
		}
		l, leased := known[h.Handle]
		var gone bool
		switch {
		case leased && (l.State == LeaseRevoking || b.underWay.has(l.ID)): // it has its own back-off
			continue
		case leased:
			gone = b.revoke(ctx, l, "", "expired").State != StateRevoking
		default:
			gone = b.dropOrphan(ctx, target, h)
		}
		if gone {
			failures = 0
		} else {
			failures++
		}
	}
}

// overdue lists what a target holds of ours past its expiry, in random order,
// so that what cannot be dropped does not stand before the rest for ever.
func (b *Broker) overdue(ctx context.Context, target string) ([]Held, error) {
	ctx, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	held, err := b.targets[target].Held(ctx)
	if err != nil {
		return nil, err
	}
	held = slices.DeleteFunc(held, func(h Held) bool { return !h.Overdue })
	rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	return held, nil
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

func (b *Broker) dropOrphan(ctx context.Context, target string, h Held) bool {
	l := Lease{Handle: h.Handle, Grant: Grant{Target: target}, NotAfter: h.Expires, State: LeaseRevoking}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), b.revokeTimeout)
	defer done()
	if err := b.takeBack(ctx, l); err != nil {
		b.log.Warn("overdue credential without a lease could not be dropped; it is tried again", "handle", h.Handle, "target", target, "err", err)
		return false
	}
	b.tell(ctx, Record{Event: EventOrphan, At: b.now(), Leases: []Lease{l}, Reason: "orphan"})
	return true
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
	live, err := b.book.Live(ctx, LeaseFilter{})
	if err != nil {
		b.quietly(ctx, "leases cannot be counted", "", err)
		return
	}
	b.meter.Swept(live, b.stuck.lag(b.now(), func(id LeaseID) bool {
		_, err := b.book.Lease(ctx, id)
		return errors.Is(err, ErrNoLease) // another broker freed it
	}))
}

// backoff is how long to wait after n failures: 1 s doubling up to maxBackoff,
// less up to a quarter, so that what failed together is not retried together.
func backoff(n int) time.Duration {
	d := maxBackoff
	if n < 6 {
		d = min(d, time.Second<<(n-1))
	}
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}

// stuckLeases are those that this broker failed to take back: what the lag is
// measured by.
type stuckLeases struct {
	mu    sync.Mutex // guards since
	since map[LeaseID]time.Time
}

func (s *stuckLeases) held(id LeaseID, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since == nil {
		s.since = make(map[LeaseID]time.Time)
	}
	s.since[id] = since
}

func (s *stuckLeases) freed(id LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, id)
}

// lag is how long the most overdue stuck lease has been overdue; gone is asked
// about that one.
func (s *stuckLeases) lag(now time.Time, gone func(LeaseID) bool) time.Duration {
	for {
		id, since, ok := s.oldest()
		if !ok {
			return 0
		}
		if !gone(id) {
			return max(0, now.Sub(since))
		}
		s.freed(id)
	}
}

func (s *stuckLeases) oldest() (LeaseID, time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest LeaseID
	for id, since := range s.since {
		if oldest == "" || since.Before(s.since[oldest]) {
			oldest = id
		}
	}
	return oldest, s.since[oldest], oldest != ""
}
