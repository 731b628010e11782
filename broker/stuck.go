package broker

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	maxBackoff = 20 * time.Second // a target that comes back is rid of what is overdue within 30 s
	maxProbe   = 15 * time.Second // between two tries of a target that is lost
)

// backoff is how long to wait after n failures: 1 s doubling up to maxBackoff,
// less up to a quarter, so that what failed together is not retried together.
func backoff(n int) time.Duration {
	d := maxBackoff
	if n < 6 {
		d = min(d, time.Second<<(n-1))
	}
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}

// stuckLeases are those that this broker failed to take back, or did not come to:
// what the lag is measured by.
type stuckLeases struct {
	mu    sync.Mutex // guards since
	since map[LeaseID]time.Time
}

func (s *stuckLeases) held(id LeaseID, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since == nil {
		s.since = make(map[LeaseID]time.Time)
	}
	s.since[id] = since
}

func (s *stuckLeases) freed(id LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, id)
}

// lag is how long the most overdue stuck lease has been overdue; gone is asked
// about that one.
func (s *stuckLeases) lag(now time.Time, gone func(LeaseID) bool) time.Duration {
	for {
		id, since, ok := s.oldest()
		if !ok {
			return 0
		}
		if !gone(id) {
			return max(0, now.Sub(since))
		}
		s.freed(id)
	}
}

func (s *stuckLeases) oldest() (LeaseID, time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest LeaseID
	for id, since := range s.since {
		if oldest == "" || since.Before(s.since[oldest]) {
			oldest = id
		}
	}
	return oldest, s.since[oldest], oldest != ""
}
