package redisconn

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Key authenticates records: all brokers of a deployment have the same, and each
// store has its own.
type Key [32]byte

// Code is the HMAC-SHA256 over parts, each with its length before it: what a
// record is, the name of the key where it lies, and what it says.
func (k Key) Code(parts ...string) []byte {
	h := hmac.New(sha256.New, k[:])
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}

// Fits reports whether sum is the code over parts.
func (k Key) Fits(sum []byte, parts ...string) bool { return hmac.Equal(sum, k.Code(parts...)) }

// ErrForged is what is wrong with a record whose code does not fit.
var ErrForged = errors.New("the record was not written by a broker of this deployment for the place where it lies")

// Refusals are the records that were not to be acted on. The log hears of them
// once a minute at most: whoever tampers must not fill it. The zero value is ready,
// and safe for concurrent use.
type Refusals struct {
	mu   sync.Mutex // guards what follows
	n    int64
	told int64 // of n, those that the log knows of
	at   time.Time
}

// Add counts a record that lies at key, and perhaps logs why it is refused.
func (f *Refusals) Add(log *slog.Logger, now time.Time, key string, err error) {
	f.mu.Lock()
	f.n++
	count := f.n - f.told
	loud := f.told == 0 || now.Sub(f.at).Abs() >= time.Minute
	if loud {
		f.told, f.at = f.n, now
	}
	f.mu.Unlock()
	if loud {
		log.Error("a record in redis is refused; if nobody tampered with it, brokers have different keys", "key", key, "refused_since_last", count, "err", err)
	}
}

// Count is how many there were.
func (f *Refusals) Count() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}
