// Package signing holds the broker's own keys: a ring of RSA keys that signs
// the tokens Daypass issues, and a secret from which brokers that share a Redis
// derive what authenticates their records there.
//
// The ring is a folder that brokers share, made by whichever comes first. It
// guarantees:
//
//   - a key is in the JWKS for 48 hours before it signs, so that a verifier
//     with a JWKS up to a day old knows it; only the very first signs at once;
//   - a key stays in the JWKS until the last token it can have signed has
//     expired, and is then deleted;
//   - two brokers never make a key each where one was due: making and deleting
//     happen under a lock on the folder;
//   - a file is whole or absent, whenever a broker crashes.
//
// It refuses files and folders that anybody but their owner can read, a file
// that is not what it should be, and keys without the secret that belongs to
// them: what is missing is more likely lost than new. At run time a folder that
// cannot be read leaves the ring as it was, and [Ring.Healthy] says so.
//
// Only RS256 is offered: it is the one algorithm that every cloud accepts.
package signing

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/daypass-dev/daypass/broker"
)

// Times in a key's life.
const (
	signingPeriod = 30 * 24 * time.Hour // a key signs so long
	publishAhead  = 48 * time.Hour      // and is in the JWKS so long before
	lateness      = time.Hour           // another broker may still sign with a key so long after its successor took over
)

// Config is what a [Ring] is made of.
type Config struct {
	Dir          string // the ring's folder, 0700; made if absent
	Now          func() time.Time
	Rand         io.Reader // a cryptographic source
	Log          *slog.Logger
	LongestToken time.Duration // longest life of a token signed here; default 24 h
}

// Ring implements [broker.Signer]. Safe for concurrent use.
type Ring struct {
	Config
	state atomic.Pointer[state]

	mu   sync.Mutex // one look at the folder at a time
	sick atomic.Pointer[error]
}

var _ broker.Signer = (*Ring)(nil)

// Open reads the ring, and makes what is missing of a new one.
func Open(c Config) (*Ring, error) {
	if c.Dir == "" || c.Now == nil || c.Rand == nil || c.Log == nil {
		return nil, errors.New("signing: no folder, clock, randomness or log is given")
	}
	if c.LongestToken <= 0 {
		c.LongestToken = 24 * time.Hour
	}
	r := &Ring{Config: c}
	if err := r.tend(context.Background()); err != nil {
		return nil, err
	}
	return r, nil
}

// Run reads the folder each minute, makes the next key when it is due and
// deletes those that are over, until ctx ends; it returns nil then. Errors are
// logged, and tried again a minute later.
func (r *Ring) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := r.tend(ctx); err != nil && ctx.Err() == nil {
				r.Log.Error("the key ring could not be looked after", "dir", r.Dir, "err", err)
			}
		}
	}
}

// Healthy says why the last look at the folder failed, or nil. A ring that is
// not healthy goes on signing, and does not learn of new keys.
func (r *Ring) Healthy() error {
	if err := r.sick.Load(); err != nil {
		return *err
	}
	return nil
}

// remember keeps how the last look at the folder went.
func (r *Ring) remember(err error) error {
	if err == nil {
		r.sick.Store(nil)
		return nil
	}
	err = fmt.Errorf("signing: %w", err)
	r.sick.Store(&err)
	return err
}

// Sign implements [broker.Signer]: RS256, with the key's RFC 7638 thumbprint
// as kid. It does not look at the claims.
func (r *Ring) Sign(ctx context.Context, typ string, payload []byte) (broker.Secret, error) {
	if err := ctx.Err(); err != nil {
		return broker.Secret{}, fmt.Errorf("sign: %w", err)
	}
	if typ == "" {
		return broker.Secret{}, errors.New("sign: a token of ours says its typ, so that it cannot be taken for another")
	}
	if !json.Valid(payload) || !bytes.HasPrefix(bytes.TrimSpace(payload), []byte("{")) {
		return broker.Secret{}, errors.New("sign: the payload is not a JSON object")
	}
	k := r.state.Load().signer(r.Now())
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.RS256,
		Key:       jose.JSONWebKey{Key: k.private, KeyID: k.id},
	}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		return broker.Secret{}, fmt.Errorf("sign: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return broker.Secret{}, fmt.Errorf("sign: %w", err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		return broker.Secret{}, fmt.Errorf("sign: %w", err)
	}
	return broker.NewSecret(token), nil
}

// JWKS returns the public keys of all that signs, will sign, or has signed
// what may still be valid. It may be cached for a day.
func (r *Ring) JWKS() ([]byte, error) {
	s := r.state.Load()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for i, k := range s.keys {
		if !s.over(i, r.Now(), r.LongestToken) {
			set.Keys = append(set.Keys, jose.JSONWebKey{
				Key: k.private.Public(), KeyID: k.id, Algorithm: string(jose.RS256), Use: "sig"})
		}
	}
	b, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	return b, nil
}

// Discovery returns the OpenID Connect discovery document of the issuer with
// exactly this URL, which belongs at <url>/.well-known/openid-configuration.
func (r *Ring) Discovery(url string) []byte {
	b, err := json.Marshal(map[string]any{
		"issuer":                                url,
		"jwks_uri":                              strings.TrimSuffix(url, "/") + "/.well-known/jwks.json",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(jose.RS256)},
		"scopes_supported":                      []string{"openid"},
		"claims_supported":                      []string{"aud", "exp", "iat", "iss", "jti", "nbf", "sub"},
	})
	if err != nil {
		panic(err) // strings only
	}
	return b
}

// DeriveKey returns a key of 32 bytes for one purpose, the same for every
// broker that shares the ring (HKDF-SHA256, RFC 5869). The label names the
// purpose; keys of different labels tell nothing about each other.
func (r *Ring) DeriveKey(label string) ([32]byte, error) {
	if label == "" {
		return [32]byte{}, errors.New("derive key: no label")
	}
	b, err := hkdf.Key(sha256.New, r.state.Load().secret[:], nil, "daypass/v1 "+label, 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("derive key: %w", err)
	}
	return [32]byte(b), nil
}
