package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/daypass-dev/daypass/broker"
)

func TestAnErrorHasOneCode(t *testing.T) {
	denied := &broker.Error{Code: broker.Denied, Reason: "other_job"}
	for name, c := range map[string]struct {
		err    error
		code   broker.Code
		reason string
	}{
		"as it is":                    {denied, broker.Denied, "other_job"},
		"wrapped":                     {fmt.Errorf("exchange: %w", denied), broker.Denied, "other_job"},
		"joined":                      {errors.Join(errors.New("x"), denied), broker.Denied, "other_job"},
		"the outer one of two":        {&broker.Error{Code: broker.MintFailed, Err: denied}, broker.MintFailed, "mint_failed"},
		"its reason is its code":      {&broker.Error{Code: broker.TokenStale}, broker.TokenStale, "token_stale"},
		"none: it is a fault of ours": {errors.New("x"), broker.Internal, "internal"},
		"a context's":                 {context.DeadlineExceeded, broker.Internal, "internal"},
		"a sentinel":                  {broker.ErrNoSession, broker.SessionExpired, "session_unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := broker.CodeOf(c.err); got != c.code {
				t.Errorf("its code is %s, want %s", got, c.code)
			}
			if got := broker.ReasonOf(c.err); got != c.reason {
				t.Errorf("its reason is %s, want %s", got, c.reason)
			}
		})
	}
}

func TestErrorsAreComparedByCode(t *testing.T) {
	err := fmt.Errorf("claim: %w", &broker.Error{Code: broker.TokenReused, Public: "other words"})
	if !errors.Is(err, broker.ErrTokenUsed) {
		t.Error("the same code is another error")
	}
	if errors.Is(err, broker.ErrNoLease) || errors.Is(err, broker.ErrExpiresOnly) || errors.Is(errors.New("x"), broker.ErrTokenUsed) {
		t.Error("another code is the same error")
	}
	if cause := errors.New("cause"); !errors.Is(&broker.Error{Code: broker.Internal, Err: cause}, cause) {
		t.Error("the cause is lost")
	}
}

func TestAnErrorTellsAllToTheLog(t *testing.T) {
	for want, err := range map[string]error{
		"denied":                    &broker.Error{Code: broker.Denied},
		"denied: no":                &broker.Error{Code: broker.Denied, Public: "no"},
		"unavailable: later: cause": &broker.Error{Code: broker.Unavailable, Public: "later", Err: errors.New("cause")},
		"unavailable: cause":        &broker.Error{Code: broker.Unavailable, Err: errors.New("cause")},
	} {
		if err.Error() != want {
			t.Errorf("it says %q, want %q", err, want)
		}
	}
}
