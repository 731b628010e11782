package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/daypass-dev/daypass/broker"
)

// Plan implements [broker.Minter]. It also refuses a grant that cannot be
// minted, before a token is spent on it.
func (m *minter) Plan(o broker.Order) (broker.Handle, error) {
	h, _, err := m.plan(o)
	return h, err
}

func (m *minter) plan(o broker.Order) (broker.Handle, params, error) {
	p, err := parseParams(o.Grant.Params)
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
	var made broker.Credential
	err = m.minting.with(ctx, func(c *conn) error {
		if err := c.create(ctx, user); err != nil {
			return err
		}
		made = credential(c, user, password)
		return nil
	})
	return made, m.failed("mint", err)
}

// create makes the user in one transaction.
func (c *conn) create(ctx context.Context, u newUser) error {
	if err := c.primary(); err != nil {
		return err
	}
	if !u.notAfter.After(c.now) {
		return errors.New("by the database's clock the credential would have expired already")
	}
	return c.inTx(ctx, func() error {
		// Held until the end of the transaction: whoever takes this user back
		// waits until it is known whether it was made.
		if err := c.exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey(u.handle)); err != nil {
			return err
		}
		if err := c.checkGroups(ctx, u.params.Roles); err != nil {
			return err
		}
		return c.exec(ctx, strings.Join(u.statements(), ";\n"))
	})
}

// lockKey names a handle's advisory lock.
func lockKey(h broker.Handle) int64 {
	sum := sha256.Sum256([]byte("daypass postgres\x00" + string(h)))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// checkGroups refuses groups that do not exist, and groups whose members could
// make users of their own or take over the server: such a credential could not
// be taken back. Attributes of a role are not inherited, but SET ROLE lends
// them.
func (c *conn) checkGroups(ctx context.Context, groups []string) error {
	type group struct {
		Name             string
		Exists, TooGreat bool
	}
	found, err := rows[group](ctx, c, `
		SELECT g.name, r.oid IS NOT NULL, r.oid IS NOT NULL AND EXISTS (
			SELECT FROM pg_roles great
			WHERE (great.rolsuper OR great.rolcreaterole OR great.rolreplication
			       OR great.rolname IN ('pg_execute_server_program', 'pg_write_server_files'))
			  AND pg_has_role(r.oid, great.oid, 'MEMBER'))
		FROM unnest($1::text[]) AS g(name) LEFT JOIN pg_roles r ON r.rolname = g.name`, groups)
	if err != nil {
		return err
	}
	var faults []error
	for _, g := range found {
		switch {
		case !g.Exists:
			faults = append(faults, fmt.Errorf("group role %q does not exist", g.Name))
		case g.TooGreat:
			faults = append(faults, fmt.Errorf("group role %q gives superuser, CREATEROLE, REPLICATION or the server's files: what it gives could not be taken back", g.Name))
		}
	}
	return errors.Join(faults...)
}

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
