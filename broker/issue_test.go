package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// A mishap is one step that fails after the token may be spent, and what has
// to come of it.
type mishap struct {
	at      string // the step that fails
	err     error  // with this; errBroken if nil
	code    broker.Code
	outcome string // as it is counted
	session bool   // a session is handed out, and works
	undone  string // the reason in the journal's undone record; none if empty
}

var mishaps = map[string]mishap{
	"the token was used": {at: "claim", err: broker.ErrTokenUsed,
		code: broker.TokenReused, outcome: "token_reused"},
	"the token is older than the store can vouch for": {at: "claim", err: &broker.Error{Code: broker.TokenStale, RetryAfter: time.Second},
		code: broker.TokenStale, outcome: "token_stale"},
	"the token is from the store's future": {at: "claim", err: &broker.Error{Code: broker.TokenInvalid, RetryAfter: time.Second},
		code: broker.TokenInvalid, outcome: "token_invalid"},
	"the store of used tokens is away": {at: "claim", err: &broker.Error{Code: broker.Unavailable, RetryAfter: time.Second},
		code: broker.Unavailable, outcome: "unavailable"},
	"the store of used tokens fails without a code": {at: "claim",
		code: broker.Unavailable, outcome: "unavailable"},
	"the token was claimed and the answer lost": {at: "late claim",
		code: broker.Unavailable, outcome: "unavailable"},
	"the intent was journalled and the answer lost": {at: "late intent",
		code: broker.Unavailable, outcome: "journal_intent"},
	"what was issued was journalled and the answer lost": {at: "late issued",
		code: broker.Unavailable, outcome: "journal_issued", session: true, undone: "journal_issued"},
	"the intent cannot be journalled": {at: "intent",
		code: broker.Unavailable, outcome: "journal_intent"},
	"the session cannot be stored": {at: "start",
		code: broker.Unavailable, outcome: "unavailable", undone: "session_start"},
	"the session was stored and the answer lost": {at: "late start",
		code: broker.Unavailable, outcome: "unavailable", undone: "session_start"},
	"the leases cannot be opened": {at: "open",
		code: broker.Unavailable, outcome: "unavailable", session: true, undone: "lease_open"},
	"the leases were opened and the answer lost": {at: "late open",
		code: broker.Unavailable, outcome: "unavailable", session: true, undone: "lease_open"},
	"a cap would be passed": {at: "open", err: &broker.Error{Code: broker.RateLimited, Reason: "too_many_live"},
		code: broker.RateLimited, outcome: "too_many_live", session: true, undone: "lease_open"},
	"the first grant cannot be minted": {at: "mint db",
		code: broker.MintFailed, outcome: "mint_failed", session: true, undone: "mint"},
	"the second grant cannot be minted": {at: "mint queue",
		code: broker.MintFailed, outcome: "mint_failed", session: true, undone: "mint"},
	"a target answers with a code of its own": {at: "mint queue", err: &broker.Error{Code: broker.Denied, Public: "password of admin is hunter2"},
		code: broker.MintFailed, outcome: "mint_failed", session: true, undone: "mint"},
	"the leases cannot be activated": {at: "activate",
		code: broker.Unavailable, outcome: "unavailable", session: true, undone: "activate"},
	"the leases were activated and the answer lost": {at: "late activate",
		code: broker.Unavailable, outcome: "unavailable", session: true, undone: "activate"},
	"a lease is no longer pending": {at: "activate", err: broker.ErrClosing,
		code: broker.Conflict, outcome: "conflict", session: true, undone: "activate"},
	"what was issued cannot be journalled": {at: "issued",
		code: broker.Unavailable, outcome: "journal_issued", session: true, undone: "journal_issued"},
}

// TestAMishapIsUndone holds, for each step after the claim: the right word for
// the caller, all grants or none, nothing left in targets or books, and the
// session usable where there is one.
func TestAMishapIsUndone(t *testing.T) {
	for name, m := range mishaps {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.course.breaks(m.at, orBroken(m.err))
			token := r.token(job("1", "job-1"))
			answer, err := r.Exchange(context.Background(), token, ask("db", "queue"))
			r.course.breaks(m.at, nil)

			e := r.refused(err, m.code)
			if strings.Contains(e.Public, "hunter2") || strings.Contains(e.Public, errBroken.Error()) {
				t.Errorf("the public text tells the cause: %s", e.Public)
			}
			if len(answer.Granted) != 0 {
				t.Errorf("it hands out %v", answer.Granted)
			}
			if n := r.tally.of("exchanged ci " + m.outcome); n != 1 {
				t.Errorf("it is counted as %v, want %s", r.tally.counts, m.outcome)
			}
			r.nothingIsLeft()
			checkUndone(t, r, m.undone)
			if n := len(r.journal.of(broker.EventIssued)); n != 0 && m.at != "late issued" {
				t.Error("it is journalled as issued")
			}
			checkSession(t, r, answer, m.session)
			if m.at != "claim" && !r.spent(token) {
				t.Error("the token can be used again")
			}
			r.noSecretIsWritten(answer.Token)
		})
	}
}

func orBroken(err error) error {
	if err == nil {
		return errBroken
	}
	return err
}

// checkUndone looks for the one record that says why what was begun is gone.
func checkUndone(t *testing.T, r *rig, reason string) {
	t.Helper()
	undone := r.journal.of(broker.EventUndone)
	if reason == "" {
		if len(undone) != 0 {
			t.Errorf("something is journalled as undone: %+v", undone)
		}
		return
	}
	if len(undone) != 1 || undone[0].Reason != reason || len(undone[0].Leases) != 2 {
		t.Errorf("journalled as undone: %+v, want both leases because of %s", undone, reason)
	}
	if len(r.journal.of(broker.EventIntent)) != 1 {
		t.Error("it is undone, and there was no intent")
	}
}

// checkSession buys with the session, now that all is well again.
func checkSession(t *testing.T, r *rig, answer broker.Answer, want bool) {
	t.Helper()
	if !want {
		if !answer.Token.IsZero() {
			t.Error("a session is handed out that is not there")
		}
		return
	}
	more, err := r.More(context.Background(), answer.Token, ask("db", "queue"))
	if err != nil || len(more.Granted) != 2 {
		t.Fatalf("the session buys nothing: %v", err)
	}
	r.booksAreRight()
}

// TestAMishapOfMoreIsUndone is the same for what a session asks for: it is not
// ended by it.
func TestAMishapOfMoreIsUndone(t *testing.T) {
	for name, m := range mishaps {
		if !m.session && m.at != "intent" {
			continue // a step of exchanges only
		}
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			first := r.exchange("db")
			r.course.breaks(m.at, orBroken(m.err))
			answer, err := r.More(context.Background(), first.Token, ask("db", "queue"))
			r.course.breaks(m.at, nil)
			r.refused(err, m.code)
			if len(answer.Granted) != 0 {
				t.Errorf("it hands out %v", answer.Granted)
			}
			if r.left.left() != 1 || r.right.left() != 0 || len(r.leases()) != 1 {
				t.Errorf("%d and %d keys, %d leases are left; want what was there before", r.left.left(), r.right.left(), len(r.leases()))
			}
			undone := r.journal.of(broker.EventUndone)
			if (m.undone != "") != (len(undone) == 1) {
				t.Errorf("journalled as undone: %+v", undone)
			}
			checkSession(t, r, first, true)
		})
	}
}

// TestTheTokenIsSpentSoRetryingIsNotAdvised: whoever sends the same token again
// is told that it was used, so no Retry-After may ask for that.
func TestTheTokenIsSpentSoRetryingIsNotAdvised(t *testing.T) {
	for name, m := range mishaps {
		if m.at == "claim" || m.at == "late claim" {
			continue // the token may be good
		}
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.course.breaks(m.at, orBroken(m.err))
			_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db", "queue"))
			if e := r.refused(err, m.code); e.RetryAfter != 0 {
				t.Errorf("retry after %v", e.RetryAfter)
			}
		})
	}
}

// TestWhatCannotBeUndoneIsLeftToTheSweeper breaks the way back as well: then
// the lease stays, and the sweeper has it as soon as the target answers.
func TestWhatCannotBeUndoneIsLeftToTheSweeper(t *testing.T) {
	for _, at := range []string{"mint db", "mint queue", "late open", "activate", "late activate", "issued"} {
		t.Run("after "+at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.course.breaks(at, errBroken)
				r.course.breaks("revoke db", errors.New("target is down"))
				r.course.breaks("close", errors.New("store is down"))
				answer, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db", "queue"))
				if err == nil || len(answer.Granted) != 0 {
					t.Fatalf("it answers %+v", answer)
				}
				r.booksAreRight()
				if r.right.left() != 0 {
					t.Error("the target that is up was not rid of its key")
				}
				for _, step := range []string{at, "revoke db", "close"} {
					r.course.breaks(step, nil)
				}
				r.sweepUntil(30*time.Second, r.clean)
				r.nothingIsLeft()
			})
		})
	}
}

// TestABrokerThatCrashedLeavesNothing stops all work of one broker at each
// step; another one on the same stores and targets cleans up after it.
func TestABrokerThatCrashedLeavesNothing(t *testing.T) {
	for _, at := range []string{"claim", "late claim", "intent", "late intent", "start", "late start", "open", "late open", "mint db", "mint queue", "activate", "late activate", "issued", "late issued"} {
		t.Run("at "+at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				crash := make(chan struct{})
				r.course.meanwhile(at, func(context.Context) error { <-crash; panic("crashed") })
				gone := make(chan any)
				go func() {
					defer func() { gone <- recover() }()
					_, _ = r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db", "queue"))
				}()
				synctest.Wait()
				close(crash)
				if why := <-gone; why != "crashed" {
					t.Fatalf("it did not crash: %v", why)
				}
				r.course.meanwhile(at, nil)
				limit := time.Minute
				if at == "late activate" || at == "issued" || at == "late issued" {
					limit = time.Hour + 30*time.Second // active leases run their course
				}
				r.sweepUntil(limit, r.clean)
				r.nothingIsLeft()
			})
		})
	}
}

// TestASessionGivenBackDuringAMintWins: what is minted meanwhile is undone.
func TestASessionGivenBackDuringAMintWins(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange()
	var outcomes []broker.Outcome
	r.course.meanwhile("mint db", func(ctx context.Context) error {
		var err error
		outcomes, err = r.GiveBack(ctx, first.Token, "req_back")
		return err
	})
	answer, err := r.More(context.Background(), first.Token, ask("db", "queue"))
	r.refused(err, broker.Conflict)
	if len(answer.Granted) != 0 {
		t.Errorf("it hands out %v", answer.Granted)
	}
	if len(outcomes) != 2 || outcomes[0].State != broker.StateRevoking || outcomes[1].State != broker.StateRevoking {
		t.Errorf("giving back says %+v", outcomes)
	}
	r.nothingIsLeft()
	_, err = r.More(context.Background(), first.Token, ask("db"))
	if err == nil {
		t.Error("the session still buys")
	}
}

// TestALeaseRevokedDuringItsMintIsNotHandedOut is the operator who is faster
// than the target.
func TestALeaseRevokedDuringItsMintIsNotHandedOut(t *testing.T) {
	r := newRig(t, nil)
	r.course.meanwhile("mint db", func(ctx context.Context) error {
		_, err := r.RevokeLease(ctx, r.leases()[0].ID, broker.Act{Request: "req_op", By: "operator"})
		return err
	})
	answer, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db"))
	r.refused(err, broker.Conflict)
	if len(answer.Granted) != 0 {
		t.Errorf("it hands out %v", answer.Granted)
	}
	r.nothingIsLeft()
}

// TestASweepDuringAMintDoesNotHandOutWhatIsGone is another broker whose clock runs
// ahead: it takes a mint under way for one that was abandoned.
func TestASweepDuringAMintDoesNotHandOutWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *broker.Config) { c.MintTimeout = 20 * time.Second })
		hasty, err := broker.New(r.config(func(c *broker.Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Minute) }
		}))
		if err != nil {
			t.Fatal(err)
		}
		r.course.meanwhile("mint db", func(ctx context.Context) error {
			hasty.SweepTarget(ctx, "left")
			return nil
		})
		answer, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db"))
		r.refused(err, broker.Conflict)
		if len(answer.Granted) != 0 {
			t.Errorf("it hands out %v", answer.Granted)
		}
		r.nothingIsLeft()
	})
}

// TestACredentialThatOnlyExpiresIsWithheldToo: a kind that only
// expires is withheld as well, and no lease of it stays for nobody.
func TestACredentialThatOnlyExpiresIsWithheldToo(t *testing.T) {
	r := newRig(t, nil)
	r.left.expiresOnly = true
	r.course.breaks("mint queue", errBroken)
	answer, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db", "queue"))
	r.refused(err, broker.MintFailed)
	if len(answer.Granted) != 0 || len(r.leases()) != 0 || r.right.left() != 0 {
		t.Errorf("it hands out %v, leases %v", answer.Granted, r.leases())
	}
}
