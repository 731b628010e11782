package mysql_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	driver "github.com/go-sql-driver/mysql"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/mint/mysql"
)

// FuzzQuotedNamesMeanThemselves asks a real server what our quoting means, in
// the sql_modes that change what a quote and a backslash are.
func FuzzQuotedNamesMeanThemselves(f *testing.F) {
	for _, s := range naughty {
		f.Add(s)
	}
	c := root(f)
	f.Fuzz(func(t *testing.T, name string) {
		if name == "" || utf8.RuneCountInString(name) > 64 || !utf8.ValidString(name) || strings.ContainsRune(name, 0) || strings.TrimSpace(name) != name {
			return // refused before it is quoted
		}
		for _, r := range name {
			if r > 0xffff {
				return // likewise
			}
		}
		for _, mode := range []string{"", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES"} {
			if _, err := c.ExecContext(t.Context(), "SET sql_mode = '"+mode+"'"); err != nil {
				t.Fatal(err)
			}
			text := mysql.QuoteText(name)
			rows, err := c.QueryContext(t.Context(), "SELECT "+text+" AS "+mysql.QuoteName(name)) //nolint:gosec // what is tested
			if err != nil {
				t.Fatalf("%q as %s: %v", name, mysql.QuoteName(name), err)
			}
			columns, err := rows.Columns()
			var got string
			for rows.Next() {
				if err := rows.Scan(&got); err != nil {
					t.Fatal(err)
				}
			}
			_ = rows.Close()
			if err != nil || columns[0] != name || "'"+got+"'" != text {
				t.Errorf("%q means %q and %q (%v)", name, columns, got, err)
			}
		}
	})
}

// naughty are names that would do something if they were not quoted right.
var naughty = []string{
	"plain", "`", "``; DROP USER mallory; --", "'", "''", `\`, `\'`, `\\'`, `'\`, `"`, `""`, "$1", "?", "??", "{{.}}", "%s", "%", "_", "a_b%", "é", "a\nb", "/*", "*/", "/*!50000 x */", "--", "-- x", "#",
	";", "a`.`b", "a`.*;--", "@", "a@b", "x`@`%", "delimiter //", "\u202e", "\u2028", "-", "0", "1e5", "0x41", "NULL", "select", "a.b", "ʼ", "＇", "｀",
}

// skeleton is a statement without what is quoted and without numbers.
func skeleton(statement string) string {
	s := regexp.MustCompile("`(?:[^`]|``)*`").ReplaceAllString(statement, "N")
	s = regexp.MustCompile(`'(?:[^'\\]|\\.|'')*'`).ReplaceAllString(s, "S")
	return regexp.MustCompile(`\b(?:\d+|0x[0-9A-F]+)\b`).ReplaceAllString(s, "0")
}

// ran is what a server was sent by its admin since the last call, as skeletons.
func ran(t *testing.T, own *servers.MariaDB) map[string]string {
	t.Helper()
	c := rootOn(t, own)
	rows, err := c.QueryContext(t.Context(), "SELECT argument FROM mysql.general_log WHERE user_host LIKE 'naughty%' AND command_type = 'Query'")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	found := map[string]string{}
	for rows.Next() {
		var statement string
		if err := rows.Scan(&statement); err != nil {
			t.Fatal(err)
		}
		found[skeleton(statement)] = statement
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	exec(t, rootOn(t, own), "TRUNCATE mysql.general_log")
	return found
}

// life is one run of a user through everything that is done for it, with names
// in every place that a configuration or a token can have one in.
type life struct {
	schema, role, database, host, text string
}

// grant says it in params; some names are refused when they are loaded.
func (l life) grant(t *testing.T, onOwned string) broker.Grant {
	t.Helper()
	quoted := "'" + strings.ReplaceAll(l.text, "'", "''") + "'" // what an operator writes
	params, err := json.Marshal(map[string]any{
		"roles": []string{"plain_role", l.role}, "default_role": l.role, "grants": map[string][]string{l.database: {"SELECT", "EVENT"}}, "database": l.database,
		"require": "none", "client_host": l.host, "connection_limit": 9, "on_owned": onOwned,
		"statements": map[string][]string{
			"create": {"CREATE TABLE IF NOT EXISTS {{database}}.own (a TEXT, b TEXT, c TEXT, d TEXT, e TEXT) CHARACTER SET utf8mb4", "GRANT INSERT ON {{database_pattern}}.* TO {{account}}",
				"INSERT INTO {{database}}.own VALUES ({{name_literal}}, {{host_literal}}, {{expiry}}, {{lease}}, " + quoted + ")"},
			"revoke": {"DELETE FROM {{database}}.own WHERE a = {{name_literal}} AND d = {{lease}}", "REVOKE INSERT ON {{database_pattern}}.* FROM {{account}}"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	g := grant(string(params))
	if mysql.Kind().CheckGrant(g) != nil { // the operator's own words may be what is refused
		g = grant(strings.ReplaceAll(string(params), ", "+string(quoteJSON(t, quoted))+")", ", 'x')"))
	}
	return g
}

// quoteJSON is a text as JSON has it, without the quotes around it.
func quoteJSON(t *testing.T, s string) []byte {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b[1 : len(b)-1]
}

func (l life) order(g broker.Grant, ttl time.Duration) broker.Order {
	o := orderFor(g, ttl)
	o.Lease = broker.LeaseID(l.text + string(o.Lease))
	o.For = broker.Identity{Issuer: l.text, Subject: l.text, Job: broker.Job{Repository: l.text, RepositoryID: l.text, Ref: l.text}}
	return o
}

// prepare makes the role and the database, unseen.
func (l life) prepare(t *testing.T, own *servers.MariaDB) {
	t.Helper()
	setup, err := session(t.Context(), (&driver.Config{User: "naughty", Passwd: "naughty", Net: "tcp", AllowNativePasswords: true, Collation: "utf8mb4_general_ci",
		Addr: fmt.Sprintf("%s:%d", own.Host(), own.Port())}).FormatDSN())
	if err != nil {
		t.Fatal(err)
	}
	exec(t, setup, "SET sql_mode = '', sql_log_off = 1", "CREATE ROLE IF NOT EXISTS plain_role", "CREATE ROLE IF NOT EXISTS "+mysql.QuoteName(l.role),
		"CREATE DATABASE IF NOT EXISTS "+mysql.QuoteName(l.database), "GRANT SELECT ON "+mysql.QuoteDatabase(l.database)+".* TO "+mysql.QuoteName(l.role))
	if err := setup.Close(); err != nil {
		t.Fatal(err)
	}
}

// run mints, checks, lists, takes back in both ways, and leaves a second user to
// the server's event; false where the configuration is refused.
func (l life) run(t *testing.T, own *servers.MariaDB) bool {
	t.Helper()
	g := l.grant(t, "keep")
	if err := mysql.Kind().CheckGrant(g); err != nil {
		return false
	}
	l.prepare(t, own)
	m := openMinter(t, holding(own.URL("naughty", "naughty", l.schema)))
	u := mintOn(t, own, m, l.order(g, time.Hour))
	if l.host == "%" {
		c := u.login(t)
		if ask[string](t, c, "SELECT DATABASE()") != l.database {
			t.Errorf("the job does not start in %q", l.database)
		}
		exec(t, c, "SET sql_mode = ''", "CREATE EVENT "+mysql.QuoteName(l.database)+"."+mysql.QuoteName(l.database)+" ON SCHEDULE EVERY 1 HOUR DO DO 1")
	}
	if err := m.(interface {
		CheckGrant(context.Context, broker.Grant) error
	}).CheckGrant(t.Context(), g); err != nil {
		t.Errorf("check %q %q: %v", l.role, l.database, err)
	}
	if _, ok := heldAs(t, m, u.lease.Handle); !ok {
		t.Error("not held")
	}
	revoke(t, m, u) // keeps it, and so writes down what it is the definer of
	u.lease.Grant = l.grant(t, "drop")
	revoke(t, m, u)
	if accounts(t, rootOn(t, own), u.name()) != 0 {
		t.Error("still there")
	}
	_ = mintOn(t, own, m, l.order(g, 2*time.Second))
	return true
}

// Every name a configuration can have, in every place it can be in, is run past
// a server whose log says what it was sent, and what its events ran: nothing but
// what harmless names send.
func TestNoNameMakesTheServerRunAnythingElse(t *testing.T) {
	own := startOwn(t, map[string]string{"log-output": "TABLE"})
	admin := rootOn(t, own)
	exec(t, admin, "CREATE USER naughty@'%' IDENTIFIED BY 'naughty'", "GRANT ALL PRIVILEGES ON *.* TO naughty@'%' WITH GRANT OPTION")
	ended := func() {
		t.Helper()
		until(t, 20*time.Second, "the events end the users that are left to them", func() bool {
			return ask[int](t, admin, "SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'dp\\_test\\_%'") == 0
		})
	}
	_ = ran(t, own)
	plain := life{"daypass", "plain_role2", "plain_db", "%", "plain"}
	plain.run(t, own)
	for _, l := range []life{{"daypass2", "plain_role2", "plain_db", "%", "plain"}, {"daypass", "plain_role2", "plain_db", "127.0.0.1", "plain"}} {
		l.run(t, own)
	}
	ended()
	known := ran(t, own)
	for _, sort := range []string{"CREATE EVENT", "DROP USER IF EXISTS", onMySQL("KILL", "KILL USER"), "INSERT INTO N.own", "DELETE FROM N.own", "REVOKE INSERT"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(known)), func(s string) bool { return strings.HasPrefix(s, sort) }) {
			t.Errorf("the log has no %s among %d sorts of statements", sort, len(known))
		}
	}
	places := map[string]int{}
	for i, name := range naughty {
		for place, l := range map[string]life{
			"role": {"daypass", "r" + name, "plain_db", "%", "x"}, "database": {"daypass", "plain_role2", "d" + name, "%", "x"},
			"host": {"daypass", "plain_role2", "plain_db", name, "x"}, "text": {"daypass", "plain_role2", "plain_db", "%", name},
			"schema": {"s" + name, "plain_role2", "plain_db", "%", "x"},
		} {
			if place == "schema" && i%8 != 0 || place == "schema" && strings.Contains(name, `\`) {
				continue
			}
			if l.run(t, own) {
				places[place]++
			}
		}
	}
	ended()
	seen := ran(t, own)
	for _, s := range slices.Sorted(maps.Keys(seen)) {
		if _, ok := known[s]; !ok {
			t.Errorf("the server was sent something else: %s", seen[s])
		}
	}
	for place, least := range map[string]int{"role": 40, "database": 35, "host": 8, "text": len(naughty), "schema": 4} {
		if places[place] < least {
			t.Errorf("only %d of the names were run as %s", places[place], place)
		}
	}
	if accounts(t, admin, "mallory") != 1 {
		t.Error("mallory is gone")
	}
}
