package lease_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/lease"
)

// sesame is a password.
type sesame struct{}

func (sesame) Read(context.Context) (broker.SecretValue, error) {
	return broker.SecretValue{Current: broker.NewSecret("sesame")}, nil
}

func TestLeasesFollowTheMasterThatSentinelNames(t *testing.T) {
	start := func(args ...string) *servers.Redis {
		r, err := servers.StartRedis(t.Context(), servers.RedisConfig{Args: args})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	a := start()
	b := start("--replicaof", "127.0.0.1 "+strconv.Itoa(a.Port()))
	s, err := servers.StartSentinel(t.Context(), servers.SentinelConfig{Name: "main", Master: a, Password: "sesame", Down: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c := config(a)
	c.URL, c.Mode = "", "sentinel"
	c.Sentinel = lease.SentinelConfig{Master: "main", Sentinels: []string{s.Addr()}, Password: sesame{}}
	r, err := lease.NewRedis(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Disconnect() })
	wait := func(what string, ok func() error) {
		t.Helper()
		for end := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			err := ok()
			if err == nil {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	wait("not ready", func() error { return r.Ready(t.Context()) })
	wait("the replica is not found", func() error {
		if !strings.Contains(s.Log(), "+slave slave") {
			return errors.New(s.Log())
		}
		return nil
	})
	promoted := redis.NewClient(&redis.Options{Addr: b.Addr(), Protocol: 2})
	t.Cleanup(func() { _ = promoted.Close() })
	wait("nothing reached the replica", func() error { return promoted.Get(t.Context(), "dp:{"+c.Deployment+"}:seal").Err() })
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	wait("not ready after the failover", func() error { return r.Ready(t.Context()) })
	if role := promoted.Do(t.Context(), "ROLE").Val().([]any); role[0] != "master" {
		t.Errorf("the replica is still a %v", role[0])
	}
}
