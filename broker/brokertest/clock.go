package brokertest

import (
	"sync"
	"time"
)

// Clock is a clock that a test sets, for tests with real servers, where
// testing/synctest cannot help: its Now is handed to what is tested. It does
// not move by itself. Safe for concurrent use.
type Clock struct {
	mu sync.Mutex // guards at
	at time.Time
}

// NewClock returns a clock that stands at start. Where a server's own clock
// takes part, start at time.Now().
func NewClock(start time.Time) *Clock { return &Clock{at: start} }

// Now returns where the clock stands.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Advance moves the clock by d, which may be negative, and returns where it
// stands then.
func (c *Clock) Advance(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
	return c.at
}

// Set moves the clock to at.
func (c *Clock) Set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}
