package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// TokenID is what replay protection remembers of a token:
// SHA-256(len‖issuer‖len‖id), where id is the token's jti, or its signing
// input where the profile says so. It never covers the signature's bytes: one
// signed token has some twenty encodings that libraries accept.
type TokenID [sha256.Size]byte

// NewTokenID names a token by the issuer that was configured for it and its id
// there. Both are length-prefixed, so that no two pairs share an id.
func NewTokenID(issuer, id string) TokenID { return TokenID(hashParts(issuer, id)) }

// hashParts is the SHA-256 over parts, each with its length before it (8
// bytes, big endian), so that no two lists of parts have the same text.
func hashParts(parts ...string) [sha256.Size]byte {
	var text []byte
	for _, p := range parts {
		text = binary.BigEndian.AppendUint64(text, uint64(len(p)))
		text = append(text, p...)
	}
	return sha256.Sum256(text)
}

// String returns the id as 64 hexadecimal digits. It is not a secret.
func (t TokenID) String() string { return hex.EncodeToString(t[:]) }

// IsZero reports whether no token is named.
func (t TokenID) IsZero() bool { return t == TokenID{} }

// MarshalText implements [encoding.TextMarshaler].
func (t TokenID) MarshalText() ([]byte, error) {
	if t.IsZero() {
		return nil, nil
	}
	return []byte(t.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (t *TokenID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*t = TokenID{}
		return nil
	}
	if len(b) != hex.EncodedLen(len(t)) {
		return fmt.Errorf("token id: want %d hexadecimal digits, have %d bytes", hex.EncodedLen(len(t)), len(b))
	}
	_, err := hex.Decode(t[:], b)
	return err
}

// Identity is one CI job whose token has been verified. Nothing in it may be
// used as a name, a URL or a statement: claims are text that outsiders
// influence.
type Identity struct {
	Issuer    string    `json:"issuer"`  // the name the operator gave the issuer in the configuration
	URL       string    `json:"url"`     // the issuer's exact URL, as configured
	Subject   string    `json:"subject"` // the token's sub
	Token     TokenID   `json:"token"`
	IssuedAt  time.Time `json:"issued_at"`
	Expires   time.Time `json:"expires"`           // the token's exp
	KeepUntil time.Time `json:"keep_until"`        // exp plus the leeway the verifier grants: replay protection remembers at least so long
	Claims    Claims    `json:"claims"`            // JSON types kept: a number never equals a string
	Trimmed   bool      `json:"trimmed,omitempty"` // claims are missing that the token had: a claim's absence means nothing
	Listed    []string  `json:"listed"`            // the claims the profile lists for the journal; others stay out of it
	Job       Job       `json:"job"`               // neutral fields, mapped by the profile
}

// Job is what every CI provider has under some name: the fields that limits,
// lease filters, session tags and metrics use instead of provider claims.
// Fields a provider does not have are empty.
type Job struct {
	Repository   string `json:"repository,omitempty"`
	RepositoryID string `json:"repository_id,omitempty"`
	OwnerID      string `json:"owner_id,omitempty"`
	Ref          string `json:"ref,omitempty"`
	Environment  string `json:"environment,omitempty"`
	Event        string `json:"event,omitempty"`
	Run          string `json:"run,omitempty"`
	RunURL       string `json:"run_url,omitempty"`
	Key          string `json:"job_key,omitempty"` // the same for every token of one job, different for every other job
}

// Place names the repository for limits and lease filters: the issuer and the
// immutable id where the provider has one, the name otherwise.
func (id Identity) Place() string {
	if id.Job.RepositoryID != "" {
		return id.Issuer + "/" + id.Job.RepositoryID
	}
	return id.Issuer + "/" + id.Job.Repository
}

// SameJob reports whether two tokens belong to one job of one issuer. Where
// the provider gives no job key nothing is the same job.
func (id Identity) SameJob(o Identity) bool {
	return id.Job.Key != "" && id.Issuer == o.Issuer && id.URL == o.URL && id.Job.Key == o.Job.Key
}

// Claims are a token's claims as JSON gave them: string, [json.Number], bool,
// nil, []any or map[string]any. Callers must not change them.
type Claims map[string]any

// Lookup finds a claim by name, or, where key begins with a slash, by JSON
// Pointer (RFC 6901). A claim that is absent is (nil, false); one that is null
// is (nil, true).
func (c Claims) Lookup(key string) (any, bool) {
	if !strings.HasPrefix(key, "/") {
		v, ok := c[key]
		return v, ok
	}
	var at any = map[string]any(c)
	for part := range strings.SplitSeq(key[1:], "/") {
		part, ok := unescapePointer(part)
		if !ok {
			return nil, false
		}
		switch node := at.(type) {
		case map[string]any:
			v, ok := node[part]
			if !ok {
				return nil, false
			}
			at = v
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(node) || strconv.Itoa(i) != part {
				return nil, false
			}
			at = node[i]
		default:
			return nil, false
		}
	}
	return at, true
}

// unescapePointer undoes ~1 and ~0; any other use of ~ is an error (RFC 6901,
// section 3).
func unescapePointer(part string) (string, bool) {
	for i := strings.IndexByte(part, '~'); i >= 0; {
		if i+1 == len(part) || (part[i+1] != '0' && part[i+1] != '1') {
			return "", false
		}
		next := strings.IndexByte(part[i+2:], '~')
		if next < 0 {
			break
		}
		i += 2 + next
	}
	return strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~"), true
}

// UnmarshalJSON keeps numbers as [json.Number]: a claim that was stored and
// read again is still what the token said.
func (c *Claims) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	*c = m
	return nil
}

// Verifier tells whose a CI token is.
type Verifier interface {
	// Verify returns the identity only if signature, issuer, audience, times
	// and required claims hold. Its error is an [*Error] with
	// [TokenInvalid], [TokenExpired] or, where the issuer's keys cannot be
	// had, [Unavailable]; the public text never repeats the token. Nothing in
	// the token causes an outbound connection. Safe for concurrent use.
	Verify(ctx context.Context, token Secret) (Identity, error)
}
