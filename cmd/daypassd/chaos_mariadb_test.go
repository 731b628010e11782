package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// mariaPair is a rig with two MariaDBs: one that ends users by itself as well,
// and one with which only brokers do.
type mariaPair struct {
	*rig
	mys   []*servers.MariaDB
	roots []string // the administrators' URLs, by a port that is theirs alone
}

var pairGrants = []string{"on-db", "off-db"}

func newMariaPair(t *testing.T) *mariaPair {
	r := &mariaPair{rig: bareRig(t)}
	r.withRedis()
	for _, scheduler := range []string{"ON", "OFF"} {
		extra, err := servers.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		my, err := servers.StartMariaDB(t.Context(), servers.MariaDBConfig{Settings: map[string]string{
			"event-scheduler": scheduler, "max-connections": "60", "extra-port": strconv.Itoa(extra), "extra-max-connections": "5",
			"max-connect-errors": "1000000", "innodb-flush-log-at-trx-commit": "1"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = my.Close() })
		root := strings.Replace(my.AdminURL(""), ":"+strconv.Itoa(my.Port()), ":"+strconv.Itoa(extra), 1)
		r.mys, r.roots = append(r.mys, my), append(r.roots, root)
		prepareMariaDB(t, mustVisitMariaDB(t, root))
	}
	r.write("policies/shop.yaml", strings.Replace(rigPolicy, "      - {grant: orders-db}\n      - {grant: web-identity}\n", "      - {grant: on-db}\n      - {grant: off-db}\n", 1))
	return r
}

// pair starts a broker that knows both.
func (r *mariaPair) pair(name string) *broker1 {
	return r.changed(name, "redis", func(config string) string {
		head, _, _ := strings.Cut(config, "targets:\n")
		var targets, grants strings.Builder
		for i, grant := range pairGrants {
			file := r.write(grant+"-admin", r.mys[i].URL("daypass", "planted-my-admin", "daypass"))
			fmt.Fprintf(&targets, "  %s-my: {kind: mysql, admin: \"file:%s\"}\n", grant, file)
			fmt.Fprintf(&grants, "  %s: {target: %s-my, max_ttl: 30m, params: {roles: [shop_rw], database: shop, require: none}}\n", grant, grant)
		}
		return head + "targets:\n" + targets.String() + "grants:\n" + grants.String()
	})
}

// each does something to both servers at once.
func (r *mariaPair) each(do func(i int) error) error {
	errs := make([]error, len(r.mys))
	var all sync.WaitGroup
	for i := range r.mys {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// asRoot tells a server something.
func (r *mariaPair) asRoot(i int, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	root, err := visitMariaDB(ctx, r.roots[i])
	if err != nil {
		return err
	}
	defer root.close()
	return root.exec(ctx, statements...)
}

// hostile is a job that takes every connection of a server, keeps what it has,
// and goes on to ask for more, until the server does not know it any more.
func (r *mariaPair) hostile(i int, b *broker1, w *watched) error {
	const ttl, full = 12 * time.Second, 1040
	ctx, cancel := context.WithTimeout(r.t.Context(), ttl+grace*time.Second)
	defer cancel()
	login := r.issueShort(ctx, b, w, pairGrants[i], ttl, false).field(0, "url")
	var wasFull, wasEnded atomic.Bool
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			for ctx.Err() == nil && !wasEnded.Load() {
				v, err := visitMariaDB(ctx, login)
				switch {
				case err == nil:
					defer v.close()
				case w.turnedAway(err):
					wasEnded.Store(true)
				default:
					if mariaCode(err) == full {
						wasFull.Store(true)
					}
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	asking.Wait()
	if !wasFull.Load() || !wasEnded.Load() {
		return fmt.Errorf("a job that takes all connections: all were taken: %v; it was ended within %v: %v", wasFull.Load(), ttl+grace*time.Second, wasEnded.Load())
	}
	return nil
}

// troubles come one after the other, to both servers at once.
func (r *mariaPair) troubles(c *checker, first, second *broker1) []trouble {
	ctx := r.t.Context()
	return []trouble{
		{"the broker is killed", func() error { first.kill(); first.start(); return nil }},
		{"the servers restart", func() error { return r.each(func(i int) error { return r.mys[i].Restart(ctx) }) }},
		{"the servers crash", func() error {
			return r.each(func(i int) error { return errors.Join(r.mys[i].Kill(), r.mys[i].Start(ctx)) })
		}},
		{"the broker is killed while the servers are down", func() error {
			err := r.each(func(i int) error { return r.mys[i].Stop() })
			first.kill()
			time.Sleep(3 * time.Second)
			err = errors.Join(err, r.each(func(i int) error { return r.mys[i].Start(ctx) }))
			first.start()
			return err
		}},
		{"a job takes all connections, and a broker is killed meanwhile", func() error {
			killed := make(chan bool)
			go func() { time.Sleep(4 * time.Second); first.kill(); close(killed) }()
			err := r.each(func(i int) error { return r.hostile(i, second, c.servers[i]) })
			<-killed
			first.start()
			return err
		}},
		{"the servers are read-only for a while", func() error {
			err := r.each(func(i int) error { return r.asRoot(i, "SET GLOBAL read_only = ON") })
			time.Sleep(6 * time.Second)
			return errors.Join(err, r.each(func(i int) error { return r.asRoot(i, "SET GLOBAL read_only = OFF") }))
		}},
	}
}

// left are the users and events of ours that a server still has.
func (r *mariaPair) left(i int) []string {
	rows, err := mustVisitMariaDB(r.t, r.roots[i]).read(context.Background(), `SELECT User FROM mysql.global_priv WHERE Host <> ''
		UNION ALL SELECT name FROM mysql.event WHERE db = 'daypass' UNION ALL SELECT name FROM daypass.daypass_kept`)
	if err != nil {
		r.t.Fatal(err)
	}
	var names []string
	for _, row := range rows {
		if _, ours := expiryOf(row[0]); ours {
			names = append(names, row[0])
		}
	}
	return names
}

// endureOnMariaDB holds the promise where the server keeps it as well, and where
// brokers alone do.
func endureOnMariaDB(t *testing.T) {
	r := newMariaPair(t)
	brokers := []*broker1{r.pair("a"), r.pair("b")}
	var before []string
	var engines []engine
	for i, grant := range pairGrants {
		want := map[string]string{"on-db": "server", "off-db": "broker"}[grant]
		if _, a := brokers[0].fresh(map[string]any{"name": grant, "ttl": "5s"}); a.field(0, "expiry") != want {
			t.Errorf("%s is ended by %q, want %q", grant, a.field(0, "expiry"), want)
		}
		before = append(before, foreignRows(t, r.roots[i]))
		engines = append(engines, onMariaDB(r.roots[i]))
	}
	c := watchOver(t, true, engines...)
	r.endure(c, brokers, pairGrants, r.troubles(c, brokers[0], brokers[1]))
	for i, grant := range pairGrants {
		if left := r.left(i); len(left) > 0 {
			t.Errorf("%s: left are %q", grant, left)
		}
		if now := foreignRows(t, r.roots[i]); now != before[i] {
			t.Errorf("%s: what is not ours was touched:\n%s\nwas\n%s", grant, now, before[i])
		}
	}
}
