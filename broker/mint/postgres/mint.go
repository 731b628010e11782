package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
)

// Plan implements [broker.Minter]. It also refuses a grant that cannot be
// minted, before a token is spent on it.
func (m *minter) Plan(o broker.Order) (broker.Handle, error) {
	h, _, err := m.plan(o)
	return h, err
}

func (m *minter) plan(o broker.Order) (broker.Handle, params, error) {
	p, err := parseParams(o.Grant.Params, m.iterations)
	if err != nil {
		return "", params{}, fmt.Errorf("params of grant %q: %w", o.Grant.Name, err)
	}
	h, err := broker.NewHandle(m.deployment, o.NotAfter, o.Lease)
	return h, p, err
}

// Mint implements [broker.Minter].
func (m *minter) Mint(ctx context.Context, o broker.Order, h broker.Handle) (broker.Credential, error) {
	planned, p, err := m.plan(o)
	if err != nil {
		return broker.Credential{}, err
	}
	if planned != h {
		return broker.Credential{}, errors.New("the handle is not the one that was planned for this order")
	}
	password, err := newPassword(m.random)
	if err != nil {
		return broker.Credential{}, err
	}
	verifier, err := newVerifier(m.random, password, p.ScramIterations)
	if err != nil {
		return broker.Credential{}, err
	}
	user := newUser{handle: h, verifier: verifier, notAfter: o.NotAfter, params: p, note: newNote(o)}
	if err := m.guard.keep(ctx); err != nil {
		return broker.Credential{}, m.failed("mint", err)
	}
	var made broker.Credential
	err = m.minting.with(ctx, func(c *conn) error {
		if err := c.create(ctx, user); err != nil {
			return err
		}
		made = credential(c, user, password)
		if p.Probe {
			return c.tryLogin(ctx, user, password)
		}
		return nil
	})
	return made, m.failed("mint", err)
}

// create makes the user in one transaction. Its statements are sent at once,
// and committed only when the server has said what they were to be judged by.
func (c *conn) create(ctx context.Context, u newUser) error {
	if err := c.primary(); err != nil {
		return err
	}
	own, err := renderAll(u.params.Statements.Create, u.values(c.database))
	if err != nil {
		return err
	}
	// The lock is held until the end of the transaction: whoever takes this
	// user back waits until it is known whether it was made.
	list := append([]string{
		"BEGIN", fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", lockKey(u.handle)), judgeStatement(u.params.groups()),
	}, u.statements()...)
	return c.inTx(ctx, func() error {
		if err := c.judged(ctx, strings.Join(list, ";\n"), u.notAfter); err != nil {
			return err
		}
		for i, sql := range own {
			if err := c.execOne(ctx, sql); err != nil {
				return fmt.Errorf("statements: create: number %d: %w", i+1, err)
			}
		}
		return nil
	})
}

// judged runs statements one of which is a [judgeStatement], and returns what
// is to be said against committing them.
func (c *conn) judged(ctx context.Context, sql string, notAfter time.Time) error {
	var faults []error
	results := c.pg.PgConn().Exec(ctx, sql)
	for results.NextResult() {
		r := results.ResultReader()
		for judgement := len(r.FieldDescriptions()) == 4; r.NextRow() && judgement; {
			faults = append(faults, fault(r.Values(), notAfter))
		}
	}
	err := scrub(results.Close())
	if refused := errors.Join(faults...); refused != nil {
		return refused
	}
	return err
}

// lockKey names a handle's advisory lock.
func lockKey(h broker.Handle) int64 {
	sum := sha256.Sum256([]byte("daypass postgres\x00" + string(h)))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// judgeStatement asks of each group role whether it is there, and whether its
// members could make users of their own or take over the server: such a
// credential could not be taken back. Attributes of a role are not inherited,
// but SET ROLE lends them. The clock is the server's.
func judgeStatement(groups []string) string {
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = quoteText(g)
	}
	return `
		SELECT g.name::text, (r.oid IS NOT NULL)::int, (r.oid IS NOT NULL AND EXISTS (
			SELECT FROM pg_roles great
			WHERE (great.rolsuper OR great.rolcreaterole OR great.rolreplication
			       OR great.rolname IN ('pg_execute_server_program', 'pg_write_server_files'))
			  AND pg_has_role(r.oid, great.oid, 'MEMBER')))::int,
			floor(extract(epoch FROM clock_timestamp()))::bigint
		FROM unnest(ARRAY[` + strings.Join(names, ", ") + `]::text[]) AS g(name) LEFT JOIN pg_roles r ON r.rolname = g.name`
}

// fault reads one row of a judgement.
func fault(row [][]byte, notAfter time.Time) error {
	switch name := string(row[0]); {
	case string(row[1]) != "1":
		return fmt.Errorf("group role %q does not exist", name)
	case string(row[2]) != "0":
		return fmt.Errorf("group role %q gives superuser, CREATEROLE, REPLICATION or the server's files: what it gives could not be taken back", name)
	case int64(atoi(row[3])) >= notAfter.Unix():
		return errors.New("by the database's clock the credential would have expired already")
	}
	return nil
}

// checkGroups judges group roles without making anything.
func (c *conn) checkGroups(ctx context.Context, groups []string) error {
	return c.judged(ctx, judgeStatement(groups), time.Unix(math.MaxInt64, 0))
}

// tryLogin logs in as a user that was just made, with the admin URL's ways of
// reaching the server, as the job will.
func (c *conn) tryLogin(ctx context.Context, u newUser, password broker.Secret) error {
	config, _, err := parseAdmin(c.from)
	if err != nil {
		return err
	}
	config.User, config.Password, config.Database = string(u.handle), password.Reveal(), cmp.Or(u.params.Database, c.database)
	config.RuntimeParams = map[string]string{"application_name": "daypass probe"}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	pg, err := pgx.ConnectConfig(ctx, config)
	if err == nil {
		err = errors.Join(pg.Ping(ctx), pg.Close(ctx))
	}
	if err != nil {
		return &probeError{scrub(err)}
	}
	return nil
}

// probeError is a user that was made and cannot log in. Its words must not be
// read as the admin's own troubles.
type probeError struct{ err error }

func (e *probeError) Error() string { return "the new user cannot log in: " + e.err.Error() }

// credential is what the job gets.
func credential(c *conn, u newUser, password broker.Secret) broker.Credential {
	at := u.params.Endpoint
	if at.Host == "" {
		at.Host = c.endpoint.Host
	}
	if at.Port == 0 {
		at.Port = c.endpoint.Port
	}
	if at.SSLMode == "" {
		at.SSLMode = c.endpoint.SSLMode
	}
	database := u.params.Database
	if database == "" {
		database = c.database
	}
	fields := []broker.Field{
		public("username", string(u.handle), "PGUSER"),
		{Name: "password", Env: []string{"PGPASSWORD"}, Value: password},
		public("host", at.Host, "PGHOST"),
		public("port", strconv.Itoa(at.Port), "PGPORT"),
		public("database", database, "PGDATABASE"),
		{Name: "url", Env: []string{"DATABASE_URL"}, Value: loginURL(at, string(u.handle), password, database)},
	}
	if at.SSLMode != "" {
		fields = append(fields, public("sslmode", at.SSLMode, "PGSSLMODE"))
	}
	return broker.Credential{Fields: fields, Takeback: broker.TakebackNow, ServerID: c.serverID}
}

func public(name, value string, env ...string) broker.Field {
	return broker.Field{Name: name, Env: env, Value: broker.NewSecret(value), Public: true}
}

// loginURL is a postgres:// URL; a socket's folder goes into the query, as
// libpq has it.
func loginURL(at endpoint, user string, password broker.Secret, database string) broker.Secret {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password.Reveal()), Path: "/" + database}
	query := url.Values{}
	if strings.HasPrefix(at.Host, "/") {
		query.Set("host", at.Host)
		query.Set("port", strconv.Itoa(at.Port))
	} else {
		u.Host = net.JoinHostPort(at.Host, strconv.Itoa(at.Port))
	}
	if at.SSLMode != "" {
		query.Set("sslmode", at.SSLMode)
	}
	u.RawQuery = query.Encode()
	return broker.NewSecret(u.String())
}

// atoi reads a count as the server writes it.
func atoi(digits []byte) int {
	n := 0
	for _, d := range digits {
		n = 10*n + int(d-'0')
	}
	return n
}
