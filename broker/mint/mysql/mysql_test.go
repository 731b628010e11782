package mysql_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/mint/mysql"
)

// server is shared by the tests that leave it running. Its settings are the
// awkward ones.
var server *servers.MariaDB

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	driverLog := &driver.NopLogger{} // sessions are ended all the time
	if err := driver.SetLogger(driverLog); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var err error
	if server, err = start(context.Background(), awkward(), nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := prepare(context.Background(), server); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const adminPassword = "a dm/in:p@ss?w'or%d"

// prepare makes what an operator makes: databases, roles, an admin with what the
// README asks for, and one that can only grant on databases.
func prepare(ctx context.Context, s *servers.MariaDB) error {
	db, err := sql.Open("mysql", dsn(s, "root", s.AdminPassword(), ""))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	for _, statement := range []string{
		"CREATE DATABASE app_db", "CREATE DATABASE appxdb", "CREATE DATABASE `A'p\"p``; --`",
		"CREATE TABLE app_db.orders (n INT PRIMARY KEY) ENGINE = InnoDB", "CREATE TABLE appxdb.orders (n INT PRIMARY KEY) ENGINE = InnoDB",
		"CREATE ROLE app_rw", "CREATE ROLE `App \"``Ro'le`", "CREATE ROLE great", "CREATE ROLE indirect",
		"GRANT ALL PRIVILEGES ON `app\\_db`.* TO app_rw", "GRANT SELECT ON `app\\_db`.* TO `App \"``Ro'le`",
		"GRANT CREATE USER ON *.* TO great", "GRANT great TO indirect",
		"CREATE USER mallory@'%' IDENTIFIED BY 'mallory'",
		"CREATE USER dpadmin@'%' IDENTIFIED BY 'a dm/in:p@ss?w''or%d'",
		"GRANT CREATE USER, PROCESS, " + connectionAdmin() + " ON *.* TO dpadmin@'%'",
		"GRANT SELECT, UPDATE ON mysql.* TO dpadmin@'%'", "GRANT ALL PRIVILEGES ON daypass.* TO dpadmin@'%'",
		"GRANT app_rw TO dpadmin@'%' WITH ADMIN OPTION", "GRANT `App \"``Ro'le` TO dpadmin@'%' WITH ADMIN OPTION",
		"GRANT SHOW VIEW, TRIGGER, EVENT, DROP, ALTER ROUTINE ON `app\\_db`.* TO dpadmin@'%'",
		"CREATE USER dpgrants@'%' IDENTIFIED BY 'dpgrants'",
		"GRANT CREATE USER, PROCESS, " + connectionAdmin() + " ON *.* TO dpgrants@'%'", "GRANT SELECT ON mysql.* TO dpgrants@'%'",
		"GRANT ALL PRIVILEGES ON daypass.* TO dpgrants@'%'", "GRANT ALL PRIVILEGES ON `app\\_db`.* TO dpgrants@'%' WITH GRANT OPTION",
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

func dsn(s *servers.MariaDB, user, password, database string) string {
	c := driver.NewConfig()
	c.User, c.Passwd, c.Net, c.Addr, c.DBName = user, password, "tcp", fmt.Sprintf("%s:%d", s.Host(), s.Port()), database
	return c.FormatDSN()
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
	return broker.Grant{Name: "app-db", Kind: mysql.KindName, Target: "app-my", MaxTTL: time.Hour, Params: []byte(params)}
}

var (
	roleGrant = grant(`{"roles": ["app_rw"], "database": "app_db", "require": "none"}`)
	dbGrant   = grant(`{"grants": {"app_db": ["SELECT", "INSERT"]}, "require": "none"}`)
)

func config(admin broker.SecretSource) broker.TargetConfig {
	return broker.TargetConfig{
		Name: "app-my", Deployment: "test", URL: "https://daypass.example.com", Admin: admin,
		Now: func() time.Time { return time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC) }, // our clock is of no account
	}
}

func openMinter(t testing.TB, admin broker.SecretSource) broker.Minter {
	t.Helper()
	m, err := mysql.Kind().Open(config(admin))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.(io.Closer).Close() })
	return m
}

// The minters of the shared server: its admin with all rights, one with those
// that it takes, one that can only grant on a database.
func superMinter(t testing.TB) broker.Minter {
	return openMinter(t, holding(server.AdminURL("daypass")))
}
func plainMinter(t testing.TB) broker.Minter {
	return openMinter(t, holding(server.URL("dpadmin", adminPassword, "daypass")))
}
func grantMinter(t testing.TB) broker.Minter {
	return openMinter(t, holding(server.URL("dpgrants", "dpgrants", "daypass")))
}

var leases struct {
	sync.Mutex
	n int
}

// orderFor is an order with a fresh lease.
func orderFor(g broker.Grant, ttl time.Duration) broker.Order {
	leases.Lock()
	defer leases.Unlock()
	leases.n++
	return broker.Order{
		Lease: broker.LeaseID(fmt.Sprintf("dpl_%d_%d", leases.n, time.Now().UnixNano())), Grant: g,
		NotAfter: time.Now().Add(ttl).Truncate(time.Second),
		For:      broker.Identity{Issuer: "ci", Job: broker.Job{RepositoryID: "5678"}},
	}
}

// user is a minted user and how to log in as it.
type user struct {
	broker.Credential
	on    *servers.MariaDB
	lease broker.Lease
	env   map[string]string
	field map[string]string
}

func (u user) name() string { return string(u.lease.Handle) }

func mint(t testing.TB, m broker.Minter, o broker.Order) user {
	t.Helper()
	return mintOn(t, server, m, o)
}

func mintOn(t testing.TB, on *servers.MariaDB, m broker.Minter, o broker.Order) user {
	t.Helper()
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Mint(t.Context(), o, h)
	if err != nil {
		t.Fatal(err)
	}
	u := user{Credential: c, on: on, env: map[string]string{}, field: map[string]string{},
		lease: broker.Lease{ID: o.Lease, Handle: h, Grant: o.Grant, ServerID: c.ServerID, NotAfter: o.NotAfter}}
	for _, f := range c.Fields {
		u.field[f.Name] = f.Value.Reveal()
		for _, e := range f.Env {
			u.env[e] = f.Value.Reveal()
		}
	}
	return u
}

// tryLogin opens one session, or says why not.
func (u user) tryLogin(ctx context.Context) (*link, error) {
	return session(ctx, dsn(u.on, u.name(), u.env["MYSQL_PWD"], u.env["MYSQL_DATABASE"]))
}

// link is one session of a server, which ends when it is closed.
type link struct {
	*sql.Conn
	db *sql.DB
}

func (l *link) Close() error { return errors.Join(l.Conn.Close(), l.db.Close()) }

func session(ctx context.Context, dsn string) (*link, error) {
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return nil, err
	}
	c, err := db.Conn(ctx)
	for attempt := 1; errors.Is(err, driver.ErrMalformPkt) && attempt < 3; attempt++ { // see the README on ed25519
		c, err = db.Conn(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &link{c, db}, nil
}

func (u user) login(t testing.TB) *link {
	t.Helper()
	c, err := u.tryLogin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func rootOn(t testing.TB, s *servers.MariaDB) *link {
	t.Helper()
	c, err := session(t.Context(), dsn(s, "root", s.AdminPassword(), ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	exec(t, c, "SET sql_mode = '', autocommit = 1")
	return c
}

func root(t testing.TB) *link { return rootOn(t, server) }

func exec(t testing.TB, c *link, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := c.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func ask[T any](t testing.TB, c *link, query string, args ...any) T {
	t.Helper()
	var v T
	if err := c.QueryRowContext(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func revoke(t testing.TB, m broker.Minter, u user) {
	t.Helper()
	if err := m.Revoke(t.Context(), u.lease); err != nil {
		t.Fatal(err)
	}
}

// listed is the table of sessions that asks none of them to wait.
func listed() string {
	if server.IsMySQL() {
		return "performance_schema.processlist"
	}
	return "information_schema.PROCESSLIST"
}

// sessions counts a user's.
func sessions(t testing.TB, c *link, u user) int {
	t.Helper()
	return ask[int](t, c, "SELECT COUNT(*) FROM "+listed()+" WHERE CAST(USER AS BINARY) = ?", u.name())
}

// accounts counts the accounts of a name.
func accounts(t testing.TB, c *link, name string) int {
	t.Helper()
	return ask[int](t, c, "SELECT COUNT(*) FROM mysql.user WHERE User = ?", name)
}

func field(c broker.Credential, name string) string {
	for _, f := range c.Fields {
		if f.Name == name {
			return f.Value.Reveal()
		}
	}
	return ""
}

// address is where an admin URL leads.
func address(s *servers.MariaDB, admin string) string {
	if strings.Contains(admin, "socket=") {
		return s.Socket()
	}
	return fmt.Sprintf("%s:%d", s.Host(), s.Port())
}

func suite(s *servers.MariaDB, admin string, g broker.Grant) brokertest.MinterSuite {
	one := func(ctx context.Context, into any, query string, args ...any) error {
		c, err := session(ctx, dsn(s, "root", s.AdminPassword(), ""))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if into == nil {
			_, err = c.ExecContext(ctx, query, args...)
			return err
		}
		return c.QueryRowContext(ctx, query, args...).Scan(into)
	}
	return brokertest.MinterSuite{
		Kind: mysql.Kind(), Grant: g, Config: config(holding(admin)),
		Works: func(ctx context.Context, c broker.Credential) error {
			conn, err := session(ctx, dsn(s, field(c, "username"), field(c, "password"), field(c, "database")))
			if err != nil {
				return err
			}
			return conn.Close()
		},
		Target: &brokertest.MinterTarget{
			// What there is of a name: an account, or the event that would end it.
			Exists: func(ctx context.Context, name string) (bool, error) {
				var n int
				name = onMySQL(strings.TrimSpace(name), name) // as MySQL reads it
				err := one(ctx, &n, "SELECT (SELECT COUNT(*) FROM mysql.user WHERE User = ?) + (SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_NAME = ?)", name, name)
				return n > 0, err
			},
			Expiry: func(ctx context.Context, h broker.Handle) (time.Time, error) {
				var at string // UTC
				err := one(ctx, &at, "SELECT EXECUTE_AT FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'daypass' AND EVENT_NAME = ?", string(h))
				if err != nil {
					return time.Time{}, err
				}
				return time.Parse(time.DateTime, at)
			},
			Plant: func(ctx context.Context, name string) error {
				return one(ctx, nil, "CREATE USER `"+strings.ReplaceAll(name, "`", "``")+"`@`%`")
			},
			Down: func(context.Context) error { return s.Kill() },
			Up:   s.Start,
			Session: func(ctx context.Context, c broker.Credential) (func(context.Context) error, error) {
				conn, err := session(ctx, dsn(s, field(c, "username"), field(c, "password"), field(c, "database")))
				return func(ctx context.Context) error { _, err := conn.ExecContext(ctx, "DO 1"); return err }, err
			},
			Addr: address(s, admin),
			Through: func(at *net.TCPAddr) broker.SecretSource {
				u, err := url.Parse(admin)
				if err != nil {
					panic(err) // it is ours
				}
				u.Host, u.RawQuery = at.String(), ""
				return holding(u.String())
			},
		},
	}
}

func TestMySQLAndMariaDBKeepTheContractOfAMinter(t *testing.T) {
	last := auths()[len(auths())-1]
	for name, c := range map[string]struct {
		url   func(*servers.MariaDB) string
		grant broker.Grant
	}{
		"as root, with a role":                    {func(s *servers.MariaDB) string { return s.AdminURL("daypass") }, roleGrant},
		"with the rights it takes, with a role":   {func(s *servers.MariaDB) string { return s.URL("dpadmin", adminPassword, "daypass") }, roleGrant},
		"with no right to roles, with privileges": {func(s *servers.MariaDB) string { return s.URL("dpgrants", "dpgrants", "daypass") }, dbGrant},
		"over the server's socket": {func(s *servers.MariaDB) string {
			return "mysql://dpgrants:dpgrants@/daypass?socket=" + url.QueryEscape(s.Socket())
		}, dbGrant},
		"with " + last + " and a host": {func(s *servers.MariaDB) string { return s.AdminURL("daypass") },
			grant(`{"roles": ["app_rw"], "require": "none", "auth": "` + last + `", "client_host": "127.0.0.%"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			own := startOwn(t, nil)
			brokertest.TestMinter(t, suite(own, c.url(own), c.grant))
		})
	}
}

// startOwn starts a server that a test has for itself, and so runs beside others.
func startOwn(t *testing.T, settings map[string]string) *servers.MariaDB {
	t.Helper()
	t.Parallel()
	own, err := start(t.Context(), both(awkward(), settings), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	if err := prepare(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	return own
}
