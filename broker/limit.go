package broker

import (
	"maps"
	"sync"
	"time"
)

// maxPlaces bounds the memory that strangers could take. When it is reached,
// places that have their full allowance again are forgotten first, and if all
// are busy the new one is refused.
const maxPlaces = 65536

// countedFor is how long a token that was counted is not counted again.
const countedFor = 10 * time.Minute

// rateLimit is a token bucket per place: perMinute at once, refilled evenly.
//
// A CI token takes from its bucket once, however often it is offered: a token
// that was used, and then found in some log, must not take what the jobs of
// its repository need.
type rateLimit struct {
	perMinute int

	mu     sync.Mutex // guards places, and what they lead to
	places map[string]*bucket
}

type bucket struct {
	left    float64
	at      time.Time
	counted map[TokenID]time.Time // at most countedFor's worth of perMinute
	tidied  time.Time
}

func newRateLimit(perMinute int) *rateLimit {
	return &rateLimit{perMinute: perMinute, places: make(map[string]*bucket)}
}

// take takes one from a place's bucket, or says how long to wait for one. The
// zero token counts each time.
func (l *rateLimit) take(place string, token TokenID, now time.Time) time.Duration {
	if l.perMinute <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.places[place]
	if !ok {
		if len(l.places) >= maxPlaces {
			l.forgetFull(now)
		}
		if len(l.places) >= maxPlaces {
			return time.Minute
		}
		b = &bucket{left: float64(l.perMinute), at: now, counted: make(map[TokenID]time.Time), tidied: now}
		l.places[place] = b
	}
	b.left = l.refilled(b, now)
	b.at = now
	if b.wasCounted(token, now) {
		return 0
	}
	if b.left < 1 {
		return 1 + time.Duration((1-b.left)/float64(l.perMinute)*float64(time.Minute)) // never 0, which means now
	}
	b.left--
	if !token.IsZero() {
		b.counted[token] = now
	}
	return 0
}

// wasCounted reports whether a token has been counted lately, and forgets
// those of which that is long ago.
func (b *bucket) wasCounted(token TokenID, now time.Time) bool {
	if now.Sub(b.tidied) >= time.Minute {
		maps.DeleteFunc(b.counted, func(_ TokenID, at time.Time) bool { return now.Sub(at) >= countedFor })
		b.tidied = now
	}
	at, ok := b.counted[token]
	return ok && now.Sub(at) < countedFor
}

func (l *rateLimit) refilled(b *bucket, now time.Time) float64 {
	elapsed := max(0, now.Sub(b.at).Minutes())
	return min(float64(l.perMinute), b.left+elapsed*float64(l.perMinute))
}

func (l *rateLimit) forgetFull(now time.Time) {
	for place, b := range l.places {
		if l.refilled(b, now) >= float64(l.perMinute) {
			delete(l.places, place)
		}
	}
}
