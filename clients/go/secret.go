package daypass

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a value that must not be seen: a CI token, a password, a job
// session's token. Whatever verb or encoder is used it shows as "[redacted]",
// also from inside another struct's unexported fields. The zero Secret is
// empty. Secrets are immutable and safe for concurrent use.
type Secret struct{ v *string } // a pointer: fmt cannot call methods on unexported fields, and prints an address

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

// String implements [fmt.Stringer] and never shows the value.
func (s Secret) String() string { return redacted }

// Format implements [fmt.Formatter], so that no verb shows the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler]; JSON, XML and YAML encoders
// use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
