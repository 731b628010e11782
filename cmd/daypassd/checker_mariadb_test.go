package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"
)

// mariaEngine asks a MariaDB.
type mariaEngine struct {
	admin  string
	before map[string]bool // the sessions of ours at the last look, by number
}

func onMariaDB(admin string) engine { return &mariaEngine{admin: admin} }

// look reads the lists of accounts and of sessions. A session keeps the name of
// who logged in when the account is gone. Who only tries to log in, as the checker
// does, is listed by the name he says, and for a moment after he was refused: a
// session is what is there at two looks. Roles are kept beside accounts, and
// nobody logs in as one.
func (e *mariaEngine) look(ctx context.Context) (sight, error) {
	s := sight{users: map[string]bool{}}
	v, err := visitMariaDB(ctx, e.admin)
	if err != nil {
		return s, err
	}
	defer v.close()
	accounts, err := v.read(ctx, `SELECT User, COALESCE(JSON_VALUE(Priv, '$.account_locked'), 0) FROM mysql.global_priv
		WHERE User LIKE 'dp\_%' AND COALESCE(JSON_VALUE(Priv, '$.is_role'), 0) IN (0, 'false')`)
	if err != nil {
		return s, err
	}
	for _, a := range accounts { // one name may have several hosts
		if _, ours := expiryOf(a[0]); ours {
			s.users[a[0]] = s.users[a[0]] || a[1] == "0" || a[1] == "false"
		}
	}
	sessions, err := v.read(ctx, `SELECT USER, ID FROM information_schema.PROCESSLIST WHERE USER LIKE 'dp\_%' AND COMMAND <> 'Connect'`)
	if err != nil {
		return s, err
	}
	there := map[string]bool{}
	for _, one := range sessions {
		if _, ours := expiryOf(one[0]); ours {
			there[one[1]] = true
			if e.before[one[1]] {
				s.sessions = append(s.sessions, one[0])
			}
		}
	}
	e.before = there
	s.now, err = v.clock(ctx)
	return s, err
}

func (*mariaEngine) login(ctx context.Context, login string) (visit, error) {
	return visitMariaDB(ctx, login)
}

// turnedAway: an unknown user and a wrong password are told alike, and a locked
// account is told to who knows the password.
func (*mariaEngine) turnedAway(err error) bool {
	return slices.Contains([]uint16{1045, 1698, 4151}, mariaCode(err))
}

func mariaCode(err error) uint16 {
	if my, ok := errors.AsType[*driver.MySQLError](err); ok {
		return my.Number
	}
	return 0
}

// mariaVisit is one session: where it is lost, it is not made anew.
type mariaVisit struct {
	db   *sql.DB
	conn *sql.Conn
}

func visitMariaDB(ctx context.Context, login string) (*mariaVisit, error) {
	u, err := url.Parse(login)
	if err != nil {
		return nil, err
	}
	c := driver.NewConfig()
	c.User, c.Net, c.Addr, c.Logger = u.User.Username(), "tcp", u.Host, &driver.NopLogger{}
	c.Passwd, _ = u.User.Password()
	connector, err := driver.NewConnector(c)
	if err != nil {
		return nil, err
	}
	v := &mariaVisit{db: sql.OpenDB(connector)}
	if v.conn, err = v.db.Conn(ctx); err != nil {
		_ = v.db.Close()
		return nil, err
	}
	return v, nil
}

func (v *mariaVisit) close() { _, _ = v.conn.Close(), v.db.Close() }

func (v *mariaVisit) clock(ctx context.Context) (int64, error) {
	var now int64
	err := v.conn.QueryRowContext(ctx, "SELECT UNIX_TIMESTAMP(SYSDATE())").Scan(&now)
	return now, err
}

func (v *mariaVisit) exec(ctx context.Context, statements ...string) error {
	for _, statement := range statements {
		if _, err := v.conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// read returns all rows as texts.
func (v *mariaVisit) read(ctx context.Context, query string) ([][]string, error) {
	rows, err := v.conn.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var all [][]string
	for rows.Next() {
		cells, row := make([]any, len(columns)), make([]string, len(columns))
		for i := range cells {
			cells[i] = new(sql.NullString)
		}
		if err := rows.Scan(cells...); err != nil {
			return nil, err
		}
		for i, cell := range cells {
			row[i] = cell.(*sql.NullString).String
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

func mustVisitMariaDB(t *testing.T, login string) *mariaVisit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	v, err := visitMariaDB(ctx, login)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.close)
	return v
}

// foreignAccounts are not ours, however alike they look, host part and all:
// what foreignRoles are, and a letter that the server takes for another where
// it compares loosely, and one name with several hosts.
var foreignAccounts = []string{
	"`dp_prod_t0aaaa_aaaaaaaaaaaa`@`%`", "`dp_test_t0aaaa_aaaaaaaaaaaaa`@`%`", "`dp_test_t0aaaa_aaaaaaaaaaa`@`localhost`", "`dp_test_t0aaaa_aaaaaaaaaa01`@`10.%`",
	"`DP_TEST_T0AAAA_AAAAAAAAAAAA`@`%`", "`dp_test_t0aaaa_aaaaaaaaaaaä`@`%`", "`dp_test_t0aaaa_aaaaaaaaaaa\n`@`%`", "`xdp_test_t0aaaa_aaaaaaaaaaaa`@`%`",
	"`dp_test_t0aaaa_aaaaaaaaaaaa_backup`@`127.0.0.1`", "`dp-test-t0aaaa-aaaaaaaaaaaa`@`%`", "`dp_test__aaaaaaaaaaaa`@`%`", "`dp_test_t0aaaa_``aaaaaaaaaaa`@`%`",
	"`dp_test_t0aa_aaaaaaaaaaaa`@`%`", "`alice`@`%`", "`alice`@`localhost`", "`alice`@`10.0.0.0/255.0.0.0`", "`payments_app`@`127.0.0.1`", "``@`10.9.%`",
}

// plantForeignAccounts makes them, some locked or expired, all with a role of
// ours and a right of their own; a role and an event whose names would be ours,
// and one that only begins as ours do.
func plantForeignAccounts(t *testing.T, root *mariaVisit) {
	t.Helper()
	var statements []string
	for i, account := range foreignAccounts {
		statements = append(statements, "CREATE USER "+account+" IDENTIFIED BY 'theirs'"+[]string{"", " ACCOUNT LOCK", " PASSWORD EXPIRE"}[i%3],
			"GRANT INSERT ON shop.items TO "+account)
		if !strings.HasPrefix(account, "``") { // nobody can be given a role
			statements = append(statements, "GRANT shop_rw TO "+account)
		}
	}
	for _, event := range []string{"shop.dp_test_t0aaaa_aaaaaaaaaaaa", "shop.dp_test_t0aaaa_aaaaaaaaaaaa_backup"} {
		statements = append(statements, "CREATE EVENT "+event+" ON SCHEDULE AT '2037-01-01 00:00:00' DO DO 1")
	}
	statements = append(statements, "CREATE ROLE dp_test_t0aaaa_aaaaaaaaaaab", "GRANT SELECT ON shop.* TO dp_test_t0aaaa_aaaaaaaaaaab", "GRANT PROXY ON `alice`@`%` TO `payments_app`@`127.0.0.1`")
	if err := root.exec(t.Context(), statements...); err != nil {
		t.Fatal(err)
	}
}

// foreignRows is every row that tells of an account, a role or an event that is
// not ours.
func foreignRows(t *testing.T, admin string) string {
	t.Helper()
	root := mustVisitMariaDB(t, admin)
	var all strings.Builder
	accounts := 0
	for _, table := range []struct {
		name string
		user int // its column
	}{{"global_priv", 1}, {"db", 2}, {"tables_priv", 2}, {"columns_priv", 2}, {"procs_priv", 2}, {"proxies_priv", 1}, {"roles_mapping", 1}, {"event", 1}} {
		rows, err := root.read(context.Background(), "SELECT * FROM mysql."+table.name+" ORDER BY 1, 2, 3")
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			_, ours := expiryOf(row[table.user])
			if ours && row[table.user] != "dp_test_t0aaaa_aaaaaaaaaaab" && !(table.name == "event" && row[0] == "shop") {
				continue
			}
			fmt.Fprintf(&all, "%s %q\n", table.name, row)
			if table.name == "global_priv" {
				accounts++
			}
		}
	}
	if accounts < len(foreignAccounts) {
		t.Errorf("of %d foreign accounts %d are left", len(foreignAccounts), accounts)
	}
	return all.String()
}
