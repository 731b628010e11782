package mysql_test

import (
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/mint/mysql"
)

// leaves has a job leave behind one of each that runs with its rights.
func leaves(t *testing.T, u user) {
	t.Helper()
	exec(t, u.login(t),
		"CREATE VIEW app_db.`v``1` AS SELECT n FROM app_db.orders",
		"CREATE PROCEDURE app_db.p1() SQL SECURITY DEFINER INSERT INTO app_db.orders VALUES (-5)",
		"CREATE FUNCTION app_db.f1() RETURNS INT DETERMINISTIC SQL SECURITY DEFINER RETURN (SELECT COUNT(*) FROM app_db.orders)",
		"CREATE TRIGGER app_db.t1 BEFORE INSERT ON app_db.orders FOR EACH ROW SET @seen = (SELECT COUNT(*) FROM app_db.tick)",
		"CREATE EVENT app_db.e1 ON SCHEDULE EVERY 1 SECOND DO BEGIN INSERT INTO app_db.tick VALUES (DEFAULT); COMMIT; END",
	)
}

// left counts what is left of that.
func left(t *testing.T, admin *link) int {
	t.Helper()
	return ask[int](t, admin, "SELECT (SELECT COUNT(*) FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'app_db') + (SELECT COUNT(*) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'app_db')"+
		" + (SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'app_db') + (SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'app_db')")
}

func ownedServer(t *testing.T, onOwned string) (broker.Minter, *link, user) {
	t.Helper()
	own := startOwn(t, nil)
	admin := rootOn(t, own)
	exec(t, admin, "CREATE TABLE app_db.tick (n INT PRIMARY KEY AUTO_INCREMENT) ENGINE = InnoDB",
		"CREATE DEFINER = root@localhost VIEW app_db.theirs AS SELECT 1",
		"CREATE DEFINER = root@localhost PROCEDURE app_db.`theirs` () SELECT 1")
	m := openMinter(t, holding(own.URL("dpgrants", "dpgrants", "daypass")))
	u := mintOn(t, own, m, orderFor(grant(`{"grants": {"app_db": ["SELECT", "INSERT", "EXECUTE", "CREATE VIEW", "CREATE ROUTINE", "ALTER ROUTINE", "TRIGGER", "EVENT"]},
		"require": "none", "on_owned": "`+onOwned+`"}`), 8*time.Second))
	leaves(t, u)
	until(t, 5*time.Second, "the job's event runs", func() bool { return ask[int](t, admin, "SELECT COUNT(*) FROM app_db.tick") > 0 })
	return m, admin, u
}

// inert fails if anything that the job left behind still does something.
func inert(t *testing.T, admin *link) {
	t.Helper()
	ticks := ask[int](t, admin, "SELECT COUNT(*) FROM app_db.tick")
	for _, statement := range []string{"SELECT * FROM app_db.`v``1`", "CALL app_db.p1()", "SELECT app_db.f1()", "INSERT INTO app_db.orders VALUES (-6)"} {
		if _, err := admin.ExecContext(t.Context(), statement); err == nil {
			t.Errorf("%s works with the rights of a user that was taken back", statement)
		}
	}
	time.Sleep(2500 * time.Millisecond)
	if now := ask[int](t, admin, "SELECT COUNT(*) FROM app_db.tick"); now != ticks {
		t.Errorf("the job's event goes on: %d rows, then %d", ticks, now)
	}
}

func TestADefinerIsKeptLockedAndWithoutRightsUntilItIsTidiedUp(t *testing.T) {
	m, admin, u := ownedServer(t, "keep")
	for range 2 {
		revoke(t, m, u)
	}
	if _, err := u.tryLogin(t.Context()); !refused(err, locked()) {
		t.Errorf("it can log in: %v", err)
	}
	if grants := ask[string](t, admin, "SHOW GRANTS FOR '"+u.name()+"'@'%'"); !strings.HasPrefix(grants, "GRANT USAGE ON *.* TO") {
		t.Errorf("it may: %s", grants)
	}
	inert(t, admin)
	what := ask[string](t, admin, "SELECT what FROM daypass.daypass_kept WHERE name = ?", u.name())
	for _, part := range []string{"definer of 5:", "VIEW `app_db`.`v``1`", "PROCEDURE `app_db`.`p1`", "FUNCTION `app_db`.`f1`", "TRIGGER `app_db`.`t1`", "EVENT `app_db`.`e1`"} {
		if !strings.Contains(what, part) {
			t.Errorf("%q lacks %s", what, part)
		}
	}
	// Its own event would have dropped it at the expiry.
	time.Sleep(time.Until(u.lease.NotAfter) + 1500*time.Millisecond)
	if accounts(t, admin, u.name()) != 1 || left(t, admin) != 7 {
		t.Errorf("kept: %d accounts, %d objects", accounts(t, admin, u.name()), left(t, admin))
	}
	if h, ok := heldAs(t, m, u.lease.Handle); !ok || h.Overdue {
		t.Errorf("a kept user past its expiry is held %v, as %+v", ok, h)
	}
	exec(t, admin, "DROP VIEW app_db.`v``1`", "DROP PROCEDURE app_db.p1", "DROP FUNCTION app_db.f1", "DROP TRIGGER app_db.t1", "DROP EVENT app_db.e1")
	mysql.LookAgainAfter(m, 0)
	if h, ok := heldAs(t, m, u.lease.Handle); !ok || !h.Overdue {
		t.Errorf("a kept user that is to be looked at again is held %v, as %+v", ok, h)
	}
	if err := m.Revoke(t.Context(), broker.Lease{Handle: u.lease.Handle}); err != nil { // as a sweeper does
		t.Error(err)
	}
	if h, ok := heldAs(t, m, u.lease.Handle); ok || accounts(t, admin, u.name()) != 0 {
		t.Errorf("still held as %+v", h)
	}
}

func TestWhatADefinerLeftBehindIsDroppedWhereTheGrantSaysSo(t *testing.T) {
	m, admin, u := ownedServer(t, "drop")
	revoke(t, m, u)
	if n := left(t, admin); n != 2 || accounts(t, admin, u.name()) != 0 {
		t.Errorf("%d objects are left, want the 2 of others; %d accounts", n, accounts(t, admin, u.name()))
	}
	if n := ask[int](t, admin, "SELECT COUNT(*) FROM daypass.daypass_kept"); n != 0 {
		t.Error("it is listed as kept")
	}
}

// At the expiry the server's event is mostly faster than a broker. MySQL does not
// let it drop who is the definer of something; what it may is gone all the same.
func TestWhatADefinerLeftBehindIsListedEvenWhereItsEventWasFaster(t *testing.T) {
	m, admin, u := ownedServer(t, "keep")
	until(t, 20*time.Second, "the event ends it", func() bool {
		_, err := u.tryLogin(t.Context())
		return refused(err, onMySQL[uint16](3118, 1045))
	})
	until(t, 5*time.Second, "the event has done the rest", func() bool {
		return accounts(t, admin, u.name()) == onMySQL(1, 0) && ask[int](t, admin, "SELECT COUNT(*) FROM mysql.db WHERE User = ?", u.name()) == 0
	})
	inert(t, admin) // before any broker comes
	revoke(t, m, u)
	inert(t, admin)
	if what := ask[string](t, admin, "SELECT what FROM daypass.daypass_kept WHERE name = ?", u.name()); !strings.Contains(what, "definer of 5:") {
		t.Errorf("listed as %q", what)
	}
	if h, ok := heldAs(t, m, u.lease.Handle); !ok || h.Overdue {
		t.Errorf("held %v, as %+v", ok, h)
	}
	exec(t, admin, "DROP VIEW app_db.`v``1`", "DROP PROCEDURE app_db.p1", "DROP FUNCTION app_db.f1", "DROP TRIGGER app_db.t1", "DROP EVENT app_db.e1")
	revoke(t, m, u)
	if _, ok := heldAs(t, m, u.lease.Handle); ok {
		t.Error("it is held, and nothing is left")
	}
}

// With DEFINER = CURRENT_ROLE what a migration creates belongs to the role. MySQL
// has no such thing; there SQL SECURITY INVOKER needs no rights of the definer.
func TestWhatAMigrationCreatesForItsRoleStays(t *testing.T) {
	own := startOwn(t, nil)
	m, admin := openMinter(t, holding(own.AdminURL("daypass"))), rootOn(t, own)
	u := mintOn(t, own, m, orderFor(roleGrant, time.Minute))
	exec(t, u.login(t), "CREATE TABLE app_db.migrated (n INT)", "INSERT INTO app_db.migrated VALUES (42)", "COMMIT",
		"CREATE "+onMySQL("SQL SECURITY INVOKER", "DEFINER = CURRENT_ROLE")+" VIEW app_db.v AS SELECT n FROM app_db.migrated")
	revoke(t, m, u)
	if n := ask[int](t, admin, "SELECT n FROM app_db.v"); n != 42 || accounts(t, admin, u.name()) != onMySQL(1, 0) {
		t.Errorf("n is %d; %d accounts are left", n, accounts(t, admin, u.name()))
	}
}

// Statements run as often as it takes, and also when the server was faster.
func TestAGrantsOwnStatementsRunWhenItsUserComesAndGoes(t *testing.T) {
	own := startOwn(t, nil)
	m, admin := openMinter(t, holding(own.AdminURL("daypass"))), rootOn(t, own)
	exec(t, admin, "CREATE TABLE app_db.ci (name VARCHAR(32), till DATETIME)")
	g := grant(`{"grants": {"app_db": ["INSERT"]}, "require": "none", "statements": {
		"create": ["INSERT INTO {{database}}.ci VALUES ({{name_literal}}, {{expiry}})", "GRANT SELECT ON {{database_pattern}}.* TO {{account}}"],
		"revoke": ["REVOKE SELECT ON {{database_pattern}}.* FROM {{account}}", "DELETE FROM app_db.ci WHERE name = {{name_literal}}"]}}`)
	rows := func() int { return ask[int](t, admin, "SELECT COUNT(*) FROM app_db.ci") }
	u := mintOn(t, own, m, orderFor(g, time.Minute))
	if till := ask[string](t, u.login(t), "SELECT till FROM app_db.ci WHERE name = '"+u.name()+"'"); till != u.lease.NotAfter.UTC().Format(time.DateTime) {
		t.Errorf("till %s, want %v", till, u.lease.NotAfter)
	}
	for range 2 {
		revoke(t, m, u)
		if rows() != 0 || accounts(t, admin, u.name()) != 0 {
			t.Errorf("%d rows, %d accounts are left", rows(), accounts(t, admin, u.name()))
		}
	}
	fast := mintOn(t, own, m, orderFor(g, 2*time.Second))
	until(t, 10*time.Second, "the event drops it", func() bool { return accounts(t, admin, fast.name()) == 0 })
	revoke(t, m, fast)
	if rows() != 0 {
		t.Errorf("%d rows are left", rows())
	}
	o := orderFor(grant(`{"grants": {"app_db": ["INSERT"]}, "require": "none", "statements": {"create": ["INSERT INTO app_db.nowhere VALUES ('planted')"], "revoke": ["DELETE FROM app_db.nowhere"]}}`), time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mint(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), "statements: create: number 1") || strings.Contains(err.Error(), "planted") {
		t.Errorf("mint: %v", err)
	}
	l := broker.Lease{Handle: h, Grant: o.Grant}
	if err := m.Revoke(t.Context(), l); err == nil || !strings.Contains(err.Error(), "run the grant's statements: number 1") {
		t.Errorf("revoke: %v", err)
	}
	if ask[string](t, admin, "SELECT "+onMySQL("account_locked = 'Y'", "JSON_VALUE(Priv, '$.account_locked')")+" FROM mysql."+onMySQL("user", "global_priv")+" WHERE User = ?", string(h)) != "1" {
		t.Error("a statement that fails keeps a credential alive")
	}
	exec(t, admin, "CREATE TABLE app_db.nowhere (n INT)")
	if err := m.Revoke(t.Context(), l); err != nil || accounts(t, admin, string(h)) != 0 {
		t.Errorf("revoke: %v", err)
	}
}

// A job chooses the name, and must not write lines of the broker's log with it.
func TestTheNameOfWhatCannotBeDroppedIsFitForALog(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	u := mint(t, m, orderFor(grant(`{"roles": ["app_rw"], "database": "app_db", "require": "none", "on_owned": "drop"}`), time.Minute))
	exec(t, u.login(t), "CREATE VIEW app_db.`v\nlevel=ERROR\x1b[2J\u202e"+strings.Repeat("é", 30)+"` AS SELECT 1 AS one")
	exec(t, admin, "REVOKE DROP ON `app\\_db`.* FROM dpadmin@'%'")
	err := m.Revoke(t.Context(), u.lease)
	exec(t, admin, "GRANT DROP ON `app\\_db`.* TO dpadmin@'%'")
	if err == nil || !strings.Contains(err.Error(), "`v level=ERROR [2J é") {
		t.Errorf("it does not say what could not be dropped: %v", err)
	} else if strings.ContainsAny(err.Error(), "\n\x1b\u202e") {
		t.Errorf("it holds what is for a terminal: %q", err.Error())
	}
	revoke(t, m, u)
}
