package daypass

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// sealInfo binds sealed answers to what they are (RFC 9180, section 5.1).
const sealInfo = "daypass/v1 exchange"

// recipient is the key pair to which the answers of one job session are
// sealed: X25519 under HPKE. The zero recipient has none, and its answers come
// in clear.
type recipient struct{ private hpke.PrivateKey }

func kem() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

func newRecipient() (recipient, error) {
	private, err := kem().GenerateKey()
	if err != nil {
		return recipient{}, fmt.Errorf("daypass: make a key for the answer: %w", err)
	}
	return recipient{private}, nil
}

// recipientOf reads the key of a [Session]; none is the zero recipient.
func recipientOf(key Secret) (recipient, error) {
	if key.IsZero() {
		return recipient{}, nil
	}
	bytes, err := base64.RawURLEncoding.Strict().DecodeString(key.Reveal())
	if err == nil {
		var private hpke.PrivateKey
		if private, err = kem().NewPrivateKey(bytes); err == nil {
			return recipient{private}, nil
		}
	}
	return recipient{}, errors.New("daypass: the session's key is not an X25519 private key in base64url") // without err: it may quote the key
}

func (r recipient) none() bool { return r.private == nil }

// public is what the broker gets: 32 bytes in base64url, or "".
func (r recipient) public() string {
	if r.none() {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(r.private.PublicKey().Bytes())
}

// secret is the form in which a [Session] keeps the key.
func (r recipient) secret() (Secret, error) {
	if r.none() {
		return Secret{}, nil
	}
	bytes, err := r.private.Bytes()
	if err != nil {
		return Secret{}, fmt.Errorf("daypass: keep the key of the session: %w", err)
	}
	return NewSecret(base64.RawURLEncoding.EncodeToString(bytes)), nil
}

type wireSealed struct {
	Enc        string `json:"enc"`
	Ciphertext string `json:"ciphertext"`
}

var errSealed = errors.New("the sealed answer cannot be opened: it was not made for this request and key")

// open returns the answer in clear. It is authenticated together with the name
// of the request, which is one of names.
func (r recipient) open(s wireSealed, names []requestName) ([]byte, error) {
	enc, err := base64.RawURLEncoding.Strict().DecodeString(s.Enc)
	if err != nil {
		return nil, errSealed
	}
	ciphertext, err := base64.RawURLEncoding.Strict().DecodeString(s.Ciphertext)
	if err != nil {
		return nil, errSealed
	}
	box, err := hpke.NewRecipient(enc, r.private, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte(sealInfo))
	if err != nil {
		return nil, errSealed
	}
	for _, name := range names {
		if plain, err := box.Open(name[:], ciphertext); err == nil {
			return plain, nil
		}
	}
	return nil, errSealed
}

// read returns the answer that got stands for. Where a sealed one was asked
// for, one in clear is refused: whoever sent it is not the broker that was
// asked, or let somebody on the way read along.
func (r recipient) read(got wireAnswer, names []requestName) (wireAnswer, error) {
	switch {
	case r.none() && got.Sealed == nil:
		return got, nil
	case r.none():
		return wireAnswer{}, errors.New("the answer is sealed, and the key is not known: it was lost with the program that opened the session")
	case got.Sealed == nil:
		return wireAnswer{}, errors.New("the answer is not sealed, though a sealed one was asked for: the broker is too old, or something in between has changed it")
	}
	plain, err := r.open(*got.Sealed, names)
	if err != nil {
		return wireAnswer{}, err
	}
	var answer wireAnswer
	if json.Unmarshal(plain, &answer) != nil {
		return wireAnswer{}, errors.New("what was sealed is not an answer")
	}
	return answer, nil
}

// requestName says what an answer answers: it is authenticated with it.
type requestName [sha256.Size]byte

// nameOf hashes an issuer and an id, each with its length before it.
func nameOf(issuer, id string) requestName {
	h := sha256.New()
	for _, s := range []string{issuer, id} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	return requestName(h.Sum(nil))
}

// namesOfToken are the names that the answer to a CI token can have: the
// token's issuer with its jti or, for providers that give none, with what is
// signed. Nothing is verified; an error does not repeat the token.
func namesOfToken(token Secret) ([]requestName, error) {
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return nil, errors.New("the CI token is not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, errors.New("the CI token is not a JWT: its claims are not base64url")
	}
	var claims map[string]any // not a struct: names are told apart by case
	if json.Unmarshal(payload, &claims) != nil {
		return nil, errors.New("the CI token is not a JWT: its claims are not JSON")
	}
	issuer, ok := claims["iss"].(string)
	if !ok {
		return nil, errors.New("the CI token has no issuer (iss)")
	}
	var names []requestName
	if id, ok := claims["jti"].(string); ok {
		names = append(names, nameOf(issuer, id))
	}
	return append(names, nameOf(issuer, parts[0]+"."+parts[1])), nil
}

// nameOnSession is the name of a request on a job session.
func nameOnSession(session, idempotencyKey Secret) requestName {
	id := sha256.Sum256([]byte("daypass session\x00" + session.Reveal()))
	return nameOf("daypass session "+hex.EncodeToString(id[:]), idempotencyKey.Reveal())
}

// newIdempotencyKey draws what a request on a job session is made once by.
func newIdempotencyKey() Secret { return NewSecret(rand.Text()) }
