package mysql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/internal/adminpool"
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
	user := newUser{handle: h, notAfter: o.NotAfter, params: p, note: newNote(o)}
	var made broker.Credential
	err = m.minting.With(ctx, func(c *conn) error {
		auth := p.Auth
		if auth == "" {
			auth = c.server.auth()
		}
		if user.identified, err = identified(auth, password, m.random); err != nil {
			return err
		}
		id, err := c.create(ctx, &user)
		made = credential(c, user, password)
		made.ServerID = id
		return err
	})
	if err != nil {
		return broker.Credential{}, m.failed("mint", err)
	}
	return made, nil
}

// create makes the user, statement by statement, and returns the server's
// identity.
func (c *conn) create(ctx context.Context, u *newUser) (string, error) {
	if err := errors.Join(c.primary(), c.able(), c.fits(u.params)); err != nil {
		return "", err
	}
	if !u.notAfter.After(c.now) {
		return "", errors.New("by the server's clock the credential would have expired already")
	}
	id, err := c.settle(ctx)
	if err != nil {
		return "", err
	}
	if err := c.checkRoles(ctx, u.params.Roles); err != nil {
		return "", err
	}
	u.server = c.server
	if c.events {
		u.home = c.home()
	}
	own, err := renderAll(u.params.Statements.Create, u.params.values(c.server, u.handle, u.note.Lease, u.notAfter))
	if err != nil {
		return "", err
	}
	// Held until it is known whether the user was made: whoever takes it back
	// waits for that.
	return id, c.locked(ctx, u.handle, func() error {
		for _, statement := range u.statements() { // each is for good
			if err := c.exec(ctx, statement); err != nil {
				return adminpool.Begun(err)
			}
		}
		for i, statement := range own {
			if err := c.exec(ctx, statement); err != nil {
				return adminpool.Begun(fmt.Errorf("statements: create: number %d: %w", i+1, err))
			}
		}
		return nil
	})
}

// lockName names a handle's lock.
func lockName(h broker.Handle) string { return "daypass." + string(h) }

// locked does something while this connection has a handle's lock.
func (c *conn) locked(ctx context.Context, h broker.Handle, do func() error) error {
	var got *int
	if _, err := c.row(ctx, []any{&got}, "SELECT GET_LOCK(?, 1)", lockName(h)); err != nil {
		return err
	}
	if got == nil || *got != 1 {
		return errors.New("somebody else has the lock of this very credential")
	}
	err := do()
	if e := c.exec(ctx, "DO RELEASE_LOCK(?)", lockName(h)); e != nil {
		c.broken = true // the lock goes with the session
	}
	return err
}

// fits refuses a grant that this server cannot keep.
func (c *conn) fits(p params) error {
	var faults []error
	if c.server.mariadb == (p.Auth == authSHA2) && p.Auth != "" {
		faults = append(faults, fmt.Errorf("auth: %s is not for %s", p.Auth, c.server))
	}
	if p.RequireTLS && !c.server.tls {
		faults = append(faults, errors.New("require: the server has no TLS, so that nobody could log in; give it a certificate, or say require: none"))
	}
	if p.ServerExpiry == expiryRequired && !c.events {
		faults = append(faults, errors.New("server_expiry: "+noEvents))
	}
	for database, privileges := range p.Grants {
		if !c.server.mariadb && slices.Contains(privileges, "DELETE HISTORY") {
			faults = append(faults, fmt.Errorf("grants: DELETE HISTORY is not for %s", c.server))
		}
		if strings.EqualFold(database, c.schema) {
			faults = append(faults, fmt.Errorf("grants: %q is the broker's own schema", database))
		}
	}
	return errors.Join(faults...)
}

const noEvents = "the server runs no events (event_scheduler is not ON), so that only a broker ends users at their expiry: SET GLOBAL event_scheduler = ON, also in its configuration file"

// maxRoles bounds how many roles behind roles are looked at.
const maxRoles = 200

// checkRoles refuses roles that do not exist, and roles with which a job could
// make users of its own, hand on what it has, or keep us from taking back.
func (c *conn) checkRoles(ctx context.Context, roles []string) error {
	var faults []error
	var seen []grantee
	for _, role := range roles {
		seen = append(seen, c.server.roleNamed(role))
	}
	for i := 0; i < len(seen); i++ { // it grows
		role := seen[i]
		lines, err := c.texts(ctx, "SHOW GRANTS FOR "+c.server.quoted(role))
		if isOneOf(err, 1141, 1133) {
			faults = append(faults, fmt.Errorf("role %q does not exist", role))
			continue
		}
		if err != nil {
			return err
		}
		for _, line := range lines {
			if why := tooGreat(line, c.schema, c.server); why != "" {
				faults = append(faults, fmt.Errorf("role %q is too great, what it gives could not be taken back: %s", role, why))
				break
			}
		}
		behind, err := c.rolesOf(ctx, role)
		if err != nil {
			return err
		}
		for _, r := range behind {
			if !slices.Contains(seen, r) {
				seen = append(seen, r)
			}
		}
		if len(seen) > maxRoles {
			return errors.New("there are too many roles behind the grant's roles")
		}
	}
	return errors.Join(faults...)
}

// grantee is a role or a user as the server's tables name it. On MySQL every
// account can be a role, and two of one name are two; on MariaDB a role has no
// host.
type grantee struct{ name, host string }

func (g grantee) String() string {
	if g.host == "" || g.host == "%" {
		return g.name
	}
	return g.name + "@" + g.host
}

// roleNamed is the role that a grant means by a name.
func (s server) roleNamed(name string) grantee {
	if s.mariadb {
		return grantee{name: name}
	}
	return grantee{name, "%"}
}

// quoted is a role as statements name it.
func (s server) quoted(role grantee) string {
	if s.mariadb {
		return quoteName(role.name)
	}
	return account(role.name, role.host)
}

// rolesOf lists the roles that a role or user was granted.
func (c *conn) rolesOf(ctx context.Context, to grantee) ([]grantee, error) {
	query := "SELECT FROM_USER, FROM_HOST FROM mysql.role_edges WHERE BINARY TO_USER = ? AND BINARY TO_HOST = ?"
	if c.server.mariadb {
		query = "SELECT Role, '' FROM mysql.roles_mapping WHERE BINARY User = ? AND BINARY Host = ?"
	}
	var list []grantee
	err := c.rows(ctx, func(scan func(...any) error) error {
		var g grantee
		err := scan(&g.name, &g.host)
		list = append(list, g)
		return err
	}, query, to.name, to.host)
	return list, err
}

// credential is what the job gets.
func credential(c *conn, u newUser, password broker.Secret) broker.Credential {
	at := u.params.Endpoint
	if at.Host == "" {
		at.Host, at.socket = c.endpoint.Host, c.endpoint.socket
	}
	if at.Port == 0 {
		at.Port = c.endpoint.Port
	}
	if at.SSLMode == "" {
		at.SSLMode = c.endpoint.SSLMode
	}
	if at.SSLMode == "" && u.params.RequireTLS {
		at.SSLMode = "REQUIRED"
	}
	expiry := "broker"
	if u.home != "" && u.params.ServerExpiry != expiryNone {
		expiry = "server"
	}
	fields := []broker.Field{
		public("username", string(u.handle), "MYSQL_USER"),
		{Name: "password", Env: []string{"MYSQL_PWD"}, Value: password},
		public("host", at.Host, "MYSQL_HOST"),
		public("port", strconv.Itoa(at.Port), "MYSQL_TCP_PORT"),
		{Name: "url", Env: []string{"DATABASE_URL"}, Value: loginURL(at, string(u.handle), password, u.params.Database)},
		public("expiry", expiry), // who ends the user at its expiry when nobody gives it back
	}
	if u.params.Database != "" {
		fields = append(fields, public("database", u.params.Database, "MYSQL_DATABASE"))
	}
	if at.SSLMode != "" {
		fields = append(fields, public("ssl_mode", at.SSLMode))
	}
	if at.socket != "" {
		fields = append(fields, public("socket", at.socket, "MYSQL_UNIX_PORT"))
	}
	return broker.Credential{Fields: fields, Takeback: broker.TakebackNow}
}

func public(name, value string, env ...string) broker.Field {
	return broker.Field{Name: name, Env: env, Value: broker.NewSecret(value), Public: true}
}

// loginURL is a mysql:// URL.
func loginURL(at endpoint, user string, password broker.Secret, database string) broker.Secret {
	u := url.URL{Scheme: "mysql", User: url.UserPassword(user, password.Reveal()), Path: "/" + database,
		Host: net.JoinHostPort(at.Host, strconv.Itoa(at.Port))}
	query := url.Values{}
	if at.SSLMode != "" {
		query.Set("ssl-mode", at.SSLMode)
	}
	if at.socket != "" {
		query.Set("socket", at.socket)
	}
	u.RawQuery = query.Encode()
	return broker.NewSecret(u.String())
}
