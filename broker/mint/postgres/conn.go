package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
)

// conn is one admin connection. Its methods return scrubbed errors only.
type conn struct {
	pg       *pgx.Conn
	from     broker.Secret // the URL it was made with
	endpoint endpoint      // of that URL
	database string
	serverID string
	version  int // such as 150020
	super    bool
	signals  bool // the admin may end anybody's sessions

	prepared map[string]bool // statements that the server has ready

	replica  bool      // as of the last probe
	answered time.Time // when it last did
}

// dial connects and asks the server who it is. A database that is not empty
// stands in for the URL's.
func dial(ctx context.Context, url broker.Secret, database string) (*conn, error) {
	config, endpoint, err := parseAdmin(url)
	if err != nil {
		return nil, err
	}
	if database != "" {
		config.Database = database
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	pg, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		err = scrub(err)
		if codeOf(err) == codeNoRight { // the server's words name the database
			err = &serverError{codeNoRight, "the admin may not connect to the database"}
		}
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &conn{pg: pg, from: url, endpoint: endpoint, database: config.Database, prepared: map[string]bool{}}
	if err := errors.Join(c.identify(ctx), c.probe(ctx, connectWithin)); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// Close gives the connection up.
func (c *conn) Close() {
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
	err := c.row(ctx, []any{&c.version, &database, &oid, &readable, &c.super, &c.signals}, `
		SELECT current_setting('server_version_num')::int, datname::text, d.oid::text,
		       has_function_privilege('pg_control_system()', 'execute'),
		       rolsuper, rolsuper OR pg_has_role('pg_signal_backend', 'USAGE')
		FROM pg_database d, pg_roles WHERE rolname = current_user AND datname = current_database()`)
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

// probe proves that the server answers, and reads its part.
func (c *conn) probe(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := c.row(ctx, []any{&c.replica}, `SELECT pg_is_in_recovery()`)
	if err == nil {
		c.answered = time.Now()
	}
	return err
}

// primary refuses a replica, and a primary that was demoted.
func (c *conn) primary() error {
	if c.replica {
		return &lostError{why: "the server is a replica (in recovery): the admin URL must lead to the primary", replica: true}
	}
	return nil
}

// exec runs one or more statements of ours; several are one transaction.
func (c *conn) exec(ctx context.Context, sql string, args ...any) error {
	_, err := c.pg.Exec(ctx, sql, args...)
	return scrub(err)
}

// execOne runs what is one statement, and would be refused by the server if it
// were two.
func (c *conn) execOne(ctx context.Context, sql string) error {
	_, err := c.pg.PgConn().ExecParams(ctx, sql, nil, nil, nil, nil).Close()
	return scrub(err)
}

// prepare has the server plan a statement once for many uses. What is prepared
// on a connection ends with it.
func (c *conn) prepare(ctx context.Context, name, sql string) error {
	if c.prepared[name] {
		return nil
	}
	if _, err := c.pg.PgConn().Prepare(ctx, name, sql, nil); err != nil {
		return scrub(err)
	}
	c.prepared[name] = true
	return nil
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

// inTx commits a transaction that do begins, unless do has done so itself, or
// rolls it back, and does it again where a neighbour got in its way.
func (c *conn) inTx(ctx context.Context, do func() error) error {
	return retry(ctx, func() error {
		err := do()
		if err == nil && c.pg.PgConn().TxStatus() != 'I' {
			err = c.exec(ctx, "COMMIT")
		}
		if err == nil || c.pg.IsClosed() || c.pg.PgConn().TxStatus() == 'I' {
			return err
		}
		return errors.Join(err, c.exec(ctx, "ROLLBACK"))
	})
}

// become returns the statement that makes the admin a member of a role, with
// its rights and able to act as it. Up to PostgreSQL 15 membership is all
// that; from 16 on it has to be said, and an admin that made the role has the
// right to (README, "The admin").
func become(version int, role string) string {
	sql := "GRANT " + quoteName(role) + " TO CURRENT_USER"
	if version >= 160000 {
		sql += " WITH INHERIT TRUE, SET TRUE"
	}
	return sql
}
