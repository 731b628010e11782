package postgres_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// smallServer is a server of its own, whose admin has no more rights than it
// needs, and which a job can fill up.
func smallServer(t *testing.T) (*servers.Postgres, broker.Minter) {
	t.Helper()
	own := ownServer(t, servers.PostgresConfig{Settings: map[string]string{
		"max_connections": "20", "max_locks_per_transaction": "10", "max_prepared_transactions": "5",
	}})
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "app")))
	if _, err := m.Held(t.Context()); err != nil { // as the sweeper asks every few seconds
		t.Fatal(err)
	}
	return own, m
}

// gone takes a user back as a sweeper does, again and again, and fails if the
// user or a session of it outlives that.
func gone(t *testing.T, own *servers.Postgres, m broker.Minter, u user) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := m.Revoke(ctx, u.lease)
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s: %v", err)
		}
		time.Sleep(time.Second)
	}
	admin := connect(t, own.AdminURL("app"))
	if n := ask[int](t, admin, "SELECT count(*)::int FROM pg_stat_activity WHERE usename = $1", string(u.lease.Handle)); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if ask[bool](t, admin, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin)", string(u.lease.Handle)) {
		t.Error("it can still log in")
	}
}

func TestAJobCannotHoldUpItsRevocationByTakingAllConnections(t *testing.T) {
	own, m := smallServer(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	n := 0
	for ; n < 100; n++ {
		c, err := pgx.Connect(t.Context(), u.env["DATABASE_URL"])
		if err != nil {
			break
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
	}
	if n < 10 || n == 100 {
		t.Fatalf("the job got %d connections", n)
	}
	gone(t, own, m, u)
}

func TestAJobCannotHoldUpItsRevocationWithPreparedTransactions(t *testing.T) {
	for name, statements := range map[string][]string{
		"that changes its own password":           {"SET ROLE NONE", "BEGIN", "ALTER ROLE %s PASSWORD 'known'"},
		"that does so and belongs to the group":   {"SET ROLE NONE", "BEGIN", "ALTER ROLE %s PASSWORD 'known'", "SET ROLE app_owner"},
		"that makes something of its own":         {"SET ROLE NONE", "BEGIN", "CREATE TABLE public.mine_%s (i int)"},
		"that does so and is of the group's name": {"SET ROLE NONE", "BEGIN", "CREATE TABLE public.mine_%s (i int)", "SET ROLE app_owner"},
	} {
		t.Run("one "+name, func(t *testing.T) {
			t.Parallel()
			own, m := smallServer(t)
			u := mint(t, m, orderFor(appGrant, time.Minute))
			foreign := connect(t, own.AdminURL("app")) // what an application has prepared as the group
			for _, sql := range []string{"SET ROLE app_owner", "BEGIN", "CREATE TABLE public.of_the_application (i int)", "PREPARE TRANSACTION 'theirs'"} {
				exec(t, foreign, sql)
			}
			c := u.login(t)
			for _, sql := range statements {
				exec(t, c, strings.ReplaceAll(sql, "%s", string(u.lease.Handle)))
			}
			exec(t, c, `PREPARE TRANSACTION 'it''s \ mine'`)
			gone(t, own, m, u)
			if left := ask[string](t, connect(t, own.AdminURL("app")), "SELECT string_agg(gid, ' ') FROM pg_prepared_xacts"); left != "theirs" {
				t.Errorf("prepared are %q, want the application's only", left)
			}
		})
	}
}
