package mysql_test

import (
	"testing"
	"time"
)

// Where MySQL has partial revokes, wildcards in a grant are none; roles may have
// rights on everything but what is taken from them.
func TestRightsAreTheSameUnderPartialRevokes(t *testing.T) {
	own := startOwn(t, onMySQL(map[string]string{"partial-revokes": "ON"}, nil))
	admin, m := rootOn(t, own), openMinter(t, holding(own.AdminURL("daypass")))
	u := mintOn(t, own, m, orderFor(dbGrant, time.Minute))
	c := u.login(t)
	exec(t, c, "INSERT INTO app_db.orders VALUES (1)")
	if _, err := c.ExecContext(t.Context(), "INSERT INTO appxdb.orders VALUES (1)"); !refused(err, 1142) {
		t.Errorf("a right on app_db is one on appxdb: %v", err)
	}
	revoke(t, m, u)
	exec(t, admin, "CREATE ROLE reader", "GRANT SELECT ON "+onMySQL("*", "`app%`")+".* TO reader")
	if own.IsMySQL() {
		exec(t, admin, "REVOKE SELECT ON mysql.* FROM reader")
	}
	u = mintOn(t, own, m, orderFor(grant(`{"roles": ["reader"], "require": "none"}`), time.Minute))
	c = u.login(t)
	exec(t, c, "DO (SELECT COUNT(*) FROM appxdb.orders)")
	if _, err := c.ExecContext(t.Context(), "DO (SELECT COUNT(*) FROM mysql.user)"); own.IsMySQL() && !refused(err, 1142) {
		t.Errorf("what was taken from the role is there: %v", err)
	}
	revoke(t, m, u)
}

// Such a server writes names of schemas in small letters, however they were said.
func TestALifeIsTheSameWhereNamesAreInSmallLetters(t *testing.T) {
	own := startOwn(t, map[string]string{"lower-case-table-names": "1"})
	admin := rootOn(t, own)
	m := openMinter(t, holding(own.AdminURL("DayPass")))
	g := grant(`{"grants": {"App_DB": ["SELECT", "INSERT", "CREATE VIEW"]}, "require": "none", "on_owned": "drop"}`)
	first := mintOn(t, own, m, orderFor(g, time.Minute))
	u := mintOn(t, own, m, orderFor(g, time.Minute))
	if first.ServerID == "" || u.ServerID != first.ServerID {
		t.Errorf("server %q, then %q", first.ServerID, u.ServerID)
	}
	exec(t, u.login(t), "INSERT INTO App_DB.orders VALUES (7)", "COMMIT", "CREATE VIEW App_DB.Seen AS SELECT 1")
	if _, ok := heldAs(t, m, u.lease.Handle); !ok {
		t.Error("it is not held")
	}
	revoke(t, m, u)
	if n := ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'app_db'"); n != 0 || accounts(t, admin, u.name()) != 0 {
		t.Errorf("%d views, %d accounts are left", n, accounts(t, admin, u.name()))
	}
	if n := ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_NAME = ?", u.name()); n != 0 {
		t.Error("its event is left")
	}
	short := mintOn(t, own, m, orderFor(g, 2*time.Second))
	until(t, 10*time.Second, "the event ends it", func() bool { return accounts(t, admin, short.name()) == 0 })
	revoke(t, m, first)
}
