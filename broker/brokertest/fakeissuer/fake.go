package fakeissuer

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Options are what a [Fake] is made of. The zero value is usable.
type Options struct {
	Key  *rsa.PrivateKey  // default: a new one of 2048 bits
	Now  func() time.Time // default: time.Now
	Rand io.Reader        // for token ids; default: crypto/rand
}

// Fake signs tokens. Safe for concurrent use if its Options are.
type Fake struct {
	base string
	key  *rsa.PrivateKey
	kid  string
	now  func() time.Time
	rand io.Reader
}

// New makes a toy CI provider whose issuers are base/github and base/gitlab.
// base is an URL without a trailing slash. Nothing listens: see [Fake.Handler]
// and [Start].
func New(base string, o Options) (*Fake, error) {
	key := o.Key
	if key == nil {
		var err error
		if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
	}
	f := &Fake{base: base, key: key, now: o.Now, rand: cmp.Or[io.Reader](o.Rand, rand.Reader)}
	if f.now == nil {
		f.now = time.Now
	}
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	f.kid = "fake-" + b64(sum[:12])
	return f, nil
}

// LoadKey reads a key that [LoadOrCreateKey] wrote.
func LoadKey(path string) (*rsa.PrivateKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s: not a PEM file", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	rsaKey, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an RSA key", path)
	}
	return rsaKey, nil
}

// LoadOrCreateKey reads the key at path, or writes a new one there that only
// its owner can read.
func LoadOrCreateKey(path string) (*rsa.PrivateKey, error) {
	key, err := LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write the key: %w", err)
	}
	err = pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, errors.Join(err, file.Close())
}

// Base returns the URL given to [New].
func (f *Fake) Base() string { return f.base }

// URL returns the issuer URL of a provider: the iss of its tokens.
func (f *Fake) URL(p Provider) string { return f.base + "/" + string(p) }

// RequestURL returns what GitHub gives a job as ACTIONS_ID_TOKEN_REQUEST_URL:
// clients append &audience=.
func (f *Fake) RequestURL() string { return f.URL(GitHub) + "/_apis/id-token?api-version=2.0" }

// Key returns the key and its kid, for tests that misuse them.
func (f *Fake) Key() (kid string, key *rsa.PrivateKey) { return f.kid, f.key }

// JWKS returns the key set document.
func (f *Fake) JWKS() ([]byte, error) {
	return JWKS(map[string]*rsa.PrivateKey{f.kid: f.key})
}

// Token signs one token of a job: every call gives a fresh one.
func (f *Fake) Token(j Job) (string, error) {
	claims, err := f.Claims(j)
	if err != nil {
		return "", err
	}
	return f.Sign(claims)
}

// Sign signs claims as they are, in compact serialisation with RS256.
func (f *Fake) Sign(claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	header := fmt.Sprintf(`{"alg":"RS256","kid":%q,"typ":"JWT"}`, f.kid)
	return Forge{Header: header, Payload: string(payload), Alg: "RS256", Key: f.key}.Compact()
}

// requestAudience begins the aud of GitHub's runtime token.
const requestAudience = "vso:"

// RequestToken signs what GitHub gives a job as ACTIONS_ID_TOKEN_REQUEST_TOKEN:
// issuer and key are those of ID tokens, but there is no sub and no jti, it
// lives for six hours, and the job is inside oidc_extra.
func (f *Fake) RequestToken(j Job) (string, error) {
	if j.Provider != GitHub {
		return "", fmt.Errorf("only %s hands out tokens on request", GitHub)
	}
	if _, err := f.Claims(j); err != nil {
		return "", err
	}
	extra, err := json.Marshal(j)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	id, err := f.uuid()
	if err != nil {
		return "", err
	}
	iat := f.now()
	return f.Sign(map[string]any{
		"iss": f.URL(GitHub), "aud": requestAudience + id,
		"iat": iat.Unix(), "nbf": iat.Add(-5 * time.Minute).Unix(), "exp": iat.Add(6 * time.Hour).Unix(),
		"oidc_sub": "repo", "oidc_extra": string(extra),
	})
}

// job opens a request token of ours.
func (f *Fake) job(request string) (Job, error) {
	parts := strings.Split(request, ".")
	if len(parts) != 3 {
		return Job{}, errors.New("the request token is not a JWT")
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return Job{}, errors.New("the request token is not a JWT")
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&f.key.PublicKey, crypto.SHA256, digest[:], sig); err != nil {
		return Job{}, errors.New("the request token is not signed by this issuer")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return Job{}, errors.New("the request token is not a JWT")
	}
	var claims struct {
		Issuer   string `json:"iss"`
		Audience any    `json:"aud"`
		Expires  int64  `json:"exp"`
		Extra    string `json:"oidc_extra"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return Job{}, errors.New("the request token is not a request token")
	}
	audience, _ := claims.Audience.(string)
	if claims.Issuer != f.URL(GitHub) || !strings.HasPrefix(audience, requestAudience) || claims.Extra == "" {
		return Job{}, errors.New("the request token is not a request token")
	}
	if f.now().Unix() >= claims.Expires {
		return Job{}, errors.New("the request token has expired")
	}
	var j Job
	d := json.NewDecoder(strings.NewReader(claims.Extra))
	d.UseNumber()
	if err := d.Decode(&j); err != nil {
		return Job{}, fmt.Errorf("the request token carries no job: %w", err)
	}
	return j, nil
}
