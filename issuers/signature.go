package issuers

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"math/big"

	jose "github.com/go-jose/go-jose/v4"
)

// Bounds of an RSA key.
const (
	minRSA = 2048 // bits
	maxRSA = 8192 // a larger one costs us more than it costs the sender
	maxE   = 1<<31 - 1
)

// algorithm is how one JWS algorithm (RFC 7518, 3.1; RFC 8037) signs.
type algorithm struct {
	hash  crypto.Hash // 0: the whole input is signed
	pss   bool
	curve elliptic.Curve // nil: RSA, or Ed25519 where hash is 0
}

// algorithmOf names the algorithms we verify. There is no symmetric one, so a
// public key can never be taken for a shared secret, and none is none.
func algorithmOf(alg string) (algorithm, bool) {
	switch alg {
	case "RS256":
		return algorithm{hash: crypto.SHA256}, true
	case "RS384":
		return algorithm{hash: crypto.SHA384}, true
	case "RS512":
		return algorithm{hash: crypto.SHA512}, true
	case "PS256":
		return algorithm{hash: crypto.SHA256, pss: true}, true
	case "PS384":
		return algorithm{hash: crypto.SHA384, pss: true}, true
	case "PS512":
		return algorithm{hash: crypto.SHA512, pss: true}, true
	case "ES256":
		return algorithm{hash: crypto.SHA256, curve: elliptic.P256()}, true
	case "ES384":
		return algorithm{hash: crypto.SHA384, curve: elliptic.P384()}, true
	case "ES512":
		return algorithm{hash: crypto.SHA512, curve: elliptic.P521()}, true
	case "EdDSA":
		return algorithm{}, true
	}
	return algorithm{}, false
}

// digest is what goes into the signature.
func (a algorithm) digest(signed []byte) []byte {
	switch a.hash {
	case crypto.SHA256:
		sum := sha256.Sum256(signed)
		return sum[:]
	case crypto.SHA384:
		sum := sha512.Sum384(signed)
		return sum[:]
	case crypto.SHA512:
		sum := sha512.Sum512(signed)
		return sum[:]
	}
	return signed
}

// asymmetric reports whether we verify an algorithm.
func asymmetric(alg string) bool {
	_, ok := algorithmOf(alg)
	return ok
}

// fits reports whether a key is for an algorithm: by its type, its curve, and
// its own word where it has one.
func fits(alg string, key jose.JSONWebKey) bool {
	a, ok := algorithmOf(alg)
	if !ok || key.Algorithm != "" && key.Algorithm != alg {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return a.curve == nil && a.hash != 0 && soundRSA(k)
	case *ecdsa.PublicKey:
		return a.curve != nil && k.Curve == a.curve
	case ed25519.PublicKey:
		return a.hash == 0 && len(k) == ed25519.PublicKeySize
	}
	return false
}

// soundRSA takes what is long enough to be safe and short enough to be cheap.
func soundRSA(k *rsa.PublicKey) bool {
	return k.N.BitLen() >= minRSA && k.N.BitLen() <= maxRSA && k.N.Bit(0) == 1 &&
		k.E >= 3 && k.E <= maxE && k.E&1 == 1
}

// roca reports whether a modulus has the form of keys that one family of smart
// cards made until 2017, and that can be factored (CVE-2017-15361): modulo every
// small prime it is a power of 65537. An honest modulus is that by chance once in
// some 100 million.
func roca(n *big.Int) bool {
	rest := new(big.Int)
	for p := uint64(3); p <= 167; p += 2 {
		if !big.NewInt(int64(p)).ProbablyPrime(0) { // exact for numbers so small
			continue
		}
		residue := rest.Mod(n, big.NewInt(int64(p))).Uint64()
		power := uint64(1)
		for range p {
			if power == residue {
				break
			}
			power = power * 65537 % p
		}
		if power != residue {
			return false
		}
	}
	return true
}

// holds reports whether a signature over the exact bytes signed is that of a
// key that fits the algorithm. It is the standard library's verification, and
// stricter than JWS libraries where the standards are: a PSS salt is as long as
// the hash (RFC 7518, 3.5), and an ECDSA signature as long as two coordinates.
func holds(alg string, key any, signed, signature []byte) bool {
	a, ok := algorithmOf(alg)
	if !ok {
		return false
	}
	digest := a.digest(signed)
	switch k := key.(type) {
	case *rsa.PublicKey:
		if a.pss {
			return rsa.VerifyPSS(k, a.hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(k, a.hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		n := (k.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*n {
			return false
		}
		return ecdsa.Verify(k, digest, new(big.Int).SetBytes(signature[:n]), new(big.Int).SetBytes(signature[n:]))
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, signature)
	}
	return false
}
