package broker

import (
	"context"
	"time"
)

// Claim is the one-time use of a token.
type Claim struct {
	Token    TokenID
	IssuedAt time.Time // the token's iat: what the fence compares
	Until    time.Time // remembered at least so long (see Identity.KeepUntil)
	Owner    Owner     // whose the answer is; zero: nobody's, so it is strictly once
	Session  SessionID // the job session that it opens
}

// Used is what is known of the first use of a token that is offered again. It
// is the cause within the [TokenReused] of a [Replay.Claim].
type Used struct {
	Owner   Owner
	Session SessionID
	At      time.Time // by the store's clock; zero if it is not known
}

// Error implements error.
func (u *Used) Error() string { return "used before" }

// Replay remembers which tokens were used, across all brokers.
type Replay interface {
	// Claim succeeds exactly once for a token. Its error is an [*Error]:
	// [TokenReused], with a [*Used] as cause; [TokenStale] for a token older than the store can vouch
	// for; [TokenInvalid] with RetryAfter for one issued in the store's
	// future, which is not consumed; and [Unavailable] for everything else,
	// time-outs and odd answers included: an unreachable store is an error,
	// never a pass. After Unavailable the token may be spent.
	Claim(ctx context.Context, c Claim) error
	// Ready says why claims cannot be served now, or nil.
	Ready(ctx context.Context) error
}
