package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
)

const (
	connectWithin = 5 * time.Second
	probeWithin   = 2 * time.Second
	closeWithin   = time.Second
	maxAttempts   = 6 // of a transaction that a neighbour got in the way of
)

// pool keeps a few admin connections. A connection is taken out with a probe,
// so that nobody works on one that was lost, belongs to a server that was
// demoted meanwhile, or was made with an admin URL that is no longer in use.
// Safe for concurrent use.
type pool struct {
	admin broker.SecretSource
	slots chan struct{} // one token for each connection in use

	mu   sync.Mutex // guards idle
	idle []*conn
}

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
	p.put(c, err)
	return err
}

// take returns a connection that has just answered.
func (p *pool) take(ctx context.Context) (*conn, error) {
	urls, readErr := p.admin.Read(ctx)
	for c := p.pop(); c != nil; c = p.pop() {
		// While the admin secret cannot be read, a connection that was made
		// with it is good enough: taking back must go on.
		fits := readErr != nil || c.from.Equal(urls.Current) || c.from.Equal(urls.Previous)
		if fits && c.probe(ctx, probeWithin) == nil {
			return c, nil
		}
		c.close()
	}
	if readErr != nil {
		return nil, fmt.Errorf("read the admin secret: %w", readErr)
	}
	c, err := dial(ctx, urls.Current)
	if code := codeOf(err); (code == codeWrongPassword || code == codeNotAuthorized) && !urls.Previous.IsZero() {
		if before, e := dial(ctx, urls.Previous); e == nil {
			return before, nil // a rotation is under way
		}
	}
	return c, err
}

func (p *pool) pop() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return c
}

func (p *pool) put(c *conn, err error) {
	if fatal(err) || c.pg.IsClosed() || c.pg.PgConn().TxStatus() != 'I' {
		c.close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
}

// conn is one admin connection. Its methods return scrubbed errors only.
type conn struct {
	pg       *pgx.Conn
	from     broker.Secret // the URL it was made with
	endpoint endpoint      // of that URL
	database string
	serverID string
	version  int // such as 150020

	replica bool      // as of the last probe
	now     time.Time // the server's clock at the last probe
}

// dial connects and asks the server who it is.
func dial(ctx context.Context, url broker.Secret) (*conn, error) {
	config, endpoint, err := parseAdmin(url)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	pg, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", scrub(err))
	}
	c := &conn{pg: pg, from: url, endpoint: endpoint, database: config.Database}
	if err := errors.Join(c.identify(ctx), c.probe(ctx, connectWithin)); err != nil {
		c.close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

func (c *conn) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	_ = c.pg.Close(ctx) // it is given up either way
}

// identify reads the server's own identity: the number its data was born with,
// and the database. Who may not read the number (a hardened server) is told
// apart by the database's own number only; see the README.
func (c *conn) identify(ctx context.Context) error {
	var readable bool
	var database, oid string
	err := c.row(ctx, []any{&c.version, &database, &oid, &readable}, `
		SELECT current_setting('server_version_num')::int, datname::text, oid::text,
		       has_function_privilege('pg_control_system()', 'execute')
		FROM pg_database WHERE datname = current_database()`)
	if err != nil {
		return err
	}
	c.serverID = "oid-" + oid + "/" + database
	if readable {
		var system string
		if err := c.row(ctx, []any{&system}, `SELECT system_identifier::text FROM pg_control_system()`); err != nil {
			return err
		}
		c.serverID = system + "/" + database
	}
	// An answer that a crash of the server can undo is none. What is stricter
	// than "on" stays.
	return c.exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
}

// probe proves that the server answers, and reads its clock and its part.
func (c *conn) probe(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return c.row(ctx, []any{&c.replica, &c.now}, `SELECT pg_is_in_recovery(), clock_timestamp()`)
}

// primary refuses a replica, and a primary that was demoted.
func (c *conn) primary() error {
	if c.replica {
		return &lostError{"the server is a replica (in recovery): the admin URL must lead to the primary"}
	}
	return nil
}

// exec runs one or more statements; several are one transaction.
func (c *conn) exec(ctx context.Context, sql string, args ...any) error {
	_, err := c.pg.Exec(ctx, sql, args...)
	return scrub(err)
}

// row reads one row into dest.
func (c *conn) row(ctx context.Context, dest []any, sql string, args ...any) error {
	return scrub(c.pg.QueryRow(ctx, sql, args...).Scan(dest...))
}

// rows reads all rows into values of T, in the order of T's fields.
func rows[T any](ctx context.Context, c *conn, sql string, args ...any) ([]T, error) {
	found, err := c.pg.Query(ctx, sql, args...)
	if err != nil {
		return nil, scrub(err)
	}
	list, err := pgx.CollectRows(found, pgx.RowToStructByPos[T])
	return list, scrub(err)
}

// inTx runs do in a transaction, and again where a neighbour got in its way.
func (c *conn) inTx(ctx context.Context, do func() error) error {
	return retry(ctx, func() error {
		if err := c.exec(ctx, "BEGIN"); err != nil {
			return err
		}
		err := do()
		if err == nil {
			return c.exec(ctx, "COMMIT")
		}
		if c.pg.IsClosed() {
			return err
		}
		return errors.Join(err, c.exec(ctx, "ROLLBACK"))
	})
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
