package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	revokersDefault = 4 // revocations of one target at once, where nothing else is said
	lostAfter       = 3 // failures in a row after which a target that cannot be listed either is lost
)

// TargetInfo is what the broker knows of a target beside its minter.
type TargetInfo struct {
	Kind     string // for metrics and the journal
	Retired  bool   // nothing is issued there any more
	Revokers int    // how many revocations run there at once; 0: 4
}

// A lane is the way back to one target: how many revocations run there at
// once, and whether it answers. Issuing takes no turn in it, so that neither
// waits for the other.
//
// A target is lost when what was asked of it failed several times in a row and
// it cannot be listed either: what cannot be dropped for reasons of its own,
// however often it is tried, does not count against its target. Anything that
// succeeds ends that.
type lane struct {
	target string
	minter Minter
	info   TargetInfo
	turns  *turns
	within time.Duration // how long one revocation may take, once it has its turn
	due    chan struct{} // tells the sweeper that there is something to do out of turn
	doubt  chan struct{} // tells the looker that the target may be lost

	mu       sync.Mutex     // guards what is below
	failures int            // in a row
	lostAt   time.Time      // zero: it answers
	strays   []Held         // overdue without a lease, and left alone while revoking is paused
	orphans  map[Handle]int // overdue without a lease, and how often dropping them failed

	looking sync.Mutex // lets one look at a time, and guards what is below
	compare comparison
}

func newLane(target string, m Minter, info TargetInfo, within time.Duration, now func() time.Time) *lane {
	if info.Revokers <= 0 {
		info.Revokers = revokersDefault
	}
	return &lane{target: target, minter: m, info: info, turns: newTurns(info.Revokers, now), within: within,
		due: make(chan struct{}, 1), doubt: make(chan struct{}, 1)}
}

// revoke takes a turn, asks the target and learns from its answer. It waits for
// its turn at most until ctx ends, or as long as a revocation may take, so that one
// comes free meanwhile; then it fails with errBusy. What it does after that does not
// end with ctx.
func (ln *lane) revoke(ctx context.Context, l Lease) error {
	patience, done := context.WithTimeout(ctx, ln.within)
	defer done()
	turn, err := ln.turns.take(patience, l)
	if err != nil {
		return fmt.Errorf("target %q: %w", ln.target, err)
	}
	defer ln.turns.giveBack(turn)
	within, done := context.WithTimeout(context.WithoutCancel(ctx), ln.within)
	defer done()
	err = ln.revokeIn(within, done, turn, l)
	if err == nil || errors.Is(err, errGaveWay) || errors.Is(err, ErrExpiresOnly) || errors.Is(err, ErrOtherServer) {
		ln.answered()
	} else {
		ln.failed()
	}
	return err
}

// revokeIn revokes in a turn, which it may have to give up by leaving.
func (ln *lane) revokeIn(ctx context.Context, leave func(), turn *turn, l Lease) error {
	var once sync.Once
	stop := func() {}
	defer func() { stop() }()
	err := ln.minter.Revoke(OnDisarmed(ctx, func() {
		once.Do(func() { stop = ln.turns.untilWanted(turn, leave) })
	}), l)
	if err != nil && ln.turns.gaveWay(turn) {
		return fmt.Errorf("%w: %w", errGaveWay, err)
	}
	return err
}

// mint asks the target and learns from its answer. It takes no turn.
func (ln *lane) mint(ctx context.Context, o Order, h Handle) (Credential, error) {
	c, err := ln.minter.Mint(ctx, o, h)
	if err == nil {
		ln.answered()
	} else {
		ln.failed()
		tell(ln.doubt)
	}
	return c, err
}

// answered ends whatever doubt there was.
func (ln *lane) answered() {
	ln.mu.Lock()
	regained := !ln.lostAt.IsZero()
	ln.failures, ln.lostAt = 0, time.Time{}
	ln.mu.Unlock()
	if regained {
		tell(ln.due)
	}
}

// failed counts a failure that may be the target's, or that of what was asked.
func (ln *lane) failed() {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.failures++
}

// silent counts a failure that can only be the target's: it cannot be listed.
// It reports whether the target is lost by it.
func (ln *lane) silent(now time.Time) (lost bool) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.failures++
	if ln.failures < lostAfter || !ln.lostAt.IsZero() {
		return false
	}
	ln.lostAt = now
	return true
}

// lost returns since when the target has not answered; zero: it does.
func (ln *lane) lost() time.Time {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.lostAt
}

// tell leaves word, unless there is word already.
func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// lostTarget refuses what would be minted in a target that is lost: before the
// token is spent, and at once. The caller is told of the grant, and the log of
// the target.
func (b *Broker) lostTarget(permits []Permit) error {
	for _, p := range permits {
		ln, ok := b.lanes[p.Grant.Target]
		if !ok {
			continue
		}
		if since := ln.lost(); !since.IsZero() {
			return &Error{Code: Unavailable, Reason: "target_lost", RetryAfter: retrySoon,
				Err:    fmt.Errorf("target %q has not answered since %s", ln.target, since.UTC().Format(time.RFC3339)),
				Public: fmt.Sprintf("the target of grant %s does not answer; nothing was spent, try again later", p.Grant.Name)}
		}
	}
	return nil
}
