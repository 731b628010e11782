package fakeissuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/big"
	"strings"
)

// Forge is a token made by hand, for tests that attack a verifier. Nothing of
// it has to make sense.
type Forge struct {
	Header  string // taken as it is, JSON or not
	Payload string // taken as it is, JSON or not
	Alg     string // how Key signs, whatever the header says; none: the signature is empty
	Key     any    // *rsa.PrivateKey for RS and PS, *ecdsa.PrivateKey for ES, []byte for HS
}

// Compact returns header.payload.signature, each in base64url.
func (g Forge) Compact() (string, error) {
	signed := b64([]byte(g.Header)) + "." + b64([]byte(g.Payload))
	sig, err := g.sign([]byte(signed))
	if err != nil {
		return "", err
	}
	return signed + "." + b64(sig), nil
}

func (g Forge) sign(signed []byte) ([]byte, error) {
	if g.Alg == "none" {
		return nil, nil
	}
	if len(g.Alg) != 5 {
		return nil, fmt.Errorf("cannot sign with alg %q", g.Alg)
	}
	newHash, id, err := hashOf(g.Alg)
	if err != nil {
		return nil, err
	}
	h := newHash()
	h.Write(signed)
	switch key := g.Key.(type) {
	case *rsa.PrivateKey:
		if strings.HasPrefix(g.Alg, "PS") {
			return rsa.SignPSS(rand.Reader, key, id, h.Sum(nil), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.SignPKCS1v15(nil, key, id, h.Sum(nil))
	case *ecdsa.PrivateKey:
		return signECDSA(key, h.Sum(nil))
	case []byte:
		mac := hmac.New(newHash, key)
		mac.Write(signed)
		return mac.Sum(nil), nil
	}
	return nil, errors.New("cannot sign with a key of that type")
}

// signECDSA writes r‖s, each as long as the curve's order (RFC 7518, 3.4).
func signECDSA(key *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	n := (key.Curve.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...), nil
}

func hashOf(alg string) (func() hash.Hash, crypto.Hash, error) {
	switch alg[2:] {
	case "256":
		return sha256.New, crypto.SHA256, nil
	case "384":
		return sha512.New384, crypto.SHA384, nil
	case "512":
		return sha512.New, crypto.SHA512, nil
	}
	return nil, 0, fmt.Errorf("cannot sign with alg %q", alg)
}

// JWKS returns a key set document (RFC 7517) of the public halves, by kid.
func JWKS(keys map[string]*rsa.PrivateKey) ([]byte, error) {
	type jwk struct {
		Kty string `json:"kty"`
		Use string `json:"use"`
		Alg string `json:"alg"`
		Kid string `json:"kid"`
		N   string `json:"n"`
		E   string `json:"e"`
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	for kid, k := range keys {
		set.Keys = append(set.Keys, jwk{Kty: "RSA", Use: "sig", Alg: "RS256", Kid: kid,
			N: b64(k.N.Bytes()), E: b64(big.NewInt(int64(k.E)).Bytes())})
	}
	return json.Marshal(set)
}

// uuid draws a version 4 UUID (RFC 9562).
func (f *Fake) uuid() (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(f.rand, b[:]); err != nil {
		return "", fmt.Errorf("draw a token id: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
