package postgres_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

func check(t *testing.T, m broker.Minter) error {
	t.Helper()
	c, ok := m.(broker.Checker)
	if !ok {
		t.Fatal("not a Checker")
	}
	return c.Check(t.Context())
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	exec(t, adminConn(t), `DROP ROLE IF EXISTS powerless; CREATE ROLE powerless LOGIN PASSWORD 'powerless'`)
	for want, url := range map[string]string{
		"":                                  server.URL("dpadmin", adminPassword, "app"),
		"neither CREATEROLE nor superuser":  server.URL("powerless", "powerless", "app"),
		"does not accept the admin":         server.URL("dpadmin", "wrong", "app"),
		"database does not exist":           server.URL("dpadmin", adminPassword, "nowhere"),
		"refuses connections":               "postgres://u:p@127.0.0.1:1/app?sslmode=disable",
		"is not a postgres:// URL":          "mysql://u:p@127.0.0.1/app",
		"must name user, password and data": server.URL("dpadmin", adminPassword, ""),
	} {
		err := check(t, openMinter(t, holding(url)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("want %q, got %v", want, err)
		}
		if err != nil && (strings.Contains(err.Error(), "dpadmin") || !strings.Contains(err.Error(), `"app-pg"`)) {
			t.Errorf("the error shows too much, or not the target: %v", err)
		}
	}
}

func TestCheckSaysWhichGrantsCouldNotBeMade(t *testing.T) {
	checker, ok := openMinter(t, holding(server.URL("dpadmin", adminPassword, "app"))).(interface {
		CheckGrant(context.Context, broker.Grant) error
	})
	if !ok {
		t.Fatal("grants cannot be checked")
	}
	for params, want := range map[string]string{
		`{"roles":["app_owner"]}`:                                           "",
		`{"roles":["app_owner"],"database":"app"}`:                          "",
		`{"roles":["app_ownerr"]}`:                                          `"app_ownerr"`,
		`{"roles":["app_owner","no one"],"owner":"app_owner"}`:              `"no one"`,
		`{"roles":["indirect"]}`:                                            `"indirect"`,
		`{"roles":["app_owner"],"database":"app'; DROP ROLE app_owner;--"}`: `does not exist`,
		`{"roles":[]}`: "name at least one group role",
	} {
		err := checker.CheckGrant(t.Context(), broker.Grant{Name: "app-db", Params: []byte(params)})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: want %q, got %v", params, want, err)
		}
	}
}

func TestOpeningATargetContactsNothingButWantsAnAdminSecret(t *testing.T) {
	if _, err := postgres.Kind().Open(config(holding("postgres://u:p@127.0.0.1:1/app"))); err != nil {
		t.Error(err)
	}
	if _, err := postgres.Kind().Open(config(nil)); err == nil {
		t.Error("opened without an admin secret")
	}
	c := config(holding(""))
	c.Deployment = "Prod"
	if _, err := postgres.Kind().Open(c); err == nil {
		t.Error("opened for a deployment that cannot be named")
	}
}

func TestAnAdminPasswordCanChangeUnderway(t *testing.T) {
	admin := adminConn(t)
	exec(t, admin, `DROP ROLE IF EXISTS rotating; CREATE ROLE rotating LOGIN CREATEROLE PASSWORD 'one'; GRANT app_owner TO rotating WITH ADMIN OPTION`)
	one, two := broker.NewSecret(server.URL("rotating", "one", "app")), broker.NewSecret(server.URL("rotating", "two", "app"))
	source := &secret{value: broker.SecretValue{Current: one}}
	m := openMinter(t, source)
	revoke(t, m, mint(t, m, orderFor(appGrant, time.Minute)))

	source.set(broker.SecretValue{Current: two, Previous: one}, nil) // stored first, changed in the server later
	fresh := openMinter(t, source)
	for _, m := range []broker.Minter{m, fresh} {
		revoke(t, m, mint(t, m, orderFor(appGrant, time.Minute)))
	}

	exec(t, admin, `ALTER ROLE rotating PASSWORD 'two'`)
	source.set(broker.SecretValue{Current: two}, nil)
	u := mint(t, m, orderFor(appGrant, time.Minute))

	// While the store of the secret is away, what is open goes on to be used.
	revoke(t, m, mint(t, m, orderFor(appGrant, time.Minute)))
	source.set(broker.SecretValue{}, errors.New("the secret store is away"))
	revoke(t, m, u)
	if err := check(t, openMinter(t, source)); err == nil || !strings.Contains(err.Error(), "the secret store is away") {
		t.Errorf("got %v", err)
	}
}

// The server has a new password before anybody has told us: the one connection
// that there is goes from hand to hand, and nobody is refused while somebody has
// it, not even while he finds out whether it is alive.
func TestOneConnectionServesAllWhileTheServerTakesNoPassword(t *testing.T) {
	admin := adminConn(t)
	exec(t, admin, `DROP ROLE IF EXISTS turning; CREATE ROLE turning LOGIN CREATEROLE PASSWORD 'one'; GRANT app_owner TO turning WITH ADMIN OPTION`)
	m := openMinter(t, holding(server.URL("turning", "one", "app")))
	_ = mint(t, m, orderFor(appGrant, time.Minute))
	exec(t, admin, `ALTER ROLE turning PASSWORD 'two'`)
	pid := ask[int](t, admin, "SELECT pid FROM pg_stat_activity WHERE usename = 'turning' AND application_name = 'daypass'")
	time.Sleep(1100 * time.Millisecond) // then whoever takes it asks it first
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(500*time.Millisecond, func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	orders := make(chan broker.Order, 320)
	for range cap(orders) {
		orders <- orderFor(appGrant, time.Minute)
	}
	close(orders)
	var many sync.WaitGroup
	for range 8 {
		many.Go(func() {
			for o := range orders {
				h, err := m.Plan(o)
				if err == nil {
					_, err = m.Mint(t.Context(), o, h)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	many.Wait()
}

// Who waits for a connection while no password is taken must not be given one
// that leads to where the admin secret led before.
func TestAConnectionThatComesBackIsNotUsedForAnotherAdminURL(t *testing.T) {
	admin := adminConn(t)
	exec(t, admin, `DROP ROLE IF EXISTS leaving; CREATE ROLE leaving LOGIN CREATEROLE PASSWORD 'one'; GRANT app_owner TO leaving WITH ADMIN OPTION`)
	source := holding(server.URL("leaving", "one", "app"))
	m := openMinter(t, source)
	_ = mint(t, m, orderFor(appGrant, time.Minute))
	pid := ask[int](t, admin, "SELECT pid FROM pg_stat_activity WHERE usename = 'leaving' AND application_name = 'daypass'")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(500*time.Millisecond, func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	before, after := make(chan error, 1), make(chan error, 1)
	try := func(to chan error) {
		o := orderFor(appGrant, time.Minute)
		h, err := m.Plan(o)
		if err == nil {
			_, err = m.Mint(t.Context(), o, h)
		}
		to <- err
	}
	go try(before)
	time.Sleep(100 * time.Millisecond)
	source.set(broker.SecretValue{Current: broker.NewSecret(server.URL("leaving", "another", "app"))}, nil)
	go try(after)
	if err := <-before; err != nil {
		t.Errorf("what was under way: %v", err)
	}
	if err := <-after; err == nil {
		t.Error("a user was made with an admin URL that is no longer in use")
	}
}

func TestADemotedServerIsRefusedUntilItIsPrimaryAgain(t *testing.T) {
	own := ownServer(t, servers.PostgresConfig{})
	m := openMinter(t, holding(own.AdminURL("app")))
	u := mint(t, m, orderFor(appGrant, time.Minute))
	if err := own.Demote(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := orderFor(appGrant, time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	_, mintErr := m.Mint(t.Context(), o, h)
	for doing, err := range map[string]error{"mint": mintErr, "revoke": m.Revoke(t.Context(), u.lease), "check": check(t, m)} {
		if err == nil || !strings.Contains(err.Error(), "replica") {
			t.Errorf("%s on a replica: %v", doing, err)
		}
	}
	if err := own.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	revoke(t, m, u)
}

func TestMintsThatHangDoNotKeepRevocationWaiting(t *testing.T) {
	m := plainMinter(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	blocker := adminConn(t)
	var stuck sync.WaitGroup
	for range 24 { // six times the connections there are to mint
		o := orderFor(appGrant, time.Minute)
		h, err := m.Plan(o)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, blocker, "SELECT pg_advisory_lock("+postgres.LockKeyText(h)+")")
		stuck.Go(func() {
			if _, err := m.Mint(t.Context(), o, h); err != nil {
				t.Logf("as it should be: %v", err)
			}
		})
	}
	if !waiting(t, blocker, "advisory", 4) {
		t.Fatal("the mints do not hang")
	}
	revoke(t, m, u)
	if !waiting(t, blocker, "advisory", 1) {
		t.Error("revoking came after all mints")
	}
	exec(t, blocker, "SELECT pg_advisory_unlock_all()")
	stuck.Wait()
}

// Without the right to read the number a server's data was born with, the
// database's own number stands in.
func TestAServerThatHidesItsIdentityIsToldByItsDatabase(t *testing.T) {
	admin := adminConn(t)
	shown := mint(t, plainMinter(t), orderFor(appGrant, time.Minute))
	want := ask[string](t, admin, "SELECT system_identifier::text || '/app' FROM pg_control_system()")
	if shown.ServerID != want {
		t.Errorf("server is %q, want %q", shown.ServerID, want)
	}
	exec(t, admin, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
	t.Cleanup(func() { afterwards(t, "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC") })
	m := plainMinter(t)
	hidden := mint(t, m, orderFor(appGrant, time.Minute))
	if want := ask[string](t, admin, "SELECT 'oid-' || oid || '/app' FROM pg_database WHERE datname = 'app'"); hidden.ServerID != want {
		t.Errorf("server is %q, want %q", hidden.ServerID, want)
	}
	revoke(t, m, hidden)
}

// afterwards tidies up when a test's own context has ended.
func afterwards(t *testing.T, sql string) {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, server.AdminURL("app"))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close(ctx) }()
	if _, err := c.Exec(ctx, sql); err != nil {
		t.Error(err)
	}
}

// A function of a tenant that looks like one of ours is not called by us.
func TestTheAdminDoesNotCallFunctionsOfTenants(t *testing.T) {
	admin := adminConn(t)
	exec(t, admin, `CREATE TABLE trapped (n int); GRANT ALL ON trapped TO PUBLIC;
		CREATE FUNCTION public.shobj_description(oid, text) RETURNS text LANGUAGE sql AS 'INSERT INTO public.trapped VALUES (1) RETURNING NULL::text'`)
	t.Cleanup(func() { afterwards(t, "DROP FUNCTION public.shobj_description; DROP TABLE trapped") })
	if ask[*string](t, admin, "SELECT shobj_description(1, 'pg_authid')"); ask[int](t, admin, "SELECT count(*)::int FROM trapped") != 1 {
		t.Fatal("the trap does not work")
	}
	m := superMinter(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	if _, ok := heldAs(t, m, u.lease.Handle); !ok {
		t.Error("not held")
	}
	revoke(t, m, u)
	if n := ask[int](t, admin, "SELECT count(*)::int FROM trapped"); n != 1 {
		t.Errorf("%d calls of a tenant's function", n-1)
	}
}

// A mint whose caller has given up may still be under way in the server.
func TestRevokingWaitsForAMintThatIsStillUnderWay(t *testing.T) {
	m, blocker := superMinter(t), adminConn(t)
	for range 5 { // on a busy machine the mint itself may wait for too long
		o := orderFor(appGrant, time.Minute)
		h, err := m.Plan(o)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, blocker, "BEGIN; LOCK TABLE pg_auth_members IN EXCLUSIVE MODE")
		var both sync.WaitGroup
		var mintErr, revokeErr error
		both.Go(func() { _, mintErr = m.Mint(t.Context(), o, h) })
		ready := waiting(t, blocker, "relation", 1)
		both.Go(func() { revokeErr = m.Revoke(t.Context(), broker.Lease{Handle: h, Grant: o.Grant}) })
		ready = waiting(t, blocker, "advisory", 1) && ready
		exec(t, blocker, "COMMIT")
		both.Wait()
		if _, ok := heldAs(t, m, h); ok && revokeErr == nil {
			t.Fatal("the mint outlived its revocation")
		}
		if ready && mintErr == nil && revokeErr == nil {
			return
		}
	}
	t.Error("the revocation never waited for the mint")
}

// waiting returns when n sessions wait for a lock of this type, or false after
// a while.
func waiting(t *testing.T, c *pgx.Conn, locktype string, n int) bool {
	t.Helper()
	for deadline := time.Now().Add(1500 * time.Millisecond); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ask[int](t, c, "SELECT count(*)::int FROM pg_locks WHERE locktype = $1 AND NOT granted", locktype) >= n {
			return true
		}
	}
	return false
}
