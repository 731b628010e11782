package replay

import (
	"log/slog"
	"sync"
	"time"
)

// refusals are the records that were not to be acted on. The log hears of them
// once a minute at most: whoever tampers must not fill it.
type refusals struct {
	mu   sync.Mutex // guards what follows
	n    int64
	told int64 // of n, those that the log knows of
	at   time.Time
}

func (f *refusals) add(log *slog.Logger, now time.Time, key string, err error) {
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

func (f *refusals) count() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}
