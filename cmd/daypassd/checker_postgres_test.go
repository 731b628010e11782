package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// postgresEngine asks a PostgreSQL.
type postgresEngine struct {
	admin string
	names map[uint32]string // of every user of ours that was ever there, by oid
}

func onPostgres(admin string) engine {
	return &postgresEngine{admin: admin, names: map[uint32]string{}}
}

// look reads the lists of roles and of sessions. A session may outlive its
// user's row, so it is known by the oid of who logged in.
func (e *postgresEngine) look(ctx context.Context) (sight, error) {
	s := sight{users: map[string]bool{}}
	conn, err := pgx.Connect(ctx, e.admin)
	if err != nil {
		return s, err
	}
	defer conn.Close(context.Background())
	var users []string
	var sessions []uint32
	if err := errors.Join(
		conn.QueryRow(ctx, `SELECT array(SELECT rolname || ' ' || oid || ' ' || rolcanlogin FROM pg_roles WHERE starts_with(rolname, 'dp_'))`).Scan(&users),
		conn.QueryRow(ctx, `SELECT array(SELECT usesysid FROM pg_stat_get_activity(NULL) WHERE usesysid IS NOT NULL)`).Scan(&sessions),
		conn.QueryRow(ctx, `SELECT floor(extract(epoch FROM clock_timestamp()))::bigint`).Scan(&s.now)); err != nil {
		return s, err
	}
	for _, u := range users {
		var name string
		var oid uint32
		var login bool
		_, _ = fmt.Sscan(u, &name, &oid, &login)
		if _, ours := expiryOf(name); ours {
			e.names[oid], s.users[name] = name, login
		}
	}
	for _, oid := range sessions {
		if name, ours := e.names[oid]; ours {
			s.sessions = append(s.sessions, name)
		}
	}
	return s, nil
}

func (*postgresEngine) login(ctx context.Context, url string) (visit, error) {
	conn, err := pgx.Connect(ctx, url)
	return postgresVisit{conn}, err
}

func (*postgresEngine) turnedAway(err error) bool {
	code := sqlState(err)
	return code == "28P01" || code == "28000"
}

func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

type postgresVisit struct{ *pgx.Conn }

func (v postgresVisit) clock(ctx context.Context) (int64, error) {
	var now int64
	err := v.QueryRow(ctx, `SELECT floor(extract(epoch FROM clock_timestamp()))::bigint`).Scan(&now)
	return now, err
}

func (v postgresVisit) close() { _ = v.Close(context.Background()) }

// foreignRoles are not ours, however alike they look: another deployment, a
// letter more or less, another alphabet, another case, a name around ours.
var foreignRoles = []string{
	"dp_prod_t0aaaa_aaaaaaaaaaaa", "dp_test_t0aaaa_aaaaaaaaaaaaa", "dp_test_t0aaaa_aaaaaaaaaaa", "dp_test_t0aaaa_aaaaaaaaaa01", "DP_TEST_T0AAAA_AAAAAAAAAAAA",
	"dp_test_t0aaaa_aaaaaaaaaaa\n", "xdp_test_t0aaaa_aaaaaaaaaaaa", "dp_test_t0aaaa_aaaaaaaaaaaa_backup", "dp-test-t0aaaa-aaaaaaaaaaaa", "dp_test__aaaaaaaaaaaa", `dp_test_t0aaaa_"aaaaaaaaaaa`,
	"dp_test_t0aa_aaaaaaaaaaaa", "alice", "payments_app",
}

// plantForeign makes them, some with a login and a password, an owner's things
// and a place in our group, and long past their own end.
func plantForeign(t *testing.T, admin string) {
	t.Helper()
	conn := mustConnect(t, admin)
	for i, name := range foreignRoles {
		quoted := pgx.Identifier{name}.Sanitize()
		attributes := []string{"LOGIN PASSWORD 'theirs'", "NOLOGIN", "LOGIN PASSWORD 'theirs' VALID UNTIL '2020-01-01'"}[i%3]
		for _, sql := range []string{"CREATE ROLE " + quoted + " " + attributes, "GRANT orders_rw TO " + quoted, "COMMENT ON ROLE " + quoted + ` IS '{"by":"daypass"}'`} {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
	}
}

// foreignHash is of every row that tells of a role that is not ours.
func foreignHash(t *testing.T, admin string) string {
	t.Helper()
	conn := mustConnect(t, admin)
	var hash string
	var roles int
	if err := conn.QueryRow(context.Background(), `
		WITH theirs AS (SELECT * FROM pg_authid WHERE rolname !~ '^dp_test_[0-9a-z]{6}_[a-z2-7]{12}$' OR rolname LIKE E'%\n')
		SELECT md5(concat((SELECT string_agg(t::text, ' ' ORDER BY oid) FROM theirs t),
			(SELECT string_agg(m::text, ' ' ORDER BY m::text) FROM pg_auth_members m WHERE member IN (SELECT oid FROM theirs)),
			(SELECT string_agg(d::text, ' ' ORDER BY d::text) FROM pg_shdescription d WHERE objoid IN (SELECT oid FROM theirs)),
			(SELECT string_agg(s::text, ' ' ORDER BY s::text) FROM pg_db_role_setting s WHERE setrole IN (SELECT oid FROM theirs)))),
			(SELECT count(*)::int FROM theirs)`).Scan(&hash, &roles); err != nil {
		t.Fatal(err)
	}
	if roles < len(foreignRoles) {
		t.Errorf("of %d foreign roles %d are left", len(foreignRoles), roles)
	}
	return hash
}

func mustConnect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
