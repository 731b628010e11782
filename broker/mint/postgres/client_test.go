package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker/brokertest/npm"
	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

// whoami is what every client is given to run.
const whoami = "SELECT session_user, current_user, current_database(), 6*7"

// A client logs in with a job's environment where the URL is empty, and with
// the URL alone where it is not. It returns the row that a statement gives, or
// the error that it makes of PostgreSQL's refusal.
type client func(t *testing.T, env map[string]string, url, sql string) ([]string, error)

// unmodified are clients as they are, by name.
func unmodified(t *testing.T) map[string]client {
	node, err := npm.Start(t.Context(), filepath.Join("testdata", "pg"), "login.mjs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	return map[string]client{"psql": byPsql, "pgx": byPgx,
		"node-postgres": func(_ *testing.T, env map[string]string, url, sql string) ([]string, error) {
			var answer struct {
				Row     []string `json:"row"`
				Refused string   `json:"refused"`
			}
			if err := node.Ask(map[string]any{"env": env, "url": url, "sql": sql}, &answer); err != nil {
				return nil, err
			}
			if answer.Refused != "" {
				return nil, errors.New(answer.Refused)
			}
			return answer.Row, nil
		}}
}

func byPsql(t *testing.T, env map[string]string, url, sql string) ([]string, error) {
	cmd := osexec.CommandContext(t.Context(), server.Bin("psql"), "-X", "-w", "-At", "-c", sql)
	if url != "" {
		cmd.Args = append(cmd.Args, url)
	}
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "|"), nil
}

func byPgx(t *testing.T, env map[string]string, url, sql string) ([]string, error) {
	for name, value := range env {
		t.Setenv(name, value)
	}
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close(context.Background()) }()
	rows, err := c.Query(t.Context(), sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectExactlyOneRow(rows, func(r pgx.CollectableRow) ([]string, error) {
		values, err := r.Values()
		var row []string
		for _, v := range values {
			row = append(row, fmt.Sprint(v))
		}
		return row, err
	})
}

// jobEnv is a job's environment without the URL, so that nothing of it is used.
func (u user) jobEnv() map[string]string {
	env := maps.Clone(u.env)
	delete(env, "DATABASE_URL")
	return env
}

// TestUnmodifiedClientsLogInAndRunAStatement covers the least and the most
// scram_iterations that all of them take, from grant and target.
func TestUnmodifiedClientsLogInAndRunAStatement(t *testing.T) {
	clients := unmodified(t)
	for name, c := range map[string]struct {
		target, grant string
		iterations    string
	}{
		"as it comes":    {``, `{"roles": ["app_owner"]}`, "4096"},
		"one, by grant":  {``, `{"roles": ["app_owner"], "scram_iterations": 1}`, "1"},
		"one, by target": {`{"scram_iterations": 1}`, `{"roles": ["app_owner"]}`, "1"},
		"the most":       {``, `{"roles": ["app_owner"], "scram_iterations": 100000}`, "100000"},
		"back, by grant": {`{"scram_iterations": 1}`, `{"roles": ["app_owner"], "scram_iterations": 4096}`, "4096"},
	} {
		t.Run(name, func(t *testing.T) {
			target := config(holding(server.URL("dpadmin", adminPassword, "app")))
			target.Params = []byte(c.target)
			m, err := postgres.Kind().Open(target)
			if err != nil {
				t.Fatal(err)
			}
			u := mint(t, m, orderFor(grant(c.grant), time.Minute))
			if n := ask[string](t, adminConn(t), "SELECT split_part(split_part(rolpassword, '$', 2), ':', 1) FROM pg_authid WHERE rolname = $1",
				string(u.lease.Handle)); n != c.iterations {
				t.Errorf("%s iterations, want %s", n, c.iterations)
			}
			want := []string{string(u.lease.Handle), "app_owner", "app", "42"}
			for _, name := range slices.Sorted(maps.Keys(clients)) {
				t.Run(name, func(t *testing.T) {
					if row, err := clients[name](t, nil, u.env["DATABASE_URL"], whoami); err != nil || !slices.Equal(row, want) {
						t.Errorf("by URL: %q, %v", row, err)
					}
					if row, err := clients[name](t, u.jobEnv(), "", whoami); err != nil || !slices.Equal(row, want) {
						t.Errorf("by environment: %q, %v", row, err)
					}
				})
			}
			revoke(t, m, u)
		})
	}
}

// TestMoreIterationsThanTheReadmeSaysAreRefusedByNodePostgres tells when that
// word of warning is no longer needed.
func TestMoreIterationsThanTheReadmeSaysAreRefusedByNodePostgres(t *testing.T) {
	u := mint(t, plainMinter(t), orderFor(grant(`{"roles": ["app_owner"], "scram_iterations": 100001}`), time.Minute))
	for name, c := range unmodified(t) {
		row, err := c(t, nil, u.env["DATABASE_URL"], whoami)
		switch {
		case name == "node-postgres" && (err == nil || !strings.Contains(err.Error(), "100000")):
			t.Errorf("%s: %q, %v", name, row, err)
		case name != "node-postgres" && err != nil:
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnmodifiedClientsAreRefusedWithoutThePasswordAndAfterTheUserIsTakenBack
// shows that the clients above do log in as the user: nothing else of theirs does.
func TestUnmodifiedClientsAreRefusedWithoutThePasswordAndAfterTheUserIsTakenBack(t *testing.T) {
	clients, m := unmodified(t), plainMinter(t)
	u := mint(t, m, orderFor(grant(`{"roles": ["app_owner"]}`), time.Minute))
	refused := func(t *testing.T, when string, c client, env map[string]string) {
		row, err := c(t, env, "", whoami)
		if err == nil || !strings.Contains(err.Error(), "28P01") && !strings.Contains(err.Error(), "password authentication failed") {
			t.Errorf("%s: %q, %v", when, row, err)
		}
	}
	for name, c := range clients {
		t.Run(name, func(t *testing.T) {
			env := u.jobEnv()
			env["PGPASSWORD"] += "x"
			refused(t, "another password", c, env)
		})
	}
	revoke(t, m, u)
	for name, c := range clients {
		t.Run(name, func(t *testing.T) { refused(t, "taken back", c, u.jobEnv()) })
	}
}
