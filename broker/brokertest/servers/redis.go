//go:build unix

package servers

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// RedisConfig says how a redis-server is to run. The zero value is a server
// without persistence on a free port, with a folder of its own.
type RedisConfig struct {
	Dir  string   // where it keeps its files; default: a private folder, removed by Close
	Port int      // default: a free one
	Args []string // further options, as on its command line ("--appendonly", "yes")

	// TLSCert and TLSKey are PEM files; with them the server speaks TLS only.
	TLSCert, TLSKey string
}

// Redis is a redis-server of ours, on loopback.
type Redis struct {
	*Process
	config  RedisConfig
	ownsDir bool
}

// StartRedis starts a redis-server and waits until it answers. The caller
// closes it.
func StartRedis(ctx context.Context, c RedisConfig) (*Redis, error) {
	r := &Redis{config: c}
	if c.Dir == "" {
		dir, err := PrivateDir("daypass-redis-", "")
		if err != nil {
			return nil, err
		}
		r.config.Dir, r.ownsDir = dir, true
	}
	if err := r.startOnAnyPort(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// startOnAnyPort tries again with another port where somebody else was faster.
func (r *Redis) startOnAnyPort(ctx context.Context) error {
	if r.config.Port != 0 {
		return r.start(ctx)
	}
	for tries := 5; ; tries-- {
		port, err := FreePort()
		if err != nil {
			return err
		}
		r.config.Port = port
		err = r.start(ctx)
		if err == nil || tries == 0 || r.Process == nil || !strings.Contains(r.Log(), "Address already in use") {
			return err
		}
	}
}

func (r *Redis) start(ctx context.Context) error {
	listen := []string{"--port", strconv.Itoa(r.config.Port)}
	if r.config.TLSCert != "" {
		listen = []string{"--port", "0", "--tls-port", strconv.Itoa(r.config.Port),
			"--tls-cert-file", r.config.TLSCert, "--tls-key-file", r.config.TLSKey, "--tls-auth-clients", "no"}
	}
	args := append([]string{"--bind", "127.0.0.1", "--dir", r.config.Dir, "--save", "", "--appendonly", "no",
		"--daemonize", "no", "--repl-diskless-sync-delay", "0"}, listen...)
	p, err := Start(ctx, Command{Name: "redis-server", Path: "redis-server", Args: append(args, r.config.Args...)})
	if err != nil {
		return err
	}
	r.Process = p
	ready := func(ctx context.Context) error { return pingRedis(ctx, r.Addr(), r.config.TLSCert != "") }
	if err := p.WaitReady(ctx, 10*time.Second, ready); err != nil {
		return errors.Join(err, p.Kill())
	}
	return nil
}

// Addr is host and port.
func (r *Redis) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.config.Port)) }

// Port is the port alone.
func (r *Redis) Port() int { return r.config.Port }

// URL is where clients find database 0.
func (r *Redis) URL() string {
	if r.config.TLSCert != "" {
		return "rediss://" + r.Addr() + "/0"
	}
	return "redis://" + r.Addr() + "/0"
}

// Restart starts the server again at the same place with the data it kept,
// after stopping it in order where it still runs.
func (r *Redis) Restart(ctx context.Context) error {
	if err := r.Stop(); err != nil {
		return err
	}
	return r.start(ctx)
}

// Close kills the server and removes the folder that was made for it.
func (r *Redis) Close() error {
	var err error
	if r.Process != nil {
		err = r.Kill()
	}
	if r.ownsDir {
		err = errors.Join(err, os.RemoveAll(r.config.Dir))
	}
	return err
}

// pingRedis succeeds when the server has loaded its data. One that asks for a
// password first has.
func pingRedis(ctx context.Context, addr string, secure bool) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp4", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return err
		}
	}
	if secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // it is our child, and nothing is told to it
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.HasPrefix(line, "+PONG") || strings.HasPrefix(line, "-NOAUTH") {
		return nil
	}
	return fmt.Errorf("redis-server says %q", strings.TrimSpace(line))
}
