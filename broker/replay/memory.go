package replay

import (
	"container/heap"
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// MemoryConfig is what a [Memory] is made of.
type MemoryConfig struct {
	Now func() time.Time
	// Used are the tokens that were used before, as the journal tells, with
	// Owner and Session where it knows them; nil if there are none.
	Used iter.Seq[broker.Claim]
	// FencedSince is the moment up to which tokens may have been used that
	// Used does not tell of. Zero: there is none, because the journal is
	// intact and spans the longest life of a token.
	FencedSince time.Time
}

// Memory remembers tokens for one broker that stands alone. What it forgets it
// refuses: a token whose time to be remembered has passed is never accepted,
// even if the clock is set back. Safe for concurrent use.
type Memory struct {
	now   func() time.Time
	since time.Time // zero: no fence

	mu sync.Mutex // guards what follows
	// used tells for every token in ends the latest of its ends there.
	used map[broker.TokenID]use
	ends endHeap
	// forgotten is up to where tokens were forgotten, by their end.
	forgotten time.Time

	answers answers
}

// use is the use of a token.
type use struct {
	end   time.Time // until when it is remembered
	first broker.Used
}

var (
	_ broker.Replay  = (*Memory)(nil)
	_ broker.Answers = (*Memory)(nil)
)

// forgetAtOnce bounds how much one claim cleans up: twice as much as it adds
// would do, and the rest catches up after an idle night.
const forgetAtOnce = 64

// NewMemory makes a store that knows the tokens used before.
func NewMemory(c MemoryConfig) (*Memory, error) {
	if c.Now == nil {
		return nil, errors.New("replay: Now is missing")
	}
	m := &Memory{now: c.Now, since: c.FencedSince, used: make(map[broker.TokenID]use)}
	if c.Used == nil {
		return m, nil
	}
	now := c.Now()
	for claim := range c.Used {
		if end := claim.Until.Add(margin); end.After(now) {
			m.remember(claim, end, time.Time{})
		} else {
			m.forgotten = latestOf(m.forgotten, end)
		}
	}
	return m, nil
}

// Claim implements [broker.Replay].
func (m *Memory) Claim(ctx context.Context, c broker.Claim) error {
	if err := checkClaim(c); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return unavailable(0, err)
	}
	now := m.now()
	if c.IssuedAt.After(now.Add(maxAhead)) {
		return ahead(c.IssuedAt, now)
	}
	if !m.since.IsZero() && !c.IssuedAt.After(m.since.Add(slack)) {
		return stale(m.since, now)
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now)
	if u, ok := m.used[c.Token]; ok {
		return used(u.first)
	}
	if !c.Until.Add(margin).After(m.forgotten) {
		return stale(m.forgotten, now)
	}
	m.remember(c, latestOf(c.Until, now).Add(margin), now)
	return nil
}

// Ready implements [broker.Replay]: memory always serves.
func (m *Memory) Ready(context.Context) error { return nil }

// remember remembers a use until end. What is told twice is remembered until
// the later end; the first to tell of an owner and a session is believed.
func (m *Memory) remember(c broker.Claim, end, at time.Time) {
	u, known := m.used[c.Token]
	if u.first.Owner.IsZero() && u.first.Session == "" {
		u.first = broker.Used{Owner: c.Owner, Session: c.Session, At: at}
	}
	if !known || end.After(u.end) {
		u.end = end
		heap.Push(&m.ends, tokenEnd{c.Token, end})
	}
	m.used[c.Token] = u
}

// forget drops some of what need not be remembered any more, the oldest first.
func (m *Memory) forget(now time.Time) {
	for range forgetAtOnce {
		if len(m.ends) == 0 || m.ends[0].end.After(now) {
			return
		}
		gone := heap.Pop(&m.ends).(tokenEnd)
		if !m.used[gone.token].end.After(gone.end) {
			delete(m.used, gone.token)
		}
		m.forgotten = latestOf(m.forgotten, gone.end)
	}
}

func latestOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

type tokenEnd struct {
	token broker.TokenID
	end   time.Time
}

// endHeap has the token on top that can be forgotten first.
type endHeap []tokenEnd

func (h endHeap) Len() int           { return len(h) }
func (h endHeap) Less(i, j int) bool { return h[i].end.Before(h[j].end) }
func (h endHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *endHeap) Push(x any)        { *h = append(*h, x.(tokenEnd)) }
func (h *endHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
