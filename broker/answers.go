package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"
)

// Owner is the SHA-256 of the ephemeral key to which a client's answers are
// sealed. Whoever shows the same token and the same key is who asked first, or
// can read nothing of what he gets.
type Owner [sha256.Size]byte

// OwnerOf returns the owner that a recipient key stands for; no key, no owner.
func OwnerOf(recipient []byte) Owner {
	if len(recipient) == 0 {
		return Owner{}
	}
	return sha256.Sum256(append([]byte("daypass owner\x00"), recipient...))
}

// IsZero reports whether there is no owner.
func (o Owner) IsZero() bool { return o == Owner{} }

// MarshalText implements [encoding.TextMarshaler].
func (o Owner) MarshalText() ([]byte, error) { return TokenID(o).MarshalText() }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (o *Owner) UnmarshalText(b []byte) error { return (*TokenID)(o).UnmarshalText(b) }

// AnswerLife is how long a sealed answer is kept for a client that lost it.
const AnswerLife = 120 * time.Second

// AnswerKey names a kept answer.
type AnswerKey [sha256.Size]byte

// NewAnswerKey names the answer to a token, or to an idempotency key of a job
// session, for one owner. All parts are length-prefixed.
func NewAnswerKey(token TokenID, owner Owner) AnswerKey {
	return hashParts("daypass answer", string(token[:]), string(owner[:]))
}

// String returns 64 hexadecimal digits.
func (k AnswerKey) String() string { return hex.EncodeToString(k[:]) }

// Sealed is an answer that only the client who asked can open: HPKE (RFC 9180)
// with X25519, HKDF-SHA256 and AES-128-GCM.
type Sealed struct {
	Request    string `json:"request_id"` // of the exchange that it answers
	Enc        []byte `json:"enc"`
	Ciphertext []byte `json:"ciphertext"`

	Failed *Failure `json:"failed,omitempty"` // nil: it is an answer; else all that is sealed is the session
}

// Failure is what went wrong with an exchange that opened a job session all the
// same. Nothing of it is secret.
type Failure struct {
	Code   Code   `json:"code"`
	Reason string `json:"reason"`
	Public string `json:"public"`
}

// failure is the error that the client was answered with, or nil.
func (s Sealed) failure() error {
	if s.Failed == nil {
		return nil
	}
	return &Error{Code: s.Failed.Code, Reason: s.Failed.Reason, Public: s.Failed.Public}
}

// ErrNoAnswer is what [Answers.Kept] returns where nothing is kept.
var ErrNoAnswer = errors.New("no answer is kept")

// Answers keeps sealed answers for a short while, so that a client that lost
// one can fetch it again. Each method is atomic.
type Answers interface {
	// Keep stores an answer for life. Storing another one under the same key
	// is an error: there is one answer to a request.
	Keep(ctx context.Context, key AnswerKey, a Sealed, life time.Duration) error
	// Kept returns the answer, byte for byte as it was stored, or
	// [ErrNoAnswer].
	Kept(ctx context.Context, key AnswerKey) (Sealed, error)
}
