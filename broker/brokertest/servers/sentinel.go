//go:build unix

package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// SentinelConfig says what a Sentinel watches.
type SentinelConfig struct {
	Name     string        // of the master; letters and digits
	Master   *Redis        // who it is at the start; its replicas are found by themselves
	Quorum   int           // of Sentinels that must agree that it is down; default 1
	Down     time.Duration // after which silence it is; default 500 ms
	Password string        // to ask the Sentinel itself; default: none
}

// Sentinel is a Redis Sentinel of ours, on loopback: redis-server in another
// mode. Safe for concurrent use.
type Sentinel struct {
	*Process
	dir  string
	port int
}

// StartSentinel starts a Sentinel and waits until it answers. The caller closes
// it.
func StartSentinel(ctx context.Context, c SentinelConfig) (*Sentinel, error) {
	dir, err := PrivateDir("daypass-sentinel-", "")
	if err != nil {
		return nil, err
	}
	s := &Sentinel{dir: dir}
	for tries := 5; ; tries-- {
		if s.port, err = FreePort(); err == nil {
			err = s.start(ctx, c)
		}
		if err == nil {
			return s, nil
		}
		if tries == 0 || s.Process == nil || !strings.Contains(s.Log(), "Address already in use") {
			return nil, errors.Join(err, s.Close())
		}
	}
}

func (s *Sentinel) start(ctx context.Context, c SentinelConfig) error {
	down := c.Down
	if down == 0 {
		down = 500 * time.Millisecond
	}
	lines := []string{
		"port " + strconv.Itoa(s.port), "bind 127.0.0.1", "dir " + s.dir, "daemonize no",
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d %d", c.Name, c.Master.Port(), max(1, c.Quorum)),
		fmt.Sprintf("sentinel down-after-milliseconds %s %d", c.Name, down.Milliseconds()),
		fmt.Sprintf("sentinel failover-timeout %s 5000", c.Name),
	}
	if c.Password != "" {
		lines = append(lines, "requirepass "+c.Password)
	}
	file := filepath.Join(s.dir, "sentinel.conf") // it writes what it learns there
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("configure sentinel: %w", err)
	}
	p, err := Start(ctx, Command{Name: "sentinel", Path: "redis-server", Args: []string{file, "--sentinel"}})
	if err != nil {
		return err
	}
	s.Process = p
	ready := func(ctx context.Context) error { return pingRedis(ctx, s.Addr(), false) }
	if err := p.WaitReady(ctx, 10*time.Second, ready); err != nil {
		return errors.Join(err, p.Kill())
	}
	return nil
}

// Addr is host and port.
func (s *Sentinel) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Close kills the Sentinel and removes its folder.
func (s *Sentinel) Close() error {
	var err error
	if s.Process != nil {
		err = s.Kill()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
