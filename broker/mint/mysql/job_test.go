package mysql_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/mint/mysql"
)

// refused reports whether the server answered with this error.
func refused(err error, number uint16) bool {
	my, ok := errors.AsType[*driver.MySQLError](err)
	return ok && my.Number == number
}

func TestTheClientLogsInWithTheEnvironmentOnly(t *testing.T) {
	for _, params := range []string{
		`{"roles": ["app_rw"], "database": "app_db", "require": "none"}`,
		`{"roles": ["App \"` + "`" + `Ro'le", "app_rw"], "default_role": "app_rw", "database": "app_db", "connection_limit": 3, "require": "none", "client_host": "127.0.0.%"}`,
	} {
		u := mint(t, plainMinter(t), orderFor(grant(params), time.Minute))
		cmd := osexec.CommandContext(t.Context(), "sh", "-c", `exec mariadb --no-defaults -BN --protocol=tcp -u "$MYSQL_USER" "$MYSQL_DATABASE" -e "$0"`,
			"SELECT CURRENT_USER(), CURRENT_ROLE(), DATABASE(), @@port")
		cmd.Env = os.Environ()
		for k, v := range u.env {
			if k != "DATABASE_URL" {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
		}
		out, err := cmd.CombinedOutput()
		host := "%"
		if strings.Contains(params, "127") {
			host = "127.0.0.%"
		}
		want := strings.Join([]string{u.name() + "@" + host, onMySQL(`"app_rw"@"%"`, "app_rw"), "app_db", u.env["MYSQL_TCP_PORT"]}, "\t")
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s: got %q (%v), want %q", params, got, err, want)
		}
	}
}

func TestTheServerStoresWhatItWouldHaveComputed(t *testing.T) {
	if server.IsMySQL() {
		anew(t, root(t), "USER of_stored@'%' IDENTIFIED BY 'abcdefghijklmnopqrstuvwxyz234567'")
		want := ask[string](t, root(t), "SELECT authentication_string FROM mysql.user WHERE User = 'of_stored'")
		begin, salt := want[:len("$A$005$")], want[len("$A$005$"):][:20]
		thousands, err := strconv.ParseInt(begin[3:6], 16, 0) // as the server is set, 5 or 10
		if err != nil {
			t.Fatal(err)
		}
		if got := begin + salt + mysql.SHA2Digest(broker.NewSecret("abcdefghijklmnopqrstuvwxyz234567"), []byte(salt), int(thousands)*1000); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		return
	}
	want := ask[string](t, root(t), "SELECT PASSWORD('abcdefghijklmnopqrstuvwxyz234567')")
	if got := mysql.NativeHash(broker.NewSecret("abcdefghijklmnopqrstuvwxyz234567")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAWrongPasswordIsRefused(t *testing.T) {
	for _, auth := range auths() {
		u := mint(t, plainMinter(t), orderFor(grant(`{"roles": ["app_rw"], "require": "none", "auth": "`+auth+`"}`), time.Minute))
		_ = u.login(t)
		u.env["MYSQL_PWD"] += "x"
		if _, err := u.tryLogin(t.Context()); !refused(err, 1045) {
			t.Errorf("%s: got %v", auth, err)
		}
	}
}

func TestTheJobIsToldThePublicEndpoint(t *testing.T) {
	u := mint(t, superMinter(t), orderFor(grant(`{"roles": ["app_rw"], "database": "app_db", "require": "none", "host": "db.example.com", "port": 3307, "ssl_mode": "VERIFY_IDENTITY"}`), time.Minute))
	want := "mysql://" + u.name() + ":" + u.env["MYSQL_PWD"] + "@db.example.com:3307/app_db?ssl-mode=VERIFY_IDENTITY"
	if u.env["DATABASE_URL"] != want || u.env["MYSQL_HOST"] != "db.example.com" || u.env["MYSQL_TCP_PORT"] != "3307" || u.field["ssl_mode"] != "VERIFY_IDENTITY" {
		t.Errorf("told %v", u.field)
	}
}

func TestARightOnADatabaseIsNoneOnOneOfASimilarName(t *testing.T) {
	u := mint(t, superMinter(t), orderFor(dbGrant, time.Minute))
	c := u.login(t)
	exec(t, c, "INSERT INTO app_db.orders VALUES (UNIX_TIMESTAMP())")
	for statement, number := range map[string]uint16{
		"INSERT INTO appxdb.orders VALUES (1)": 1142, "DELETE FROM app_db.orders": 1142, "SELECT * FROM mysql.user": 1142,
		"FLUSH TABLES WITH READ LOCK": 1227, "LOCK TABLES app_db.orders WRITE": 1044, "CREATE USER x@'%'": 1227, "GRANT SELECT ON app_db.* TO mallory@'%'": 1044,
		"ALTER USER CURRENT_USER() ACCOUNT UNLOCK": 1227,
	} {
		if _, err := c.ExecContext(t.Context(), statement); !refused(err, number) {
			t.Errorf("%s: %v, want error %d", statement, err, number)
		}
	}
}

func TestTheServersLogHoldsNoPassword(t *testing.T) {
	m := plainMinter(t)
	for _, auth := range auths() {
		u := mint(t, m, orderFor(grant(`{"roles": ["app_rw"], "require": "none", "auth": "`+auth+`"}`), time.Minute))
		exec(t, u.login(t), "DO 'seen'")
		revoke(t, m, u)
		log, err := os.ReadFile(server.LogPath())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(log), "CREATE USER `"+u.name()+"`") {
			t.Fatal("the log says nothing of the user: is everything logged?")
		}
		for _, s := range []string{u.env["MYSQL_PWD"], adminPassword} {
			if strings.Contains(string(log), s) {
				t.Error("a password is in the log")
			}
		}
	}
}

func TestOpenSessionsEndWhenTheUserIsTakenBack(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	u := mint(t, m, orderFor(roleGrant, time.Minute))
	idle, locking, inTx, busy, named := u.login(t), u.login(t), u.login(t), u.login(t), u.login(t)
	exec(t, locking, "LOCK TABLES app_db.orders WRITE")
	exec(t, locking, "UNLOCK TABLES")
	exec(t, inTx, "START TRANSACTION", "INSERT INTO app_db.orders VALUES (-1)")
	exec(t, named, "DO GET_LOCK('"+mysql.LockName(u.lease.Handle)+"', 0)")
	done := make(chan error, 1)
	go func() { _, err := busy.ExecContext(context.Background(), "DO SLEEP(600)"); done <- err }()
	revoke(t, m, u)
	for _, c := range []*link{idle, locking, inTx, named} {
		if _, err := c.ExecContext(t.Context(), "DO 1"); err == nil {
			t.Error("a session outlived its user")
		}
	}
	if err := <-done; err == nil {
		t.Error("a statement outlived its user")
	}
	if n := sessions(t, admin, u); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if n := ask[int](t, admin, "SELECT COUNT(*) FROM app_db.orders WHERE n = -1"); n != 0 {
		t.Error("what was not committed is there")
	}
}

// A job may change its own password, and knows its own name.
func TestAJobThatChangedItsPasswordIsTakenBackAllTheSame(t *testing.T) {
	m := plainMinter(t)
	u := mint(t, m, orderFor(roleGrant, time.Minute))
	exec(t, u.login(t), onMySQL("SET PASSWORD = 'known'", "SET PASSWORD = PASSWORD('known')"))
	u.env["MYSQL_PWD"] = "known"
	_ = u.login(t)
	revoke(t, m, u)
	if _, err := u.tryLogin(t.Context()); !refused(err, 1045) {
		t.Errorf("got %v", err)
	}
}

// A job may change its own password. With it MySQL lets it rewrite the note on
// its account as well: whatever says that an account is ours must not be there.
func TestAJobCannotHideItsAccountFromUs(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	for _, attack := range []string{
		`ATTRIBUTE '{"by": null, "lease": null}'`, `ATTRIBUTE '{"by": "somebody"}'`, "COMMENT 'not yours'", "ACCOUNT UNLOCK", "REQUIRE NONE", "WITH MAX_USER_CONNECTIONS 0",
	} {
		for _, begin := range []string{"ALTER USER CURRENT_USER() ", "ALTER USER CURRENT_USER() IDENTIFIED BY 'known' "} {
			u := mint(t, m, orderFor(roleGrant, time.Minute))
			c := u.login(t)
			if _, err := c.ExecContext(t.Context(), begin+attack); err == nil {
				u.env["MYSQL_PWD"] = "known"
				if !server.IsMySQL() || !strings.Contains(begin, "IDENTIFIED") || !strings.HasPrefix(attack, "ATTRIBUTE") && !strings.HasPrefix(attack, "COMMENT") {
					t.Errorf("a job may say %s%s", begin, attack)
				}
			}
			if _, ok := heldAs(t, m, u.lease.Handle); !ok {
				t.Errorf("%s%s: it is not held", begin, attack)
			}
			if err := m.Revoke(t.Context(), broker.Lease{Handle: u.lease.Handle}); err != nil {
				t.Errorf("%s%s: %v", begin, attack, err)
			}
			if accounts(t, admin, u.name()) != 0 || sessions(t, admin, u) != 0 {
				t.Errorf("%s%s: it is still there", begin, attack)
			}
			if _, err := u.tryLogin(t.Context()); !refused(err, 1045) {
				t.Errorf("%s%s: it can log in: %v", begin, attack, err)
			}
		}
	}
	u := mint(t, m, orderFor(roleGrant, time.Minute))
	_, err := u.login(t).ExecContext(t.Context(), "RENAME USER CURRENT_USER() TO x@'%'")
	if !refused(err, 1227) {
		t.Errorf("a job may rename itself: %v", err)
	}
	revoke(t, m, u)
}

// A user of MariaDB may let others stand in for it. That is of use to those only
// who log in by a plugin that says for whom; see the README.
func TestWhomAJobLetsStandInForItGetsNothingFromThat(t *testing.T) {
	m := plainMinter(t)
	u := mint(t, m, orderFor(roleGrant, time.Minute))
	exec(t, u.login(t), "GRANT PROXY ON CURRENT_USER() TO mallory@'%'")
	t.Cleanup(func() { afterwards(t, "DELETE FROM mysql.proxies_priv WHERE User = 'mallory'", "FLUSH PRIVILEGES") })
	for _, when := range []string{"before", "after"} {
		c, err := session(t.Context(), dsn(server, "mallory", "mallory", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := ask[string](t, c, "SELECT CURRENT_USER()"); got != "mallory@%" {
			t.Errorf("%s the revocation mallory is %s", when, got)
		}
		if _, err := c.ExecContext(t.Context(), "SELECT * FROM app_db.orders"); !refused(err, 1142) {
			t.Errorf("%s the revocation mallory may: %v", when, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		revoke(t, m, u)
	}
}

func TestAJobCannotHoldUpItsRevocation(t *testing.T) {
	for name, hold := range map[string]func(t *testing.T, u, other user){
		"by holding its lock in another job's session": func(t *testing.T, u, other user) {
			exec(t, other.login(t), "DO GET_LOCK('"+mysql.LockName(u.lease.Handle)+"', 0)")
		},
		"by locking tables": func(t *testing.T, u, _ user) {
			exec(t, u.login(t), "LOCK TABLES app_db.orders WRITE")
		},
		"with a transaction that holds a table's definition": func(t *testing.T, u, _ user) {
			exec(t, u.login(t), "START TRANSACTION", "SELECT * FROM app_db.orders FOR UPDATE")
		},
		"with a transaction that is prepared and waits for its second phase": func(t *testing.T, u, _ user) {
			xid := "'" + u.name() + "'"
			exec(t, u.login(t), "XA START "+xid, "REPLACE INTO app_db.orders VALUES (-77)", "XA END "+xid, "XA PREPARE "+xid)
			t.Cleanup(func() { afterwards(t, "XA ROLLBACK "+xid) })
		},
		"with an event that logs in no more": func(t *testing.T, u, _ user) {
			exec(t, u.login(t), "CREATE EVENT app_db.again ON SCHEDULE EVERY 1 SECOND DO INSERT IGNORE INTO app_db.orders VALUES (UNIX_TIMESTAMP())")
			t.Cleanup(func() { afterwards(t, "DROP EVENT IF EXISTS app_db.again") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := plainMinter(t)
			g := grant(`{"roles": ["app_rw"], "database": "app_db", "require": "none", "on_owned": "drop"}`)
			u, other := mint(t, m, orderFor(g, time.Minute)), mint(t, m, orderFor(g, time.Minute))
			hold(t, u, other)
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			if err := m.Revoke(ctx, u.lease); err != nil {
				t.Error(err)
			}
			if accounts(t, root(t), u.name()) != 0 {
				t.Error("it is still there")
			}
			revoke(t, m, other)
		})
	}
}

// afterwards tidies up when a test's own context has ended.
func afterwards(t *testing.T, statements ...string) {
	c, err := session(context.Background(), dsn(server, "root", server.AdminPassword(), ""))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close() }()
	for _, statement := range append([]string{"SET autocommit = 1"}, statements...) {
		if _, err := c.ExecContext(context.Background(), statement); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
}

// The lock of a handle whose account is gone: its own sessions may have it, and
// so may another job. Neither is a mint under way.
func TestALockThatAJobHoldsIsNoMintUnderWay(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	u, other := mint(t, m, orderFor(roleGrant, time.Minute)), mint(t, m, orderFor(roleGrant, time.Minute))
	mine := u.login(t)
	exec(t, admin, "DROP USER '"+u.name()+"'@'%'")
	exec(t, mine, "DO GET_LOCK('"+mysql.LockName(u.lease.Handle)+"', 0)")
	revoke(t, m, u)
	if sessions(t, admin, u) != 0 {
		t.Error("a session outlived its user, whose account was gone")
	}
	exec(t, other.login(t), "DO GET_LOCK('"+mysql.LockName(u.lease.Handle)+"', 0)")
	revoke(t, m, u)
	revoke(t, m, other)
}

func TestAJobCannotHoldUpItsRevocationByUsingUpPreparedStatements(t *testing.T) {
	own := startOwn(t, map[string]string{"max-prepared-stmt-count": "50"})
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass")))
	u := mintOn(t, own, m, orderFor(roleGrant, time.Minute))
	c := u.login(t)
	n := 0
	for ; n < 100; n++ {
		if _, err := c.PrepareContext(t.Context(), "SELECT 1"); err != nil {
			break
		}
	}
	if n < 20 || n == 100 {
		t.Fatalf("the job prepared %d", n)
	}
	revoke(t, m, u)
}

func TestAJobCannotHoldUpItsRevocationByTakingAllConnections(t *testing.T) {
	own := startOwn(t, map[string]string{"max-connections": "12"})
	for name, c := range map[string]struct{ kept, hammers bool }{
		"with a connection that is kept":                                       {kept: true},
		"with the one that is reserved":                                        {},
		"with a connection that is kept while the job goes on to ask for more": {kept: true, hammers: true},
		"with the one that is reserved while the job goes on to ask for more":  {hammers: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass")))
			u := mintOn(t, own, m, orderFor(roleGrant, time.Minute))
			if c.kept {
				if _, err := m.Held(t.Context()); err != nil { // as the sweeper asks every few seconds
					t.Fatal(err)
				}
			}
			n := takeAll(t, u)
			if n < 5 || n == 100 {
				t.Fatalf("the job got %d connections", n)
			}
			ctx, stop := context.WithCancel(t.Context())
			var asking sync.WaitGroup
			for range 4 {
				asking.Go(func() {
					for c.hammers && ctx.Err() == nil {
						if more, err := u.tryLogin(ctx); err == nil {
							_ = more.Close()
						}
					}
				})
			}
			revoke(t, m, u)
			stop()
			asking.Wait()
			until(t, 5*time.Second, "nothing is left of it", func() bool {
				c, err := session(t.Context(), dsn(own, "root", own.AdminPassword(), ""))
				if err != nil {
					return false
				}
				defer func() { _ = c.Close() }()
				return sessions(t, c, u) == 0 && accounts(t, c, u.name()) == 0
			})
		})
	}
}

// takeAll logs in until there is no connection left, at most a hundred times.
func takeAll(t *testing.T, u user) int {
	t.Helper()
	for n := range 100 {
		c, err := u.tryLogin(t.Context())
		if err != nil {
			return n
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	return 100
}

// What takes long to undo is undone by a session that can do nothing else.
func TestARevocationGoesOnWhileALongTransactionIsUndone(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	u := mint(t, m, orderFor(roleGrant, time.Minute))
	c := u.login(t)
	exec(t, c, "CREATE TABLE app_db.big (n INT PRIMARY KEY AUTO_INCREMENT, s CHAR(200)) ENGINE = InnoDB")
	t.Cleanup(func() { afterwards(t, "DROP TABLE app_db.big") })
	exec(t, c, "START TRANSACTION", "INSERT INTO app_db.big (s) SELECT 'x' FROM information_schema.COLLATIONS a, information_schema.COLLATIONS b, information_schema.COLLATIONS c LIMIT 200000")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := m.Revoke(t.Context(), u.lease)
		if accounts(t, admin, u.name()) != 0 {
			t.Fatalf("the account is still there: %v", err)
		}
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if n := ask[int](t, admin, "SELECT COUNT(*) FROM app_db.big"); n != 0 || sessions(t, admin, u) != 0 {
		t.Errorf("%d rows, %d sessions are left", n, sessions(t, admin, u))
	}
}

func TestAllAccountsOfANameGoWhateverTheirHostAndNoOther(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	u := mint(t, m, orderFor(roleGrant, time.Minute))
	upper := strings.ToUpper(u.name())
	exec(t, admin, "CREATE USER `"+u.name()+"`@`localhost`, `"+u.name()+"`@`10.0.0.0/255.0.0.0`, `"+upper+"`@`%`, `"+u.name()+"x`@`%`, `x"+u.name()+"`@`%`")
	t.Cleanup(func() {
		afterwards(t, "DROP USER `"+upper+"`@`%`, `"+u.name()+"x`@`%`, `x"+u.name()+"`@`%`")
	})
	exec(t, admin, "GRANT SELECT ON app_db.* TO `"+u.name()+"`@`localhost`")
	other, err := session(t.Context(), dsn(server, upper, "", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	revoke(t, m, u)
	if n := accounts(t, admin, u.name()); n != 0 {
		t.Errorf("%d accounts of it are left", n)
	}
	for _, name := range []string{upper, u.name() + "x", "x" + u.name(), "mallory", "root"} {
		if accounts(t, admin, name) == 0 {
			t.Errorf("%s is gone", name)
		}
	}
	if _, err := other.ExecContext(t.Context(), "DO 1"); err != nil {
		t.Errorf("a session of another account was ended: %v", err)
	}
}

func TestRolesWithWhichAJobCouldMakeUsersAreRefused(t *testing.T) {
	admin := root(t)
	for role, setup := range map[string]string{
		"great": "", "indirect": "", "r_grant": "GRANT SELECT ON app_db.* TO r_grant WITH GRANT OPTION", "r_admin": "GRANT app_rw TO r_admin WITH ADMIN OPTION",
		"r_mysql": "GRANT UPDATE ON mysql.* TO r_mysql", "r_priv": "GRANT INSERT ON mysql." + onMySQL("user", "global_priv") + " TO r_priv", "r_home": "GRANT DROP ON `day%`.* TO r_home",
		"r_all": "GRANT ALL PRIVILEGES ON *.* TO r_all", "r_reload": "GRANT RELOAD ON *.* TO r_reload", "r_lock": "GRANT SELECT, LOCK TABLES ON *.* TO r_lock",
		"r_exec": "GRANT EXECUTE ON PROCEDURE app_db.r_proc TO r_exec WITH GRANT OPTION", "r_missing": "-",
		"r_read": onMySQL("-", "GRANT SELECT ON *.* TO r_read"), "r_accounts": onMySQL("-", "GRANT SELECT ON mysql.global_priv TO r_accounts"),
	} {
		switch {
		case setup == "", setup == "-":
		default:
			anew(t, admin, "ROLE "+role, "PROCEDURE app_db.r_proc() SELECT 1")
			exec(t, admin, setup)
		}
		o := orderFor(grant(`{"roles": ["`+role+`"], "require": "none"}`), time.Minute)
		m := superMinter(t)
		h, err := m.Plan(o)
		if err != nil {
			t.Fatal(err)
		}
		want := "could not be taken back"
		if setup == "-" {
			want = "does not exist"
		}
		if _, err := m.Mint(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", role, err)
		}
		if accounts(t, admin, string(h)) != 0 {
			t.Errorf("%s: an account was made", role)
		}
	}
	o := orderFor(grant(`{"grants": {"DayPass": ["DROP"]}, "require": "none"}`), time.Minute)
	h, err := superMinter(t).Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := superMinter(t).Mint(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), "the broker's own schema") {
		t.Errorf("rights on our own schema: %v", err)
	}
}

func TestHostileClaimsReachTheServerAsHarmlessLettersOnly(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	before := ask[int](t, admin, "SELECT COUNT(*) FROM mysql.user")
	for i, text := range []string{
		`'; DROP USER mallory; --`, `\'; DROP USER mallory; --`, `\\'`, "` ; DROP USER mallory; #", "line\nbreak\r\t\x00", `"},{"by":"x"`,
		"naïve \U0001F600 \xff", strings.Repeat("é", 300), `/*! DROP USER mallory */`, "",
	} {
		o := orderFor(roleGrant, time.Minute)
		o.For = broker.Identity{Issuer: text, Subject: text, Job: broker.Job{Repository: text, RepositoryID: text, Ref: text}}
		o.Lease = broker.LeaseID(fmt.Sprint(text, i, time.Now().UnixNano())) // as no lease of ours is
		u := mint(t, m, o)
		revoke(t, m, u)
	}
	if after := ask[int](t, admin, "SELECT COUNT(*) FROM mysql.user"); after != before {
		t.Errorf("there were %d accounts, there are %d", before, after)
	}
}

// On MySQL every account can be a role, and two of one name are two.
func TestARoleBehindARoleIsJudgedByItsHostToo(t *testing.T) {
	if !server.IsMySQL() {
		aRoleOfMariaDBHasNoHost(t)
		return
	}
	m, admin := superMinter(t), root(t)
	anew(t, admin, "USER twin@localhost", "ROLE twin@'%'", "ROLE front")
	exec(t, admin, "GRANT CREATE USER ON *.* TO twin@localhost", "GRANT SELECT ON app_db.* TO front", "GRANT twin@localhost TO front")
	t.Cleanup(func() { afterwards(t, "DROP USER twin@localhost, twin@'%', front") })
	o := orderFor(grant(`{"roles": ["front"], "require": "none"}`), time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mint(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), `"twin@localhost" is too great`) {
		t.Errorf("got %v", err)
	}
	u := mint(t, m, orderFor(roleGrant, time.Minute))
	exec(t, admin, "GRANT twin@localhost TO "+u.name()) // to be taken again
	revoke(t, m, u)
	exec(t, admin, "REVOKE twin@localhost FROM front")
	revoke(t, m, mint(t, m, orderFor(o.Grant, time.Minute)))
}

func aRoleOfMariaDBHasNoHost(t *testing.T) {
	t.Helper()
	if n := ask[int](t, root(t), "SELECT COUNT(*) FROM mysql.roles_mapping WHERE User = 'indirect' AND Host = ''"); n != 1 {
		t.Errorf("the role behind a role is in %d rows without a host, want 1", n)
	}
}
