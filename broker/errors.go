package broker

import (
	"errors"
	"fmt"
	"time"
)

// Code is the stable word for what went wrong: clients act on it, and
// broker/api maps each to one HTTP status.
type Code string

// The codes of the native API.
const (
	BadRequest     Code = "bad_request"     // the request is malformed; nothing was touched
	TokenInvalid   Code = "token_invalid"   // not a token we trust
	TokenExpired   Code = "token_expired"   // it was one
	TokenStale     Code = "token_stale"     // older than what replay protection can vouch for: ask for a fresh one
	TokenReused    Code = "token_reused"    // it has bought its one exchange
	SessionExpired Code = "session_expired" // the job session mints no more
	Denied         Code = "denied"          // policy says no; the token is not consumed
	NotFound       Code = "not_found"       // no such thing of yours
	Conflict       Code = "conflict"        // the job session is closing
	RateLimited    Code = "rate_limited"    // too many, for now
	Unavailable    Code = "unavailable"     // a part we cannot do without is not there; nothing was made
	MintFailed     Code = "mint_failed"     // the target did not give the credential; what was made is taken back
	Internal       Code = "internal"        // a fault of ours
)

// Error is what the broker and the parts behind it return: a code and words
// for the caller, and a cause for the log. Public is shown to whoever called,
// so it never holds a secret, an unverified claim or a cause's text.
type Error struct {
	Code       Code
	Public     string        // what a person can act on
	Reason     string        // one internal word for metrics and the journal; never from a token; default: the code
	RetryAfter time.Duration // 0: retrying the same request will not help
	Denials    []Denial      // for Denied, and only for a caller whose pinned ids matched a rule
	Err        error         // the cause, for our log
}

// Error returns code, public text and cause.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Public != "" {
		s += ": " + e.Public
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, &Error{Code: c}) compare codes.
func (e *Error) Is(target error) bool {
	var t *Error
	return errors.As(target, &t) && t.Code == e.Code
}

// CodeOf returns the code of the first [*Error] in err's chain, and [Internal]
// where there is none: what we did not foresee is a fault of ours.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}

// ReasonOf returns the internal word for err: for metrics and the journal.
func ReasonOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Reason != "" {
		return e.Reason
	}
	return string(CodeOf(err))
}

// fail builds an [*Error]; cause may be nil.
func fail(code Code, cause error, format string, args ...any) *Error {
	return &Error{Code: code, Public: fmt.Sprintf(format, args...), Err: cause}
}

// TooManyLive refuses, as [RateLimited], what would pass a cap on live leases.
// of says whose cap it is, and is shown: "this repository", or a grant.
func TooManyLive(of string) *Error {
	return &Error{Code: RateLimited, Reason: "too_many_live", RetryAfter: retrySoon,
		Public: of + " has as many live credentials as it may have; give some back or wait until they expire"}
}

// Sentinels that the parts behind the interfaces return (wrapped or as is).
var (
	// ErrTokenUsed: the token, or another encoding of it, was claimed before.
	ErrTokenUsed = &Error{Code: TokenReused, Public: "this CI token has been used; a token buys one exchange"}
	// ErrNoLease: no such lease, or not yours.
	ErrNoLease = &Error{Code: NotFound, Public: "no such lease"}
	// ErrNoSession: no such job session.
	ErrNoSession = &Error{Code: SessionExpired, Reason: "session_unknown", Public: "the job session is not known or has ended; exchange a fresh CI token"}
	// ErrClosing: the job session is being given back.
	ErrClosing = &Error{Code: Conflict, Public: "the job session is closing"}
	// ErrReused: somebody else offered the CI token of the job session.
	ErrReused = &Error{Code: Conflict, Reason: "session_reused",
		Public: "the CI token of this job session was offered by somebody else too, so nothing more is given for it; what it has can be given back. Tell your security team, and start a new job"}
	// ErrOtherServer: the target is another server than the one that the
	// lease is of, so that nothing was done and "not found" means nothing.
	ErrOtherServer = errors.New("the lease is of another server")
	// ErrExpiresOnly: the credential cannot be taken back; it ends by itself.
	ErrExpiresOnly = errors.New("cannot be taken back, expires by itself")
)
