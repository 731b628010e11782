package postgres_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// signalServer is a small server whose admin may end sessions, as the README
// recommends.
func signalServer(t *testing.T) (*servers.Postgres, broker.Minter) {
	t.Helper()
	own, _ := smallServer(t)
	exec(t, connect(t, own.AdminURL("app")), "GRANT pg_signal_backend TO dpadmin")
	return own, openMinter(t, holding(own.URL("dpadmin", adminPassword, "app")))
}

// A job fills the server's table of locks, so that nobody's statements find
// room, and logs in anew as often as it is thrown out.
func TestAJobCannotHoldUpItsRevocationByFillingTheTableOfLocks(t *testing.T) {
	for name, fill := range map[string][]string{
		"with advisory locks": {"SELECT pg_advisory_lock(i) FROM generate_series(1, 1000000) i"},
		"with tables of its own": {
			// Each table in a savepoint of its own: the one that finds no room takes
			// none from those before it, so that the table stays full.
			"SET ROLE NONE", "BEGIN",
			`DO $$ BEGIN LOOP BEGIN
				EXECUTE format('CREATE TABLE public.%I (a int)', 't' || md5(random()::text));
			EXCEPTION WHEN OTHERS THEN EXIT; END; END LOOP; END $$`,
		},
		"with locks that keep others from the short way": {
			"SET ROLE NONE", "BEGIN",
			`DO $$ BEGIN FOR i IN 1..50 LOOP EXECUTE 'CREATE TABLE public.s' || pg_backend_pid() || '_' || i || ' (a int)'; END LOOP; END $$`,
			"DO $$ BEGIN PERFORM pg_advisory_lock(i) FROM generate_series(1, 1000000) i; EXCEPTION WHEN OTHERS THEN END $$",
		},
	} {
		t.Run(name, func(t *testing.T) {
			own, m := signalServer(t)
			u := mint(t, m, orderFor(appGrant, time.Minute))
			stop := attack(t, u, fill)
			defer stop()
			outsider := connect(t, own.AdminURL("postgres"))
			full := func() bool {
				_, err := outsider.Exec(t.Context(), "SELECT count(*) FROM pg_authid, pg_shdepend, pg_db_role_setting LIMIT 0")
				return err != nil && strings.Contains(err.Error(), "out of shared memory")
			}
			for deadline := time.Now().Add(20 * time.Second); !full(); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the table of locks is not full: the attack does not work")
				}
			}
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := m.Revoke(ctx, u.lease); err != nil {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			t.Logf("taken back after %v", time.Since(began))
			stop()
			gone(t, own, m, u)
		})
	}
}

// attack runs statements in several sessions that log in anew for as long as
// they can. The function it returns waits for them to end.
func attack(t *testing.T, u user, statements []string) func() {
	ctx, cancel := context.WithCancel(t.Context())
	var attackers sync.WaitGroup
	for range 4 {
		attackers.Go(func() {
			for ctx.Err() == nil {
				c, err := pgx.Connect(ctx, u.env["DATABASE_URL"])
				if err != nil {
					continue
				}
				for _, sql := range statements {
					_, _ = c.Exec(ctx, sql)
				}
				for ctx.Err() == nil && !c.IsClosed() {
					_, _ = c.Exec(ctx, statements[len(statements)-1])
				}
				_ = c.Close(context.Background())
			}
		})
	}
	return sync.OnceFunc(func() { cancel(); attackers.Wait() })
}
