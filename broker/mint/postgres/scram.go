package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/daypass-dev/daypass/broker"
)

var lower32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newPassword draws 200 random bits as 40 letters and digits, which need no
// quoting anywhere and which SASLprep (RFC 4013) leaves alone.
func newPassword(random io.Reader) (broker.Secret, error) {
	b := make([]byte, 25)
	if _, err := io.ReadFull(random, b); err != nil {
		return broker.Secret{}, fmt.Errorf("draw a password: %w", err)
	}
	return broker.NewSecret(lower32.EncodeToString(b)), nil
}

// newVerifier computes what PostgreSQL stores instead of a password:
// SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey> (RFC 5802, 7677).
func newVerifier(random io.Reader, password broker.Secret, iterations int) (broker.Secret, error) {
	salt := make([]byte, 16)
	if _, err := io.ReadFull(random, salt); err != nil {
		return broker.Secret{}, fmt.Errorf("draw a salt: %w", err)
	}
	return verifier(password, salt, iterations)
}

func verifier(password broker.Secret, salt []byte, iterations int) (broker.Secret, error) {
	salted, err := pbkdf2.Key(sha256.New, password.Reveal(), salt, iterations, sha256.Size)
	if err != nil {
		return broker.Secret{}, fmt.Errorf("derive a SCRAM verifier: %w", err)
	}
	stored := sha256.Sum256(mac(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return broker.NewSecret(fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s",
		iterations, b64(salt), b64(stored[:]), b64(mac(salted, "Server Key")))), nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
