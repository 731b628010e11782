package daypass

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code is the stable word for what went wrong.
type Code string

// The codes that a broker answers with, and three of the client's own.
const (
	BadRequest     Code = "bad_request"     // the request is malformed; nothing was touched
	TokenInvalid   Code = "token_invalid"   // not a token the broker trusts
	TokenExpired   Code = "token_expired"   // it was one
	TokenStale     Code = "token_stale"     // older than what replay protection can vouch for
	TokenReused    Code = "token_reused"    // the token has bought its one exchange
	SessionExpired Code = "session_expired" // the job session mints no more
	Denied         Code = "denied"          // policy says no; the token is not consumed
	NotFound       Code = "not_found"       // no such thing of yours
	Conflict       Code = "conflict"        // the job session is closing
	RateLimited    Code = "rate_limited"    // too many, for now
	Unavailable    Code = "unavailable"     // a part the broker needs is not there; nothing was made
	MintFailed     Code = "mint_failed"     // the target did not give the credential; Error.Session stays usable
	Internal       Code = "internal"        // a fault of the broker's

	NoAnswer   Code = "no_answer"   // no complete answer came; Error.Err says why
	NotDaypass Code = "not_daypass" // what answered does not speak as a broker does: a proxy, a wrong URL
	NoToken    Code = "no_token"    // the CI provider was asked for a token and gave none
)

// ErrNewJob is in the chain of errors that neither waiting nor asking again
// can mend: the job's only CI token is spent, stale or expired.
var ErrNewJob = errors.New("only a new job can help")

// ErrOutcomeUnknown is in the chain of an exchange that may have happened
// although no answer to it arrived, however often it was asked for again. What
// it made, if anything, expires by itself.
var ErrOutcomeUnknown = errors.New("whether the exchange happened is not known")

// Error is a refusal by the broker, or the lack of an answer from it.
type Error struct {
	Status     int           // of the HTTP answer; 0 where none came
	Code       Code          // what to act on
	Detail     string        // words of the broker's for a person; untrusted text, so escape it before a terminal or log sees it
	RequestID  string        // finds the request in the broker's log and journal
	Denials    []Denial      // for Denied, and only for a caller whom a rule knows
	RetryAfter time.Duration // 0: not told
	Session    *Session      // for MintFailed of an exchange: ask on with Credentials, or GiveBack
	Sent       bool          // the request may have reached the broker
	Err        error         // the cause, for NoAnswer and NotDaypass

	sealed *wireSealed // the session, until it is opened
}

// Denial is why one grant was refused.
type Denial struct {
	Grant  string     `json:"grant"`
	Rule   string     `json:"rule"`
	Failed []Mismatch `json:"failed"`
}

// Mismatch is one claim that kept a rule from matching.
type Mismatch struct {
	Claim  string `json:"claim"`
	Saw    any    `json:"saw"`              // nil: the token has no such claim
	Wanted any    `json:"wanted,omitempty"` // nil: the rule does not tell
}

// Error returns the code, the broker's words and the request id.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Code))
	if e.Detail != "" {
		fmt.Fprintf(&b, ": %s", e.Detail)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.RequestID != "" {
		fmt.Fprintf(&b, " (request %s)", e.RequestID)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first [*Error] in err's chain, and "" where
// there is none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}
