package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// MemoryConfig is what a [Memory] is made of.
type MemoryConfig struct {
	Now func() time.Time
}

// Memory keeps leases and job sessions for one broker that stands alone; see
// [Memory.Restore]. Safe for concurrent use.
type Memory struct {
	now func() time.Time

	mu     sync.Mutex // guards what follows
	books  books
	pruned time.Time // when expired sessions were last looked for
}

var (
	_ broker.Leases    = (*Memory)(nil)
	_ broker.LeaseBook = (*Memory)(nil)
	_ broker.Sessions  = (*Memory)(nil)
	_ broker.Alarms    = (*Memory)(nil)
)

// NewMemory makes an empty store.
func NewMemory(c MemoryConfig) (*Memory, error) {
	if c.Now == nil {
		return nil, errors.New("lease: Now is missing")
	}
	return &Memory{now: c.Now, books: newBooks()}, nil
}

// Open implements [broker.Leases].
func (m *Memory) Open(ctx context.Context, leases []broker.Lease, caps broker.Caps) error {
	o, err := checkOpening(leases, caps)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.session(o.session); !ok {
		return broker.ErrNoSession
	} else if err := refusal(s, leases...); err != nil {
		return err
	}
	if most := caps.LivePerPlace; most > 0 && len(m.books.places[o.place])+len(leases) > most {
		return broker.TooManyLive("this repository")
	}
	for name, d := range o.grants {
		if len(m.books.grants[name])+d.more > d.most {
			return broker.TooManyLive("grant " + name)
		}
	}
	for id, d := range o.rules {
		if len(m.books.rules[id])+d.more > d.most {
			return broker.TooManyLive("rule " + id)
		}
	}
	for _, l := range leases {
		if _, ok := m.books.leases[l.ID]; ok {
			return fault(fmt.Errorf("open: lease %s exists", l.ID))
		}
	}
	for _, l := range leases {
		m.books.put(l)
	}
	return nil
}

// Activate implements [broker.Leases].
func (m *Memory) Activate(ctx context.Context, made []broker.Minted) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	active := make([]broker.Lease, 0, len(made))
	for _, minted := range made {
		l, ok := m.books.leases[minted.ID]
		s, known := m.books.sessions[l.Session]
		if !ok || !known {
			return broker.ErrClosing
		}
		if err := refusal(s, l); err != nil {
			return err
		}
		l, err := activated(l, minted)
		if err != nil {
			return err
		}
		active = append(active, l)
	}
	for _, l := range active {
		m.books.put(l)
	}
	return nil
}

// Postpone implements [broker.Leases].
func (m *Memory) Postpone(ctx context.Context, l broker.Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if kept, ok := m.books.leases[l.ID]; ok {
		m.books.put(postponed(kept, l))
	}
	return nil
}

// Close implements [broker.Leases].
func (m *Memory) Close(ctx context.Context, id broker.LeaseID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.books.drop(id)
	return nil
}

// Lease implements [broker.LeaseBook].
func (m *Memory) Lease(ctx context.Context, id broker.LeaseID) (broker.Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.books.leases[id]
	if !ok {
		return broker.Lease{}, broker.ErrNoLease
	}
	return l, nil
}

// List implements [broker.LeaseBook].
func (m *Memory) List(ctx context.Context, f broker.LeaseFilter) ([]broker.Lease, error) {
	m.mu.Lock()
	picked := m.books.pick(f)
	m.mu.Unlock()
	return oldestFirst(picked), nil
}

// Live implements [broker.LeaseBook].
func (m *Memory) Live(ctx context.Context, filters ...broker.LeaseFilter) ([]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := make([]int, len(filters))
	for i, f := range filters {
		counts[i] = m.books.count(f)
	}
	return counts, nil
}

// Due implements [broker.LeaseBook].
func (m *Memory) Due(ctx context.Context, target string, at time.Time, limit int) ([]broker.Lease, error) {
	m.mu.Lock()
	found := m.books.due(target, at)
	m.mu.Unlock()
	inOrder(found)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.books.stillDue(found, at, limit), nil
}

// Start implements [broker.Sessions].
func (m *Memory) Start(ctx context.Context, s broker.Session) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prune()
	if s.ID == "" {
		return fault(errors.New("start: the job session has no id"))
	}
	if kept, ok := m.session(s.ID); ok {
		var err error
		if s, err = started(s, kept); err != nil {
			return err
		}
	}
	m.books.sessions[s.ID] = s
	return nil
}

// Session implements [broker.Sessions].
func (m *Memory) Session(ctx context.Context, id broker.SessionID) (broker.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.session(id)
	if !ok {
		return broker.Session{}, broker.ErrNoSession
	}
	return s, nil
}

// Extend implements [broker.Sessions].
func (m *Memory) Extend(ctx context.Context, id broker.SessionID, fresh broker.Identity, until time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.session(id)
	if !ok {
		return broker.ErrNoSession
	}
	if err := s.Ended(); err != nil {
		return err
	}
	m.books.sessions[id] = extended(s, fresh, until)
	return nil
}

// Shut implements [broker.Sessions].
func (m *Memory) Shut(ctx context.Context, id broker.SessionID, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.session(id); !ok {
		return broker.ErrNoSession
	}
	m.books.end(id, ending{at: at})
	return nil
}

// Alarm implements [broker.Alarms].
func (m *Memory) Alarm(ctx context.Context, id broker.SessionID, until, at time.Time) (broker.Session, error) {
	if id == "" {
		return broker.Session{}, fault(errors.New("alarm: the job session has no id"))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prune()
	if _, ok := m.session(id); !ok {
		s := told(id, until)
		if !m.now().Before(until) { // nothing can start by it any more
			return s, nil
		}
		m.books.sessions[id] = s
	}
	m.books.end(id, ending{at: at, reused: true})
	return m.books.sessions[id], nil
}

// session returns a session that is kept: one that has not expired, or of
// which a lease is left. The caller holds mu.
func (m *Memory) session(id broker.SessionID) (broker.Session, bool) {
	s, ok := m.books.sessions[id]
	return s, ok && m.books.keeps(s, m.now())
}

// prune drops what sessions are kept no longer, once a minute at most. The
// caller holds mu.
func (m *Memory) prune() {
	now := m.now()
	if now.Sub(m.pruned).Abs() < time.Minute {
		return
	}
	m.pruned = now
	m.books.prune(now)
}
