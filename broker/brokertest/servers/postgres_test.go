//go:build unix

package servers_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

func startPostgres(t *testing.T, c servers.PostgresConfig) *servers.Postgres {
	t.Helper()
	p, err := servers.StartPostgres(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func psql(t *testing.T, p *servers.Postgres, url, sql string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), p.Bin("psql"), "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql, url).CombinedOutput()
	if err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestPostgresKeepsItsDataOverRestartAndKill(t *testing.T) {
	p := startPostgres(t, servers.PostgresConfig{Settings: map[string]string{"log_statement": "all"}})
	psql(t, p, p.AdminURL("postgres"), "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	psql(t, p, p.AdminURL("postgres"), "INSERT INTO kept VALUES (2)")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := psql(t, p, p.AdminURL("postgres"), "SELECT sum(n) FROM kept"); got != "3" {
		t.Errorf("sum is %s, want 3", got)
	}
	log, err := os.ReadFile(p.LogPath())
	if err != nil || !strings.Contains(string(log), "INSERT INTO kept VALUES (2)") {
		t.Errorf("the log lacks a statement: %v", err)
	}
}

func TestAKilledPostgresIsGoneWithItsChildren(t *testing.T) {
	p := startPostgres(t, servers.PostgresConfig{})
	children := strings.Fields(psql(t, p, p.AdminURL("postgres"), "SELECT pid FROM pg_stat_activity"))
	if len(children) < 3 {
		t.Fatalf("it has %q", children)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range children {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err == nil && !ending(t, string(stat)) {
			t.Errorf("one is left: %s", stat)
		}
	}
}

// ending reports whether a process runs nothing of its own any more: it may
// take the system a moment to bury it.
func ending(t *testing.T, stat string) bool {
	t.Helper()
	const flags, exiting = 6, 4 // the field after the name, and PF_EXITING in it
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	n, err := strconv.Atoi(fields[flags])
	if err != nil {
		t.Fatal(err)
	}
	return n&exiting != 0 || !strings.Contains(stat, "(postgres)")
}

func TestPostgresWantsAPassword(t *testing.T) {
	p := startPostgres(t, servers.PostgresConfig{})
	out, err := exec.CommandContext(t.Context(), p.Bin("psql"), "-X", "-w", "-c", "SELECT 1", p.URL("postgres", "wrong", "postgres")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "password authentication failed") {
		t.Errorf("a wrong password was not refused: %v %s", err, out)
	}
}

func TestPostgresInAFolderOfOnesOwnIsUsedAgain(t *testing.T) {
	dir, err := servers.PrivateDir("daypass-pg-own-", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	first := startPostgres(t, servers.PostgresConfig{Dir: dir})
	psql(t, first, first.AdminURL("postgres"), "CREATE TABLE kept (n int)")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := startPostgres(t, servers.PostgresConfig{Dir: dir})
	if got := psql(t, second, second.AdminURL("postgres"), "SELECT count(*) FROM kept"); got != "0" {
		t.Errorf("got %q", got)
	}
}

func TestAStandbyFollowsUntilItIsPromoted(t *testing.T) {
	p := startPostgres(t, servers.PostgresConfig{})
	psql(t, p, p.AdminURL("postgres"), "CREATE TABLE followed (n int)")
	s, err := p.StartStandby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if got := psql(t, s, s.AdminURL("postgres"), "SELECT pg_is_in_recovery(), count(*) FROM followed"); got != "t|0" {
		t.Errorf("the standby says %s", got)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.PromoteNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	psql(t, s, s.AdminURL("postgres"), "INSERT INTO followed VALUES (1)")
}
