package main

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// redisOn starts a Redis that could serve, changed by further options; port 0 is
// any.
func (r *rig) redisOn(port int, args ...string) *servers.Redis {
	r.t.Helper()
	server, err := servers.StartRedis(r.t.Context(), servers.RedisConfig{Port: port, Args: append([]string{"--appendonly", "yes"}, args...)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = server.Close() })
	return server
}

// clustered are the options that make a Redis part of a Cluster.
func clustered(t *testing.T) []string {
	t.Helper()
	port, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(port)}
}

// ends waits for a process to end by itself.
func (b *broker1) ends() (code int) {
	b.rig.t.Helper()
	select {
	case err := <-b.done:
		b.cmd = nil
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return exit.ExitCode()
		}
		return 0
	case <-time.After(20 * time.Second):
		b.kill()
		b.rig.t.Fatalf("%s runs on:\n%s", b.name, b.out)
		return 0
	}
}

func TestABrokerDoesNotStartOnARedisThatCanNeverServe(t *testing.T) {
	r := newRig(t)
	primary := r.redisOn(0)
	replica := r.redisOn(0, "--replicaof", "127.0.0.1 "+strconv.Itoa(primary.Port()))
	r.redis = primary
	r.eventually(20*time.Second, func() error {
		if r.tellRedis("EVAL", "return string.find(redis.call('INFO', 'replication'), 'connected_slaves:1') and 1 or 0", "0") != ":1" {
			return errors.New("the replica has not joined")
		}
		return nil
	})
	for name, c := range map[string]struct{ url, says string }{
		"cluster": {r.redisOn(0, clustered(t)...).URL(), "it is part of a Redis Cluster (cluster-enabled yes), which is not supported: let state.url name a standalone server, or use mode: sentinel"},
		"alone":   {primary.URL(), "it has replicas (2 nodes in all, as it counts them), and state.replicas is 0: set replicas: 1, so that"},
	} {
		b := r.prepare(name, c.url, func(s string) string { return s })
		b.launch()
		if code := b.ends(); code != exitFailed {
			t.Errorf("%s: exit %d", name, code)
		}
		if got := b.out.String(); strings.Count(got, "daypassd: ") != 1 || !strings.Contains(got, "daypassd: state: redis is not fit: "+c.says) {
			t.Errorf("%s: it says\n%s", name, got)
		}
		out, code := r.command([]string{"ORDERS_ADMIN_URL=" + r.pg.AdminURL("postgres")}, "daypassd", "check", "--connect", "--config", b.config)
		if code != exitFailed || !strings.Contains(out, "redis is not fit: "+c.says) {
			t.Errorf("%s: check says otherwise (exit %d)\n%s", name, code, out)
		}
	}
	// What may heal is no reason not to start: a replica may be promoted.
	b := r.prepare("patient", replica.URL(), func(s string) string { return s })
	b.launch()
	t.Cleanup(b.stop)
	r.eventually(20*time.Second, func() error { return b.notReadyFor("not master") })
	r.redis = replica
	r.tellRedis("REPLICAOF", "NO", "ONE")
	r.eventually(20*time.Second, b.ready)
}

// notReadyFor says that the broker answers, is not ready, and says why in its log.
func (b *broker1) notReadyFor(why string) error {
	status, body := b.call(http.MethodGet, "/readyz", "", nil)
	if status != http.StatusServiceUnavailable || !strings.Contains(b.out.String(), why) {
		return fmt.Errorf("readyz: %d %v; want a log with %q\n%s", status, body, why, b.out)
	}
	return nil
}

func TestARedisThatIsAwayAtTheStartIsServedOnceItIsThere(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"fit":     {nil, ""},
		"cluster": {clustered(t), "it is part of a Redis Cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			port, err := servers.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			b := r.prepare("one", fmt.Sprintf("redis://127.0.0.1:%d", port), func(s string) string { return s })
			b.launch()
			t.Cleanup(b.stop)
			r.eventually(20*time.Second, func() error { return b.notReadyFor("connection refused") })
			r.redis = r.redisOn(port, c.args...)
			if c.says == "" {
				r.eventually(20*time.Second, b.ready)
				b.fresh()
				return
			}
			r.eventually(20*time.Second, func() error { return b.notReadyFor(c.says) })
			time.Sleep(3 * time.Second) // several probes
			if err := b.notReadyFor(c.says); err != nil {
				t.Error(err)
			}
			if status, a := b.exchange(r.token(b, nil)); status != http.StatusServiceUnavailable {
				t.Errorf("an exchange: %d %v", status, a.body)
			}
		})
	}
}
