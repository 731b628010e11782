package main

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// postgresField is several PostgreSQLs.
type postgresField struct{ pgs []*servers.Postgres }

// points inside a revocation hold one of the few connections that are kept for
// it, so each has a server of its own.
func (*postgresField) points() []point {
	return pointsAround(map[string]int{"mint-created": 0, "mint-committed": 0},
		map[string]int{"revoke-disabled": 1, "revoke-ended": 2, "revoke-ungrouped": 3, "revoke-tidied": 4, "revoke-undropped": 5, "revoke-dropped": 6}, nil)
}

func (f *postgresField) open(t *testing.T, _ int) (string, engine) {
	pg, err := servers.StartPostgres(t.Context(), servers.PostgresConfig{Settings: map[string]string{
		"max_connections": "300", "shared_buffers": "16MB", "log_statement": "ddl"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Close() })
	f.pgs = append(f.pgs, pg)
	admin := pg.AdminURL("postgres")
	if _, err := mustConnect(t, admin).Exec(t.Context(), "CREATE ROLE orders_rw NOLOGIN; GRANT CREATE, USAGE ON SCHEMA public TO orders_rw"); err != nil {
		t.Fatal(err)
	}
	plantForeign(t, admin)
	return admin, onPostgres(admin)
}

func (f *postgresField) grant(n int) (kind, params string) {
	return "postgres", fmt.Sprintf("{roles: [orders_rw], scram_iterations: 1, on_owned: drop, host: %s, port: %d}", f.pgs[n].Host(), f.pgs[n].Port())
}

// work leaves a session open, so that the user is taken back step by step, and
// a table of its own where that is the step.
func (*postgresField) work(x *crash, p point, a answer) {
	ctx := x.t.Context()
	conn, err := pgx.Connect(ctx, a.field(0, "url"))
	if err != nil {
		x.unusable(p, a, err)
		return
	}
	x.t.Cleanup(func() { _ = conn.Close(ctx) })
	if p.name == "revoke-tidied" {
		if _, err := conn.Exec(ctx, "SET ROLE NONE; CREATE TABLE own_"+a.field(0, "username")+" (n int)"); err != nil {
			x.unusable(p, a, err)
		}
	}
}

func (f *postgresField) made(t *testing.T, n int) []string {
	return quotedUsers(`CREATE ROLE "`, `"`, readAll(t, f.pgs[n].LogPath()))
}

func (f *postgresField) foreign(t *testing.T, n int) string {
	return foreignHash(t, f.pgs[n].AdminURL("postgres"))
}
