// Package adminpool lends the few admin connections that a target's kind keeps.
//
// It guarantees that nobody works on a connection that was lost, or was made with
// an admin secret that is not in use any more; that a password which is changed
// elsewhere is picked up without a restart, whichever side is changed first; and
// that what breaks off with its connection is done once more on another.
//
// It refuses to connect where the admin secret cannot be read. What is open then
// goes on to be used: taking back must go on.
package adminpool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

const (
	patience = 5 * time.Second      // how long is waited for a connection that somebody else has
	interval = 5 * time.Millisecond // between two looks whether it is back
)

// ErrClosed is what a closed pool says.
var ErrClosed = errors.New("the broker is stopping")

// Conn is one admin connection, as its kind makes it. Nobody uses one that
// another has.
type Conn interface {
	// Alive reports whether the server answers. A connection that has answered
	// just now need not ask, until it is doubted.
	Alive(ctx context.Context) bool
	// Doubt has Alive ask the next time: another connection was lost.
	Doubt()
	// Keep reports whether the connection is of use after work that ended with
	// err, nil or not.
	Keep(err error) bool
	Close()
}

// Config says how a kind connects, and what its errors mean.
type Config[C Conn] struct {
	Admin broker.SecretSource
	Size  int // connections that are lent at once
	Dial  func(ctx context.Context, admin broker.Secret) (C, error)

	Refused func(error) bool // the server did not take a password
	Lost    func(error) bool // work broke off because of its connection
	Unfit   func(error) bool // the connection leads to a server that takes no writes: so do all others

	// Alarm is called when a connection turns out to be lost, or of a former
	// secret, at any time and by several at once; nil: nobody wants to know.
	Alarm func()
}

// Pool keeps connections to one target. Safe for concurrent use.
type Pool[C Conn] struct {
	config Config[C]
	slots  chan struct{} // one token for each connection in use

	mu     sync.Mutex // guards what follows
	idle   []held[C]
	lent   int // connections that somebody has, and may bring back
	closed bool
}

// held is a connection and the secret that it was made with.
type held[C Conn] struct {
	conn C
	from broker.Secret
}

// New makes a pool that has no connection yet.
func New[C Conn](c Config[C]) *Pool[C] {
	if c.Alarm == nil {
		c.Alarm = func() {}
	}
	return &Pool[C]{config: c, slots: make(chan struct{}, c.Size)}
}

// With lends a connection to do, waiting for one until ctx ends. What do returns
// decides whether it is kept. Where the connection was lost, or leads to a server
// that is not the primary any more, do is called a second time with another
// connection, unless what it returns is [Begun].
func (p *Pool[C]) With(ctx context.Context, do func(C) error) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection: %w", ctx.Err())
	}
	for attempt := 1; ; attempt++ {
		h, err := p.take(ctx)
		if err != nil {
			return err
		}
		err = do(h.conn)
		p.put(h, err)
		if attempt == 2 || err == nil || !p.again(err) || ctx.Err() != nil {
			return err
		}
	}
}

func (p *Pool[C]) again(err error) bool {
	_, begun := errors.AsType[*begunError](err)
	return !begun && (p.config.Lost(err) || p.config.Unfit(err))
}

// begunError is an error of work that is not to be done again.
type begunError struct{ error }

func (e *begunError) Unwrap() error { return e.error }

// Begun marks an error of work that has left something behind which it would
// meet if it were done again, and then speak of that.
func Begun(err error) error { return &begunError{err} }

// Dial makes a connection that the pool knows nothing of.
func (p *Pool[C]) Dial(ctx context.Context) (conn C, err error) {
	urls, err := p.config.Admin.Read(ctx)
	if err != nil {
		return conn, fmt.Errorf("read the admin secret: %w", err)
	}
	h, err := p.dial(ctx, urls)
	return h.conn, err
}

// take lends a connection that answers.
func (p *Pool[C]) take(ctx context.Context) (held[C], error) {
	urls, readErr := p.config.Admin.Read(ctx)
	for {
		h, found, _, err := p.pop()
		if err != nil {
			return h, err
		}
		if !found {
			break
		}
		// While the admin secret cannot be read, a connection that was made
		// with it is good enough.
		if (readErr != nil || urls.Has(h.from)) && h.conn.Alive(ctx) {
			return h, nil
		}
		p.giveUp(h)
		p.doubt()
	}
	if readErr != nil {
		return held[C]{}, fmt.Errorf("read the admin secret: %w", readErr)
	}
	h, err := p.dial(ctx, urls)
	if err != nil && p.config.Refused(err) {
		return p.awaitReturn(ctx, urls, err)
	}
	if err == nil {
		p.mu.Lock()
		p.lent++
		p.mu.Unlock()
	}
	return h, err
}

// dial connects with the current secret, and with the previous one where the
// server does not take the current one yet.
func (p *Pool[C]) dial(ctx context.Context, urls broker.SecretValue) (held[C], error) {
	c, err := p.config.Dial(ctx, urls.Current)
	if err != nil && p.config.Refused(err) && !urls.Previous.IsZero() {
		if before, e := p.config.Dial(ctx, urls.Previous); e == nil {
			return held[C]{before, urls.Previous}, nil // a rotation is under way
		}
	}
	return held[C]{c, urls.Current}, err
}

// awaitReturn waits for a connection that somebody is done with, where the
// server takes none of the passwords that we know: it was changed there first,
// and until we are told, what is open has to do. Where nobody has one, the
// refusal stands.
func (p *Pool[C]) awaitReturn(ctx context.Context, urls broker.SecretValue, refusal error) (held[C], error) {
	for begun := time.Now(); time.Since(begun) < patience && ctx.Err() == nil; pause(ctx, interval) {
		if now, err := p.config.Admin.Read(ctx); err == nil && !now.Current.Equal(urls.Current) {
			return p.take(ctx) // we are told
		}
		h, found, others, err := p.pop()
		switch {
		case err != nil:
			return h, err
		case found && urls.Has(h.from) && h.conn.Alive(ctx):
			return h, nil
		case found: // lost, or it leads where we are not to go any more
			p.giveUp(h)
			p.doubt()
		case others == 0:
			return h, refusal
		}
	}
	return held[C]{}, refusal
}

// pop lends what is idle, if anything is, and says how many others are lent: at
// the same moment, or one that goes from hand to hand would be neither here nor
// there.
func (p *Pool[C]) pop() (h held[C], found bool, others int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	switch {
	case p.closed:
		return h, false, 0, ErrClosed
	case n == 0:
		return h, false, p.lent, nil
	}
	h, p.idle = p.idle[n-1], p.idle[:n-1]
	p.lent++
	return h, true, p.lent - 1, nil
}

// giveUp closes a connection that was lent.
func (p *Pool[C]) giveUp(h held[C]) {
	h.conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent--
}

// put keeps a connection for the next, or closes it. With one that turned out to
// lead to a replica all others go: they were made at the same time.
func (p *Pool[C]) put(h held[C], err error) {
	switch {
	case err == nil:
	case p.config.Unfit(err):
		p.drain()
	case p.config.Lost(err):
		p.doubt()
	}
	if !h.conn.Keep(err) {
		p.giveUp(h)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent--
	if p.closed {
		h.conn.Close()
		return
	}
	p.idle = append(p.idle, h)
}

// doubt has what is idle asked whether it is alive before it is used: where one
// connection was lost, others may have been lost with it.
func (p *Pool[C]) doubt() {
	p.config.Alarm()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.idle {
		h.conn.Doubt()
	}
}

// drain closes what is idle.
func (p *Pool[C]) drain() {
	p.config.Alarm()
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, h := range idle {
		h.conn.Close()
	}
}

// Close ends the pool, and the connections that nobody uses. What is in use is
// closed when it is put back.
func (p *Pool[C]) Close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, h := range idle {
		h.conn.Close()
	}
}

// pause waits, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
