package broker_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func TestASessionBuysMoreForTheSameJob(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db")
	r.course.forget()
	more, err := r.More(context.Background(), first.Token, ask("queue", "db"))
	if err != nil || len(more.Granted) != 2 {
		t.Fatalf("it answers %+v, %v", more, err)
	}
	if more.Session.ID != first.Session.ID || !more.Token.IsZero() {
		t.Errorf("it opens another session: %+v", more.Session)
	}
	if steps := r.course.of("verify", "claim", "start"); len(steps) != 0 {
		t.Errorf("it took %q", steps)
	}
	session, leases, err := r.Whoami(context.Background(), first.Token)
	if err != nil || session.ID != first.Session.ID || len(leases) != 3 {
		t.Errorf("it has %d leases, %v", len(leases), err)
	}
	for _, l := range leases {
		if l.Session != session.ID || l.Place != "ci/1" {
			t.Errorf("lease %+v is not its own", l)
		}
	}
}

// TestASessionIsDecidedAnew is promise 5 for sessions: no decision outlives the
// policy it was made under.
func TestASessionIsDecidedAnew(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db")
	r.statute.change(func(p *statute) { p.version = "v2"; delete(p.grants, "db") })
	answer, err := r.More(context.Background(), first.Token, ask("db"))
	r.refused(err, broker.Denied)
	if answer.Decision.Version != "v2" || len(answer.Granted) != 0 {
		t.Errorf("it answers %+v", answer)
	}
	r.statute.change(func(p *statute) { p.version, p.places = "v3", nil })
	if _, err := r.More(context.Background(), first.Token, ask("queue")); broker.CodeOf(err) != broker.Denied {
		t.Errorf("a job that is no longer known buys: %v", err)
	}
	r.statute.change(func(p *statute) { p.version, p.places = "v4", []string{"ci/1"} })
	answer, err = r.More(context.Background(), first.Token, ask("queue"))
	if err != nil || answer.Decision.Version != "v4" {
		t.Errorf("version %s, %v", answer.Decision.Version, err)
	}
}

func TestASessionIsDecidedFromItsOwnClaims(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange()
	stored, err := r.store.Sessions.Session(context.Background(), first.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	if want := job("1", "job-1").Claims; !reflect.DeepEqual(stored.For.Claims, want) {
		t.Errorf("the session has the claims %v, want %v", stored.For.Claims, want)
	}
}

func TestASessionThatDoesNotBuy(t *testing.T) {
	for name, c := range map[string]struct {
		before func(*rig, broker.Answer)
		token  func(broker.Answer) broker.Secret
		want   broker.Code
	}{
		"it never was": {token: func(broker.Answer) broker.Secret { return broker.NewSecret("dps_guessed") }, want: broker.SessionExpired},
		"no token":     {token: func(broker.Answer) broker.Secret { return broker.Secret{} }, want: broker.SessionExpired},
		"its id instead of its token": {token: func(a broker.Answer) broker.Secret { return broker.NewSecret(string(a.Session.ID)) },
			want: broker.SessionExpired},
		"it is as old as the CI token may get": {before: func(*rig, broker.Answer) { time.Sleep(time.Hour) }, want: broker.SessionExpired},
		"it is given back while a lease lives": {want: broker.Conflict, before: func(r *rig, a broker.Answer) {
			r.course.breaks("revoke db", errBroken)
			_, _ = r.GiveBack(context.Background(), a.Token, "req_back")
		}},
		"the store of sessions is away": {want: broker.Unavailable, before: func(r *rig, _ broker.Answer) { r.course.breaks("session", errBroken) }},
		"the journal cannot be written": {want: broker.Unavailable, before: func(r *rig, _ broker.Answer) { r.journal.close(errBroken) }},
		"it asks for nonsense":          {want: broker.BadRequest, before: func(r *rig, _ broker.Answer) {}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				first := r.exchange("db")
				if c.before != nil {
					c.before(r, first)
				}
				token := first.Token
				if c.token != nil {
					token = c.token(first)
				}
				r.course.forget()
				request := ask("db")
				if c.want == broker.BadRequest {
					request = ask("db", "db")
				}
				answer, err := r.More(context.Background(), token, request)
				r.refused(err, c.want)
				if steps := r.course.of("plan", "intent", "open", "mint"); len(steps) != 0 || len(answer.Granted) != 0 {
					t.Errorf("it went on to %q", steps)
				}
				if len(r.journal.of(broker.EventRefused)) != 1 {
					t.Error("the refusal was not noted")
				}
			})
		})
	}
}

func TestADryRunOfASessionDoesNothing(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange()
	r.course.forget()
	request := ask("db")
	request.DryRun = true
	answer, err := r.More(context.Background(), first.Token, request)
	if err != nil || !answer.DryRun || !answer.Decision.Allowed || len(answer.Granted) != 0 {
		t.Errorf("it answers %+v, %v", answer, err)
	}
	r.untouched()
}

func TestASessionIsExtendedByAFreshTokenOfItsJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		first := r.exchange()
		time.Sleep(50 * time.Minute)
		fresh := job("1", "job-1")
		fresh.Claims = broker.Claims{"ref": "refs/heads/later", "user_email": "other@example.com"}
		token := r.token(fresh)
		s, err := r.Extend(context.Background(), first.Token, token, "req_ext")
		if err != nil {
			t.Fatal(err)
		}
		if s.ID != first.Session.ID || !s.Expires.Equal(fresh.Expires) || !s.Expires.After(first.Session.Expires) {
			t.Errorf("the session is %+v", s)
		}
		time.Sleep(30 * time.Minute) // past the end of the first token
		if _, err := r.More(context.Background(), first.Token, ask("db")); err != nil {
			t.Errorf("the extended session buys nothing: %v", err)
		}
		stored, _, err := r.Whoami(context.Background(), first.Token)
		if ref, _ := stored.For.Claims.Lookup("ref"); err != nil || ref != "refs/heads/later" {
			t.Errorf("it is decided from old claims: %v, %v", ref, err)
		}
		if !r.spent(token) {
			t.Error("the token that extended it buys an exchange too")
		}
		if n := len(r.journal.of(broker.EventExtended)); n != 1 {
			t.Errorf("journalled %d times", n)
		}
	})
}

func TestASessionThatExpiredIsExtendedWhileALeaseLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		id := job("1", "job-1")
		id.Expires, id.KeepUntil = time.Now().Add(time.Minute), time.Now().Add(2*time.Minute)
		first, err := r.Exchange(context.Background(), r.token(id), ask("db"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		_, err = r.More(context.Background(), first.Token, ask("db"))
		r.refused(err, broker.SessionExpired)
		if _, err := r.Extend(context.Background(), first.Token, r.token(job("1", "job-1")), "req_ext"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.More(context.Background(), first.Token, ask("db")); err != nil {
			t.Errorf("it buys nothing: %v", err)
		}
	})
}

// TestATokenThatDoesNotExtend: the session stays what it was; where the token
// was not even claimed, it can still buy its exchange.
func TestATokenThatDoesNotExtend(t *testing.T) {
	for name, c := range map[string]struct {
		id     func() broker.Identity
		before func(*rig, broker.Answer, broker.Secret)
		want   broker.Code
		reason string
		spent  bool
	}{
		"it is of another job": {id: func() broker.Identity { return job("1", "job-2") }, want: broker.Denied, reason: "other_job"},
		"it is of another issuer": {want: broker.Denied, reason: "other_job", id: func() broker.Identity {
			id := job("1", "job-1")
			id.URL = "https://ci.example.org"
			return id
		}},
		"it names no job": {id: func() broker.Identity { return job("1", "") }, want: broker.Denied, reason: "other_job"},
		"it was used": {want: broker.TokenReused, spent: true, before: func(r *rig, _ broker.Answer, token broker.Secret) {
			if _, err := r.Exchange(context.Background(), token, ask()); err != nil {
				r.t.Fatal(err)
			}
		}},
		"it ends no later than the session does": {want: broker.BadRequest, reason: "not_longer", id: func() broker.Identity {
			id := job("1", "job-1")
			id.Expires = id.Expires.Add(-time.Minute)
			return id
		}},
		"it does not verify": {want: broker.TokenExpired, before: func(r *rig, _ broker.Answer, _ broker.Secret) {
			r.course.breaks("verify", &broker.Error{Code: broker.TokenExpired})
		}},
		"the session is closing": {want: broker.Conflict, before: func(r *rig, first broker.Answer, _ broker.Secret) {
			r.course.breaks("revoke db", errBroken)
			_, _ = r.GiveBack(context.Background(), first.Token, "req_back")
		}},
		"the store of sessions is away": {want: broker.Unavailable, before: func(r *rig, _ broker.Answer, _ broker.Secret) {
			r.course.breaks("session", errBroken)
		}},
		"the journal cannot be written": {want: broker.Unavailable, reason: "journal", before: func(r *rig, _ broker.Answer, _ broker.Secret) {
			r.journal.close(errBroken)
		}},
		"the store of used tokens is away": {want: broker.Unavailable, before: func(r *rig, _ broker.Answer, _ broker.Secret) {
			r.course.breaks("claim", &broker.Error{Code: broker.Unavailable})
		}},
		"the journal fails after the claim": {want: broker.Unavailable, reason: "journal", spent: true, before: func(r *rig, _ broker.Answer, _ broker.Secret) {
			r.course.breaks("extended", errBroken)
		}},
		"the store fails after the claim": {want: broker.Unavailable, spent: true, before: func(r *rig, _ broker.Answer, _ broker.Secret) {
			r.course.breaks("extend", errBroken)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			first := r.exchange("db")
			fresh := job("1", "job-1")
			if c.id != nil {
				fresh = c.id()
			}
			token := r.token(fresh)
			if c.before != nil {
				c.before(r, first, token)
			}
			s, err := r.Extend(context.Background(), first.Token, token, "req_ext")
			r.refused(err, c.want)
			if c.reason != "" && broker.ReasonOf(err) != c.reason {
				t.Errorf("the reason is %s, want %s", broker.ReasonOf(err), c.reason)
			}
			if s.ID != "" {
				t.Errorf("it answers %+v", s)
			}
			stored, err := r.store.Sessions.Session(context.Background(), first.Session.ID)
			if err != nil || !stored.Expires.Equal(first.Session.Expires) {
				t.Errorf("the session ends at %v and ended at %v, %v", stored.Expires, first.Session.Expires, err)
			}
			for _, step := range []string{"verify", "session", "claim", "extended", "extend"} {
				r.course.breaks(step, nil)
			}
			r.journal.close(nil)
			if spent := r.spent(token); spent != c.spent {
				t.Errorf("the token is spent: %v, want %v", spent, c.spent)
			}
		})
	}
}

func TestALostAnswerToAnExtensionIsAskedForAgain(t *testing.T) {
	r := newRig(t, nil)
	r.guard("db")
	first := r.exchange("db")
	longer := job("1", "job-1")
	longer.Expires, longer.KeepUntil = longer.Expires.Add(time.Hour), longer.KeepUntil.Add(time.Hour)
	token := r.token(longer)
	for range 3 {
		s, err := r.Extend(context.Background(), first.Token, token, "req_ext")
		if err != nil || !s.Expires.Equal(longer.Expires) {
			t.Fatalf("%+v %v", s, err)
		}
	}
	if n, m, alarms := len(r.journal.of(broker.EventExtended)), len(r.journal.of(broker.EventAgain)), len(r.journal.of(broker.EventAlarm)); n != 1 || m != 2 || alarms != 0 {
		t.Errorf("journalled are %d extensions, %d repetitions and %d alarms; want 1, 2 and 0", n, m, alarms)
	}
	if r.left.left() != 1 {
		t.Error("asking again took something back")
	}
	// With another session it is a used token like any other.
	id := job("1", "job-1")
	id.Expires = id.Expires.Add(-time.Minute)
	other, err := r.Exchange(context.Background(), r.token(id), ask())
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Extend(context.Background(), other.Token, token, "req_ext")
	r.refused(err, broker.TokenReused)
	if r.left.left() != 0 {
		t.Error("a token in two sessions is no alarm")
	}
}

// An extension that breaks off after the claim is finished by the same token,
// also without a key: who has the session is no stranger.
func TestAnExtensionThatBrokeOffIsFinishedByTheSameToken(t *testing.T) {
	for _, at := range []string{"late claim", "extended", "late extended", "extend", "late extend"} {
		t.Run(at, func(t *testing.T) {
			r := newRig(t, nil)
			r.guard("db")
			first := r.exchange("db")
			longer := job("1", "job-1")
			longer.Expires, longer.KeepUntil = longer.Expires.Add(time.Hour), longer.KeepUntil.Add(time.Hour)
			token := r.token(longer)
			r.course.breaks(at, errBroken)
			_, err := r.Extend(context.Background(), first.Token, token, "req_ext")
			r.refused(err, broker.Unavailable)
			r.course.breaks(at, nil)
			if _, err = r.Extend(context.Background(), first.Token, token, "req_ext"); err != nil {
				t.Fatal(err)
			}
			s, _, err := r.Whoami(context.Background(), first.Token)
			if err != nil || !s.Expires.Equal(longer.Expires) || s.Reused || r.left.left() != 1 {
				t.Errorf("it is %+v with %d keys, %v", s, r.left.left(), err)
			}
			if !r.spent(token) {
				t.Error("the token buys an exchange too")
			}
		})
	}
}

// The attack: a token that extended the session once is offered after a later
// one, to set the session back.
func TestAnOlderTokenOfTheSessionDoesNotSetItBack(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange()
	var tokens []broker.Secret
	for i := range 3 {
		id := job("1", "job-1")
		more := time.Duration(i+1) * time.Hour
		id.Expires, id.KeepUntil = id.Expires.Add(more), id.KeepUntil.Add(more)
		tokens = append(tokens, r.token(id))
		if _, err := r.Extend(context.Background(), first.Token, tokens[i], "req_ext"); err != nil {
			t.Fatal(err)
		}
	}
	for _, token := range tokens[:2] {
		_, err := r.Extend(context.Background(), first.Token, token, "req_ext")
		r.refused(err, broker.BadRequest)
	}
	if s, _, err := r.Whoami(context.Background(), first.Token); err != nil || time.Until(s.Expires) < 3*time.Hour {
		t.Errorf("it ends at %v, %v", s.Expires, err)
	}
}

// TestAClientThatHangsUpWhileExtending has its session extended all the same:
// its token is spent.
func TestAClientThatHangsUpWhileExtending(t *testing.T) {
	for _, at := range []string{"extended", "extend"} {
		t.Run("at "+at, func(t *testing.T) {
			r := newRig(t, nil)
			first := r.exchange()
			fresh := job("1", "job-1")
			fresh.Expires, fresh.KeepUntil = fresh.Expires.Add(time.Hour), fresh.KeepUntil.Add(time.Hour)
			ctx, hangUp := context.WithCancel(context.Background())
			r.course.meanwhile(at, func(context.Context) error { hangUp(); return nil })
			if _, err := r.Extend(ctx, first.Token, r.token(fresh), "req_ext"); err != nil {
				t.Error(err)
			}
			s, _, err := r.Whoami(context.Background(), first.Token)
			if err != nil || !s.Expires.Equal(fresh.Expires) {
				t.Errorf("it ends at %v, %v", s.Expires, err)
			}
		})
	}
}

// TestAStoreThatIsAwayIsUnavailable: an error without a code is the store's,
// and no fault of ours.
func TestAStoreThatIsAwayIsUnavailable(t *testing.T) {
	away := errors.New("dial tcp 127.0.0.1:6379: connection refused")
	ctx := context.Background()
	for name, c := range map[string]struct {
		at string
		do func(*rig, broker.Answer) error
	}{
		"more": {"session", func(r *rig, a broker.Answer) error { _, err := r.More(ctx, a.Token, ask("db")); return err }},
		"extend": {"session", func(r *rig, a broker.Answer) error {
			_, err := r.Extend(ctx, a.Token, r.token(job("1", "job-1")), "req")
			return err
		}},
		"whoami":              {"session", func(r *rig, a broker.Answer) error { _, _, err := r.Whoami(ctx, a.Token); return err }},
		"whoami's leases":     {"list", func(r *rig, a broker.Answer) error { _, _, err := r.Whoami(ctx, a.Token); return err }},
		"give back":           {"session", func(r *rig, a broker.Answer) error { _, err := r.GiveBack(ctx, a.Token, "req"); return err }},
		"give back, shutting": {"closing", func(r *rig, a broker.Answer) error { _, err := r.GiveBack(ctx, a.Token, "req"); return err }},
		"give back, listing":  {"list", func(r *rig, a broker.Answer) error { _, err := r.GiveBack(ctx, a.Token, "req"); return err }},
		"give back a lease": {"session", func(r *rig, a broker.Answer) error {
			_, err := r.GiveBackLease(ctx, a.Token, a.Granted[0].Lease.ID, "req")
			return err
		}},
		"give back a lease, its record": {"lease", func(r *rig, a broker.Answer) error {
			_, err := r.GiveBackLease(ctx, a.Token, a.Granted[0].Lease.ID, "req")
			return err
		}},
		"an operator revokes": {"lease", func(r *rig, a broker.Answer) error {
			_, err := r.RevokeLease(ctx, a.Granted[0].Lease.ID, broker.Act{Request: "req", By: "op"})
			return err
		}},
		"an operator lists": {"list", func(r *rig, a broker.Answer) error { _, err := r.Leases(ctx, broker.LeaseFilter{}); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			answer := r.exchange("db")
			r.course.breaks(c.at, away)
			r.refused(c.do(r, answer), broker.Unavailable)
		})
	}
}
