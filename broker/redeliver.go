package broker

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"fmt"
	"time"
)

// sealInfo binds sealed answers to what they are.
const sealInfo = "daypass/v1 exchange"

// sealer encrypts one answer to one client. The zero sealer seals nothing:
// there is no recipient.
type sealer struct {
	enc    []byte
	sender *hpke.Sender
	key    AnswerKey
	aad    []byte
}

// newSealer encapsulates to a recipient's key before anything is consumed, so
// that a key that cannot be used (too short, or of low order) is refused while
// the token is still good. token names what is answered and is authenticated
// with the answer.
func newSealer(recipient []byte, token TokenID) (sealer, error) {
	if len(recipient) == 0 {
		return sealer{}, nil
	}
	bad := func(err error) error {
		return fail(BadRequest, err, "recipient_key must be an X25519 public key: 32 bytes in base64url, not of low order")
	}
	public, err := ecdh.X25519().NewPublicKey(recipient)
	if err != nil {
		return sealer{}, bad(err)
	}
	key, err := hpke.NewDHKEMPublicKey(public)
	if err != nil {
		return sealer{}, bad(err)
	}
	enc, sender, err := hpke.NewSender(key, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte(sealInfo))
	if err != nil {
		return sealer{}, bad(err)
	}
	return sealer{enc: enc, sender: sender, key: NewAnswerKey(token, OwnerOf(recipient)), aad: token[:]}, nil
}

// none reports whether there is no recipient.
func (s sealer) none() bool { return s.sender == nil }

// redeliver finds the answer that a client lost: step 3 of an exchange. Nothing
// is minted twice, and the answer is the same ciphertext as before.
func (b *Broker) redeliver(ctx context.Context, s sealer, id Identity, r Request) (*Sealed, error) {
	if s.none() || r.DryRun {
		return nil, nil
	}
	kept, err := b.answers.Kept(ctx, s.key)
	switch {
	case errors.Is(err, ErrNoAnswer):
		return nil, nil
	case err != nil:
		return nil, asError(err, Unavailable, "it cannot be found out whether this was answered before")
	}
	b.toldAgain(ctx, id, r, kept.Request)
	return &kept, nil
}

// toldAgain counts and journals that a client that lost an answer got it again;
// first is the request that it answers, if that is known.
func (b *Broker) toldAgain(ctx context.Context, id Identity, r Request, first string) {
	b.meter.Exchanged(id.Issuer, "redelivered")
	rec := about(EventAgain, b.now(), r.ID, id, "")
	rec.Detail = first
	b.tellSome(ctx, id, rec)
}

// seal turns an answer into what only its client can open, and keeps it for a
// while. That it cannot be kept does not take the answer from the client that
// is waiting for it.
func (b *Broker) seal(ctx context.Context, s sealer, answer Answer, failed *Failure) (Answer, error) {
	if s.none() {
		return answer, nil
	}
	plain, err := b.encode(answer)
	if err != nil {
		return Answer{}, fmt.Errorf("encode the answer: %w", err)
	}
	ciphertext, err := s.sender.Seal(s.aad, plain)
	if err != nil {
		return Answer{}, fmt.Errorf("seal the answer: %w", err)
	}
	sealed := Sealed{Request: answer.Request, Enc: s.enc, Ciphertext: ciphertext, Failed: failed}
	if err := b.answers.Keep(ctx, s.key, sealed, AnswerLife); err != nil {
		b.log.Warn("the answer could not be kept; it cannot be fetched again", "request", answer.Request, "err", err)
	}
	answer.Sealed = &sealed
	return answer, nil
}

// sealFailed seals the job session that an exchange opened and got nothing for,
// and keeps it like an answer: whoever loses the error would have lost the token
// as well. The client that is waiting gets the session in any case.
func (b *Broker) sealFailed(ctx context.Context, p *plan, answer Answer, failed error) Answer {
	if p.token.IsZero() || p.seal.none() {
		return answer
	}
	e := asError(failed, MintFailed, "nothing was issued")
	sealed, err := b.seal(ctx, p.seal, answer, &Failure{Code: e.Code, Reason: ReasonOf(e), Public: e.Public})
	if err != nil {
		b.log.Error("the job session of a failed exchange could not be sealed", "request", answer.Request, "err", err)
		return answer
	}
	return sealed
}

// usedAgain is what becomes of a token that was claimed before. Its own client
// is told to wait for the answer that is being made; anybody else is an alarm.
func (b *Broker) usedAgain(ctx context.Context, id Identity, owner Owner, err error) error {
	used, ok := errors.AsType[*Used](err)
	if !ok {
		return err
	}
	if !owner.IsZero() && used.Owner == owner {
		if !used.At.IsZero() && b.now().Sub(used.At) < b.mintEnds() {
			return &Error{Code: Unavailable, Reason: "being_answered", RetryAfter: time.Second,
				Public: "this exchange is under way; ask again with the same token and key"}
		}
		return err
	}
	b.log.Warn("a used token was offered again by somebody else", "issuer", id.Issuer, "token", id.Token, "place", id.Place())
	if used.Session != "" {
		b.alarm(ctx, id, used.Session)
	}
	return err
}

// alarm does what the grants of a job session say about a token of it that is in
// two hands, of which we cannot know which is the thief's. The session hears of
// it first: from then on what is only just being bought is not had, and what is
// to be taken back is due, so that a sweeper ends what we do not get to. So one
// alarm is enough, and the next costs a look.
func (b *Broker) alarm(ctx context.Context, id Identity, session SessionID) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), b.revokeTimeout)
	defer done()
	s, err := b.sessions.Session(ctx, session)
	if err == nil && s.Reused {
		return
	}
	if s, err = b.alarms.Alarm(ctx, session, id.Expires, b.now()); err != nil {
		b.log.Error("the job session of a reused token cannot be told, so what it has is not taken back", "err", err)
		return
	}
	rec := about(EventAlarm, b.now(), "", id, "")
	rec.Session, rec.Reason = &Session{ID: s.ID, Reused: true, OnReuse: s.OnReuse}, "token_reused"
	b.tell(ctx, rec)
	leases, err := b.book.List(ctx, LeaseFilter{Session: session})
	if err != nil {
		b.log.Error("what a reused token bought cannot be listed; sweepers take it back", "err", err)
		return
	}
	for _, l := range leases {
		if l.Grant.OnReuse == OnReuseRevoke && l.State != LeaseRevoking {
			b.revoke(ctx, l, l.Request, "token_reused")
		}
	}
}

// idempotent names a request on a job session for replay protection and kept
// answers.
func idempotent(session SessionID, key string) TokenID {
	return NewTokenID("daypass session "+string(session), key)
}

// onceLife is how long an Idempotency-Key is remembered as used: longer than its
// answer is kept.
const onceLife = 2 * AnswerLife

// claimRequest makes sure that a request with an idempotency key is made once;
// zero if there is none.
func (b *Broker) claimRequest(ctx context.Context, s Session, once TokenID) error {
	if once.IsZero() {
		return nil
	}
	now := b.now()
	owner := OwnerOf(s.Recipient)
	err := b.replay.Claim(ctx, Claim{Token: once, IssuedAt: now, Until: now.Add(onceLife), Owner: owner, Session: s.ID})
	switch {
	case err == nil:
		return nil
	case CodeOf(err) == TokenReused:
		err = b.usedAgain(ctx, s.For, owner, err)
		if CodeOf(err) == TokenReused {
			return &Error{Code: Conflict, Reason: "idempotency_key_used", Err: err,
				Public: "this Idempotency-Key was used, and its answer is kept no longer; use another"}
		}
		return err
	case CodeOf(err) == TokenStale:
		return &Error{Code: Unavailable, Reason: "replay_store", RetryAfter: retrySoon, Err: err,
			Public: "it could not be made sure that this request is made once"}
	}
	return asError(err, Unavailable, "it could not be made sure that this request is made once")
}
