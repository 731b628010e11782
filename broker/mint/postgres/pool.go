package postgres

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/internal/adminpool"
)

const (
	connectWithin = 5 * time.Second
	probeWithin   = 2 * time.Second
	closeWithin   = time.Second
	freshFor      = time.Second // how long a connection is taken to be alive after it answered
	maxAttempts   = 6           // of a transaction that a neighbour got in the way of
)

// pool keeps admin connections in one database, the admin URL's.
type pool = adminpool.Pool[*conn]

func newPool(admin broker.SecretSource, size int, alarm func()) *pool {
	return adminpool.New(adminpool.Config[*conn]{
		Admin: admin, Size: size, Alarm: alarm,
		Dial:    func(ctx context.Context, url broker.Secret) (*conn, error) { return dial(ctx, url, "") },
		Refused: notAccepted, Lost: lost, Unfit: unfit,
	})
}

// Alive reports whether the server answers on this connection. One that did
// within the last second is not asked: a server that became a replica since
// has ended all its sessions for it, and what fails now is tried anew.
func (c *conn) Alive(ctx context.Context) bool {
	if !c.pg.IsClosed() && !c.replica && time.Since(c.answered) < freshFor {
		return true
	}
	return c.probe(ctx, probeWithin) == nil
}

// Doubt has Alive ask.
func (c *conn) Doubt() { c.answered = time.Time{} }

// Keep reports whether the connection is of use after err, and out of any
// transaction.
func (c *conn) Keep(err error) bool {
	if fatal(err) || c.pg.IsClosed() || c.pg.PgConn().TxStatus() != 'I' {
		return false
	}
	if err == nil {
		c.answered = time.Now()
	}
	return true
}

// notAccepted reports whether the server did not take a password.
func notAccepted(err error) bool {
	code := codeOf(err)
	return code == codeWrongPassword || code == codeNotAuthorized
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
