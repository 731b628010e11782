package mysql

import (
	"crypto/ed25519"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/daypass-dev/daypass/broker"
)

var lower32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newPassword draws 160 random bits as 32 letters and digits, which need no
// quoting anywhere.
func newPassword(random io.Reader) (broker.Secret, error) {
	b := make([]byte, 20)
	if _, err := io.ReadFull(random, b); err != nil {
		return broker.Secret{}, fmt.Errorf("draw a password: %w", err)
	}
	return broker.NewSecret(lower32.EncodeToString(b)), nil
}

// identified computes what a server stores of a password, and returns the part
// of CREATE USER that says so. What is stored does not let anybody log in; to
// find the password from it is to guess 160 bits, so that the fast hash of
// native is as good as the slow one of sha2.
func identified(auth string, password broker.Secret, random io.Reader) (broker.Secret, error) {
	switch auth {
	case authNative:
		return broker.NewSecret("IDENTIFIED VIA mysql_native_password USING '" + nativeHash(password) + "'"), nil
	case authEd25519:
		return broker.NewSecret("IDENTIFIED VIA ed25519 USING '" + ed25519Key(password) + "'"), nil
	case authSHA2:
		salt, err := newSalt(random)
		if err != nil {
			return broker.Secret{}, err
		}
		stored := "$A$005$" + string(salt) + sha2Digest(password, salt, sha2Rounds)
		return broker.NewSecret("IDENTIFIED WITH 'caching_sha2_password' AS 0x" + strings.ToUpper(hex.EncodeToString([]byte(stored)))), nil
	}
	return broker.Secret{}, fmt.Errorf("auth %q is not known", auth)
}

// nativeHash is what mysql_native_password stores: SHA-1 of SHA-1.
func nativeHash(password broker.Secret) string {
	once := sha1.Sum([]byte(password.Reveal()))
	twice := sha1.Sum(once[:])
	return "*" + strings.ToUpper(hex.EncodeToString(twice[:]))
}

// ed25519Key is what MariaDB's ed25519 plugin stores: the public key of the
// password. The plugin hashes a password of any length with SHA-512 where RFC
// 8032 hashes a seed of 32 bytes; ours has 32 bytes, so both are the same.
func ed25519Key(password broker.Secret) string {
	key := ed25519.NewKeyFromSeed([]byte(password.Reveal()))
	return base64.RawStdEncoding.EncodeToString(key[ed25519.SeedSize:])
}

const (
	sha2SaltSize = 20
	sha2Rounds   = 5000 // the least that servers take, written as 005: hexadecimal thousands
)

// newSalt draws a salt of letters and digits. MySQL takes any bytes of 7 bits
// but zero and "$".
func newSalt(random io.Reader) ([]byte, error) {
	b := make([]byte, sha2SaltSize)
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, fmt.Errorf("draw a salt: %w", err)
	}
	for i := range b {
		b[i] = cryptLetters[b[i]&63]
	}
	return b, nil
}

const cryptLetters = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// sha2Digest is the digest of SHA-crypt (SHA-256) with a salt of 20 bytes, which
// is what caching_sha2_password stores.
func sha2Digest(password broker.Secret, salt []byte, rounds int) string {
	key := []byte(password.Reveal())
	alternate := sum(key, salt, key)
	start := [][]byte{key, salt, repeat(alternate, len(key))}
	for n := len(key); n > 0; n >>= 1 {
		if n&1 == 1 {
			start = append(start, alternate)
		} else {
			start = append(start, key)
		}
	}
	digest := sum(start...)
	p := repeat(sum(times(key, len(key))...), len(key))
	s := repeat(sum(times(salt, 16+int(digest[0]))...), len(salt))
	for i := range rounds {
		var parts [][]byte
		first, last := digest, p
		if i&1 == 1 {
			first, last = p, digest
		}
		parts = append(parts, first)
		if i%3 != 0 {
			parts = append(parts, s)
		}
		if i%7 != 0 {
			parts = append(parts, p)
		}
		digest = sum(append(parts, last)...)
	}
	return cryptText(digest)
}

func sum(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func times(b []byte, n int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = b
	}
	return list
}

// repeat makes n bytes of b, over and over.
func repeat(b []byte, n int) []byte {
	out := make([]byte, 0, n+len(b))
	for len(out) < n {
		out = append(out, b...)
	}
	return out[:n]
}

// cryptText writes 32 bytes as SHA-crypt does: in an order of its own, least
// significant bits first.
func cryptText(d []byte) string {
	var out strings.Builder
	write := func(high, middle, low byte, letters int) {
		v := uint(high)<<16 | uint(middle)<<8 | uint(low)
		for range letters {
			out.WriteByte(cryptLetters[v&63])
			v >>= 6
		}
	}
	a, b, c := 0, 10, 20
	for range 10 {
		write(d[a], d[b], d[c], 4)
		a, b, c = c+1, a+1, b+1
	}
	write(0, d[31], d[30], 3)
	return out.String()
}
