package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/daypass-dev/daypass/broker"
)

// server is what a server is: its sort, and what it can do.
type server struct {
	mariadb bool
	version int // such as 101119
	tls     bool
	literal bool // a database in GRANT is a name and no pattern: MySQL's partial_revokes
	watched bool // its performance schema lists sessions
}

func (s server) String() string {
	if s.mariadb {
		return "MariaDB"
	}
	return "MySQL"
}

// auth is how passwords are checked where a grant does not say.
func (s server) auth() string {
	if s.mariadb {
		return authNative
	}
	return authSHA2
}

// conn is one admin connection. Its methods return scrubbed errors only. It is
// one session of the server: where that is lost, so is the conn.
type conn struct {
	db       *sql.DB
	session  *sql.Conn
	from     broker.Secret // the URL it was made with
	endpoint endpoint      // of that URL
	schema   string        // of that URL: ours
	server   server
	lacks    []string // the rights the admin needs and does not have
	broken   bool     // it may hold a lock that it should not

	mark     string    // the server's, as of the last probe; see identity
	readOnly bool      // as of then
	events   bool      // whether the server runs events, as of then
	now      time.Time // the server's clock then
}

// loginAttempts are made where the driver takes the server's words for malformed: it
// cuts off a zero at the end of an ed25519 nonce, which one in 256 has.
const loginAttempts = 3

// dial connects and asks the server what it is.
func dial(ctx context.Context, url broker.Secret) (*conn, error) {
	a, err := parseAdmin(url)
	if err != nil {
		return nil, err
	}
	connector, err := driver.NewConnector(a.config)
	if err != nil {
		return nil, errors.New("the admin URL cannot be used") // what is wrong may be a part of it
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	c := &conn{db: sql.OpenDB(connector), from: url, endpoint: a.endpoint, schema: a.schema}
	c.db.SetMaxOpenConns(1)
	for range loginAttempts {
		if c.session, err = c.db.Conn(ctx); !errors.Is(err, driver.ErrMalformPkt) {
			break
		}
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connect: %w", scrub(err))
	}
	if err := c.identify(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := c.probe(ctx, connectWithin); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// Close gives the connection up.
func (c *conn) Close() {
	if c.session != nil {
		_ = c.session.Close() // it is given up either way
	}
	_ = c.db.Close()
}

// exec runs one statement.
func (c *conn) exec(ctx context.Context, statement string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, statementWithin)
	defer cancel()
	_, err := c.session.ExecContext(ctx, statement, args...)
	return scrub(err)
}

// row reads one row into dest; false if there is none.
func (c *conn) row(ctx context.Context, dest []any, query string, args ...any) (bool, error) {
	found := false
	err := c.rows(ctx, func(scan func(...any) error) error {
		if found {
			return nil
		}
		found = true
		return scan(dest...)
	}, query, args...)
	return found, err
}

// rows calls each for every row.
func (c *conn) rows(ctx context.Context, each func(scan func(...any) error) error, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, statementWithin)
	defer cancel()
	rows, err := c.session.QueryContext(ctx, query, args...)
	if err != nil {
		return scrub(err)
	}
	defer func() { _ = rows.Close() }() // read to the end, or given up
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return scrub(err)
		}
	}
	return scrub(rows.Err())
}

// sessionTable is where a server lists its sessions. On MySQL one that is changing
// its user holds up whoever asks another table, for as long as it likes; this one
// is asked without a lock, and knows it by the user that it still is.
func (s server) sessionTable() string {
	if s.watched {
		return "performance_schema.processlist"
	}
	return "information_schema.PROCESSLIST"
}

// claims reports whether a session that is changing its user is listed under the
// name that it only says it has.
func (s server) claims() bool { return !s.watched }

// processes tells of each session of the server its number, its user and what it
// does. Where there is a choice, SHOW is the way to ask for which the server
// writes no temporary table.
func (c *conn) processes(ctx context.Context, each func(id uint64, user, command string)) error {
	ctx, cancel := context.WithTimeout(ctx, statementWithin)
	defer cancel()
	query := "SHOW PROCESSLIST"
	if c.server.watched {
		query = "SELECT ID AS Id, COALESCE(USER, '') AS User, COALESCE(COMMAND, '') AS Command FROM " + c.server.sessionTable()
	}
	rows, err := c.session.QueryContext(ctx, query)
	if err != nil {
		return scrub(err)
	}
	defer func() { _ = rows.Close() }() // read to the end, or given up
	columns, err := rows.Columns()
	if err != nil {
		return scrub(err)
	}
	var id uint64
	var user, command string
	wanted := map[string]any{"Id": &id, "User": &user, "Command": &command}
	dest := make([]any, len(columns))
	for i, name := range columns {
		if dest[i] = wanted[name]; dest[i] == nil {
			dest[i] = new(sql.RawBytes)
		}
		delete(wanted, name)
	}
	if len(wanted) > 0 {
		return errors.New("the server does not list its sessions")
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return scrub(err)
		}
		each(id, user, command)
	}
	return scrub(rows.Err())
}

// texts reads the first column of all rows.
func (c *conn) texts(ctx context.Context, query string, args ...any) ([]string, error) {
	var list []string
	err := c.rows(ctx, func(scan func(...any) error) error {
		var s string
		err := scan(&s)
		list = append(list, s)
		return err
	}, query, args...)
	return list, err
}
