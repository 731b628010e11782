package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// A group that another admin has put the user in: up to PostgreSQL 15 whoever
// may make roles takes it away, from 16 on only that admin can. Until then a
// routine of the user would lend that group's rights to whoever calls it.
func TestAUserIsNotTakenBackWhileAnotherAdminsGrantGivesItsRoutinesRights(t *testing.T) {
	m, admin := plainMinter(t), adminConn(t)
	exec(t, admin, "DROP ROLE IF EXISTS extra; CREATE ROLE extra")
	u := mint(t, m, orderFor(appGrant, time.Minute))
	exec(t, admin, "GRANT extra TO "+string(u.lease.Handle))
	exec(t, u.login(t), "SET ROLE NONE; CREATE TABLE anchor (n int)")
	err := m.Revoke(t.Context(), u.lease)
	if major(t) < 16 {
		if err != nil {
			t.Error(err)
		}
	} else if err == nil || !strings.Contains(err.Error(), `still a member of "extra": "postgres" granted that`) {
		t.Errorf("got %v", err)
	}
	if ask[bool](t, admin, "SELECT rolcanlogin OR pg_has_role(oid, 'app_owner', 'MEMBER') FROM pg_roles WHERE rolname = $1", string(u.lease.Handle)) {
		t.Error("the rest of it was not taken back")
	}
	exec(t, admin, "REVOKE extra FROM "+string(u.lease.Handle))
	revoke(t, m, u)
	if ask[bool](t, admin, "SELECT pg_has_role(oid, 'extra', 'MEMBER') FROM pg_roles WHERE rolname = $1", string(u.lease.Handle)) {
		t.Error("it is a member of the other group")
	}
	exec(t, admin, "DROP TABLE anchor; DROP ROLE extra")
	revoke(t, m, u)
}

// A grant may let its users hand a group on. Up to PostgreSQL 15 nobody knows
// any more who did; from 16 on it would be in the way, and goes with the user.
func TestAGroupThatAUserHandedOnIsNotInTheWay(t *testing.T) {
	admin := adminConn(t)
	exec(t, admin, "DROP ROLE IF EXISTS extra; CREATE ROLE extra; GRANT extra TO dpadmin WITH ADMIN OPTION")
	for name, m := range admins(t) {
		for _, owns := range []string{"SELECT 1", "CREATE TABLE anchor (n int)"} {
			t.Run(name+" "+owns, func(t *testing.T) {
				u := mint(t, m, orderFor(grant(`{"roles": ["app_owner"], "statements": {"create": ["GRANT extra TO {{name}} WITH ADMIN OPTION"]}}`), time.Minute))
				exec(t, u.login(t), "SET ROLE NONE; GRANT extra TO mallory; "+owns)
				revoke(t, m, u)
				if major(t) >= 16 && ask[bool](t, admin, "SELECT pg_has_role('mallory', 'extra', 'MEMBER')") {
					t.Error("it outlives the user")
				}
				exec(t, admin, "REVOKE extra FROM mallory; DROP TABLE IF EXISTS anchor")
				revoke(t, m, u)
				if roleExists(t, u) {
					t.Errorf("the user is still there: %s", comment(t, u))
				}
			})
		}
	}
	exec(t, admin, "DROP ROLE extra")
}

// From PostgreSQL 16 on a user is its maker's. Two admins that take turns, for
// a rotation, are one role to the server (README, "The admin").
func TestAdminsThatTakeTurnsTakeBackWhatTheOtherMade(t *testing.T) {
	own := ownServer(t, servers.PostgresConfig{})
	super := connect(t, own.AdminURL("app"))
	exec(t, super, `CREATE ROLE shared CREATEROLE; GRANT app_owner TO shared WITH ADMIN OPTION; GRANT pg_signal_backend TO shared;
		CREATE ROLE a LOGIN PASSWORD 'a' IN ROLE shared; ALTER ROLE a SET role = 'shared'; CREATE ROLE b LOGIN PASSWORD 'b' IN ROLE shared; ALTER ROLE b SET role = 'shared'`)
	a, b := openMinter(t, holding(own.URL("a", "a", "app"))), openMinter(t, holding(own.URL("b", "b", "app")))
	for _, does := range []string{"SELECT 1", "SET ROLE NONE; CREATE TABLE public.mine (n int)"} {
		u := mint(t, a, orderFor(grant(`{"roles": ["app_owner"], "on_owned": "drop"}`), time.Minute))
		c := u.login(t)
		exec(t, c, does)
		revoke(t, b, u)
		if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Error("its session goes on")
		}
		if ask[bool](t, super, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", string(u.lease.Handle)) {
			t.Errorf("after %q the user is still there", does)
		}
	}
}

// A server may end what is idle, or takes long. The guard is both.
func TestTheGuardOutlivesTheServersTimeLimits(t *testing.T) {
	own, m := signalServer(t)
	super := connect(t, own.AdminURL("app"))
	limits := []string{"idle_in_transaction_session_timeout"}
	if major(t) >= 14 {
		limits = append(limits, "idle_session_timeout")
	}
	if major(t) >= 17 {
		limits = append(limits, "transaction_timeout")
	}
	for _, name := range limits {
		exec(t, super, "SET "+name+" = 0; ALTER ROLE dpadmin SET "+name+" = '1s'")
	}
	u := mint(t, m, orderFor(appGrant, time.Minute))
	const guard = "SELECT max(pid) FROM pg_stat_activity WHERE application_name = 'daypass guard' AND state = 'idle in transaction'"
	before := ask[*int](t, super, guard)
	time.Sleep(1500 * time.Millisecond)
	if after := ask[*int](t, super, guard); before == nil || after == nil || *before != *after {
		t.Errorf("the guard was %v and is %v", before, after)
	}
	revoke(t, m, u) // on a connection that the server has ended meanwhile
}

// From PostgreSQL 16 on a group can let its members subscribe to another
// server's changes: a worker then applies them, with their rights, for ever.
func TestASubscriptionOfAJobStopsWhenItIsTakenBack(t *testing.T) {
	if major(t) < 16 {
		return // it takes a superuser
	}
	own := ownServer(t, servers.PostgresConfig{Settings: map[string]string{"wal_level": "logical", "wal_retrieve_retry_interval": "100ms"}})
	super := connect(t, own.AdminURL("app"))
	exec(t, super, "GRANT pg_create_subscription TO app_owner; CREATE PUBLICATION all_of_it FOR ALL TABLES; GRANT pg_signal_backend TO dpadmin")
	source := own.AdminURL("other")
	other := connect(t, own.AdminURL("other"))
	exec(t, other, "CREATE PUBLICATION all_of_it FOR ALL TABLES")
	exec(t, other, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "app")))
	for _, way := range []string{"keep", "drop"} {
		u := mint(t, m, orderFor(owning(way), time.Minute))
		exec(t, super, "GRANT CREATE ON DATABASE app TO "+string(u.lease.Handle))
		c := connect(t, own.URL(u.env["PGUSER"], u.env["PGPASSWORD"], "app"))
		exec(t, c, "SET ROLE NONE")
		exec(t, c, fmt.Sprintf("CREATE SUBSCRIPTION s CONNECTION '%s' PUBLICATION all_of_it WITH (connect = false, slot_name = s)", source))
		exec(t, c, "ALTER SUBSCRIPTION s ENABLE")
		const workers = "SELECT count(*)::int FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%worker' AND usesysid IS NOT NULL"
		works := func(n int) bool {
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				if ask[int](t, super, workers) == n {
					return true
				}
			}
			return false
		}
		if !works(1) {
			t.Fatal("no worker applies anything: the attack does not work")
		}
		revoke(t, m, u)
		for range 20 { // it is not started again either
			if n := ask[int](t, super, workers); n != 0 {
				t.Fatalf("%s: %d workers are left", way, n)
			}
			time.Sleep(50 * time.Millisecond)
		}
		exec(t, super, "ALTER SUBSCRIPTION s DISABLE")
		exec(t, super, "ALTER SUBSCRIPTION s SET (slot_name = NONE)")
		exec(t, super, "DROP SUBSCRIPTION s; REVOKE CREATE ON DATABASE app FROM "+string(u.lease.Handle))
		revoke(t, m, u)
		if ask[bool](t, super, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", string(u.lease.Handle)) {
			t.Errorf("%s: the user is still there", way)
		}
	}
}

// Who makes a group may grant it, and is none of it.
func TestAGroupThatTheAdminHasMadeItselfWillDo(t *testing.T) {
	own, m := signalServer(t)
	admin, super := connect(t, own.URL("dpadmin", adminPassword, "app")), connect(t, own.AdminURL("app"))
	exec(t, admin, "CREATE ROLE made")
	memberships := func() string {
		return ask[string](t, super, "SELECT coalesce(string_agg(m::text, ' ' ORDER BY m::text), '') FROM pg_auth_members m WHERE roleid = 'made'::regrole")
	}
	before := memberships()
	u := mint(t, m, orderFor(grant(`{"roles": ["made"]}`), time.Minute))
	c := connect(t, own.URL(u.env["PGUSER"], u.env["PGPASSWORD"], "app"))
	for _, sql := range []string{"SET ROLE NONE", "BEGIN", "ALTER ROLE " + string(u.lease.Handle) + " PASSWORD 'known'", "SET ROLE made", "PREPARE TRANSACTION 'mine'"} {
		exec(t, c, sql)
	}
	gone(t, own, m, u)
	if n := ask[int](t, super, "SELECT count(*)::int FROM pg_prepared_xacts"); n != 0 {
		t.Errorf("%d prepared transactions are left", n)
	}
	if after := memberships(); after != before {
		t.Errorf("the memberships were %s, and are %s", before, after)
	}
}

// What PostgreSQL 18 brought: computed columns that are not stored are code as
// those that are, and constraints and defaults of its own are not.
func TestNewSortsOfColumnsAreJudgedAsTheOldOnesAre(t *testing.T) {
	if major(t) < 18 {
		return // it has none of them
	}
	everyWay(t, func(t *testing.T, m broker.Minter, way string) {
		u := mint(t, m, orderFor(owning(way), time.Minute))
		o := unique(u)
		c := asItself(t, u, "app")
		for _, sql := range []string{
			"CREATE SCHEMA %s", "GRANT ALL ON SCHEMA %s TO app_owner", "CREATE TABLE %s.computed (n int, m int GENERATED ALWAYS AS (n + 1) VIRTUAL)",
			"CREATE TABLE %s.listed (id uuid DEFAULT uuidv7() PRIMARY KEY, n int CONSTRAINT named NOT NULL)",
			"CREATE TABLE %s.spans (a int4range, b daterange, PRIMARY KEY (a, b WITHOUT OVERLAPS))",
		} {
			exec(t, c, strings.ReplaceAll(sql, "%s", o))
		}
		revoke(t, m, u)
		moved := ask[string](t, adminConn(t), "SELECT coalesce(string_agg(relname::text, ' ' ORDER BY relname), '') FROM pg_class WHERE relowner = 'app_owner'::regrole AND relnamespace = to_regnamespace($1) AND relkind = 'r'", o)
		want := map[bool]string{true: "listed spans"}[strings.HasPrefix(way, "reassign")]
		if moved != want {
			t.Errorf("app_owner has %q, want %q", moved, want)
		}
		exec(t, adminConn(t), "DROP SCHEMA IF EXISTS "+o+" CASCADE")
		cleanUp(t, m, u)
	})
}
