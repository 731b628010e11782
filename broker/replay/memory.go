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
	// Used are the tokens that were used before, as the journal tells; nil if
	// there are none.
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
	used map[broker.TokenID]time.Time
	ends endHeap
	// forgotten is up to where tokens were forgotten, by their end.
	forgotten time.Time
}

var _ broker.Replay = (*Memory)(nil)

// forgetAtOnce bounds how much one claim cleans up: twice as much as it adds
// would do, and the rest catches up after an idle night.
const forgetAtOnce = 64

// NewMemory makes a store that knows the tokens used before.
func NewMemory(c MemoryConfig) (*Memory, error) {
	if c.Now == nil {
		return nil, errors.New("replay: Now is missing")
	}
	m := &Memory{now: c.Now, since: c.FencedSince, used: make(map[broker.TokenID]time.Time)}
	if c.Used == nil {
		return m, nil
	}
	now := c.Now()
	for claim := range c.Used {
		if end := claim.Until.Add(margin); end.After(now) {
			m.remember(claim.Token, end)
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
	if _, ok := m.used[c.Token]; ok {
		return broker.ErrTokenUsed
	}
	if !c.Until.Add(margin).After(m.forgotten) {
		return stale(m.forgotten, now)
	}
	m.remember(c.Token, latestOf(c.Until, now).Add(margin))
	return nil
}

// Ready implements [broker.Replay]: memory always serves.
func (m *Memory) Ready(context.Context) error { return nil }

func (m *Memory) remember(t broker.TokenID, end time.Time) {
	if known, ok := m.used[t]; ok && !end.After(known) {
		return
	}
	m.used[t] = end
	heap.Push(&m.ends, tokenEnd{t, end})
}

// forget drops some of what need not be remembered any more, the oldest first.
func (m *Memory) forget(now time.Time) {
	for range forgetAtOnce {
		if len(m.ends) == 0 || m.ends[0].end.After(now) {
			return
		}
		gone := heap.Pop(&m.ends).(tokenEnd)
		if !m.used[gone.token].After(gone.end) {
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
