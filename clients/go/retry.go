package daypass

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"
)

// again says what may be retried.
type again int

const (
	always again = iota // lost answers too: the call is idempotent, or every attempt has a token of its own
	told                // only what never left, and what the broker itself invites to try again
)

type retryPolicy struct {
	attempts int           // in all
	first    time.Duration // pause after the first attempt, doubled after each, with jitter
	longest  time.Duration // pause of ours
	patience time.Duration // pause that a Retry-After may ask for
}

var defaultRetry = retryPolicy{attempts: 4, first: 250 * time.Millisecond, longest: 5 * time.Second, patience: 30 * time.Second}

// run calls attempt until it succeeds, fails for good, or there is no time or
// attempt left. It returns the last attempt's error.
func (p retryPolicy) run(ctx context.Context, mode again, attempt func(context.Context) error) error {
	for n := 1; ; n++ {
		err := attempt(ctx)
		if err == nil || n >= p.attempts || ctx.Err() != nil || !mode.permits(err) {
			return err
		}
		pause := p.pause(n, err)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
			return err // waiting would only make a worse error of it
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

func (p retryPolicy) pause(n int, err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok && e.RetryAfter > 0 {
		return min(e.RetryAfter, p.patience)
	}
	pause := min(p.first<<(n-1), p.longest)
	return pause/2 + rand.N(pause/2+1)
}

func (mode again) permits(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if _, tried := errors.AsType[*sourceError](err); !ok || tried {
		return false
	}
	switch {
	case e.Session != nil:
		return false // there is a session to ask on with: another exchange would open a second
	case e.Code == NoAnswer:
		_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
		return !untrusted && (!e.Sent || mode == always)
	case e.Code == TokenStale || e.Code == TokenExpired:
		return mode == always // the next attempt has a fresh token
	case e.Status != http.StatusRequestTimeout && e.Status != http.StatusTooManyRequests && e.Status < 500:
		return false
	}
	return mode == always || (e.Code != NotDaypass && e.RetryAfter > 0)
}
