package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// What became of a lease that was to be taken back.
const (
	StateRevoked  = "revoked"  // the credential is gone
	StateRevoking = "revoking" // it could not be taken back yet; it is tried until it is
	StateExpires  = "expires"  // it cannot be taken back and ends by itself
)

// Outcome is what became of a lease that was to be taken back.
type Outcome struct {
	Lease Lease
	State string
}

// Extend lets a job session mint on, with a fresh CI token of the same job.
// The token is used once, like any other; offered again with the same session
// it is a client that lost its answer, and gets the same.
func (b *Broker) Extend(ctx context.Context, session, token Secret, request string) (Session, error) {
	r := Request{ID: request}
	s, err := b.session(ctx, session)
	if err != nil {
		return Session{}, b.refused(r, Identity{}, Decision{}, err)
	}
	if err := s.Ended(); err != nil {
		return Session{}, b.refused(r, s.For, Decision{}, err)
	}
	fresh, err := b.verify(ctx, token)
	if err != nil {
		return Session{}, b.refused(r, s.For, Decision{}, err)
	}
	if !fresh.SameJob(s.For) {
		return Session{}, b.refused(r, fresh, Decision{}, &Error{Code: Denied, Reason: "other_job",
			Public: "the token is of another job than the session"})
	}
	if fresh.Token == s.For.Token {
		b.toldAgain(ctx, fresh, r, "")
		return s, nil
	}
	if err := b.journal.Healthy(); err != nil {
		return Session{}, b.refused(r, fresh, Decision{}, &Error{Code: Unavailable, Reason: "journal", RetryAfter: retrySoon, Err: err,
			Public: "the journal cannot be written, so no session is extended"})
	}
	if !fresh.Expires.After(s.Expires) {
		return Session{}, b.refused(r, fresh, Decision{}, &Error{Code: BadRequest, Reason: "not_longer",
			Public: "the token expires no later than the session does; it was not used"})
	}
	if err := b.claimToExtend(ctx, fresh, s); err != nil {
		return Session{}, b.refused(r, fresh, Decision{}, err)
	}
	ctx, done := b.detach(ctx)
	defer done()
	s.For, s.Expires = fresh, fresh.Expires
	kept := s
	kept.For = listedOnly(fresh)
	rec := about(EventExtended, b.now(), request, fresh, "")
	rec.Keep, rec.Claims, rec.Session = fresh.KeepUntil, kept.For.Claims, &kept
	if err := b.journal.Append(ctx, rec); err != nil {
		return Session{}, &Error{Code: Unavailable, Reason: "journal", RetryAfter: retrySoon, Err: err,
			Public: "the journal could not be written, so the session was not extended"}
	}
	if err := b.sessions.Extend(ctx, s.ID, fresh, fresh.Expires); err != nil {
		return Session{}, asError(err, Unavailable, "the session store cannot be written")
	}
	return s, nil
}

// claimToExtend spends a token to extend a session. If it was spent for this very
// session, a call that broke off is finished: whoever has the session and the
// token is no stranger, and a session is extended by a token once, however often
// it is done.
func (b *Broker) claimToExtend(ctx context.Context, fresh Identity, s Session) error {
	err := b.spend(ctx, fresh, s)
	if CodeOf(err) != TokenReused {
		return err
	}
	if used, ok := errors.AsType[*Used](err); ok && used.Session == s.ID {
		return nil
	}
	return b.usedAgain(ctx, fresh, OwnerOf(s.Recipient), err)
}

// Whoami tells a job session what it is and which leases it has.
func (b *Broker) Whoami(ctx context.Context, session Secret) (Session, []Lease, error) {
	s, err := b.session(ctx, session)
	if err != nil {
		return Session{}, nil, err
	}
	leases, err := b.book.List(ctx, LeaseFilter{Session: s.ID})
	if err != nil {
		return Session{}, nil, asError(err, Unavailable, "the lease store cannot be read")
	}
	return s, leases, nil
}

// GiveBack ends a job session and takes back all it has. It does not wait for
// the journal's health: taking back goes on where issuing stops.
func (b *Broker) GiveBack(ctx context.Context, session Secret, request string) ([]Outcome, error) {
	s, err := b.session(ctx, session)
	if err != nil {
		return nil, err
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), b.revokeTimeout)
	defer done()
	if err := b.sessions.Shut(ctx, s.ID, b.now()); err != nil {
		return nil, asError(err, Unavailable, "the session store cannot be written")
	}
	if !s.Closing { // else it is journalled already, and could be a thousand times
		rec := about(EventShut, b.now(), request, s.For, "")
		rec.Session = &Session{ID: s.ID, Closing: true}
		b.tell(ctx, rec)
	}
	leases, err := b.book.List(ctx, LeaseFilter{Session: s.ID})
	if err != nil {
		return nil, asError(err, Unavailable, "the lease store cannot be read; what the session has is taken back shortly")
	}
	outcomes := make([]Outcome, 0, len(leases))
	for _, l := range leases {
		// A pending lease's mint is under way elsewhere, and fails at Activate.
		// What there is no time left for is due already: a sweeper has it.
		if l.State == LeasePending || ctx.Err() != nil {
			b.asked(l.ID)
			outcomes = append(outcomes, Outcome{l, StateRevoking})
			continue
		}
		outcomes = append(outcomes, b.revokeAsked(ctx, l, request, "given_back"))
	}
	return outcomes, nil
}

// GiveBackLease takes back one lease of the session's own. A lease of somebody
// else is as unknown as one that never was.
func (b *Broker) GiveBackLease(ctx context.Context, session Secret, id LeaseID, request string) (Outcome, error) {
	s, err := b.session(ctx, session)
	if err != nil {
		return Outcome{}, err
	}
	l, err := b.book.Lease(ctx, id)
	if err != nil {
		return Outcome{}, asError(err, Unavailable, "the lease store cannot be read")
	}
	if l.Session != s.ID {
		return Outcome{}, ErrNoLease
	}
	return b.revokeAsked(ctx, l, request, "given_back"), nil
}

// revoke takes one credential back, once at a time: whoever asks for the same
// meanwhile is told what comes of it.
func (b *Broker) revoke(ctx context.Context, l Lease, request, why string) Outcome {
	outcome, told := b.revokeUntold(ctx, l, request, why)
	if told != nil {
		b.tell(ctx, *told)
	}
	return outcome
}

// revokeUntold is revoke, and leaves what is to be journalled to its caller: nil
// where there is nothing, or somebody else has it.
func (b *Broker) revokeUntold(ctx context.Context, l Lease, request, why string) (_ Outcome, told *Record) {
	outcome := b.underWay.once(ctx, l, func() (o Outcome) {
		o, told = b.revokeNow(ctx, l, request, why)
		return o
	})
	return outcome, told
}

// revokeAsked is revoke for somebody who waits for it. Where the target is lost
// they are told at once, and the lease is due: a sweeper tries it as soon as
// there is an answer.
func (b *Broker) revokeAsked(ctx context.Context, l Lease, request, why string) Outcome {
	ln, ok := b.lanes[l.Grant.Target]
	if !ok || ln.lost().IsZero() {
		return b.revoke(ctx, l, request, why)
	}
	return b.leaveToSweeper(ctx, l)
}

// notTried leaves a lease whose turn did not come to a sweeper, as it is where it
// is due already.
func (b *Broker) notTried(ctx context.Context, l Lease) Outcome {
	if l.State == LeasePending || l.Due.After(b.now()) {
		return b.leaveToSweeper(ctx, l)
	}
	b.stuck.held(l.ID, l.NotAfter)
	b.asked(l.ID)
	return Outcome{l, StateRevoking}
}

// goOnLater leaves to a sweeper what a credential that works no more has left
// behind. That is no failure, and comes after what still works.
func (b *Broker) goOnLater(ctx context.Context, l Lease) Outcome {
	ctx, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	l.State, l.Attempts, l.LastErr, l.Due = LeaseRevoking, max(1, l.Attempts), errGaveWay.Error(), b.now().Add(backoff(1))
	b.asked(l.ID)
	if err := b.leases.Postpone(ctx, l); err != nil {
		b.log.Warn("lease could not be postponed", "lease", l.ID, "err", err)
	}
	return Outcome{l, StateRevoking}
}

// leaveToSweeper makes a lease due.
func (b *Broker) leaveToSweeper(ctx context.Context, l Lease) Outcome {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), b.revokeTimeout)
	defer done()
	l, err := b.hasten(ctx, l)
	if err != nil {
		b.log.Warn("lease could not be made due", "lease", l.ID, "err", err)
	}
	return Outcome{l, StateRevoking}
}

// hasten makes a lease due for revoking. One whose mint is under way is due as
// it was, when the mint is over: it fails at Activate and is undone, and only
// if its broker died is it a sweeper's.
func (b *Broker) hasten(ctx context.Context, l Lease) (Lease, error) {
	if l.State != LeasePending {
		l.Due = b.now()
	}
	l.State = LeaseRevoking
	b.asked(l.ID)
	return l, b.leases.Postpone(ctx, l)
}

// revokeNow keeps the books: closed when the credential is gone, postponed when
// it is not. What it returns beside is for the journal. What was begun does not
// end with ctx.
func (b *Broker) revokeNow(ctx context.Context, l Lease, request, why string) (Outcome, *Record) {
	err := b.takeBack(ctx, l)
	if errors.Is(err, errBusy) {
		return b.notTried(ctx, l), nil
	}
	ctx = context.WithoutCancel(ctx)
	if errors.Is(err, errGaveWay) {
		return b.goOnLater(ctx, l), nil
	}
	if errors.Is(err, ErrExpiresOnly) {
		if b.now().Before(l.NotAfter) {
			b.keepUntilExpiry(ctx, l)
			return Outcome{l, StateExpires}, nil
		}
		err, why = nil, "expired"
	}
	if err != nil {
		b.postpone(ctx, l, err)
		return Outcome{l, StateRevoking}, nil
	}
	if err := b.close(ctx, l.ID); err != nil {
		b.postpone(ctx, l, fmt.Errorf("the credential is gone, but its lease could not be closed: %w", err))
		return Outcome{l, StateRevoking}, nil
	}
	b.stuck.freed(l.ID)
	return Outcome{l, StateRevoked}, &Record{Event: EventRevoked, At: b.now(), Request: request, Issuer: l.Issuer, Leases: []Lease{l}, Reason: why}
}

// close takes a lease off the books. A store that hangs must not end a sweeper's
// loop.
func (b *Broker) close(ctx context.Context, id LeaseID) error {
	ctx, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	return b.leases.Close(ctx, id)
}

// takeBack asks the target, and counts. It waits for its turn, at most until ctx
// ends, and fails with errBusy if it does not come; see [lane.revoke].
func (b *Broker) takeBack(ctx context.Context, l Lease) error {
	ln, ok := b.lanes[l.Grant.Target]
	if !ok {
		return fmt.Errorf("target %q is not configured any more; put it back with retired: true", l.Grant.Target)
	}
	err := ln.revoke(ctx, l)
	switch {
	case err == nil:
		b.meter.Revoked(l.Grant.Kind, "ok")
	case !errors.Is(err, ErrExpiresOnly) && !errors.Is(err, errBusy) && !errors.Is(err, errGaveWay):
		b.meter.Revoked(l.Grant.Kind, "failed")
	}
	return err
}

// keepUntilExpiry leaves a credential that cannot be revoked on the books, so
// that it is counted and seen until it ends.
func (b *Broker) keepUntilExpiry(ctx context.Context, l Lease) {
	ctx, done := context.WithTimeout(ctx, b.revokeTimeout)
	defer done()
	l.State, l.Due = LeaseRevoking, l.NotAfter
	if err := b.leases.Postpone(ctx, l); err != nil {
		b.log.Warn("lease could not be postponed", "lease", l.ID, "err", err)
	}
}

// postpone puts a failed revocation off, for ever longer up to maxBackoff, and
// never gives up. Every doubling of attempts is journalled.
func (b *Broker) postpone(ctx context.Context, l Lease, cause error) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	l.State, l.Attempts, l.LastErr = LeaseRevoking, l.Attempts+1, clip(cause.Error(), 500)
	l.Due = b.now().Add(backoff(l.Attempts))
	b.stuck.held(l.ID, l.NotAfter)
	b.asked(l.ID)
	b.log.Warn("credential could not be taken back; it is tried again",
		"lease", l.ID, "handle", l.Handle, "target", l.Grant.Target, "attempts", l.Attempts, "next", l.Due, "err", cause)
	if err := b.leases.Postpone(ctx, l); err != nil {
		b.log.Warn("lease could not be postponed", "lease", l.ID, "err", err)
	}
	if l.Attempts&(l.Attempts-1) == 0 {
		b.tell(ctx, Record{Event: EventUnrevoked, At: b.now(), Leases: []Lease{l}, Reason: "revoke_failed", Detail: l.LastErr})
	}
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "")
	}
	return s
}
