package postgres_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

// server is shared by the tests that leave it running. Its settings are the
// awkward ones: local time off UTC, backslashes that escape, commits that do
// not wait, everything logged.
var server *servers.Postgres

var awkward = map[string]string{
	"log_statement": "all", "log_min_duration_statement": "0", "timezone": "Asia/Kolkata",
	"standard_conforming_strings": "off", "synchronous_commit": "off", "max_prepared_transactions": "5",
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	done, err := choose(ctx)
	defer done()
	if err == nil {
		server, err = servers.StartPostgres(ctx, servers.PostgresConfig{Bin: programs, Settings: awkward})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := prepare(ctx, server); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// ownServer starts a server for one test, of the version that all tests run on.
func ownServer(t *testing.T, c servers.PostgresConfig) *servers.Postgres {
	t.Helper()
	c.Bin = programs
	own, err := servers.StartPostgres(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	if err := prepare(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	return own
}

const adminPassword = "a dm/in:p@ss?w'or%d"

// prepare makes what an operator makes: a database, group roles, and an admin
// without superuser, without pg_signal_backend.
func prepare(ctx context.Context, s *servers.Postgres) error {
	c, err := pgx.Connect(ctx, s.AdminURL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	for _, sql := range []string{
		`CREATE DATABASE app`, `CREATE DATABASE other`,
		`CREATE ROLE app_owner`, `CREATE ROLE "App "" Ro'le"`, `CREATE ROLE great CREATEROLE`, `CREATE ROLE indirect IN ROLE great`,
		`GRANT CREATE ON DATABASE app, other TO app_owner`,
		`CREATE ROLE mallory LOGIN PASSWORD 'mallory'`,
		`CREATE ROLE dpadmin LOGIN CREATEROLE PASSWORD E'` + `a dm/in:p@ss?w\'or%d` + `'`,
		`GRANT app_owner, "App "" Ro'le" TO dpadmin WITH ADMIN OPTION`,
	} {
		if _, err := c.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	app, err := pgx.Connect(ctx, s.AdminURL("app"))
	if err != nil {
		return err
	}
	defer func() { _ = app.Close(ctx) }()
	_, err = app.Exec(ctx, `GRANT ALL ON SCHEMA public TO app_owner; GRANT CREATE ON SCHEMA public TO PUBLIC`)
	return err
}

// secret is a SecretSource whose value a test can change.
type secret struct {
	mu    sync.Mutex
	value broker.SecretValue
	err   error
}

func (s *secret) Read(context.Context) (broker.SecretValue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value, s.err
}

func (s *secret) set(v broker.SecretValue, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.err = v, err
}

func holding(url string) *secret {
	return &secret{value: broker.SecretValue{Current: broker.NewSecret(url)}}
}

func grant(params string) broker.Grant {
	return broker.Grant{Name: "app-db", Kind: postgres.KindName, Target: "app-pg", MaxTTL: time.Hour, Params: []byte(params)}
}

var appGrant = grant(`{"roles": ["app_owner"], "scram_iterations": 64}`)

func config(admin broker.SecretSource) broker.TargetConfig {
	return broker.TargetConfig{
		Name: "app-pg", Deployment: "test", URL: "https://daypass.example.com", Admin: admin,
		Now: func() time.Time { return time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC) }, // our clock is of no account
	}
}

func openMinter(t *testing.T, admin broker.SecretSource) broker.Minter {
	t.Helper()
	m, err := postgres.Kind().Open(config(admin))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeMinter(m) })
	return m
}

var leases atomic.Int64

// orderFor is an order with a fresh lease.
func orderFor(g broker.Grant, ttl time.Duration) broker.Order {
	return broker.Order{
		Lease: broker.LeaseID(fmt.Sprintf("dpl_%d_%d", leases.Add(1), time.Now().UnixNano())), Grant: g,
		NotAfter: time.Now().Add(ttl).Truncate(time.Second),
		For:      broker.Identity{Issuer: "ci", Job: broker.Job{RepositoryID: "5678"}},
	}
}

// user is a minted user and how to log in as it.
type user struct {
	broker.Credential
	lease broker.Lease
	env   map[string]string
}

func mint(t *testing.T, m broker.Minter, o broker.Order) user {
	t.Helper()
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Mint(t.Context(), o, h)
	if err != nil {
		t.Fatal(err)
	}
	u := user{Credential: c, lease: broker.Lease{ID: o.Lease, Handle: h, Grant: o.Grant, ServerID: c.ServerID, NotAfter: o.NotAfter}, env: map[string]string{}}
	for _, f := range c.Fields {
		for _, e := range f.Env {
			u.env[e] = f.Value.Reveal()
		}
	}
	return u
}

func (u user) login(t *testing.T) *pgx.Conn {
	t.Helper()
	return connect(t, u.env["DATABASE_URL"])
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func exec(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func ask[T any](t *testing.T, c *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := c.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func revoke(t *testing.T, m broker.Minter, u user) {
	t.Helper()
	if err := m.Revoke(t.Context(), u.lease); err != nil {
		t.Fatal(err)
	}
}

// field is the value of one field of a credential.
func field(c broker.Credential, name string) string {
	for _, f := range c.Fields {
		if f.Name == name {
			return f.Value.Reveal()
		}
	}
	return ""
}

// throughPort leads an admin URL over another port of this machine.
func throughPort(admin string, port int) string {
	u, err := url.Parse(admin)
	if err != nil {
		panic(err)
	}
	query := u.Query()
	query.Del("host")
	query.Del("port")
	if user := query.Get("user"); user != "" {
		u.User = url.UserPassword(user, query.Get("password"))
		query = url.Values{"sslmode": {"disable"}}
	}
	u.Host, u.RawQuery = net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), query.Encode()
	return u.String()
}

func suite(s *servers.Postgres, admin string) brokertest.MinterSuite {
	super := s.AdminURL("postgres")
	one := func(ctx context.Context, into any, sql string, args ...any) error {
		c, err := pgx.Connect(ctx, super)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close(ctx) }()
		return c.QueryRow(ctx, sql, args...).Scan(into)
	}
	return brokertest.MinterSuite{
		Kind: postgres.Kind(), Grant: appGrant, Config: config(holding(admin)),
		Works: func(ctx context.Context, c broker.Credential) error {
			conn, err := pgx.Connect(ctx, field(c, "url"))
			if err != nil {
				return err
			}
			return conn.Close(ctx)
		},
		Target: &brokertest.MinterTarget{
			Exists: func(ctx context.Context, name string) (bool, error) {
				var exists bool
				err := one(ctx, &exists, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, name)
				return exists, err
			},
			Expiry: func(ctx context.Context, h broker.Handle) (time.Time, error) {
				var at time.Time
				err := one(ctx, &at, `SELECT rolvaliduntil FROM pg_roles WHERE rolname = $1`, string(h))
				return at, err
			},
			Plant: func(ctx context.Context, name string) error { // as the admin: from version 16 on a role is its maker's
				c, err := pgx.Connect(ctx, admin)
				if err != nil {
					return err
				}
				defer func() { _ = c.Close(ctx) }()
				_, err = c.Exec(ctx, `CREATE ROLE `+pgx.Identifier{name}.Sanitize()+` LOGIN`)
				return err
			},
			Down: func(context.Context) error { return s.Kill() },
			Up:   s.Start,
			Session: func(ctx context.Context, c broker.Credential) (func(context.Context) error, error) {
				conn, err := pgx.Connect(ctx, field(c, "url"))
				return func(ctx context.Context) error { return conn.Ping(ctx) }, err
			},
			Addr:    net.JoinHostPort(s.Host(), strconv.Itoa(s.Port())),
			Through: func(at *net.TCPAddr) broker.SecretSource { return holding(throughPort(admin, at.Port)) },
		},
	}
}

func TestPostgresKeepsTheContractOfAMinter(t *testing.T) {
	for name, url := range map[string]func(*servers.Postgres) string{
		"as superuser":         func(s *servers.Postgres) string { return s.AdminURL("app") },
		"with CREATEROLE only": func(s *servers.Postgres) string { return s.URL("dpadmin", adminPassword, "app") },
		"over the server's socket": func(s *servers.Postgres) string {
			return "postgres:///app?user=dpadmin&password=a%20dm%2Fin%3Ap%40ss%3Fw%27or%25d&host=" + s.SocketDir() + fmt.Sprintf("&port=%d", s.Port())
		},
	} {
		t.Run(name, func(t *testing.T) {
			own := ownServer(t, servers.PostgresConfig{Settings: awkward})
			brokertest.TestMinter(t, suite(own, url(own)))
		})
	}
}

// closeMinter lets a minter's connections go.
func closeMinter(m broker.Minter) {
	if c, ok := m.(io.Closer); ok {
		_ = c.Close()
	}
}
