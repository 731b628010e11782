package broker

import (
	"sync"
	"time"
)

// maxPlaces bounds the memory that strangers could take. When it is reached,
// places that have their full allowance again are forgotten first, and if all
// are busy the new one is refused.
const maxPlaces = 65536

// rateLimit is a token bucket per place: perMinute at once, refilled evenly.
type rateLimit struct {
	perMinute int

	mu     sync.Mutex // guards places
	places map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

func newRateLimit(perMinute int) *rateLimit {
	return &rateLimit{perMinute: perMinute, places: make(map[string]bucket)}
}

// take takes one from a place's bucket, or says how long to wait for one.
func (l *rateLimit) take(place string, now time.Time) time.Duration {
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
		b = bucket{left: float64(l.perMinute), at: now}
	}
	b.left = l.refilled(b, now)
	b.at = now
	if b.left < 1 {
		l.places[place] = b
		return 1 + time.Duration((1-b.left)/float64(l.perMinute)*float64(time.Minute)) // never 0, which means now
	}
	b.left--
	l.places[place] = b
	return 0
}

func (l *rateLimit) refilled(b bucket, now time.Time) float64 {
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
