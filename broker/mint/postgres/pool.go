package postgres

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
	connectWithin = 5 * time.Second
	probeWithin   = 2 * time.Second
	closeWithin   = time.Second
	freshFor      = time.Second // how long a connection is taken to be alive after it answered
	maxAttempts   = 6           // of a transaction that a neighbour got in the way of
)

var errClosed = errors.New("the broker is stopping")

// pool keeps a few admin connections. One that has been idle is taken out with
// a probe, so that nobody works on one that was lost, or was made with an admin
// URL that is no longer in use; what breaks off all the same is done once more
// on a new one. Safe for concurrent use.
type pool struct {
	admin broker.SecretSource
	slots chan struct{} // one token for each connection in use
	alarm func()        // called when a connection turns out to be lost, or of a former admin URL

	mu     sync.Mutex // guards what follows
	idle   []*conn
	lent   int // connections that somebody has, and may bring back
	closed bool
}

func newPool(admin broker.SecretSource, size int, alarm func()) *pool {
	return &pool{admin: admin, slots: make(chan struct{}, size), alarm: alarm}
}

// with lends a connection to do. What do returns decides whether it is kept.
// Where the connection was lost, or leads to a server that is not the primary
// any more, do is called a second time, with another connection: all that is
// done here may be done twice. A user that was made after all, unheard, is not
// made again, since its name is taken.
func (p *pool) with(ctx context.Context, do func(*conn) error) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection: %w", ctx.Err())
	}
	for attempt := 1; ; attempt++ {
		c, err := p.take(ctx)
		if err != nil {
			return err
		}
		err = do(c)
		p.put(c, err)
		if attempt == 2 || !lost(err) || ctx.Err() != nil {
			return err
		}
	}
}

// take lends a connection that has answered lately.
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
		if (readErr != nil || c.madeWith(urls)) && c.alive(ctx) {
			return c, nil
		}
		p.giveUp(c)
		p.doubt()
	}
	if readErr != nil {
		return nil, fmt.Errorf("read the admin secret: %w", readErr)
	}
	c, err := dialEither(ctx, urls, "")
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
		case c != nil && c.madeWith(urls) && c.alive(ctx):
			return c, nil
		case c != nil: // lost, or it leads where we are not to go any more
			p.giveUp(c)
			p.doubt()
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
func notAccepted(err error) bool {
	code := codeOf(err)
	return code == codeWrongPassword || code == codeNotAuthorized
}

// dialEither connects with the current admin URL, and with the previous one
// where the server does not take the current one yet. A database that is not
// empty stands in for the URL's.
func dialEither(ctx context.Context, urls broker.SecretValue, database string) (*conn, error) {
	c, err := dial(ctx, urls.Current, database)
	if notAccepted(err) && !urls.Previous.IsZero() {
		if before, e := dial(ctx, urls.Previous, database); e == nil {
			return before, nil // a rotation is under way
		}
	}
	return c, err
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

// put keeps a connection for the next, or closes it. With one that turned out
// to lead to a replica all others go: they were made at the same time.
func (p *pool) put(c *conn, err error) {
	switch {
	case unfit(err):
		p.drain()
	case lost(err):
		p.doubt()
	}
	if fatal(err) || c.pg.IsClosed() || c.pg.PgConn().TxStatus() != 'I' {
		p.giveUp(c)
		return
	}
	if err == nil {
		c.answered = time.Now()
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

// doubt has what is idle asked whether it is alive before it is used: where one
// connection was lost, others may have been lost with it.
func (p *pool) doubt() {
	p.alarm()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.answered = time.Time{}
	}
}

// drain closes what is idle.
func (p *pool) drain() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
}

// close ends the pool: what is in use is closed when it is put back.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drain()
}

// retry repeats what the server undid by itself, a bounded number of times.
func retry(ctx context.Context, do func() error) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if !fleeting(err) || attempt == maxAttempts {
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
