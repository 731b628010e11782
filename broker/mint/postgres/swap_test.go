package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

// An accomplice, another job of the same group, renames schemas back and forth
// while a job's tables are handed over: a name that led to the job's table leads
// to a view of his a moment later, and a view runs with the rights of its owner.
func TestNothingElseIsHandedOverWhileSchemasAreRenamed(t *testing.T) {
	for _, admin := range everyAdmin(t) {
		t.Run(admin.name, func(t *testing.T) {
			super := adminConn(t)
			exec(t, super, `CREATE ROLE big; CREATE SCHEMA hoard AUTHORIZATION big; CREATE TABLE hoard.secret (v text); ALTER TABLE hoard.secret OWNER TO big;
				GRANT USAGE ON SCHEMA hoard TO PUBLIC; GRANT big TO dpadmin WITH ADMIN OPTION`)
			const tables = 150
			u := mint(t, admin.m, orderFor(grant(`{"roles": ["app_owner"], "scram_iterations": 1, "on_owned": {"reassign": "big"}}`), time.Minute))
			accomplice := mint(t, admin.m, orderFor(appGrant, time.Minute))
			his := accomplice.login(t)
			exec(t, his, "CREATE SCHEMA s_a; CREATE SCHEMA s_b; GRANT ALL ON SCHEMA s_a, s_b TO big; GRANT ALL ON SCHEMA s_a TO "+string(u.lease.Handle))
			defer func() {
				for _, schema := range []string{"s_a", "s_b", "s_c", "hoard"} {
					exec(t, super, "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
				}
				exec(t, super, "DROP OWNED BY big; DROP ROLE big")
			}()
			c := asItself(t, u, "app")
			for i := range tables {
				exec(t, c, fmt.Sprintf("CREATE TABLE s_a.t%d (n int)", i))
				exec(t, his, fmt.Sprintf("CREATE VIEW s_b.t%d AS SELECT v FROM hoard.secret", i))
			}
			ctx, stop := context.WithCancel(t.Context())
			var renaming sync.WaitGroup
			swaps := 0
			renaming.Go(func() {
				for ctx.Err() == nil {
					if _, err := his.Exec(context.Background(), "BEGIN; ALTER SCHEMA s_a RENAME TO s_c; ALTER SCHEMA s_b RENAME TO s_a; ALTER SCHEMA s_c RENAME TO s_b; COMMIT"); err != nil {
						_, _ = his.Exec(context.Background(), "ROLLBACK")
						continue
					}
					swaps++
					time.Sleep(time.Millisecond)
				}
			})
			revoke(t, admin.m, u)
			stop()
			renaming.Wait()
			moved := ask[int](t, super, "SELECT count(*)::int FROM pg_class WHERE relkind = 'r' AND relname LIKE 't%' AND relowner = 'big'::regrole")
			if swaps < 3 || moved == 0 {
				t.Errorf("with %d renamings %d tables were handed over: nothing was tried", swaps, moved)
			}
			if n := ask[int](t, super, "SELECT count(*)::int FROM pg_class WHERE relkind = 'v' AND relowner = 'big'::regrole"); n != 0 {
				t.Errorf("%d views of somebody else were handed over", n)
			}
		})
	}
}

// namedMinter is a minter by what its admin is.
type namedMinter struct {
	name string
	m    broker.Minter
}

func everyAdmin(t *testing.T) []namedMinter {
	return []namedMinter{{"superuser", superMinter(t)}, {"CREATEROLE only", plainMinter(t)}}
}

// From PostgreSQL 16 on the admin may have given itself a part of a membership.
// What it adds to roll back what a job has prepared it takes away again, and no
// more.
func TestTheAdminKeepsTheMembershipsThatItHad(t *testing.T) {
	if major(t) < 16 {
		t.Log("up to version 15 a membership has no parts")
		return
	}
	own, m := signalServer(t)
	super := connect(t, own.AdminURL("app"))
	exec(t, super, "ALTER ROLE dpadmin SET createrole_self_grant = 'inherit'")
	exec(t, connect(t, own.URL("dpadmin", adminPassword, "app")), "CREATE ROLE made")
	const query = "SELECT coalesce(string_agg(concat_ws(' ', member::regrole, grantor::regrole, admin_option, inherit_option, set_option), ', ' ORDER BY grantor), '') FROM pg_auth_members WHERE roleid = 'made'::regrole"
	before := ask[string](t, super, query)
	u := mint(t, m, orderFor(grant(`{"roles": ["made"]}`), time.Minute))
	c := connect(t, own.URL(u.env["PGUSER"], u.env["PGPASSWORD"], "app"))
	for _, sql := range []string{"SET ROLE NONE", "BEGIN", "ALTER ROLE " + postgres.QuoteName(string(u.lease.Handle)) + " PASSWORD 'known'", "SET ROLE made", "PREPARE TRANSACTION 'mine'"} {
		exec(t, c, sql)
	}
	gone(t, own, m, u)
	if after := ask[string](t, super, query); after != before {
		t.Errorf("memberships were %s, and are %s", before, after)
	}
}
