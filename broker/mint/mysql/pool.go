package mysql

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/internal/adminpool"
)

const (
	connectWithin   = 5 * time.Second
	probeWithin     = 2 * time.Second
	statementWithin = 15 * time.Second
	ioWithin        = 20 * time.Second
	maxAttempts     = 3 // of a statement that a neighbour got in the way of
)

// pool keeps admin connections.
type pool = adminpool.Pool[*conn]

func newPool(admin broker.SecretSource, size int) *pool {
	return adminpool.New(adminpool.Config[*conn]{
		Admin: admin, Size: size, Dial: dialThrough,
		Refused: notAccepted, Lost: lost, Unfit: unfit,
	})
}

// Alive asks each time: what a mint goes by, such as the server's clock and
// whether it runs events, is read with that.
func (c *conn) Alive(ctx context.Context) bool { return c.probe(ctx, probeWithin) == nil }

// Doubt does nothing: Alive asks each time.
func (c *conn) Doubt() {}

// Keep reports whether the connection is of use after err.
func (c *conn) Keep(err error) bool { return !fatal(err) && !c.broken }

// notAccepted reports whether the server did not take a password.
func notAccepted(err error) bool { return isOneOf(err, codeWrongPassword, codeNotByThisPlugin) }

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
