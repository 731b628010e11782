package broker_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"encoding/json"
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

func TestAReusedTokenTakesBackWhatItsGrantSays(t *testing.T) {
	r := newRig(t, nil)
	r.statute.change(func(p *statute) {
		g := p.grants["db"]
		g.OnReuse = broker.OnReuseRevoke
		p.grants["db"] = g
	})
	token := r.token(job("1", "a"))
	if _, err := r.Exchange(t.Context(), token, sealedAsk(newRecipient(t), "db", "queue")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Exchange(t.Context(), token, sealedAsk(newRecipient(t), "db")); broker.CodeOf(err) != broker.TokenReused {
		t.Fatal(err)
	}
	if r.left.left() != 0 || r.right.left() != 1 {
		t.Errorf("left are %d keys that were to be taken back and %d that were not; want 0 and 1", r.left.left(), r.right.left())
	}
	if gone := r.journal.of(broker.EventRevoked); len(gone) != 1 || gone[0].Reason != "token_reused" {
		t.Errorf("journalled: %+v", gone)
	}
}

func TestAReuseWhileTheFirstIsBeingMintedTakesItBackToo(t *testing.T) {
	r := newRig(t, nil)
	r.statute.change(func(p *statute) {
		g := p.grants["db"]
		g.OnReuse = broker.OnReuseRevoke
		p.grants["db"] = g
	})
	token := r.token(job("1", "a"))
	var owners error
	r.course.meanwhile("mint db", func(ctx context.Context) error {
		_, owners = r.Exchange(ctx, token, sealedAsk(newRecipient(t), "db"))
		return nil
	})
	if a, err := r.Exchange(t.Context(), token, sealedAsk(newRecipient(t), "db")); err == nil || len(a.Granted) != 0 || a.Sealed != nil {
		t.Errorf("whoever came first got %+v %v, want nothing", a, err)
	}
	if broker.CodeOf(owners) != broker.TokenReused {
		t.Errorf("whoever came second: %v, want token_reused", owners)
	}
	if r.left.left() != 0 || len(r.leases()) != 0 {
		t.Errorf("%d keys and %d leases are left", r.left.left(), len(r.leases()))
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
