package replay

import (
	"errors"
	"fmt"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

const (
	// maxAhead is how far a token's iat may lie in the store's future: clocks
	// of providers and ours differ by so much.
	maxAhead = 3 * time.Second
	// slack is how much younger than the fence a token must be. It is more
	// than maxAhead, so that a token that was claimed before the fence, with
	// an iat ahead of its time, is behind it.
	slack = 5 * time.Second
	// margin is added to how long a token is remembered, for clocks that
	// differ.
	margin = time.Minute
)

// Times beyond these are no times of a token, and would not survive arithmetic.
var (
	earliest = time.Unix(0, 0)
	latest   = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
)

// checkClaim refuses what cannot be remembered, before a store hears of it.
func checkClaim(c broker.Claim) error {
	plausible := func(t time.Time) bool { return t.After(earliest) && t.Before(latest) }
	switch {
	case c.Token.IsZero():
		return unavailable(0, errors.New("claim without a token id"))
	case !plausible(c.IssuedAt):
		return unavailable(0, errors.New("claim of a token with an implausible issue time"))
	case !plausible(c.Until):
		return unavailable(0, errors.New("claim of a token with an implausible expiry"))
	}
	return nil
}

// unavailable is the answer to everything that is not a clear one. The token
// may be spent.
func unavailable(retry time.Duration, cause error) *broker.Error {
	return &broker.Error{Code: broker.Unavailable, Reason: "replay_store", RetryAfter: retry, Err: cause,
		Public: "it cannot be checked at the moment that the CI token is used only once, so nothing was issued"}
}

// stale refuses a token from before the fence, which lets tokens pass that
// were issued more than slack after since.
func stale(since, now time.Time) *broker.Error {
	// A token issued at the earliest instant may carry that second, cut off.
	retry := wholeSeconds(since.Add(slack + time.Second).Sub(now))
	return &broker.Error{Code: broker.TokenStale, RetryAfter: retry,
		Public: "the CI token is older than what replay protection can vouch for; ask the CI provider for a fresh one",
		Err:    fmt.Errorf("fenced since %s", since.UTC().Format(time.RFC3339))}
}

// ahead refuses a token issued in the store's future. It is not consumed.
func ahead(issued, now time.Time) *broker.Error {
	return &broker.Error{Code: broker.TokenInvalid, Reason: "issued_in_future",
		RetryAfter: min(wholeSeconds(issued.Add(-maxAhead).Sub(now)), time.Minute),
		Public:     "the CI token was issued in the future; the clock of the CI provider or ours is off"}
}

// wholeSeconds rounds up, to at least one second.
func wholeSeconds(d time.Duration) time.Duration {
	return max(time.Second, (d + time.Second - 1).Truncate(time.Second))
}

// used refuses a token that was used before, and tells of its first use.
func used(first broker.Used) *broker.Error {
	return &broker.Error{Code: broker.TokenReused, Public: broker.ErrTokenUsed.Public, Err: &first}
}
