package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
)

// ways are the values of on_owned, as params.
var ways = map[string]string{
	"keep":            `"keep"`,
	"reassign":        `"reassign"`,
	"reassign to one": `{"reassign": "app_owner"}`,
	"drop":            `"drop"`,
}

func owning(way string) broker.Grant {
	return grant(`{"roles": ["app_owner"], "scram_iterations": 1, "on_owned": ` + ways[way] + `}`)
}

// admins are those who may be taking back.
func admins(t *testing.T) map[string]broker.Minter {
	return map[string]broker.Minter{"superuser": superMinter(t), "CREATEROLE": plainMinter(t)}
}

// everyWay runs a test for each value of on_owned, with each admin.
func everyWay(t *testing.T, do func(t *testing.T, m broker.Minter, way string)) {
	for admin, m := range admins(t) {
		for way := range ways {
			t.Run(way+" by "+admin, func(t *testing.T) { do(t, m, way) })
		}
	}
}

// asItself logs a job in and steps out of its group, so that what it creates
// is its own.
func asItself(t *testing.T, u user, database string) *pgx.Conn {
	t.Helper()
	c := connect(t, server.URL(u.env["PGUSER"], u.env["PGPASSWORD"], database))
	exec(t, c, "SET ROLE NONE")
	return c
}

// unique names the objects of one run.
func unique(u user) string { return "o_" + string(u.lease.Handle)[len(u.lease.Handle)-8:] }

func roleExists(t *testing.T, u user) bool {
	t.Helper()
	return ask[bool](t, adminConn(t), "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", string(u.lease.Handle))
}

func comment(t *testing.T, u user) string {
	t.Helper()
	return ask[string](t, adminConn(t), "SELECT coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = $1", string(u.lease.Handle))
}

func tryAsk[T any](t *testing.T, c *pgx.Conn, sql string) (T, error) {
	t.Helper()
	var v T
	err := c.QueryRow(t.Context(), sql).Scan(&v)
	return v, err
}

// A user that owns every sort of thing, in two databases, is taken back as
// on_owned says.
func TestWhatAUserOwnsEndsAsTheGrantSays(t *testing.T) {
	everyWay(t, func(t *testing.T, m broker.Minter, way string) {
		u := mint(t, m, orderFor(owning(way), time.Minute))
		o := unique(u)
		for _, db := range []string{"app", "other"} {
			c := asItself(t, u, db)
			for _, sql := range []string{
				"CREATE SCHEMA %s", "CREATE TABLE %s.plain (id serial PRIMARY KEY, at timestamptz DEFAULT now(), word text DEFAULT 'x''y', n numeric(5,2) DEFAULT -1.5)",
				"INSERT INTO %s.plain DEFAULT VALUES", "CREATE SEQUENCE %s.loose", "CREATE VIEW %s.seen AS SELECT * FROM %s.plain",
				"CREATE FUNCTION %s.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE TYPE %s.kind AS ENUM ('a')", "CREATE DOMAIN %s.small AS int",
				"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO mallory", "SELECT lo_create(0)",
			} {
				exec(t, c, strings.ReplaceAll(sql, "%s", o))
			}
			// ALTER TABLE … OWNER wants the new owner to have a right to the schema
			exec(t, c, "GRANT ALL ON SCHEMA "+o+" TO app_owner")
		}
		revoke(t, m, u)
		for _, db := range []string{"app", "other"} {
			admin := connect(t, server.AdminURL(db))
			owner := func(name string) string {
				return ask[string](t, admin, "SELECT coalesce((SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = to_regclass($1)), 'gone')", o+"."+name)
			}
			want := map[string]string{"keep": string(u.lease.Handle), "reassign": "app_owner", "reassign to one": "app_owner", "drop": "gone"}[way]
			for _, name := range []string{"plain", "plain_id_seq", "loose"} {
				if got := owner(name); got != want {
					t.Errorf("%s: %s belongs to %s, want %s (%s)", db, name, got, want, comment(t, u))
				}
			}
			if got := owner("seen"); way != "drop" && got != string(u.lease.Handle) || way == "drop" && got != "gone" {
				t.Errorf("%s: a view belongs to %s", db, got)
			}
		}
		if got := roleExists(t, u); got != (way != "drop") {
			t.Errorf("the role exists: %v", got)
		}
		cleanUp(t, m, u)
	})
}

// cleanUp is what an operator does with a kept user; the sweeper then drops
// it.
func cleanUp(t *testing.T, m broker.Minter, u user) {
	t.Helper()
	if roleExists(t, u) {
		for _, db := range []string{"app", "other"} {
			exec(t, connect(t, server.AdminURL(db)), "DROP OWNED BY "+string(u.lease.Handle)+" CASCADE")
		}
	}
	revoke(t, m, u)
	if roleExists(t, u) {
		t.Errorf("the role cannot be dropped: %s", comment(t, u))
	}
}

// refer makes a stranger's table that rows of a job's table cascade to, with a
// trigger that waits for the end of whose transaction that was.
func refer(o, name string) string {
	return strings.NewReplacer("%s", o, "%n", name).Replace(`CREATE TABLE public.%n_%s (id int REFERENCES %s.%n ON DELETE CASCADE);
		CREATE CONSTRAINT TRIGGER late AFTER DELETE ON public.%n_%s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION %s.steal();
		INSERT INTO public.%n_%s VALUES (1)`)
}

// A job leaves code behind that waits for somebody with more rights, and a
// stranger comes to collect. None of the ways may hand out the rights of a
// role that the job itself has lost.
func TestCodeThatAJobLeavesBehindRunsWithNobodysRights(t *testing.T) {
	admin := adminConn(t)
	exec(t, admin, `DROP SCHEMA IF EXISTS vault CASCADE; CREATE SCHEMA vault AUTHORIZATION app_owner; CREATE TABLE vault.secret (v text); INSERT INTO vault.secret VALUES ('treasure');
		ALTER TABLE vault.secret OWNER TO app_owner; REVOKE ALL ON SCHEMA vault FROM PUBLIC`)
	plant := func(t *testing.T, u user) string {
		o := unique(u)
		c := asItself(t, u, "app")
		for _, sql := range []string{
			"CREATE SCHEMA %s", "GRANT USAGE ON SCHEMA %s TO PUBLIC", "GRANT ALL ON SCHEMA %s TO app_owner", "CREATE TABLE %s.loot (v text, who text)", "GRANT SELECT, INSERT ON %s.loot TO PUBLIC",
			// runs with its owner's rights for whoever calls it
			"CREATE FUNCTION %s.definer() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN (SELECT v FROM vault.secret); END'",
			// reads with its owner's rights for whoever looks
			"CREATE VIEW %s.pane AS SELECT v FROM vault.secret", "GRANT SELECT ON %s.pane TO PUBLIC",
			// these run with the rights of whoever touches the table
			`CREATE FUNCTION %s.steal() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO %s.loot SELECT v, current_user FROM vault.secret; RETURN NULL; EXCEPTION WHEN insufficient_privilege THEN RETURN NULL; END'`,
			`CREATE FUNCTION %s.grab() RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO %s.loot SELECT v, current_user FROM vault.secret; RETURN 1; EXCEPTION WHEN insufficient_privilege THEN RETURN 0; END'`,
			"CREATE FUNCTION %s.fixed(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN %s.grab(); END'",
			"CREATE TABLE %s.triggered (n int)", "CREATE TRIGGER t AFTER INSERT ON %s.triggered FOR EACH STATEMENT EXECUTE FUNCTION %s.steal()",
			"CREATE TABLE %s.defaulted (n int DEFAULT %s.grab())",
			"CREATE TABLE %s.quoted (n int, x xml DEFAULT query_to_xml('SELECT %s.grab()', false, false, ''))",
			"CREATE TABLE %s.checked (n int CHECK (%s.grab() < 2))",
			"CREATE TABLE %s.indexed (n int)", "CREATE INDEX ON %s.indexed ((%s.fixed(n)))",
			"CREATE TABLE %s.partial (n int)", "CREATE INDEX ON %s.partial (n) WHERE %s.fixed(n) < 2",
			"CREATE TABLE %s.computed (n int, m int GENERATED ALWAYS AS (%s.fixed(n)) STORED)",
			"CREATE TABLE %s.ruled (n int)", "CREATE RULE r AS ON INSERT TO %s.ruled DO ALSO SELECT %s.grab()",
			"CREATE TABLE %s.policed (n int)", "ALTER TABLE %s.policed ENABLE ROW LEVEL SECURITY", "CREATE POLICY p ON %s.policed USING (%s.grab() < 2)",
			"CREATE DOMAIN %s.dom AS int CHECK (%s.grab() < 2)", "CREATE TABLE %s.typed (n %s.dom)",
			"CREATE TABLE %s.root (id int PRIMARY KEY)", "CREATE TABLE %s.leaf (id int REFERENCES %s.root ON DELETE CASCADE)",
			"CREATE CONSTRAINT TRIGGER late AFTER DELETE ON %s.leaf DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION %s.steal()",
			"INSERT INTO %s.root VALUES (1)", "INSERT INTO %s.leaf VALUES (1)",
			"CREATE TABLE %s.lent (n int)", "GRANT TRIGGER ON %s.lent TO mallory", "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA %s TO PUBLIC",
			"CREATE TABLE %s.harmless (n int)",
			// what others refer to, or may refer to
			"CREATE TABLE %s.bound (id int PRIMARY KEY)", "CREATE TABLE %s.owed (id int PRIMARY KEY)", "CREATE TABLE %s.named (id int PRIMARY KEY)",
			"INSERT INTO %s.bound VALUES (1)", "INSERT INTO %s.owed VALUES (1)", "INSERT INTO %s.named VALUES (1)",
			"GRANT REFERENCES ON %s.bound, %s.owed TO mallory", "GRANT REFERENCES (id) ON %s.named TO mallory",
		} {
			exec(t, c, strings.ReplaceAll(sql, "%s", o))
		}
		return o
	}
	// use does what an application of app_owner does with its own tables, and
	// what a stranger does with what it finds. It returns what got out.
	use := func(t *testing.T, o string) (out []string) {
		mallory := connect(t, server.URL("mallory", "mallory", "app"))
		for _, sql := range []string{"SELECT %s.definer()", "SELECT v FROM %s.pane"} {
			if got, err := tryAsk[string](t, mallory, strings.ReplaceAll(sql, "%s", o)); err == nil {
				out = append(out, sql+" gave "+got)
			}
		}
		_, _ = mallory.Exec(t.Context(), strings.ReplaceAll("CREATE TRIGGER t AFTER INSERT ON %s.lent FOR EACH STATEMENT EXECUTE FUNCTION %s.steal()", "%s", o))
		for _, name := range []string{"owed", "named"} {
			_, _ = mallory.Exec(t.Context(), refer(o, name))
		}
		application := connect(t, server.AdminURL("app"))
		exec(t, application, "SET ROLE app_owner")
		mine, err := application.Query(t.Context(), "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relowner = 'app_owner'::regrole AND relnamespace = to_regnamespace($1) AND relname <> 'loot'", o)
		if err != nil {
			t.Fatal(err)
		}
		tables, err := pgx.CollectRows(mine, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range tables {
			for _, sql := range []string{"DELETE FROM %s", "INSERT INTO %s DEFAULT VALUES", "INSERT INTO %s VALUES (2)", "SELECT * FROM %s", "REINDEX TABLE %s", "ANALYZE %s"} {
				_, _ = application.Exec(t.Context(), fmt.Sprintf(sql, o+"."+name))
			}
		}
		if loot, err := tryAsk[int](t, application, "SELECT count(*)::int FROM "+o+".loot WHERE v = 'treasure'"); err == nil && loot > 0 {
			out = append(out, fmt.Sprintf("%d rows of loot", loot))
		}
		return out
	}

	t.Run("the attack works where all is handed over", func(t *testing.T) {
		m := superMinter(t)
		u := mint(t, m, orderFor(owning("keep"), time.Minute))
		o := plant(t, u)
		exec(t, admin, "REASSIGN OWNED BY "+string(u.lease.Handle)+" TO app_owner")
		if out := use(t, o); len(out) != 3 {
			t.Errorf("only %q got out", out)
		}
		exec(t, admin, "DROP SCHEMA "+o+" CASCADE")
		revoke(t, m, u)
	})
	everyWay(t, func(t *testing.T, m broker.Minter, way string) {
		u := mint(t, m, orderFor(owning(way), time.Minute))
		o := plant(t, u)
		if way != "drop" { // which others' tables would keep from dropping anything
			exec(t, connect(t, server.URL("mallory", "mallory", "app")), refer(o, "bound"))
			exec(t, admin, "REVOKE REFERENCES ON "+o+".bound FROM mallory")
		}
		revoke(t, m, u)
		if out := use(t, o); len(out) != 0 {
			t.Errorf("%q got out", out)
		}
		moved := ask[[]string](t, admin, "SELECT coalesce(array_agg(relname::text ORDER BY relname), '{}') FROM pg_class WHERE relowner = 'app_owner'::regrole AND relnamespace = to_regnamespace($1) AND relkind = 'r'", o)
		want := "[]"
		if strings.HasPrefix(way, "reassign") {
			want = "[harmless loot]"
		}
		if got := fmt.Sprint(moved); got != want {
			t.Errorf("app_owner has %s, want %s", got, want)
		}
		exec(t, admin, "DROP SCHEMA IF EXISTS "+o+" CASCADE")
		revoke(t, m, u)
		if roleExists(t, u) {
			t.Errorf("the role cannot be dropped: %s", comment(t, u))
		}
	})
}

// What was granted to a user that stays behind would be there for whoever
// calls a routine of it.
func TestAUserThatIsKeptLosesWhatItWasGranted(t *testing.T) {
	admin := adminConn(t)
	exec(t, admin, `DROP TABLE IF EXISTS granted; CREATE TABLE granted (v text, w text); INSERT INTO granted VALUES ('treasure', 'x')`)
	m := superMinter(t)
	newer := ""
	if major(t) >= 15 {
		newer += `, "GRANT SET ON PARAMETER log_statement TO {{name}}"`
	}
	if major(t) >= 18 {
		newer += `, "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT SELECT ON LARGE OBJECTS TO {{name}}"`
	}
	u := mint(t, m, orderFor(grant(`{"roles": ["app_owner"], "scram_iterations": 1, "statements": {"create": [
		"GRANT SELECT ON public.granted TO {{name}}", "GRANT UPDATE (w) ON public.granted TO {{name}}", "GRANT ALL ON SCHEMA public TO {{name}} WITH GRANT OPTION",
		"GRANT ALL ON DATABASE {{database}} TO {{name}}", "GRANT ALL ON LANGUAGE plpgsql TO {{name}}", "GRANT EXECUTE ON FUNCTION pg_ls_logdir() TO {{name}}",
		"GRANT ALL ON TYPE int4 TO {{name}}", "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA public GRANT SELECT ON TABLES TO {{name}}",
		"ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT SELECT ON SEQUENCES TO {{name}}"`+newer+`]}}`), time.Minute))
	c := asItself(t, u, "app")
	o := unique(u)
	exec(t, c, "CREATE SCHEMA "+o+"; GRANT USAGE ON SCHEMA "+o+" TO PUBLIC; CREATE FUNCTION "+o+".f() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN (SELECT v FROM public.granted); END'")
	mallory := connect(t, server.URL("mallory", "mallory", "app"))
	if got, err := tryAsk[string](t, mallory, "SELECT "+o+".f()"); err != nil || got != "treasure" {
		t.Fatalf("while the user lives its routine gives %q, %v", got, err)
	}
	revoke(t, m, u)
	if got, err := tryAsk[string](t, mallory, "SELECT "+o+".f()"); err == nil {
		t.Errorf("a routine of a dead user gives %q", got)
	}
	if left := ask[string](t, admin, "SELECT coalesce(string_agg(classid::regclass || ' ' || objid || deptype::text, ', '), '') FROM pg_shdepend WHERE refobjid = $1::regrole AND deptype <> 'o'", string(u.lease.Handle)); left != "" {
		t.Errorf("grants are left on %s: %s", left, comment(t, u))
	}
	cleanUp(t, m, u)
}

// DROP OWNED knows nothing of what a table is for.
func TestDropTakesMigratedTablesWithItAndTheOthersDoNot(t *testing.T) {
	everyWay(t, func(t *testing.T, m broker.Minter, way string) {
		u := mint(t, m, orderFor(owning(way), time.Minute))
		o := unique(u)
		c := asItself(t, u, "app") // a migration tool that resets its session's role
		exec(t, c, "CREATE TABLE public."+o+" (n int); INSERT INTO public."+o+" VALUES (42)")
		revoke(t, m, u)
		n, err := tryAsk[int](t, adminConn(t), "SELECT n FROM public."+o)
		if way == "drop" && err == nil || way != "drop" && n != 42 {
			t.Errorf("the table has %d, %v", n, err)
		}
		exec(t, adminConn(t), "DROP TABLE IF EXISTS public."+o)
		cleanUp(t, m, u)
	})
}

// What others have built on it is not the job's to drop.
func TestDropLeavesWhatOthersBuiltOn(t *testing.T) {
	m := superMinter(t)
	u := mint(t, m, orderFor(owning("drop"), time.Minute))
	o := unique(u)
	exec(t, asItself(t, u, "app"), "CREATE TABLE public."+o+" (n int); GRANT ALL ON public."+o+" TO app_owner")
	admin := adminConn(t)
	exec(t, admin, "CREATE VIEW public.v"+o+" AS SELECT * FROM public."+o)
	revoke(t, m, u)
	if _, err := tryAsk[int](t, admin, "SELECT count(*)::int FROM public.v"+o); err != nil {
		t.Errorf("a view of others is gone: %v", err)
	}
	if got := comment(t, u); !strings.Contains(got, `"kept":"owns 1 objects`) || !strings.Contains(got, "depend on it") {
		t.Errorf("the comment does not say why it is kept: %s", got)
	}
	exec(t, admin, "DROP VIEW public.v"+o)
	cleanUp(t, m, u)
}

// Databases and tablespaces belong to the server; none of the ways drops or
// gives away one.
func TestADatabaseOrTablespaceOfAUserIsKeptInEveryWay(t *testing.T) {
	admin := adminConn(t)
	everyWay(t, func(t *testing.T, m broker.Minter, way string) {
		u := mint(t, m, orderFor(owning(way), time.Minute))
		o := unique(u)
		exec(t, admin, "CREATE DATABASE "+o+" OWNER "+string(u.lease.Handle))
		revoke(t, m, u)
		if !ask[bool](t, admin, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", o) {
			t.Error("the database is gone")
		}
		if !roleExists(t, u) || !strings.Contains(comment(t, u), `"kept":"owns 1 objects`) {
			t.Error("its owner is not kept")
		}
		exec(t, admin, "DROP DATABASE "+o)
		cleanUp(t, m, u)
	})
}

// A lease that was lost takes its on_owned with it: then nothing is dropped or
// given away.
func TestWhatAnOrphanOwnsIsKept(t *testing.T) {
	m := superMinter(t)
	u := mint(t, m, orderFor(owning("drop"), time.Minute))
	o := unique(u)
	exec(t, asItself(t, u, "app"), "CREATE TABLE public."+o+" (n int)")
	if err := m.Revoke(t.Context(), broker.Lease{Handle: u.lease.Handle, Grant: broker.Grant{Target: "app-pg"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := tryAsk[int](t, adminConn(t), "SELECT count(*)::int FROM public."+o); err != nil {
		t.Error(err)
	}
	revoke(t, m, u) // its lease turns up, and says drop
	if roleExists(t, u) {
		t.Error("the role is still there")
	}
}
