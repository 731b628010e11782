package issuers

import (
	"cmp"
	"errors"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// What a caller is told. No word of a token is repeated, and most refusals
// share one text: a forger learns nothing from the rung that stopped him.
const (
	publicInvalid     = "the CI token is not valid here"
	publicIssuer      = "the CI token is not from a CI provider that this broker trusts"
	publicExpired     = "the CI token has expired; ask your CI provider for a fresh one"
	publicEarly       = "the CI token is not valid yet; check the clocks"
	publicLife        = "the CI token lives longer than this broker accepts; shorten the job's time-out, or ask the operator to raise max_token_life"
	publicNotJob      = "the token is signed by the CI provider, but it is not the ID token of a job"
	publicUnavailable = "the CI provider's keys cannot be had at the moment; try again later"
)

// retryKeys is when to come back if an issuer cannot be reached.
const retryKeys = 10 * time.Second

// refuse is one rung of the ladder saying no. reason is a fixed word.
func refuse(reason string) *broker.Error {
	return &broker.Error{Code: broker.TokenInvalid, Public: publicInvalid, Reason: reason}
}

// refuseFor is refuse with a cause for our log, which must not hold anything
// of the token either.
func refuseFor(reason string, cause error) *broker.Error {
	e := refuse(reason)
	e.Err = cause
	return e
}

// refuseSaying is refuse with words that help an honest caller.
func refuseSaying(reason, public string) *broker.Error {
	e := refuse(reason)
	e.Public = public
	return e
}

// unavailable says that an issuer's keys cannot be had.
func unavailable(reason string, cause error) *broker.Error {
	return &broker.Error{Code: broker.Unavailable, Public: publicUnavailable, Reason: reason,
		RetryAfter: retryKeys, Err: cmp.Or(cause, errors.New("never fetched"))}
}
