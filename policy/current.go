package policy

import (
	"sync/atomic"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Current is the book in force, which a reload replaces at once: each decision
// is made under one version. The zero Current has no book and refuses
// everything. Safe for concurrent use.
type Current struct{ book atomic.Pointer[Book] }

// Swap puts a book in force and returns the one before, or nil if there was
// none. Without a book everything is refused.
func (c *Current) Swap(b *Book) *Book { return c.book.Swap(b) }

// errNoPolicy refuses before the first book is in force.
var errNoPolicy = &broker.Error{Code: broker.Unavailable, Reason: "no_policy", Public: "no policy is in force"}

// Book returns the book in force, or nil if there is none.
func (c *Current) Book() *Book { return c.book.Load() }

// Version returns the version in force, or "" if there is none.
func (c *Current) Version() string {
	if b := c.book.Load(); b != nil {
		return b.version
	}
	return ""
}

// Decide implements [broker.Policy], under the book in force when it is
// called. Without one the error is a [broker.Unavailable].
func (c *Current) Decide(id broker.Identity, wants []broker.Want, at time.Time) (broker.Decision, error) {
	b := c.book.Load()
	if b == nil {
		return broker.Decision{}, errNoPolicy
	}
	return b.Decide(id, wants, at)
}
