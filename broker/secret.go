package broker

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a value that must not be seen: a CI token, a password, a job
// session token. It prints, logs and marshals as "[redacted]" whatever verb or
// encoder is used; [Secret.Reveal] is the only way out, so a search for Reveal
// finds every place where a secret leaves.
//
// The zero Secret is empty. Secrets are immutable and safe for concurrent use.
// Compare them with [Secret.Equal]: == compares addresses.
type Secret struct {
	v *string // behind a pointer, since fmt looks into unexported fields without asking us
}

// NewSecret wraps a value that must not be seen.
func NewSecret(v string) Secret {
	if v == "" {
		return Secret{}
	}
	return Secret{&v}
}

// Reveal returns the value in clear.
func (s Secret) Reveal() string {
	if s.v == nil {
		return ""
	}
	return *s.v
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.v == nil }

// Equal compares in time that depends on the length only.
func (s Secret) Equal(o Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(o.Reveal())) == 1
}

// String implements [fmt.Stringer] and never shows the value.
func (s Secret) String() string { return redacted }

// Format implements [fmt.Formatter], so that no verb (%x, %q, %#v, %d) shows
// the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler]; JSON, YAML and XML encoders
// use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements [encoding/json.Marshaler].
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// GobEncode refuses: a secret is not to be stored.
func (s Secret) GobEncode() ([]byte, error) { return nil, errors.New("a secret is not to be stored") }

// SecretSource is where an admin credential comes from: an environment
// variable, a file, a secret store. Implementations are safe for concurrent
// use and may cache; a value that changed elsewhere must be seen within their
// documented time without a restart.
type SecretSource interface {
	// Read returns the current value and, where one is known, the previous
	// one, which may still be valid while a rotation is under way.
	Read(ctx context.Context) (SecretValue, error)
}

// SecretValue is one reading of a [SecretSource].
type SecretValue struct {
	Current  Secret
	Previous Secret // zero if none is known
}

// Has reports whether a secret is one of those that are in use.
func (v SecretValue) Has(s Secret) bool {
	return !s.IsZero() && (s.Equal(v.Current) || s.Equal(v.Previous))
}
