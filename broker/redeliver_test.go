package broker_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// recipient is a client's ephemeral key.
type recipient struct{ key *ecdh.PrivateKey }

func newRecipient(t testing.TB) recipient {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return recipient{key}
}

func (r recipient) public() []byte { return r.key.PublicKey().Bytes() }

// opens decrypts a sealed answer as RFC 9180 says.
func (r recipient) opens(s *broker.Sealed, aad broker.TokenID) (string, error) {
	key, err := hpke.NewDHKEMPrivateKey(r.key)
	if err != nil {
		return "", err
	}
	opener, err := hpke.NewRecipient(s.Enc, key, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte("daypass/v1 exchange"))
	if err != nil {
		return "", err
	}
	plain, err := opener.Open(aad[:], s.Ciphertext)
	return string(plain), err
}

// sealedAsk is an ask that carries a key.
func sealedAsk(to recipient, names ...string) broker.Request {
	r := ask(names...)
	r.Recipient = to.public()
	return r
}

// encodeInClear is what the tests' clients read: the session's token and the
// handles.
func encodeInClear(a broker.Answer) ([]byte, error) {
	var handles []string
	for _, g := range a.Granted {
		handles = append(handles, string(g.Lease.Handle))
	}
	return json.Marshal(map[string]any{"session": a.Token.Reveal(), "handles": handles})
}

func TestALostAnswerIsFetchedAgainAndNothingIsMintedTwice(t *testing.T) {
	r := newRig(t, nil)
	me := newRecipient(t)
	id := job("1", "a")
	token := r.token(id)
	first, err := r.Exchange(t.Context(), token, sealedAsk(me, "db", "queue"))
	if err != nil || first.Sealed == nil {
		t.Fatalf("%+v %v", first, err)
	}
	for range 3 {
		again, err := r.Exchange(t.Context(), token, sealedAsk(me, "db", "queue"))
		if err != nil || again.Sealed == nil || !bytes.Equal(again.Sealed.Ciphertext, first.Sealed.Ciphertext) || !bytes.Equal(again.Sealed.Enc, first.Sealed.Enc) {
			t.Fatalf("again: %+v %v", again, err)
		}
		if len(again.Granted) != 0 || !again.Token.IsZero() {
			t.Error("an answer that is fetched again carries something in clear")
		}
	}
	if n := r.left.left() + r.right.left(); n != 2 {
		t.Errorf("%d keys were made, want 2", n)
	}
	if n := len(r.journal.of(broker.EventAgain)); n != 3 {
		t.Errorf("%d redeliveries are journalled, want 3", n)
	}
	plain, err := me.opens(first.Sealed, whose(t, r, token))
	if err != nil || !strings.Contains(plain, "dps_") || !strings.Contains(plain, string(first.Granted[0].Lease.Handle)) {
		t.Errorf("opened: %q %v", plain, err)
	}
	if _, err := newRecipient(t).opens(first.Sealed, whose(t, r, token)); err == nil {
		t.Error("another key opens the answer")
	}
	if _, err := me.opens(first.Sealed, broker.TokenID{}); err == nil {
		t.Error("the answer opens under another token's name")
	}
}

func TestATokenInOtherHandsIsReusedWhateverKeyComesWithIt(t *testing.T) {
	r := newRig(t, nil)
	me := newRecipient(t)
	token := r.token(job("1", "a"))
	if _, err := r.Exchange(t.Context(), token, sealedAsk(me, "db")); err != nil {
		t.Fatal(err)
	}
	for sentence, stolen := range map[string]broker.Request{
		"another key": sealedAsk(newRecipient(t), "db"),
		"no key":      ask("db"),
	} {
		if a, err := r.Exchange(t.Context(), token, stolen); broker.CodeOf(err) != broker.TokenReused || a.Sealed != nil {
			t.Errorf("%s: %+v %v, want token_reused", sentence, a, err)
		}
	}
	if n := len(r.journal.of(broker.EventReused)); n != 2 {
		t.Errorf("%d reuses are noted, want 2", n)
	}
	// And an exchange without a key is strictly once, even for itself.
	plain := r.token(job("1", "b"))
	if _, err := r.Exchange(t.Context(), plain, ask("db")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Exchange(t.Context(), plain, ask("db")); broker.CodeOf(err) != broker.TokenReused {
		t.Errorf("a plain exchange again: %v", err)
	}
}

// guard makes a grant say that a reuse takes it back.
func (r *rig) guard(name string) {
	r.statute.change(func(p *statute) {
		g := p.grants[name]
		g.OnReuse = broker.OnReuseRevoke
		p.grants[name] = g
	})
}

// reused checks that a session is refused because its token was reused.
func (r *rig) reused(err error) {
	r.t.Helper()
	if e := r.refused(err, broker.Conflict); e.Reason != "session_reused" {
		r.t.Errorf("refused as %q: %v", e.Reason, e)
	}
}

func TestAReusedTokenEndsItsSessionAndTakesBackWhatItsGrantSays(t *testing.T) {
	r := newRig(t, nil)
	r.guard("db")
	ctx := t.Context()
	token := r.token(job("1", "a"))
	first, err := r.Exchange(ctx, token, sealedAsk(newRecipient(t), "db", "queue"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Exchange(ctx, token, sealedAsk(newRecipient(t), "db")); broker.CodeOf(err) != broker.TokenReused {
		t.Fatal(err)
	}
	if r.left.left() != 0 || r.right.left() != 1 {
		t.Errorf("left are %d keys that were to be taken back and %d that were not; want 0 and 1", r.left.left(), r.right.left())
	}
	if gone := r.journal.of(broker.EventRevoked); len(gone) != 1 || gone[0].Reason != "token_reused" {
		t.Errorf("journalled: %+v", gone)
	}
	// One of the two is the thief, so whoever holds the session gets no more of it.
	for _, names := range [][]string{{"db"}, {"queue"}, {}} {
		_, err = r.More(ctx, first.Token, ask(names...))
		r.reused(err)
	}
	dry := ask("queue")
	dry.DryRun = true
	_, err = r.More(ctx, first.Token, dry)
	r.reused(err)
	later := job("1", "a")
	later.Expires, later.KeepUntil = later.Expires.Add(time.Hour), later.KeepUntil.Add(time.Hour)
	fresh := r.token(later)
	_, err = r.Extend(ctx, first.Token, fresh, "req_ext")
	r.reused(err)
	if r.spent(fresh) {
		t.Error("a token that extended nothing is spent")
	}
	// And what it has it can give back, once for the journal.
	s, leases, err := r.Whoami(ctx, first.Token)
	if err != nil || s.Ended() == nil || len(leases) != 1 {
		t.Errorf("it is %+v with %d leases, %v", s, len(leases), err)
	}
	for i := range 3 {
		outcomes, err := r.GiveBack(ctx, first.Token, "req_back")
		if err != nil || i == 0 && stateOf(outcomes, "queue") != broker.StateRevoked {
			t.Errorf("give back: %+v %v", outcomes, err)
		}
	}
	if n := len(r.journal.of(broker.EventShut)); n != 1 || !r.clean() {
		t.Errorf("giving back is journalled %d times; all is gone: %t", n, r.clean())
	}
}

func TestALeaseOfASessionThatEndedByAReuseCanBeGivenBackAlone(t *testing.T) {
	r := newRig(t, nil)
	r.guard("db")
	token := r.token(job("1", "a"))
	first, err := r.Exchange(t.Context(), token, ask("db", "queue"))
	if err != nil {
		t.Fatal(err)
	}
	if r.spent(token) != true || r.right.left() != 1 {
		t.Fatal("the token was not offered again, or took back too much")
	}
	outcome, err := r.GiveBackLease(t.Context(), first.Token, first.Granted[1].Lease.ID, "req_back")
	if err != nil || outcome.State != broker.StateRevoked || r.right.left() != 0 {
		t.Errorf("%+v %v", outcome, err)
	}
}

// The attack: whoever stole the token opens a session and asks for nothing yet,
// so that the alarm finds nothing to take back.
func TestAThiefWhoAskedForNothingYetGetsNothingGuardedAfterTheAlarm(t *testing.T) {
	r := newRig(t, nil)
	r.guard("db")
	token := r.token(job("1", "a"))
	thief, err := r.Exchange(t.Context(), token, ask())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Exchange(t.Context(), token, sealedAsk(newRecipient(t), "db")); broker.CodeOf(err) != broker.TokenReused {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"db"}, {"queue", "db"}} {
		_, err = r.More(t.Context(), thief.Token, ask(names...))
		r.reused(err)
	}
	later := job("1", "a")
	later.Expires, later.KeepUntil = later.Expires.Add(time.Hour), later.KeepUntil.Add(time.Hour)
	if _, err := r.Extend(t.Context(), thief.Token, r.token(later), "req_ext"); err != nil {
		t.Fatal(err)
	}
	_, err = r.More(t.Context(), thief.Token, ask("db"))
	r.reused(err)
	offer := ask()
	offer.DryRun = true
	if a, err := r.More(t.Context(), thief.Token, offer); err != nil || slices.ContainsFunc(a.Decision.Permits, func(p broker.Permit) bool { return p.Grant.Name == "db" }) {
		t.Errorf("it is offered %+v, %v", a.Decision.Permits, err)
	}
	if _, err := r.More(t.Context(), thief.Token, ask("queue")); err != nil {
		t.Errorf("what no grant guards: %v", err)
	}
	// A session that got something guarded meanwhile, elsewhere, has ended.
	if r.left.left() != 0 {
		t.Errorf("%d keys are left", r.left.left())
	}
}

// The attack: the token is offered again at each moment of the first exchange,
// be it the thief's or not. What is guarded is had by nobody.
func TestAReuseAtAnyMomentOfTheFirstExchangeLeavesNothingGuarded(t *testing.T) {
	for _, at := range []string{"intent", "late intent", "start", "late start", "open", "late open", "mint queue", "mint db",
		"activate", "late activate", "issued", "late issued"} {
		t.Run(at, func(t *testing.T) {
			r := newRig(t, nil)
			r.guard("db")
			token := r.token(job("1", "a"))
			var second error
			r.course.meanwhile(at, func(ctx context.Context) error {
				_, second = r.Exchange(ctx, token, sealedAsk(newRecipient(t), "db"))
				return nil
			})
			a, err := r.Exchange(t.Context(), token, sealedAsk(newRecipient(t), "queue", "db"))
			if broker.CodeOf(second) != broker.TokenReused {
				t.Fatalf("whoever came second: %v, want token_reused", second)
			}
			if r.left.left() != 0 {
				t.Errorf("%d guarded keys are left; the first got %+v, %v", r.left.left(), a, err)
			}
			if err != nil && (len(a.Granted) != 0 || a.Sealed != nil || r.right.left() != 0) {
				t.Errorf("an exchange that failed with %v left %d keys, and answers %+v", err, r.right.left(), a)
			}
			if !a.Token.IsZero() {
				_, err = r.More(t.Context(), a.Token, ask("queue"))
				r.reused(err)
			}
		})
	}
}

func TestAnotherHundredOffersOfAReusedTokenCostALookEach(t *testing.T) {
	r := newRig(t, nil)
	r.guard("db")
	token := r.token(job("1", "a"))
	if _, err := r.Exchange(t.Context(), token, ask("db", "queue")); err != nil {
		t.Fatal(err)
	}
	r.spent(token)
	r.course.forget()
	for range 100 {
		r.spent(token)
	}
	if n, steps := len(r.journal.of(broker.EventAlarm)), r.course.of("alarm", "list", "revoke"); n != 1 || len(steps) != 0 {
		t.Errorf("%d alarms are journalled, and the later offers did %q", n, steps)
	}
}

func TestAnAlarmThatCouldNotBeToldIsRaisedByTheNextOffer(t *testing.T) {
	r := newRig(t, nil)
	r.guard("db")
	token := r.token(job("1", "a"))
	if _, err := r.Exchange(t.Context(), token, ask("db")); err != nil {
		t.Fatal(err)
	}
	r.course.breaks("alarm", errBroken)
	if !r.spent(token) || r.left.left() != 1 || len(r.journal.of(broker.EventAlarm)) != 0 {
		t.Fatal("the alarm did not fail")
	}
	r.course.breaks("alarm", nil)
	if !r.spent(token) || r.left.left() != 0 {
		t.Errorf("%d keys are left", r.left.left())
	}
}

// What the alarm's own broker could not take back is due, so a sweeper does.
func TestAnAlarmIsFinishedBySweepers(t *testing.T) {
	for _, at := range []string{"list", "revoke db"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.guard("db")
				token := r.token(job("1", "a"))
				if _, err := r.Exchange(t.Context(), token, ask("db")); err != nil {
					t.Fatal(err)
				}
				r.course.breaks(at, errBroken)
				r.spent(token)
				r.course.breaks(at, nil)
				if r.left.left() != 1 {
					t.Fatal("it was taken back all the same")
				}
				r.sweepUntil(30*time.Second, r.clean)
			})
		})
	}
}

func TestAKeyThatCannotBeSealedToDoesNotConsumeTheToken(t *testing.T) {
	r := newRig(t, nil)
	token := r.token(job("1", "a"))
	one := make([]byte, 32)
	one[0] = 1
	for sentence, key := range map[string][]byte{
		"of low order (0)": make([]byte, 32), "of low order (1)": one, "too short": make([]byte, 31), "too long": make([]byte, 33),
	} {
		request := ask("db")
		request.Recipient = key
		if _, err := r.Exchange(t.Context(), token, request); broker.CodeOf(err) != broker.BadRequest {
			t.Errorf("%s: %v, want bad_request", sentence, err)
		}
	}
	if _, err := r.Exchange(t.Context(), token, ask("db")); err != nil {
		t.Errorf("the token afterwards: %v", err)
	}
}

func TestAnAnswerThatIsBeingMadeIsAskedForAgain(t *testing.T) {
	r := newRig(t, nil)
	me := newRecipient(t)
	token := r.token(job("1", "a"))
	var during error
	r.course.meanwhile("mint db", func(ctx context.Context) error {
		_, during = r.Exchange(ctx, token, sealedAsk(me, "db"))
		return nil
	})
	first, err := r.Exchange(t.Context(), token, sealedAsk(me, "db"))
	if err != nil {
		t.Fatal(err)
	}
	var e *broker.Error
	if broker.CodeOf(during) != broker.Unavailable {
		t.Fatalf("while it was made: %v, want unavailable", during)
	}
	if e = during.(*broker.Error); e.RetryAfter != time.Second {
		t.Errorf("while it was made: retry after %v, want 1 s", e.RetryAfter)
	}
	again, err := r.Exchange(t.Context(), token, sealedAsk(me, "db"))
	if err != nil || !bytes.Equal(again.Sealed.Ciphertext, first.Sealed.Ciphertext) {
		t.Errorf("afterwards: %+v %v", again, err)
	}
}

func TestAKeptAnswerIsGoneAfterTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		me := newRecipient(t)
		token := r.token(job("1", "a"))
		if _, err := r.Exchange(t.Context(), token, sealedAsk(me, "db")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(broker.AnswerLife - time.Second)
		if a, err := r.Exchange(t.Context(), token, sealedAsk(me, "db")); err != nil || a.Sealed == nil {
			t.Errorf("just before: %+v %v", a, err)
		}
		time.Sleep(2 * time.Second)
		if _, err := r.Exchange(t.Context(), token, sealedAsk(me, "db")); broker.CodeOf(err) != broker.TokenReused {
			t.Errorf("just after: %v, want token_reused", err)
		}
	})
}

func TestARequestOnASessionIsMadeOnceUnderItsKey(t *testing.T) {
	r := newRig(t, nil)
	me := newRecipient(t)
	opened, err := r.Exchange(t.Context(), r.token(job("1", "a")), sealedAsk(me))
	if err != nil {
		t.Fatal(err)
	}
	more := func(key string) (broker.Answer, error) {
		request := ask("db")
		request.Idempotency = key
		return r.More(t.Context(), opened.Token, request)
	}
	first, err := more("step-1")
	if err != nil || first.Sealed == nil {
		t.Fatalf("%+v %v", first, err)
	}
	again, err := more("step-1")
	if err != nil || !bytes.Equal(again.Sealed.Ciphertext, first.Sealed.Ciphertext) {
		t.Errorf("again: %+v %v", again, err)
	}
	if r.left.left() != 1 {
		t.Errorf("%d keys, want 1", r.left.left())
	}
	other, err := more("step-2")
	if err != nil || bytes.Equal(other.Sealed.Ciphertext, first.Sealed.Ciphertext) || r.left.left() != 2 {
		t.Errorf("under another key: %+v %v, %d keys", other, err, r.left.left())
	}
	plain, err := r.Exchange(t.Context(), r.token(job("1", "b")), ask())
	if err != nil {
		t.Fatal(err)
	}
	request := ask("db")
	request.Idempotency = "step-1"
	if _, err := r.More(t.Context(), plain.Token, request); broker.CodeOf(err) != broker.BadRequest {
		t.Errorf("on a session without a key: %v, want bad_request", err)
	}
}

func TestALostMintFailedIsFetchedAgainWithItsSession(t *testing.T) {
	r := newRig(t, nil)
	me := newRecipient(t)
	token := r.token(job("1", "a"))
	r.course.breaks("mint db", errBroken)
	first, err := r.Exchange(t.Context(), token, sealedAsk(me, "queue", "db"))
	r.refused(err, broker.MintFailed)
	if first.Sealed == nil || len(first.Granted) != 0 {
		t.Fatalf("it answers %+v", first)
	}
	r.course.breaks("mint db", nil) // the target is well again, and still nothing is minted twice
	for range 3 {
		again, err := r.Exchange(t.Context(), token, sealedAsk(me, "queue", "db"))
		if e := r.refused(err, broker.MintFailed); e.Public == "" || e.RetryAfter != 0 {
			t.Errorf("again: %+v", e)
		}
		if again.Sealed == nil || !bytes.Equal(again.Sealed.Ciphertext, first.Sealed.Ciphertext) || !again.Token.IsZero() {
			t.Errorf("again: %+v", again)
		}
	}
	if r.left.left()+r.right.left() != 0 || len(r.journal.of(broker.EventAgain)) != 3 {
		t.Errorf("%d keys were made, and %d repetitions journalled", r.left.left()+r.right.left(), len(r.journal.of(broker.EventAgain)))
	}
	plain, err := me.opens(first.Sealed, whose(t, r, token))
	if err != nil || !strings.Contains(plain, first.Token.Reveal()) {
		t.Errorf("opened: %q %v", plain, err)
	}
	if _, err := r.Exchange(t.Context(), token, sealedAsk(newRecipient(t), "db")); broker.CodeOf(err) != broker.TokenReused {
		t.Errorf("with another key: %v", err)
	}
	if _, err := r.More(t.Context(), first.Token, ask("db")); err != nil {
		t.Errorf("the session: %v", err)
	}
	// Without a key it is as before: in clear, and once.
	r.course.breaks("mint db", errBroken)
	plainly, err := r.Exchange(t.Context(), r.token(job("1", "b")), ask("db"))
	r.refused(err, broker.MintFailed)
	if plainly.Sealed != nil || plainly.Token.IsZero() {
		t.Errorf("without a key it answers %+v", plainly)
	}
}

func TestTheJournalRemembersAnIdempotencyKeyAsUsed(t *testing.T) {
	r := newRig(t, nil)
	me := newRecipient(t)
	opened, err := r.Exchange(t.Context(), r.token(job("1", "a")), sealedAsk(me))
	if err != nil {
		t.Fatal(err)
	}
	request := ask("db")
	request.Idempotency = "step-1"
	if _, err := r.More(t.Context(), opened.Token, request); err != nil {
		t.Fatal(err)
	}
	intents := r.journal.of(broker.EventIntent)
	if claims := intents[0].Claimed(); len(claims) != 1 || claims[0].Token != opened.Session.For.Token || claims[0].Session != opened.Session.ID {
		t.Errorf("of the exchange it tells %+v", claims)
	}
	claims := intents[1].Claimed()
	if len(claims) != 2 {
		t.Fatalf("of the request it tells %+v", claims)
	}
	once := claims[1]
	if once.Token == opened.Session.For.Token || once.Owner != broker.OwnerOf(me.public()) || once.Session != opened.Session.ID {
		t.Errorf("of the key it tells %+v", once)
	}
	if life := once.Until.Sub(intents[1].At); life <= broker.AnswerLife {
		t.Errorf("it is remembered for %s, its answer for %s", life, broker.AnswerLife)
	}
	for _, rec := range r.journal.of(broker.EventIssued) {
		if !rec.Once.IsZero() {
			t.Error("it is told twice")
		}
	}
}

func TestTheJournalRemembersTheOwner(t *testing.T) {
	r := newRig(t, nil)
	me := newRecipient(t)
	if _, err := r.Exchange(t.Context(), r.token(job("1", "a")), sealedAsk(me, "db")); err != nil {
		t.Fatal(err)
	}
	if got := r.journal.of(broker.EventIntent)[0].Owner; got != broker.OwnerOf(me.public()) {
		t.Errorf("the intent's owner is %v", got)
	}
}

// whose names a token as replay protection does.
func whose(t *testing.T, r *rig, token broker.Secret) broker.TokenID {
	t.Helper()
	id, err := r.booth.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return id.Token
}
