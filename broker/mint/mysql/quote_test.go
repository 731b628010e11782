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
	return regexp.MustCompile(`\b\d+\b`).ReplaceAllString(s, "0")
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

// Every name a configuration can have, in every place it can be in, is run past
// a server whose log says what it was sent: nothing but what harmless names send.
func TestNoNameMakesTheServerRunAnythingElse(t *testing.T) {
	own := startOwn(t, map[string]string{"log-output": "TABLE"})
	exec(t, rootOn(t, own), "CREATE USER naughty@'%' IDENTIFIED BY 'naughty'", "GRANT ALL PRIVILEGES ON *.* TO naughty@'%' WITH GRANT OPTION")
	life := func(schema, role, database, text string) {
		t.Helper()
		setup, err := session(t.Context(), (&driver.Config{User: "naughty", Passwd: "naughty", Net: "tcp", AllowNativePasswords: true, Collation: "utf8mb4_general_ci",
			Addr: fmt.Sprintf("%s:%d", own.Host(), own.Port())}).FormatDSN())
		if err != nil {
			t.Fatal(err)
		}
		exec(t, setup, "SET sql_mode = '', sql_log_off = 1", "DROP ROLE IF EXISTS "+mysql.QuoteName(role), "CREATE ROLE "+mysql.QuoteName(role), "CREATE DATABASE IF NOT EXISTS "+mysql.QuoteName(database),
			"GRANT SELECT ON "+mysql.QuoteDatabase(database)+".* TO "+mysql.QuoteName(role))
		if err := setup.Close(); err != nil {
			t.Fatal(err)
		}
		params, err := json.Marshal(map[string]any{"roles": []string{role}, "grants": map[string][]string{database: {"SELECT", "EVENT"}}, "database": database, "require": "none"})
		if err != nil {
			t.Fatal(err)
		}
		g := grant(string(params))
		if err := mysql.Kind().CheckGrant(g); err != nil {
			if !strings.Contains(text, "refused") {
				t.Logf("refused when it is loaded, as it may be: %q %q: %v", role, database, err)
			}
			return
		}
		m := openMinter(t, holding(own.URL("naughty", "naughty", schema)))
		o := orderFor(g, time.Hour)
		o.Lease = broker.LeaseID(text + string(o.Lease))
		o.For = broker.Identity{Issuer: text, Subject: text, Job: broker.Job{Repository: text, RepositoryID: text, Ref: text}}
		u := mintOn(t, own, m, o)
		if c := u.login(t); ask[string](t, c, "SELECT DATABASE()") != database {
			t.Errorf("the job does not start in %q", database)
		}
		if err := m.(interface {
			CheckGrant(context.Context, broker.Grant) error
		}).CheckGrant(t.Context(), g); err != nil {
			t.Errorf("check %q %q: %v", role, database, err)
		}
		exec(t, u.login(t), "SET sql_mode = ''", "CREATE EVENT "+mysql.QuoteName(database)+"."+mysql.QuoteName(database)+" ON SCHEDULE EVERY 1 HOUR DO DO 1")
		if _, ok := heldAs(t, m, u.lease.Handle); !ok {
			t.Error("not held")
		}
		revoke(t, m, u) // keeps it, and so writes down what it is the definer of
		u.lease.Grant.Params = []byte(strings.Replace(string(params), `"require"`, `"on_owned":"drop","require"`, 1))
		revoke(t, m, u)
		if accounts(t, rootOn(t, own), u.name()) != 0 {
			t.Error("still there")
		}
	}
	_ = ran(t, own)
	life("daypass", "plain_role", "plain_db", "plain")
	life("daypass2", "plain_role", "plain_db", "plain")
	known := ran(t, own)
	if len(known) < 25 {
		t.Fatalf("the log has %d sorts of statements", len(known))
	}
	for i, name := range naughty {
		life("daypass", "r"+name, "d"+name, name)
		if i%8 == 0 && !strings.Contains(name, `\`) {
			life("s"+name, "plain_role", "plain_db", name)
		}
	}
	seen := ran(t, own)
	for _, s := range slices.Sorted(maps.Keys(seen)) {
		if _, ok := known[s]; !ok {
			t.Errorf("the server was sent something else: %s", seen[s])
		}
	}
	if len(seen) < len(known)/2 {
		t.Errorf("only %d sorts of statements were seen", len(seen))
	}
	if accounts(t, rootOn(t, own), "mallory") != 1 {
		t.Error("mallory is gone")
	}
}
