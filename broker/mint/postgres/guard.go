package postgres

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/internal/adminpool"
)

// guard is a connection that can end a user's sessions when the server can do
// nothing else any more: a job has taken all connections, or has filled the
// table of locks, so that no statement gets the locks that it needs to read
// the table of roles.
//
// It is connected before there is any user, and it stays in a transaction that
// has these locks already (the weakest there are: they are in nobody's way but
// that of LOCK TABLE and VACUUM FULL on the system's own tables). Between its
// statements it holds no snapshot, so it keeps nothing from being vacuumed.
// Safe for concurrent use.
type guard struct {
	admin   broker.SecretSource
	dial    func(context.Context) (*conn, error) // as the pools do
	doubted atomic.Bool                          // it may be lost: connections that were made beside it are

	mu     sync.Mutex // guards what follows, and the connection's use
	conn   *conn      // nil: none
	since  time.Time  // when it was connected, or found to be of no use; zero: it has to be renewed
	idle   bool       // the admin may end nobody's sessions: none is kept
	closed bool
}

const (
	guardLife   = 5 * time.Minute // how old its transaction gets
	guardWithin = 3 * time.Second
)

// touchStatement takes the locks: reading a table locks it and all its
// indexes until the transaction ends. These are what checking a right and
// reading in a statement anew may have to look into.
const touchStatement = `
	SELECT FROM pg_roles, pg_auth_members, pg_database, pg_db_role_setting, pg_stat_activity LIMIT 0;
	SELECT FROM pg_class, pg_attribute, pg_proc, pg_type, pg_namespace, pg_operator LIMIT 0;
	SELECT FROM pg_cast, pg_rewrite, pg_index, pg_am, pg_amop, pg_amproc LIMIT 0;
	SELECT FROM pg_opclass, pg_aggregate, pg_attrdef, pg_constraint, pg_collation, pg_stats LIMIT 0`

// endStatement ends a user's sessions, those that have come since the
// transaction began among them: for its length the server remembers what it saw
// first. It is sent as text, not prepared: what a prepared one leaves open
// would hold a snapshot.
func endStatement(h broker.Handle) string {
	return `SELECT pg_stat_clear_snapshot(); SELECT count(pg_terminate_backend(a.pid))::int FROM pg_stat_get_activity(NULL) a JOIN pg_roles r ON r.oid = a.usesysid WHERE r.rolname = ` + quoteText(string(h))
}

// doubt has keep ask whether the guard is still there, and where it should be:
// connections that were made beside it are not. That is asked while new ones can
// be made. Later, in the midst of a rotation, the server may take no password
// that we know, and without a guard nothing is minted.
func (g *guard) doubt() { g.doubted.Store(true) }

// keep sees to it that there is a guard. The first one is waited for; a
// renewal that fails leaves the old one at its post.
func (g *guard) keep(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return adminpool.ErrClosed
	}
	if g.doubted.Swap(false) {
		g.ask(ctx)
		if urls, err := g.admin.Read(ctx); g.conn == nil || err == nil && !urls.Has(g.conn.from) {
			g.since = time.Time{}
		}
	}
	if (g.idle || g.conn != nil && !g.conn.pg.IsClosed()) && time.Since(g.since) < guardLife {
		return nil
	}
	fresh, err := g.post(ctx)
	if err != nil {
		if g.idle || g.conn != nil && !g.conn.pg.IsClosed() {
			return nil
		}
		return err
	}
	if g.conn != nil {
		g.conn.Close()
	}
	g.conn, g.since, g.idle = fresh, time.Now(), !fresh.signals
	if g.idle {
		g.dismiss()
	}
	return nil
}

// check finds out whether the guard that there is still answers, and lets it
// go where it does not.
func (g *guard) check(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ask(ctx)
}

func (g *guard) ask(ctx context.Context) {
	if g.conn != nil && g.do(ctx, "SELECT 1") != nil {
		g.recover(ctx)
	}
}

// post connects a new guard and takes its locks.
func (g *guard) post(ctx context.Context) (*conn, error) {
	c, err := g.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(c.primary(), c.guardUp(ctx)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// guardUp begins the guard's transaction. On a server that hides its tables
// from its users the locks that matter most have to do.
func (c *conn) guardUp(ctx context.Context) error {
	if !c.signals {
		return nil
	}
	set := `
		SET application_name = 'daypass guard'; SET idle_in_transaction_session_timeout = 0;
		SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED`
	if c.version >= 170000 { // where a server may end what takes long, whatever it does
		set += "; SET transaction_timeout = 0"
	}
	if err := c.exec(ctx, set); err != nil {
		return err
	}
	touch := "BEGIN;" + touchStatement + ";"
	for {
		err := c.exec(ctx, touch+endStatement("")+"; SAVEPOINT post")
		if codeOf(err) != codeNoRight || touch == "BEGIN;" {
			return err
		}
		if err := c.exec(ctx, "ROLLBACK"); err != nil {
			return err
		}
		touch = "BEGIN;"
	}
}

// shutOut ends a user's sessions and its logins: at once, and again and again
// while others of its sessions are quicker to fill what was freed. Where it is
// not the user that takes the room, its sessions have ended, and no more.
func (g *guard) shutOut(ctx context.Context, h broker.Handle) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, guardWithin)
	defer cancel()
	for {
		if g.conn == nil {
			return errors.New("there is no connection that could end the job's sessions")
		}
		err := g.do(ctx, endStatement(h)+";"+disableStatement(h)+"; COMMIT")
		switch {
		case err == nil || codeOf(err) == codeNoSuchRole:
			g.relieve(ctx, err)
			return nil
		case !exhausted(err) && codeOf(err) != codeLockNotAvailable || ctx.Err() != nil:
			g.relieve(ctx, err)
			return err
		}
		g.relieve(ctx, err)
		pause(ctx, time.Millisecond)
	}
}

// relieve goes on after statements: in a new transaction after a commit, and
// after an error with the locks that the guard was posted with.
func (g *guard) relieve(ctx context.Context, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guardWithin)
	defer cancel()
	if err != nil {
		g.recover(ctx)
	} else if g.conn.guardUp(ctx) != nil {
		g.dismiss()
	}
}

// do has the guard do something, within its own time: that of a caller who comes
// late must not cost the guard.
func (g *guard) do(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guardWithin)
	defer cancel()
	return g.conn.exec(ctx, sql)
}

// recover goes on after a statement that failed, with the locks that the guard
// was posted with.
func (g *guard) recover(ctx context.Context) {
	if g.conn.pg.IsClosed() || g.do(ctx, "ROLLBACK TO post") != nil {
		g.dismiss()
	}
}

func (g *guard) dismiss() {
	g.conn.Close()
	g.conn = nil
}

func (g *guard) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.conn != nil {
		g.dismiss()
	}
}
