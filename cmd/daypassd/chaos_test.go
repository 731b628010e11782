package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// issueShort has a broker make a user that lives for so long, and tells the
// checker. It tries until it succeeds, or the context ends.
func (r *rig) issueShort(ctx context.Context, b *broker1, w *watched, grant string, ttl time.Duration, keep bool) answer {
	for ctx.Err() == nil {
		status, a := b.exchange(r.token(b, nil), map[string]any{"name": grant, "ttl": ttl.String()})
		if status == http.StatusOK {
			w.knows(a.field(0, "url"), keep)
			return a
		}
		time.Sleep(200 * time.Millisecond)
	}
	return answer{}
}

// hog takes every connection that the server gives to ordinary users, and
// returns how many it has and what lets them go.
func (r *rig) hog() (int, func()) {
	r.t.Helper()
	var conns []*pgx.Conn
	for {
		c, err := pgx.Connect(r.t.Context(), r.pg.URL("hog", "hog", "postgres"))
		if err != nil {
			if sqlState(err) != "53300" {
				r.t.Errorf("the hog was refused: %v", err)
			}
			break
		}
		conns = append(conns, c)
	}
	return len(conns), func() {
		for _, c := range conns {
			_ = c.Close(context.Background())
		}
	}
}

// A trouble is what befalls a server or a broker.
type trouble struct {
	name string
	do   func() error
}

// postgresTroubles come one after the other.
func (r *rig) postgresTroubles(first *broker1) []trouble {
	ctx := r.t.Context()
	return []trouble{
		{"the broker is killed", func() error { first.kill(); first.start(); return nil }},
		{"the server restarts", func() error { return r.pg.Restart(ctx) }},
		{"the server crashes", func() error { return errors.Join(r.pg.Kill(), r.pg.Start(ctx)) }},
		{"the broker is killed while the server is down", func() error {
			err := r.pg.Stop()
			first.kill()
			time.Sleep(3 * time.Second)
			err = errors.Join(err, r.pg.Start(ctx))
			first.start()
			return err
		}},
		{"the server has no connection left", func() error {
			n, letGo := r.hog()
			if n < 20 {
				return fmt.Errorf("only %d connections were taken", n)
			}
			time.Sleep(12 * time.Second)
			letGo()
			return nil
		}},
		{"the server is a replica for a while", func() error {
			err := r.pg.Demote(ctx)
			time.Sleep(5 * time.Second)
			return errors.Join(err, r.pg.Promote(ctx))
		}},
	}
}

// endure has jobs get credentials, one after the other, each with its own life,
// while troubles come, and waits until all have ended. Each grant is of the
// checker's server with its number.
func (r *rig) endure(c *checker, brokers []*broker1, grants []string, troubles []trouble) {
	r.t.Helper()
	ctx, stop := context.WithCancel(r.t.Context())
	audited := make(chan int, 1)
	go func() { audited <- r.auditBooks(ctx.Done(), c, brokers...) }()
	issuing, enough := context.WithCancel(r.t.Context())
	var jobs sync.WaitGroup
	for i := range 4 {
		server := i / 2 % len(grants)
		jobs.Go(func() {
			for n := 0; issuing.Err() == nil; n++ {
				r.issueShort(issuing, brokers[i%2], c.servers[server], grants[server], time.Duration(4+7*i+n%5)*time.Second, n%2 == 0)
				time.Sleep(4 * time.Second)
			}
		})
	}
	for _, trouble := range troubles {
		if err := trouble.do(); err != nil {
			r.t.Errorf("%s: %v", trouble.name, err)
		}
		for _, w := range c.servers {
			w.excuse()
		}
		time.Sleep(5 * time.Second)
	}
	enough()
	jobs.Wait()
	c.finish()
	stop()
	if n := <-audited; n < 10 {
		r.t.Errorf("journals and books were compared %d times only", n)
	}
	r.allJournalled(c, brokers)
}

// allJournalled holds that who was made has an intent, and who was delivered is
// issued; and that there were enough of them.
func (r *rig) allJournalled(c *checker, brokers []*broker1) {
	r.t.Helper()
	l := readLedger(r.t, brokers...)
	for user := range c.users() {
		if !l.intents[user] {
			r.t.Errorf("%s was made without an intent", user)
		}
	}
	known, logins := 0, 0
	for _, w := range c.servers {
		known, logins = known+len(w.known), logins+w.logins
		for user := range w.known {
			if l.leaseOf[user] == "" {
				r.t.Errorf("%s was delivered and is not journalled as issued", user)
			}
		}
	}
	if known < 30 || logins < 3*known {
		r.t.Errorf("only %d credentials were tried %d times", known, logins)
	}
}

// sideBySide runs tests at the same time, in the place of one that is parallel
// to others: they wait for most of it.
func sideBySide(t *testing.T, tests map[string]func(t *testing.T)) {
	t.Parallel()
	var all sync.WaitGroup
	for name, test := range tests {
		all.Go(func() { t.Run(name, test) })
	}
	all.Wait()
}

func TestCredentialsEndInTimeWhateverBefallsBrokersAndServer(t *testing.T) {
	sideBySide(t, map[string]func(t *testing.T){"PostgreSQL": endureOnPostgres, "MariaDB": endureOnMariaDB})
}

func endureOnPostgres(t *testing.T) {
	r := openRig(t)
	r.withRedis()
	plantForeign(t, r.pg.AdminURL("postgres"))
	r.sql(`CREATE ROLE hog LOGIN PASSWORD 'hog'`)
	before := foreignHash(t, r.pg.AdminURL("postgres"))
	brokers := []*broker1{r.broker("a", "redis"), r.broker("b", "redis")}
	brokers[0].fresh(map[string]any{"name": "orders-db", "ttl": "5s"})
	c := watchOver(t, true, onPostgres(r.pg.AdminURL("postgres")))
	r.endure(c, brokers, []string{"orders-db"}, r.postgresTroubles(brokers[0]))
	if left := r.sql(`SELECT rolname::text FROM pg_roles WHERE rolname ~ '^dp_test_[0-9a-z]{6}_[a-z2-7]{12}$' AND rolname !~ '\n'`); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	if foreignHash(t, r.pg.AdminURL("postgres")) != before {
		t.Error("a role that is not ours was touched")
	}
}

// manyGrants is a configuration with so many grants beside each other, so that
// one exchange buys many users.
func manyGrants(n int) (config, policy string) {
	var grants, allow strings.Builder
	for i := range n {
		fmt.Fprintf(&grants, "  many-%d: {target: orders-pg, max_ttl: 30m, params: {roles: [orders_rw], scram_iterations: 1}}\n", i)
		fmt.Fprintf(&allow, "      - {grant: many-%d}\n", i)
	}
	return grants.String(), allow.String()
}

// fill has a broker make users, so many by each exchange, and tells the checker
// of them. It returns the last expiry.
func (r *rig) fill(b *broker1, w *watched, exchanges, each int, ttl time.Duration) {
	r.t.Helper()
	var wants []map[string]any
	for i := range each {
		wants = append(wants, map[string]any{"name": fmt.Sprintf("many-%d", i), "ttl": ttl.String()})
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, 4)
	for range exchanges {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			status, a := b.exchange(r.token(b, nil), wants...)
			if status != http.StatusOK {
				r.t.Errorf("exchange: %d %v", status, a.body)
				return
			}
			for i := range each {
				w.knows(a.field(i, "url"), i == 0)
			}
		})
	}
	all.Wait()
}

func TestAThousandCredentialsEndInTimeThoughRedisForgotThemAll(t *testing.T) {
	const exchanges, each = 63, 16 // as many at a time as a request may ask for
	for name, forget := range map[string]func(r *rig) error{
		"it is flushed": func(r *rig) error { r.tellRedis("FLUSHALL"); return nil },
		"it is killed and comes back empty": func(r *rig) error {
			err := r.redis.Kill()
			entries, _ := os.ReadDir(filepath.Join(r.dir, "redis"))
			for _, e := range entries {
				err = errors.Join(err, os.RemoveAll(filepath.Join(r.dir, "redis", e.Name())))
			}
			return errors.Join(err, r.redis.Restart(r.t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.withRedis()
			grants, allow := manyGrants(each)
			r.write("policies/shop.yaml", rigPolicy+allow)
			b := r.changed("one", "redis", func(c string) string { return c + grants })
			b.fresh(map[string]any{"name": "orders-db", "ttl": "5s"})
			c := watchOver(t, false, onPostgres(r.pg.AdminURL("postgres")))
			began := time.Now()
			const ttl = 50 * time.Second
			r.fill(b, c.servers[0], exchanges, each, ttl)
			live := r.sql(`SELECT rolname::text FROM pg_roles WHERE rolname ~ '^dp_test_' AND rolvaliduntil > clock_timestamp()`)
			t.Logf("%d credentials live after %.1f s", len(live), time.Since(began).Seconds())
			if len(live) < exchanges*each {
				t.Errorf("only %d credentials are live", len(live))
			}
			if err := forget(r); err != nil {
				t.Fatal(err)
			}
			if keys, err := r.leaseKeys(); err != nil || len(keys) > 0 {
				t.Fatalf("Redis knows %d leases: %v", len(keys), err)
			}
			c.finish()
			if left := r.users(); len(left) > 0 {
				t.Errorf("%d users are left", len(left))
			}
			if n := journalled(t, b); n["orphan"] < exchanges*each {
				t.Errorf("%d orphans are journalled", n["orphan"])
			}
		})
	}
}
