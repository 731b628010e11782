package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// overdueName is a user's name that says it ended so long ago.
func overdueName(ago time.Duration, letter string) string {
	return "dp_test_" + strconv.FormatInt(time.Now().Add(-ago).Unix(), 36) + "_" + strings.Repeat(letter, 12)
}

// A checker that sees nothing finds nothing wrong.
func TestACheckerSeesWhatOutlivesItsExpiry(t *testing.T) {
	t.Parallel()
	late, inTime := overdueName((grace+5)*time.Second, "a"), overdueName(-time.Minute, "b")
	for sort, start := range map[string]func(t *testing.T) (engine, func(user string) string){
		"PostgreSQL": func(t *testing.T) (engine, func(string) string) {
			pg, err := servers.StartPostgres(t.Context(), servers.PostgresConfig{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = pg.Close() })
			for _, user := range []string{late, inTime} {
				if _, err := mustConnect(t, pg.AdminURL("postgres")).Exec(t.Context(), "CREATE ROLE "+user+" LOGIN PASSWORD 'x'"); err != nil {
					t.Fatal(err)
				}
			}
			return onPostgres(pg.AdminURL("postgres")), func(user string) string { return pg.URL(user, "x", "postgres") }
		},
		"MariaDB": func(t *testing.T) (engine, func(string) string) {
			my, err := servers.StartMariaDB(t.Context(), servers.MariaDBConfig{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = my.Close() })
			root := mustVisitMariaDB(t, my.AdminURL(""))
			for _, user := range []string{late, inTime} { // the second host is seen as well
				if err := root.exec(t.Context(), "CREATE USER "+user+"@'10.%' ACCOUNT LOCK", "CREATE USER "+user+"@'%' IDENTIFIED BY 'x'"); err != nil {
					t.Fatal(err)
				}
			}
			return onMariaDB(my.AdminURL("")), func(user string) string { return my.URL(user, "x", "") }
		},
	} {
		t.Run(sort, func(t *testing.T) {
			e, login := start(t)
			w := watchOver(t, true, e).servers[0]
			for _, user := range []string{late, inTime} {
				w.knows(login(user), true)
			}
			want := []string{"has a session", "logged in", "may log in", "a session of"}
			for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
				text := w.told()
				missing := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return strings.Contains(text, s) })
				if strings.Contains(text, inTime) {
					t.Fatalf("it finds fault with who is in time:\n%s", text)
				}
				if len(missing) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("it does not see %q:\n%s", missing, text)
				}
			}
			_, err := e.login(context.Background(), strings.Replace(login(late), ":x@", ":y@", 1))
			if err == nil || !e.turnedAway(err) {
				t.Errorf("a wrong password is told as %v", err)
			}
		})
	}
}

// told is what it found, as a text.
func (w *watched) told() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprint(slices.Sorted(maps.Keys(w.faults)))
}
