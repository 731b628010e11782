package mysql

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

const (
	connectWithin   = 5 * time.Second
	probeWithin     = 2 * time.Second
	statementWithin = 15 * time.Second
	ioWithin        = 20 * time.Second
	maxAttempts     = 3 // of a statement that a neighbour got in the way of
)

// pool keeps a few admin connections. A connection is taken out with a probe,
// so that nobody works on one that was lost, belongs to a server that was made
// read-only meanwhile, or was made with an admin URL that is no longer in use.
// Safe for concurrent use.
type pool struct {
	admin broker.SecretSource
	slots chan struct{} // one token for each connection in use

	mu     sync.Mutex // guards what follows
	idle   []*conn
	lent   int // connections that somebody has, and may bring back
	closed bool
}

var errClosed = errors.New("the broker is stopping")

func newPool(admin broker.SecretSource, size int) *pool {
	return &pool{admin: admin, slots: make(chan struct{}, size)}
}

// with lends a connection to do. What do returns decides whether it is kept.
func (p *pool) with(ctx context.Context, do func(*conn) error) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection: %w", ctx.Err())
	}
	c, err := p.take(ctx)
	if err != nil {
		return err
	}
	err = do(c)
	p.put(ctx, c, err)
	return err
}

// take lends a connection that has just answered.
func (p *pool) take(ctx context.Context) (*conn, error) {
	urls, readErr := p.admin.Read(ctx)
	for {
		c, _, err := p.pop()
		if err != nil {
			return nil, err
		}
		if c == nil {
			break
		}
		// While the admin secret cannot be read, a connection that was made
		// with it is good enough: taking back must go on.
		if (readErr != nil || c.madeWith(urls)) && c.probe(ctx, probeWithin) == nil {
			return c, nil
		}
		p.giveUp(c)
	}
	if readErr != nil {
		return nil, fmt.Errorf("read the admin secret: %w", readErr)
	}
	c, err := dialEither(ctx, urls)
	if notAccepted(err) {
		return p.awaitReturn(ctx, urls, err)
	}
	if err == nil {
		p.mu.Lock()
		p.lent++
		p.mu.Unlock()
	}
	return c, err
}

// awaitReturn waits for a connection that somebody is done with, where the
// server takes none of the passwords that we know: it was changed there first,
// and until we are told, what is open has to do. Where nobody has one, the
// refusal stands.
func (p *pool) awaitReturn(ctx context.Context, urls broker.SecretValue, refusal error) (*conn, error) {
	for begun := time.Now(); time.Since(begun) < connectWithin && ctx.Err() == nil; pause(ctx, 5*time.Millisecond) {
		if now, err := p.admin.Read(ctx); err == nil && !now.Current.Equal(urls.Current) {
			return p.take(ctx) // we are told
		}
		c, others, err := p.pop()
		switch {
		case err != nil:
			return nil, err
		case c != nil && c.madeWith(urls) && c.probe(ctx, probeWithin) == nil:
			return c, nil
		case c != nil: // lost, or it leads where we are not to go any more
			p.giveUp(c)
		case others == 0:
			return nil, refusal
		}
	}
	return nil, refusal
}

// madeWith reports whether a connection was made with an admin URL that is in use.
func (c *conn) madeWith(urls broker.SecretValue) bool {
	return c.from.Equal(urls.Current) || c.from.Equal(urls.Previous)
}

// notAccepted reports whether the server did not take a password.
func notAccepted(err error) bool { return isOneOf(err, codeWrongPassword, codeNotByThisPlugin) }

// dialEither connects with the current admin URL, and with the previous one
// where the server does not take the current one yet.
func dialEither(ctx context.Context, urls broker.SecretValue) (*conn, error) {
	c, err := dialThrough(ctx, urls.Current)
	if notAccepted(err) && !urls.Previous.IsZero() {
		if before, e := dial(ctx, urls.Previous); e == nil {
			return before, nil // a rotation is under way
		}
	}
	return c, err
}

// dialThrough connects, and tries on for a while where all connections are
// taken. The one that the server keeps for us is held for a moment by whoever is
// just being turned away.
func dialThrough(ctx context.Context, url broker.Secret) (*conn, error) {
	for begun := time.Now(); ; pause(ctx, rand.N(10*time.Millisecond)) {
		c, err := dial(ctx, url)
		if codeOf(err) != codeNoConnection || ctx.Err() != nil || time.Since(begun) > connectWithin {
			return c, err
		}
	}
}

// pop lends what is idle, or nil, and says how many others are lent: at the same
// moment, or one that goes from hand to hand would be neither here nor there.
func (p *pool) pop() (c *conn, others int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	switch {
	case p.closed:
		return nil, 0, errClosed
	case n == 0:
		return nil, p.lent, nil
	}
	c, p.idle = p.idle[n-1], p.idle[:n-1]
	p.lent++
	return c, p.lent - 1, nil
}

// giveUp closes a connection that was lent.
func (p *pool) giveUp(c *conn) {
	c.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent--
}

// put keeps a connection for the next, or closes it.
func (p *pool) put(ctx context.Context, c *conn, err error) {
	if fatal(err) || ctx.Err() != nil || c.broken {
		p.giveUp(c)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent--
	if p.closed {
		c.close()
		return
	}
	p.idle = append(p.idle, c)
}

// close ends the connections that nobody uses, and those in use when they come
// back.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
}

// retry repeats what the server undid by itself, a bounded number of times.
func retry(ctx context.Context, do func() error) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if codeOf(err) != codeDeadlock || attempt == maxAttempts {
			return err
		}
		pause(ctx, time.Duration(attempt)*5*time.Millisecond+rand.N(10*time.Millisecond))
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
