package lease

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/internal/redisconn"
)

// What a record is, so that one kind is never taken for another.
const (
	kindLease   = "lease"
	kindSession = "session"
	kindSeal    = "seal"
)

// sealer authenticates what lies in Redis. A record reads
//
//	1:<HMAC-SHA256, hex>:<milliseconds>:<JSON>
//
// where the code covers the record's kind, the name of its key, and all that
// follows the code. The milliseconds are for scripts, which cannot read the
// JSON: for a session, when it expires.
type sealer struct{ key redisconn.Key }

const format = "1:"

// seal encodes a value for the key where it is to lie.
func (s sealer) seal(kind, key string, at time.Time, v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", fault(fmt.Errorf("encode %s: %w", kind, err))
	}
	body := strconv.FormatInt(max(0, at.UnixMilli()), 10) + ":" + string(text)
	return format + hex.EncodeToString(s.key.Code(kind, key, body)) + ":" + body, nil
}

// open decodes what lies at key into v, and refuses what was not sealed for it.
func (s sealer) open(kind, key, raw string, v any) error {
	rest, ok := strings.CutPrefix(raw, format)
	if !ok {
		return redisconn.ErrForged
	}
	code, body, ok := strings.Cut(rest, ":")
	if !ok {
		return redisconn.ErrForged
	}
	sum, err := hex.DecodeString(code)
	if err != nil || !s.key.Fits(sum, kind, key, body) {
		return redisconn.ErrForged
	}
	_, text, _ := strings.Cut(body, ":")
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("decode %s: %w", kind, err)
	}
	return nil
}

// sealed is a record as it was read: what it says, and the exact bytes, by
// which scripts tell whether it has changed since.
type sealed[T any] struct {
	raw   string
	value T
}

func (r *Redis) sealLease(l broker.Lease) (string, error) {
	return r.sealer.seal(kindLease, r.leaseKey(l.ID), l.Due, l)
}

func (r *Redis) sealSession(s broker.Session) (string, error) {
	return r.sealer.seal(kindSession, r.sessionKey(s.ID), s.Expires, s)
}

// openLease reads a record found at a lease's key. One that is refused is
// counted and logged here, and never acted on.
func (r *Redis) openLease(id broker.LeaseID, raw string) (sealed[broker.Lease], error) {
	got := sealed[broker.Lease]{raw: raw}
	err := r.sealer.open(kindLease, r.leaseKey(id), raw, &got.value)
	if err == nil && got.value.ID != id {
		err = redisconn.ErrForged
	}
	return got, r.refused(r.leaseKey(id), err)
}

func (r *Redis) openSession(id broker.SessionID, raw string) (sealed[broker.Session], error) {
	got := sealed[broker.Session]{raw: raw}
	err := r.sealer.open(kindSession, r.sessionKey(id), raw, &got.value)
	if err == nil && got.value.ID != id {
		err = redisconn.ErrForged
	}
	return got, r.refused(r.sessionKey(id), err)
}

// refused counts and logs a record that is not to be acted on.
func (r *Redis) refused(key string, err error) error {
	if err == nil {
		return nil
	}
	r.refusals.Add(r.Log, r.Now(), key, err)
	return &broker.Error{Code: broker.Unavailable, Reason: "record_refused", Err: fmt.Errorf("%s: %w", key, err),
		Public: "the store of leases and sessions holds a record that cannot be trusted; an operator has to look at it"}
}
