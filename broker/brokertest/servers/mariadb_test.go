//go:build unix

package servers_test

import (
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

func startMariaDB(t *testing.T, c servers.MariaDBConfig) *servers.MariaDB {
	t.Helper()
	m, err := servers.StartMariaDB(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// mariadb runs statements as root, over TCP.
func mariadb(t *testing.T, m *servers.MariaDB, password, sql string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "mariadb", "--no-defaults", "-BN", "--protocol=tcp", "-h", m.Host(), "-P", strconv.Itoa(m.Port()), "-u", "root", "-e", sql)
	cmd.Env = append(os.Environ(), "MYSQL_PWD="+password)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func TestMariaDBKeepsItsDataOverRestartAndKill(t *testing.T) {
	m := startMariaDB(t, servers.MariaDBConfig{Settings: map[string]string{"innodb-flush-log-at-trx-commit": "1"}})
	run := func(sql string) string {
		t.Helper()
		out, err := mariadb(t, m, m.AdminPassword(), sql)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return out
	}
	run("CREATE DATABASE kept; CREATE TABLE kept.t (n INT) ENGINE = InnoDB; INSERT INTO kept.t VALUES (1)")
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	run("INSERT INTO kept.t VALUES (2)")
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := run("SELECT SUM(n) FROM kept.t"); got != "3" {
		t.Errorf("sum is %s, want 3", got)
	}
	log, err := os.ReadFile(m.LogPath())
	if err != nil || !strings.Contains(string(log), "INSERT INTO kept.t VALUES (2)") {
		t.Errorf("the log lacks a statement: %v", err)
	}
}

func TestMariaDBWantsAPasswordAndIsGoneAfterClose(t *testing.T) {
	m := startMariaDB(t, servers.MariaDBConfig{})
	if out, err := mariadb(t, m, "wrong", "SELECT 1"); err == nil || !strings.Contains(out, "Access denied") {
		t.Errorf("a wrong password was not refused: %v %s", err, out)
	}
	if out, err := mariadb(t, m, m.AdminPassword(), "SELECT COUNT(*) FROM mysql.user WHERE authentication_string = '' AND password = '' AND User <> 'mariadb.sys'"); err != nil || out != "0" {
		t.Errorf("%s accounts have no password: %v", out, err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.DialTimeout("tcp4", net.JoinHostPort(m.Host(), strconv.Itoa(m.Port())), time.Second); err == nil {
		_ = conn.Close()
		t.Error("something still listens after Close")
	}
}

func TestAMariaDBWithABadOptionSaysWhy(t *testing.T) {
	_, err := servers.StartMariaDB(t.Context(), servers.MariaDBConfig{Settings: map[string]string{"no-such-option": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("got %v", err)
	}
}
