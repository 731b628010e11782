package replay

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/internal/redisconn"
)

// What a record is, so that one kind is never taken for another.
const (
	kindMarker = "used token"
	kindFence  = "fence"
	kindSeen   = "fence seen"
	kindAnswer = "answer"
)

// sealer authenticates what lies in Redis. A record reads
//
//	1:<HMAC-SHA256, base64url>:<body>
//
// where the code covers the record's kind, the name of its key, and the body.
// Scripts read bodies and cannot check codes: whatever they act on for a
// broker's good is held, byte by byte, against what the broker has checked.
type sealer struct{ key redisconn.Key }

const format = "1:"

func (s sealer) seal(kind, key, body string) string {
	return format + base64.RawURLEncoding.EncodeToString(s.key.Code(kind, key, body)) + ":" + body
}

// open returns the body of what lies at key.
func (s sealer) open(kind, key, raw string) (string, error) {
	rest, ok := strings.CutPrefix(raw, format)
	code, body, found := strings.Cut(rest, ":")
	if !ok || !found {
		return "", redisconn.ErrForged
	}
	sum, err := base64.RawURLEncoding.Strict().DecodeString(code)
	if err != nil || !s.key.Fits(sum, kind, key, body) {
		return "", redisconn.ErrForged
	}
	return body, nil
}

// marker is what lies at a used token's key.
func (s sealer) marker(key string, u broker.Used) string {
	owner := ""
	if !u.Owner.IsZero() {
		owner = base64.RawURLEncoding.EncodeToString(u.Owner[:])
	}
	return s.seal(kindMarker, key, owner+":"+millis(u.At)+":"+string(u.Session))
}

func (s sealer) openMarker(key, raw string) (broker.Used, error) {
	body, err := s.open(kindMarker, key, raw)
	if err != nil {
		return broker.Used{}, err
	}
	owner, rest, _ := strings.Cut(body, ":")
	at, session, _ := strings.Cut(rest, ":")
	u := broker.Used{Session: broker.SessionID(session)}
	if sum, err := base64.RawURLEncoding.Strict().DecodeString(owner); err == nil && len(sum) == len(u.Owner) {
		u.Owner = broker.Owner(sum)
	} else if owner != "" {
		return broker.Used{}, redisconn.ErrForged
	}
	if u.At, err = readMillis(at); err != nil {
		return broker.Used{}, redisconn.ErrForged
	}
	return u, nil
}

// fence is what a server vouches with: since then, in this life of its, it has
// forgotten nothing. The zero value is none.
type fence struct {
	raw           string // as it lies there
	life, evicted string
	since         time.Time
}

// fence seals the fence for the server life that an answer told of.
func (s sealer) fence(key, life, evicted string, since time.Time) string {
	return s.seal(kindFence, key, life+":"+evicted+":"+millis(since))
}

func (s sealer) openFence(key, raw string) (fence, error) {
	body, err := s.open(kindFence, key, raw)
	if err != nil {
		return fence{}, err
	}
	part := strings.Split(body, ":")
	if len(part) != 3 {
		return fence{}, redisconn.ErrForged
	}
	since, err := readMillis(part[2])
	if err != nil {
		return fence{}, redisconn.ErrForged
	}
	return fence{raw: raw, life: part[0], evicted: part[1], since: since}, nil
}

func millis(t time.Time) string { return strconv.FormatInt(max(0, t.UnixMilli()), 10) }

// readMillis reads 0 as the zero time.
func readMillis(s string) (time.Time, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil || n < 0:
		return time.Time{}, errors.New("not a time in milliseconds")
	case n == 0:
		return time.Time{}, nil
	}
	return time.UnixMilli(n), nil
}

// refused counts and logs a record that is not to be acted on.
func (r *Redis) refused(key string, err error) *broker.Error {
	r.refusals.Add(r.Log, r.Now(), key, err)
	e := unavailable(0, err)
	e.Reason = "record_refused"
	return e
}

// Forged is how many times a record was refused since the start.
func (r *Redis) Forged() int64 { return r.refusals.Count() }
