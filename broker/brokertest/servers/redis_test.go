//go:build unix

package servers_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// ask sends one inline command and returns the first line of the answer.
func ask(t *testing.T, r *servers.Redis, command string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp4", r.Addr(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func TestARedisServerStartsRestartsAndIsGoneAfterClose(t *testing.T) {
	r, err := servers.StartRedis(t.Context(), servers.RedisConfig{Args: []string{"--appendonly", "yes", "--appendfsync", "always"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if got := ask(t, r, "SET k v"); got != "+OK" {
		t.Fatalf("SET: %s", got)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	addr := r.Addr()
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.Addr() != addr {
		t.Errorf("restarted at %s, was at %s", r.Addr(), addr)
	}
	if got := ask(t, r, "EXISTS k"); got != ":1" {
		t.Errorf("a killed server with an append-only file forgot its key: %s", got)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.DialTimeout("tcp4", addr, time.Second); err == nil {
		_ = conn.Close()
		t.Error("something still listens after Close")
	}
}

func TestARedisServerKeepsAFolderThatIsNotItsOwn(t *testing.T) {
	dir := t.TempDir()
	r, err := servers.StartRedis(t.Context(), servers.RedisConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

func TestARedisServerWithABadOptionSaysWhy(t *testing.T) {
	_, err := servers.StartRedis(t.Context(), servers.RedisConfig{Args: []string{"--no-such-option", "1"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("got %v", err)
	}
}

func TestASentinelFindsTheReplicasOfItsMaster(t *testing.T) {
	master, err := servers.StartRedis(t.Context(), servers.RedisConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	replica, err := servers.StartRedis(t.Context(), servers.RedisConfig{Args: []string{"--replicaof", "127.0.0.1 " + strconv.Itoa(master.Port())}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = replica.Close() })
	for end := time.Now().Add(10 * time.Second); ask(t, master, `EVAL "return string.find(redis.call('INFO', 'replication'), 'connected_slaves:1') and 1 or 0" 0`) != ":1"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the replica does not join")
		}
	}
	s, err := servers.StartSentinel(t.Context(), servers.SentinelConfig{Name: "main", Master: master, Password: "sesame"})
	if err != nil {
		t.Fatal(err)
	}
	addr := s.Addr()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if conn, err := net.DialTimeout("tcp4", addr, time.Second); err == nil {
			_ = conn.Close()
			t.Error("something still listens after Close")
		}
	})
	for end := time.Now().Add(15 * time.Second); !strings.Contains(s.Log(), "+slave slave 127.0.0.1:"+strconv.Itoa(replica.Port())); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the replica is not found:\n%s", s.Log())
		}
	}
}
