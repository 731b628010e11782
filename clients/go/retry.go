package daypass

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
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
func (p retryPolicy) run(ctx context.Context, worthwhile func(error) bool, attempt func(context.Context) error) error {
	for n := 1; ; n++ {
		err := attempt(ctx)
		if err == nil || n >= p.attempts || !worthwhile(err) || !wait(ctx, p.pause(n, err)) {
			return err
		}
	}
}

// wait reports whether the pause has passed. It does not begin one that would
// pass the context's deadline: that would only make a worse error.
func wait(ctx context.Context, pause time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ctx.Err() != nil || ok && time.Until(deadline) <= pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p retryPolicy) pause(n int, err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok && e.RetryAfter > 0 {
		return min(e.RetryAfter, p.patience)
	}
	pause := min(p.first<<(n-1), p.longest)
	return pause/2 + rand.N(pause/2+1)
}
