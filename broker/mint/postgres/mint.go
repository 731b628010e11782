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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass-dev/daypass/broker"
)

// Plan implements [broker.Minter]. It also refuses a grant that cannot be
// minted, before a token is spent on it.
func (m *minter) Plan(o broker.Order) (broker.Handle, error) {
	h, _, err := m.plan(o)
	return h, err
}

func (m *minter) plan(o broker.Order) (broker.Handle, params, error) {
	p, err := m.params.read(o.Grant.Params, m.iterations)
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
	err = m.minting.With(ctx, func(c *conn) error {
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

// create makes the user in one transaction of two messages. The first takes a
// lock that is held to the end, and the second goes out only when it has it:
// so whoever takes this user back either comes before anything is made, and
// then nothing is, or waits until it is known whether it was. In one message it
// would be neither: what a server still has to read outlives its client.
func (c *conn) create(ctx context.Context, u newUser) error {
	if err := c.primary(); err != nil {
		return err
	}
	own, err := renderAll(u.params.Statements.Create, u.values(c.database))
	if err != nil {
		return err
	}
	if err := errors.Join(c.prepare(ctx, locking, lockQuery), c.prepare(ctx, judgement, judgedQuery)); err != nil {
		return err
	}
	made, groups := u.statements(), u.params.groups()
	return c.inTx(ctx, func() error {
		var first, second pgconn.Batch
		addAll(&first, []string{"BEGIN"})
		first.ExecPrepared(locking, [][]byte{strconv.AppendInt(nil, lockKey(u.handle), 10)}, nil, nil)
		first.ExecPrepared(judgement, judgedValues(groups, u.notAfter, c.database), nil, nil)
		answers, err := c.pg.PgConn().ExecBatch(ctx, &first).ReadAll()
		if err != nil {
			return scrub(err)
		}
		if err := judge(groups, answers[len(answers)-1].Rows); err != nil {
			return err
		}
		addAll(&second, slices.Concat(made, own, []string{"COMMIT"}))
		done, err := c.pg.PgConn().ExecBatch(ctx, &second).ReadAll()
		if n := len(done) - len(made); err != nil && n > 0 && n <= len(own) {
			return fmt.Errorf("statements: create: number %d: %w", n, scrub(err))
		}
		return scrub(err)
	})
}

// addAll adds statements of which each is one, or is refused by the server.
func addAll(b *pgconn.Batch, list []string) {
	for _, sql := range list {
		b.ExecParams(sql, nil, nil, nil, nil)
	}
}

// lockKey names a handle's advisory lock.
func lockKey(h broker.Handle) int64 {
	sum := sha256.Sum256([]byte("daypass postgres\x00" + string(h)))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// inElement escapes what stands in an array's quoted element.
var inElement = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// judgedValues are the parameters of a judgement, as text.
func judgedValues(groups []string, notAfter time.Time, database string) [][]byte {
	quoted := make([]string, len(groups))
	for i, g := range groups {
		quoted[i] = `"` + inElement.Replace(g) + `"`
	}
	return [][]byte{[]byte("{" + strings.Join(quoted, ",") + "}"), strconv.AppendInt(nil, notAfter.Unix(), 10), []byte(database)}
}

// judgedQuery asks of each group role that there is what speaks against it: what
// would let its members make users of their own, take over the server, hand on
// what they were lent, or keep us from taking it back. A credential with that
// could not be taken back. Attributes of a role are not inherited, but SET ROLE
// lends them. Who owns the database that we connect to can shut us out of it, or
// set what our sessions begin with. Who may end any session ends ours; who may
// lock any table locks the server's own.
//
// It goes from a group upwards, one step by one index each, and is written so
// that no plan can do otherwise (OFFSET 0 keeps a subquery apart): one that was
// made when the server had no users is as good when there are thousands. The
// clock is the server's.
const judgedQuery = `
	WITH RECURSIVE up(name, oid) AS (
		SELECT g.name, r.oid FROM unnest($1::text[]) AS g(name)
			CROSS JOIN LATERAL (SELECT oid FROM pg_roles WHERE rolname = g.name OFFSET 0) r
		UNION SELECT up.name, m.roleid FROM up
			CROSS JOIN LATERAL (SELECT roleid FROM pg_auth_members WHERE member = up.oid OFFSET 0) m)
	SELECT name, max(coalesce((
			SELECT CASE WHEN rolsuper THEN 'superuser' WHEN rolcreaterole THEN 'CREATEROLE' WHEN rolreplication THEN 'REPLICATION'
				WHEN rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_signal_backend', 'pg_maintain') THEN rolname::text
				WHEN EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid AND admin_option) THEN 'a role WITH ADMIN OPTION'
				WHEN EXISTS (SELECT FROM pg_database WHERE datname = $3::text AND datdba = r.oid) THEN 'the database of the admin URL, as its owner'
				ELSE '' END
			FROM pg_roles r WHERE r.oid = up.oid), 'what cannot be seen')) AS great,
		floor(extract(epoch FROM clock_timestamp()))::bigint >= $2::bigint AS late
	FROM up GROUP BY name`

const lockQuery = `SELECT pg_advisory_xact_lock($1)`

// Their names where they are prepared.
const (
	locking   = "daypass_locking"
	judgement = "daypass_judgement"
)

// judge says what is to be said against making a user: of each of its groups
// there has to be a row that is for it.
func judge(groups []string, rows [][][]byte) error {
	fit := make(map[string]bool)
	var faults []error
	for _, r := range rows {
		name, great, late := string(r[0]), string(r[1]), string(r[2]) != "f"
		switch {
		case great != "":
			faults = append(faults, fmt.Errorf("group role %q gives %s: what it gives could not be taken back", name, great))
		case late:
			return errors.New("by the database's clock the credential would have expired already")
		}
		fit[name] = true
	}
	for _, g := range groups {
		if !fit[g] {
			faults = append(faults, fmt.Errorf("group role %q does not exist", g))
		}
	}
	if len(groups) == 0 {
		return errors.New("no group role was judged")
	}
	return errors.Join(faults...)
}

// checkGroups judges group roles without making anything. The database is the
// admin URL's.
func (c *conn) checkGroups(ctx context.Context, groups []string, database string) error {
	values := judgedValues(groups, time.Unix(math.MaxInt64, 0), database)
	got := c.pg.PgConn().ExecParams(ctx, judgedQuery, values, nil, nil, nil).Read()
	if got.Err != nil {
		return scrub(got.Err)
	}
	return judge(groups, got.Rows)
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
