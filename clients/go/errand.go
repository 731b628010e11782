package daypass

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// answerLife is how long a broker keeps a sealed answer to be fetched again.
const answerLife = 2 * time.Minute

// supply says where the next name of an errand comes from.
type supply int

const (
	single    supply = iota // there is one: a fixed CI token
	renewable               // the CI provider gives another, if need be
	endless                 // they cost nothing: Idempotency-Keys
)

// fetch says what becomes of an answer that was lost.
type fetch int

const (
	again   fetch = iota // it can be had by asking again under the same name
	never                // it cannot
	nothing              // nothing was made: asking anew is as good
)

// errand is one request that is to be served once although answers get lost.
// It has a name by which the broker knows it again: a CI token, or an
// Idempotency-Key. As long as it is not known what became of the request it
// keeps its name; it takes another one only when the old one can do no good.
// Not safe for concurrent use.
type errand struct {
	retry  retryPolicy
	supply supply
	lost   fetch
	draw   func(context.Context) (Secret, error) // gives the next name
	send   func(context.Context, Secret) error   // makes one attempt

	name    Secret
	began   time.Time // when the name was first used
	unheard error     // the first attempt under the name that may have been served though no answer came
	first   error     // how the first attempt ended
	more    bool      // whether another attempt may end better than the last one
}

// run makes attempts until one succeeds, none can help, or the policy's are
// used up, and says what is known of the outcome.
func (e *errand) run(ctx context.Context) error {
	err := e.retry.run(ctx, func(error) bool { return e.more }, e.attempt)
	if err == nil {
		return nil
	}
	told := err
	if e.first != nil && e.first.Error() != err.Error() {
		told = fmt.Errorf("%w; the first attempt ended with: %w", err, e.first)
	}
	switch code := CodeOf(err); {
	case e.supply == single && (code == TokenReused || code == TokenStale || code == TokenExpired):
		return fmt.Errorf("%w: %w", ErrNewJob, told)
	case e.supply == endless || e.lost == nothing: // what a request on a session made is given back with it
		return told
	case e.unheard != nil && (e.more || mayBeServed(err)):
		return fmt.Errorf("%w, and the token may be spent: %w", ErrOutcomeUnknown, told)
	}
	return told
}

// attempt sends the request, and waits for as long as the broker says that it
// is still at work on an earlier attempt.
func (e *errand) attempt(ctx context.Context) error {
	if e.name.IsZero() {
		name, err := e.draw(ctx)
		if err != nil {
			e.more = false // sources do their own retrying
			return err
		}
		e.name, e.began, e.unheard = name, time.Now(), nil
	}
	for {
		err := e.send(ctx, e.name)
		if err == nil {
			return nil
		}
		if refusal, ok := errors.AsType[*Error](err); ok && e.underWay(refusal) && wait(ctx, min(refusal.RetryAfter, e.retry.patience)) {
			continue
		}
		e.learn(err)
		return err
	}
}

// underWay reports whether a refusal means that the lost answer will be there
// in a moment.
func (e *errand) underWay(refusal *Error) bool {
	return e.lost == again && e.unheard != nil && refusal.Code == Unavailable && refusal.RetryAfter > 0 &&
		refusal.Session == nil && time.Since(e.began) < answerLife
}

// learn draws the conclusions from an attempt that failed.
func (e *errand) learn(err error) {
	if e.first == nil {
		e.first = err
	}
	e.more = e.worthwhile(err)
	if mayBeServed(err) && e.unheard == nil {
		e.unheard = err
	}
	if e.more && e.supply != single && e.spent(err) {
		e.name = Secret{}
	}
}

// worthwhile reports whether another attempt may end better.
func (e *errand) worthwhile(err error) bool {
	refusal, ok := errors.AsType[*Error](err)
	switch {
	case !ok:
		return false
	case refusal.Session != nil:
		return false // there is a session to ask on with: another exchange would open a second
	case mayBeServed(err):
		return e.lost != never || e.supply != single
	case refusal.Code == NoAnswer:
		_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
		return !untrusted
	case refusal.Code == TokenStale || refusal.Code == TokenExpired:
		return e.supply != single
	case refusal.Code == TokenReused || refusal.Code == Conflict:
		return e.supply != single && e.unheard != nil // by ourselves; otherwise somebody else has it
	}
	return mayPass(refusal.Status)
}

// spent reports whether the name can do no more good.
func (e *errand) spent(err error) bool {
	switch CodeOf(err) {
	case TokenStale, TokenExpired, TokenReused, Conflict, MintFailed:
		return true
	case Unavailable: // nothing was made, but the name may be spent
		return e.unheard == nil
	case RateLimited:
		return e.unheard == nil && e.supply == endless
	}
	return e.lost == never && mayBeServed(err)
}

// mayBeServed reports whether the broker may have done what was asked although
// this is all that came of it.
func mayBeServed(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok || !e.Sent || e.Session != nil {
		return false
	}
	switch e.Code {
	case NoAnswer, Internal:
		return true
	case NotDaypass:
		return mayPass(e.Status)
	}
	return e.Status == http.StatusRequestTimeout
}

// mayPass reports whether a status is one that may be another in a while.
func mayPass(status int) bool {
	return status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500
}

// transient reports whether a request that does no harm twice is worth
// repeating.
func transient(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	if e.Code == NoAnswer {
		_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
		return !untrusted
	}
	return mayPass(e.Status)
}
