package mysql_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// mysqldVariable names a mysqld of MySQL. Where it is set, all tests of this
// package run against that, and against MariaDB where it is not.
const mysqldVariable = "DAYPASS_TEST_MYSQLD"

// start starts a server of the sort that is tested.
func start(ctx context.Context, settings map[string]string, files map[string][]byte) (*servers.MariaDB, error) {
	return servers.StartMariaDB(ctx, servers.MariaDBConfig{Settings: settings, Files: files, MySQL: os.Getenv(mysqldVariable)})
}

// awkward are settings under which quotes and backslashes mean something else,
// users are made by GRANT, and local time is off UTC.
func awkward() map[string]string {
	settings := map[string]string{
		"sql-mode": "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT", "default-time-zone": "+05:30", "event-scheduler": "ON",
		"max-connections": "500", "autocommit": "OFF",
	}
	if os.Getenv(mysqldVariable) != "" {
		settings["log-bin-trust-function-creators"] = "ON" // jobs make functions and triggers, and its binary log is on
	} else {
		settings["plugin-load-add"] = "auth_ed25519"
	}
	return settings
}

// onMySQL picks by the server's sort.
func onMySQL[T any](mysql, mariadb T) T {
	if server.IsMySQL() {
		return mysql
	}
	return mariadb
}

// connectionAdmin is the right to end sessions.
func connectionAdmin() string {
	if os.Getenv(mysqldVariable) != "" {
		return "CONNECTION_ADMIN"
	}
	return "CONNECTION ADMIN"
}

// auths are the ways in which the server checks passwords.
func auths() []string { return onMySQL([]string{"sha2"}, []string{"native", "ed25519"}) }

// locked is what a locked account is told.
func locked() uint16 { return onMySQL[uint16](3118, 4151) }

// anew makes something whether or not it is there: "ROLE x", "USER x@'%' …".
func anew(t testing.TB, c *link, things ...string) {
	t.Helper()
	for _, thing := range things {
		words := strings.Fields(strings.ReplaceAll(thing, "(", " ("))
		exec(t, c, "DROP "+words[0]+" IF EXISTS "+words[1], "CREATE "+thing)
	}
}

// killUser ends all sessions of a user but this one.
func killUser(ctx context.Context, c *link, name string) error {
	if !server.IsMySQL() {
		_, err := c.ExecContext(ctx, "KILL USER "+name)
		return err
	}
	rows, err := c.QueryContext(ctx, "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = ?", name)
	if err != nil {
		return err
	}
	var ids []int
	for rows.Next() {
		var id int
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, id := range ids {
		_, _ = c.ExecContext(ctx, fmt.Sprintf("KILL %d", id)) // it may have ended
	}
	return nil
}

// stallEvents lets no event be made or dropped until it is told to. MariaDB has
// a table of them. On MySQL somebody is about to change our schema, and waits
// for a table in it.
func stallEvents(t *testing.T) (release func()) {
	t.Helper()
	holder := root(t)
	if !server.IsMySQL() {
		exec(t, holder, "LOCK TABLES mysql.event WRITE")
		return func() { exec(t, holder, "UNLOCK TABLES") }
	}
	exec(t, holder, "CREATE TABLE IF NOT EXISTS daypass.held (n INT)", "START TRANSACTION", "SELECT * FROM daypass.held")
	changer, watcher := root(t), root(t)
	id := ask[int](t, changer, "SELECT CONNECTION_ID()")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = changer.ExecContext(context.Background(), "DROP DATABASE daypass") // it is interrupted
	}()
	until(t, 5*time.Second, "the schema is locked", func() bool {
		return strings.Contains(ask[string](t, watcher, "SELECT COALESCE(STATE, '') FROM information_schema.PROCESSLIST WHERE ID = ?", id), "metadata lock")
	})
	return func() {
		exec(t, watcher, fmt.Sprintf("KILL QUERY %d", id))
		<-done
		exec(t, holder, "COMMIT", "DROP TABLE daypass.held")
	}
}

// both are settings of two sorts, the latter of which win.
func both(one, two map[string]string) map[string]string {
	all := maps.Clone(one)
	maps.Copy(all, two)
	return all
}
