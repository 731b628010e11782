package broker

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"time"
)

// SessionID names a job session by the SHA-256 of its token: whoever reads the
// store or the journal cannot act for the job.
type SessionID string

const sessionPrefix = "dps_"

// NewSessionToken draws a job session's token (256 random bits) and its id.
func NewSessionToken(random io.Reader) (Secret, SessionID, error) {
	b := make([]byte, 32)
	if _, err := io.ReadFull(random, b); err != nil {
		return Secret{}, "", fmt.Errorf("draw job session token: %w", err)
	}
	token := NewSecret(sessionPrefix + base64.RawURLEncoding.EncodeToString(b))
	return token, SessionIDOf(token), nil
}

// SessionIDOf returns the id under which the session of a token is stored.
func SessionIDOf(token Secret) SessionID {
	sum := sha256.Sum256([]byte("daypass session\x00" + token.Reveal()))
	return SessionID(hex.EncodeToString(sum[:]))
}

// Session is what an exchange opens: with its token the same job asks for
// more, or gives back. Requests are decided anew, from the claims kept here,
// against the policy of the moment.
type Session struct {
	ID      SessionID `json:"id"`
	For     Identity  `json:"for"`
	Opened  time.Time `json:"opened"`
	Expires time.Time `json:"expires"`           // it mints until then (the CI token's exp), and gives back as long as a lease lives
	Closing bool      `json:"closing,omitempty"` // it is being given back

	Recipient []byte `json:"recipient,omitempty"` // the key that its answers are sealed to; public

	// Reused says that somebody else offered a CI token of the session, so that
	// one of the two stole it. What its grants say about that holds from then on.
	Reused bool `json:"reused,omitempty"`
	// OnReuse is revoke where a grant that its exchange bought says so, or one
	// that it had a lease of when it was reused.
	OnReuse OnReuse `json:"on_reuse,omitempty"`
}

// Ended says why nothing more can be had with the session, or nil. What was had
// can be given back all the same.
func (s Session) Ended() error {
	switch {
	case s.Closing:
		return ErrClosing
	case s.Reused && s.OnReuse == OnReuseRevoke:
		return ErrReused
	}
	return nil
}

// Refuses says why a grant cannot be had with the session, or nil: it has ended,
// or its token was in two hands and the grant is not for whoever may have stolen
// it.
func (s Session) Refuses(g Grant) error {
	if s.Reused && g.OnReuse == OnReuseRevoke {
		return ErrReused
	}
	return s.Ended()
}

// Sessions is where job sessions are kept. Each method is atomic. A session is
// kept until it has expired and no lease of it is left.
type Sessions interface {
	// Start stores a new session. One that was told of an alarm before it was
	// there keeps it, and is refused with [ErrReused] where it has thereby ended.
	Start(ctx context.Context, s Session) error
	// Session returns a session that is kept, closing ones too, or
	// [ErrNoSession].
	Session(ctx context.Context, id SessionID) (Session, error)
	// Extend replaces the identity by a fresh one of the same job and the
	// expiry by a later one. [ErrClosing] or [ErrReused] where it has ended.
	Extend(ctx context.Context, id SessionID, fresh Identity, until time.Time) error
	// Shut marks the session as closing: nothing more is minted for it, and
	// a mint that is under way fails at Activate. Its leases that are not
	// being revoked already become due at once. Idempotent.
	Shut(ctx context.Context, id SessionID, at time.Time) error
}

// Alarms is where job sessions are told that a CI token of theirs was offered by
// somebody else.
type Alarms interface {
	// Alarm marks a session as [Session.Reused], and returns it as it is now.
	// Its leases of grants that say [OnReuseRevoke] become due at once, and no
	// more of them can be opened or activated; where there are any, or its
	// exchange bought any, the session has ended. Other leases stay as they
	// are. A session that is not there yet is marked before it starts; that is
	// remembered until until. Atomic and idempotent.
	Alarm(ctx context.Context, id SessionID, until, at time.Time) (Session, error)
}
