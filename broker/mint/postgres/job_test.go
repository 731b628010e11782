package postgres_test

import (
	"context"
	"errors"
	"os"
	osexec "os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

func superMinter(t *testing.T) broker.Minter { return openMinter(t, holding(server.AdminURL("app"))) }

// plainMinter's admin has CREATEROLE and nothing else.
func plainMinter(t *testing.T) broker.Minter {
	return openMinter(t, holding(server.URL("dpadmin", adminPassword, "app")))
}

func adminConn(t *testing.T) *pgx.Conn { return connect(t, server.AdminURL("app")) }

func TestPsqlLogsInWithTheEnvironmentOnly(t *testing.T) {
	for _, params := range []string{
		`{"roles": ["app_owner"]}`, `{"roles": ["app_owner"], "scram_iterations": 1}`,
		`{"roles": ["App \" Ro'le", "app_owner"], "owner": "app_owner", "database": "app", "connection_limit": 3}`,
	} {
		u := mint(t, plainMinter(t), orderFor(grant(params), time.Minute))
		cmd := osexec.CommandContext(t.Context(), server.Bin("psql"), "-X", "-w", "-At", "-c",
			"SELECT session_user, current_user, current_database(), inet_server_port()")
		cmd.Env = os.Environ()
		for k, v := range u.env {
			if k != "DATABASE_URL" {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
		}
		out, err := cmd.CombinedOutput()
		want := strings.Join([]string{string(u.lease.Handle), "app_owner", "app", u.env["PGPORT"]}, "|")
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s: got %q (%v), want %q", params, got, err, want)
		}
	}
}

func TestAWrongPasswordIsRefused(t *testing.T) {
	u := mint(t, plainMinter(t), orderFor(appGrant, time.Minute))
	_, err := pgx.Connect(t.Context(), server.URL(u.env["PGUSER"], u.env["PGPASSWORD"]+"x", "app"))
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "28P01" {
		t.Errorf("got %v", err)
	}
}

func TestTheJobIsToldThePublicEndpoint(t *testing.T) {
	u := mint(t, superMinter(t), orderFor(grant(`{"roles": ["app_owner"], "host": "db.example.com", "port": 6432, "sslmode": "verify-full"}`), time.Minute))
	want := "postgres://" + u.env["PGUSER"] + ":" + u.env["PGPASSWORD"] + "@db.example.com:6432/app?sslmode=verify-full"
	if u.env["DATABASE_URL"] != want || u.env["PGHOST"] != "db.example.com" || u.env["PGPORT"] != "6432" || u.env["PGSSLMODE"] != "verify-full" {
		t.Errorf("told %v", u.env)
	}
}

func TestTheServersLogHoldsNoPassword(t *testing.T) {
	m := plainMinter(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	exec(t, u.login(t), "SELECT 'seen'")
	revoke(t, m, u)
	log, err := os.ReadFile(server.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), string(u.lease.Handle)) {
		t.Fatal("the log says nothing of the user: is everything logged?")
	}
	for _, s := range []string{u.env["PGPASSWORD"], adminPassword} {
		if strings.Contains(string(log), s) {
			t.Error("a password is in the log")
		}
	}
}

func TestWhatAMigrationCreatesBelongsToTheOwnerAndStays(t *testing.T) {
	m := plainMinter(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	c := u.login(t)
	exec(t, c, "DROP TABLE IF EXISTS migrated; DROP SCHEMA IF EXISTS migrated CASCADE; CREATE TABLE migrated (n int); INSERT INTO migrated VALUES (42); CREATE SCHEMA migrated CREATE VIEW v AS SELECT 1")
	revoke(t, m, u)
	admin := adminConn(t)
	if n := ask[int](t, admin, "SELECT n FROM public.migrated"); n != 42 {
		t.Errorf("n is %d", n)
	}
	if owner := ask[string](t, admin, "SELECT tableowner FROM pg_tables WHERE tablename = 'migrated'"); owner != "app_owner" {
		t.Errorf("the table belongs to %q", owner)
	}
	if ask[bool](t, admin, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", string(u.lease.Handle)) {
		t.Error("the user is still there")
	}
}

func TestOpenSessionsEndWhenTheUserIsTakenBack(t *testing.T) {
	for name, m := range map[string]broker.Minter{"superuser": superMinter(t), "no right to signal": plainMinter(t)} {
		t.Run(name, func(t *testing.T) {
			u := mint(t, m, orderFor(grant(`{"roles": ["app_owner", "App \" Ro'le"], "owner": "app_owner"}`), time.Minute))
			oid := ask[uint32](t, adminConn(t), "SELECT oid FROM pg_roles WHERE rolname = $1", string(u.lease.Handle))
			idle, asParent, inTx := u.login(t), u.login(t), u.login(t)
			exec(t, asParent, `SET ROLE "App "" Ro'le"`)
			exec(t, inTx, "BEGIN; CREATE TABLE unfinished (n int)")
			revoke(t, m, u)
			for _, c := range []*pgx.Conn{idle, asParent, inTx} {
				if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
					t.Error("a session outlived its user")
				}
			}
			if n := ask[int](t, adminConn(t), "SELECT count(*)::int FROM pg_stat_activity WHERE usesysid = $1", oid); n != 0 {
				t.Errorf("%d sessions are left", n)
			}
		})
	}
}

func TestLoginEndsByItselfAtTheExpiry(t *testing.T) {
	u := mint(t, plainMinter(t), orderFor(appGrant, 3*time.Second))
	_ = u.login(t).Close(t.Context())
	time.Sleep(time.Until(u.lease.NotAfter) + 100*time.Millisecond)
	if _, err := pgx.Connect(t.Context(), u.env["DATABASE_URL"]); err == nil {
		t.Error("logged in after the expiry")
	}
}

// A job steps out of its role (RESET ROLE would lead back into it) and creates something: the user cannot be dropped, but
// it is dead, visible, and dropped when the operator has tidied up.
func TestAUserThatOwnsSomethingIsKeptDisabledUntilItIsTidiedUp(t *testing.T) {
	m := plainMinter(t)
	u := mint(t, m, orderFor(appGrant, 3*time.Second))
	handle := string(u.lease.Handle)
	c := u.login(t)
	exec(t, c, "SET ROLE NONE; CREATE TABLE mine (n int); CREATE TABLE mine2 (n int)")
	admin := adminConn(t)
	exec(t, admin, "GRANT SELECT ON pg_roles TO "+handle)
	for range 2 {
		revoke(t, m, u)
	}
	type state struct {
		Login    bool
		Groups   int
		Password bool
		Comment  string
	}
	var s state
	if err := admin.QueryRow(t.Context(), `SELECT rolcanlogin, (SELECT count(*) FROM pg_auth_members WHERE member = a.oid), rolpassword IS NOT NULL,
		shobj_description(oid, 'pg_authid') FROM pg_authid a WHERE rolname = $1`, handle).Scan(&s.Login, &s.Groups, &s.Password, &s.Comment); err != nil {
		t.Fatal(err)
	}
	if s.Login || s.Groups != 0 || s.Password {
		t.Errorf("left behind as %+v", s)
	}
	for _, part := range []string{`"kept":"owns 2 objects, is named in 1 grants or policies"`, string(u.lease.ID), "ci/5678"} {
		if !strings.Contains(s.Comment, part) {
			t.Errorf("comment %s lacks %s", s.Comment, part)
		}
	}
	time.Sleep(time.Until(u.lease.NotAfter) + 100*time.Millisecond)
	if h, ok := heldAs(t, m, u.lease.Handle); !ok || h.Overdue {
		t.Errorf("a kept user past its expiry is held %v, as %+v", ok, h)
	}
	exec(t, admin, "DROP TABLE mine, mine2; REVOKE SELECT ON pg_roles FROM "+handle)
	if h, ok := heldAs(t, m, u.lease.Handle); !ok || !h.Overdue {
		t.Errorf("a kept user without ties is held %v, as %+v", ok, h)
	}
	revoke(t, m, u)
	if h, ok := heldAs(t, m, u.lease.Handle); ok {
		t.Errorf("still held as %+v", h)
	}
}

func heldAs(t *testing.T, m broker.Minter, h broker.Handle) (broker.Held, bool) {
	t.Helper()
	held, err := m.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range held {
		if one.Handle == h {
			return one, true
		}
	}
	return broker.Held{}, false
}

// A job cannot make itself look like a kept user, so that it is never swept.
func TestAJobCannotPassItselfOffAsKept(t *testing.T) {
	m := plainMinter(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	c := u.login(t)
	for _, sql := range []string{
		"COMMENT ON ROLE %s IS '{\"by\":\"daypass\",\"kept\":\"x\"}'", "ALTER ROLE %s NOLOGIN",
		"ALTER ROLE %s VALID UNTIL 'infinity'", "ALTER ROLE %s RENAME TO harmless", "ALTER ROLE %s CREATEROLE",
	} {
		for _, role := range []string{"SET ROLE NONE", "SET ROLE app_owner"} {
			exec(t, c, role)
			if _, err := c.Exec(t.Context(), strings.ReplaceAll(sql, "%s", string(u.lease.Handle))); err == nil {
				t.Errorf("after %s a job may %s", role, sql)
			}
		}
	}
	revoke(t, m, u)
}

// Up to PostgreSQL 14 a role may grant itself to others, who would have its
// groups' rights. On newer ones only an admin can, who does it here; from 16 on
// such a grant is that admin's alone to take away, and gives nothing any more.
func TestWhoeverTheJobGrantedItselfToLosesItsRights(t *testing.T) {
	for name, m := range admins(t) {
		t.Run(name, func(t *testing.T) {
			u := mint(t, m, orderFor(appGrant, time.Minute))
			c := u.login(t)
			exec(t, c, "SET ROLE NONE; CREATE TABLE anchor (n int)") // keeps the role from being dropped
			admin := adminConn(t)
			exec(t, admin, "GRANT "+string(u.lease.Handle)+" TO mallory")
			revoke(t, m, u)
			if ask[bool](t, admin, "SELECT pg_has_role('mallory', 'app_owner', 'MEMBER')") {
				t.Error("mallory has the job's rights")
			}
			stays := major(t) >= 16 && name == "CREATEROLE"
			if is := ask[bool](t, admin, "SELECT pg_has_role('mallory', $1, 'MEMBER')", string(u.lease.Handle)); is != stays {
				t.Errorf("mallory is a member of what is left of the user: %v", is)
			}
			if said := strings.Contains(comment(t, u), `\"mallory\" is a member of it, granted by \"postgres\"`); said != stays {
				t.Errorf("the comment is %s", comment(t, u))
			}
			exec(t, admin, "DROP TABLE anchor")
			revoke(t, m, u)
			if roleExists(t, u) {
				t.Error("the user is still there")
			}
		})
	}
}

// A job may change its own password; in a transaction left open that locks the
// very row that taking it back must change.
func TestAJobCannotHoldUpItsRevocationByLockingItsOwnRow(t *testing.T) {
	m := plainMinter(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	var sessions []*pgx.Conn
	for range 3 {
		c := u.login(t)
		sessions = append(sessions, c)
		exec(t, c, "SET ROLE NONE; SET lock_timeout = 100; BEGIN")
		_, _ = c.Exec(t.Context(), "ALTER ROLE "+string(u.lease.Handle)+" PASSWORD 'known'") // the first has the row
	}
	first, cancel := context.WithTimeout(t.Context(), time.Second) // what it has before it gives way
	defer cancel()
	_ = m.Revoke(first, u.lease)
	time.Sleep(100 * time.Millisecond)
	for _, c := range sessions {
		if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Error("a session goes on after the first try")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // what the broker gives it
	defer cancel()
	if err := m.Revoke(ctx, u.lease); err != nil {
		t.Error(err)
	}
	if _, ok := heldAs(t, m, u.lease.Handle); ok {
		t.Error("still there")
	}
}

// The names of our locks can be computed by anybody who can read this.
func TestAJobCannotHoldUpItsRevocationWithAdvisoryLocks(t *testing.T) {
	m := plainMinter(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	other := mint(t, m, orderFor(appGrant, time.Minute))
	exec(t, other.login(t), "SELECT pg_advisory_lock("+postgres.LockKeyText(u.lease.Handle)+")")
	revoke(t, m, u) // waiting for the lock would end in an error
	revoke(t, m, other)
}

func TestHostileClaimsAreACommentAndNothingElse(t *testing.T) {
	m, admin := plainMinter(t), adminConn(t)
	before := ask[int](t, admin, "SELECT count(*)::int FROM pg_roles")
	for _, text := range []string{
		`'; DROP ROLE mallory; --`, `\'; DROP ROLE mallory; --`, `\\'`, `$$; DROP ROLE mallory; $$`, "line\nbreak\r\t\x00", `"},{"kept":"x"`,
		"naïve \U0001F600 \xff", strings.Repeat("é", 300), `','dp'); DROP ROLE mallory; SELECT E'\047`, "",
	} {
		o := orderFor(appGrant, time.Minute)
		o.For = broker.Identity{Issuer: text, Subject: text, Job: broker.Job{Repository: text, RepositoryID: text, Ref: text}}
		u := mint(t, m, o)
		comment := ask[string](t, admin, "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1", string(u.lease.Handle))
		place, kept, ours := postgres.NotePlace(comment)
		if want := o.For.Place(); !ours || kept != "" || len(want) < 200 && place != strings.ToValidUTF8(want, "\ufffd") {
			t.Errorf("place %q became %q, kept %q", want, place, kept)
		}
		revoke(t, m, u)
	}
	if after := ask[int](t, admin, "SELECT count(*)::int FROM pg_roles"); after != before {
		t.Errorf("there were %d roles, there are %d", before, after)
	}
}

func TestGroupsThatCouldMakeUsersOfTheirOwnAreRefused(t *testing.T) {
	admin := adminConn(t)
	exec(t, admin, `CREATE ROLE hands_on; CREATE ROLE ends_sessions; CREATE ROLE leads_to_owner;
		GRANT mallory TO hands_on WITH ADMIN OPTION; GRANT pg_signal_backend TO ends_sessions`)
	exec(t, admin, "CREATE ROLE owns_database; GRANT owns_database TO leads_to_owner; ALTER DATABASE app OWNER TO owns_database")
	defer exec(t, admin, "ALTER DATABASE app OWNER TO postgres; DROP ROLE hands_on, ends_sessions, leads_to_owner, owns_database")
	for group, want := range map[string]string{
		"hands_on": "gives a role WITH ADMIN OPTION", "ends_sessions": "gives pg_signal_backend",
		"owns_database": "gives the database of the admin URL, as its owner", "leads_to_owner": "gives the database of the admin URL, as its owner",
		"postgres": "could not be taken back", "great": "could not be taken back", "indirect": "could not be taken back",
		"pg_execute_server_program": "could not be taken back", "dpadmin": "could not be taken back", "nobody_of_this_name": "does not exist",
	} {
		o := orderFor(grant(`{"roles": ["`+group+`"]}`), time.Minute)
		m := superMinter(t)
		h, err := m.Plan(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Mint(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", group, err)
		}
	}
}
