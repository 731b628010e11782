package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// mariaRig is a rig with a MariaDB beside its PostgreSQL.
type mariaRig struct {
	*rig
	my    *servers.MariaDB
	admin *sql.DB
}

const mariaPolicy = `owner: team-shop
repos:
  shop: {issuer: github, name: acme/shop, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: main
    for: [shop]
    match: {ref: refs/heads/main, event_name: push}
    allow:
      - {grant: orders-db}
      - {grant: stock-db}
`

func newMariaRig(t *testing.T) *mariaRig {
	t.Helper()
	r := &mariaRig{rig: newRig(t)}
	var err error
	if r.my, err = servers.StartMariaDB(t.Context(), servers.MariaDBConfig{Settings: map[string]string{"event-scheduler": "ON"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.my.Close() })
	r.admin = r.connect("root", r.my.AdminPassword())
	for _, statement := range []string{
		"CREATE DATABASE stock", "CREATE TABLE stock.items (n INT PRIMARY KEY)", "CREATE ROLE stock_rw", "GRANT SELECT, INSERT ON stock.* TO stock_rw",
		"CREATE USER daypass@'%' IDENTIFIED BY 'planted-my-admin'", "GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO daypass@'%'",
		"GRANT SELECT, UPDATE ON mysql.* TO daypass@'%'", "GRANT ALL PRIVILEGES ON daypass.* TO daypass@'%'", "GRANT stock_rw TO daypass@'%' WITH ADMIN OPTION",
		"GRANT SHOW VIEW ON stock.* TO daypass@'%'",
	} {
		if _, err := r.admin.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	r.write("policies/shop.yaml", mariaPolicy)
	r.write("my-admin", r.my.URL("daypass", "planted-my-admin", "daypass")+"\n")
	return r
}

func (r *mariaRig) connect(user, password string) *sql.DB {
	r.t.Helper()
	c := driver.NewConfig()
	c.User, c.Passwd, c.Net, c.Addr, c.Logger = user, password, "tcp", fmt.Sprintf("%s:%d", r.my.Host(), r.my.Port()), &driver.NopLogger{}
	connector, err := driver.NewConnector(c)
	if err != nil {
		r.t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1) // a session of its own
	r.t.Cleanup(func() { _ = db.Close() })
	return db
}

// maria starts a broker that knows both.
func (r *mariaRig) maria(name string) *broker1 {
	r.t.Helper()
	return r.changed(name, "embedded", func(config string) string {
		config = strings.Replace(config, "targets:\n", "targets:\n  stock-my: {kind: mysql, admin: \"file:"+r.dir+"/my-admin\"}\n", 1)
		return strings.Replace(config, "grants:\n", "grants:\n  stock-db: {target: stock-my, max_ttl: 30m, params: {roles: [stock_rw], database: stock, require: none}}\n", 1)
	})
}

func (r *mariaRig) count(query string) int {
	r.t.Helper()
	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	var n int
	if err := r.admin.QueryRowContext(ctx, query).Scan(&n); err != nil {
		r.t.Fatalf("%s: %v", query, err)
	}
	return n
}

const (
	oursOnMaria     = `SELECT (SELECT COUNT(*) FROM mysql.global_priv WHERE User LIKE 'dp\_%') + (SELECT COUNT(*) FROM mysql.event WHERE name LIKE 'dp\_%')`
	sessionsOnMaria = `SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER LIKE 'dp\_%'`
)

func TestAMariaDBUserWorksUntilItIsGivenBack(t *testing.T) {
	r := newMariaRig(t)
	b := r.maria("one")
	_, a := b.fresh(map[string]any{"name": "stock-db", "ttl": "10m"}, map[string]any{"name": "orders-db", "ttl": "10m"})
	if c := a.credential(0); c["kind"] != "mysql" || c["takeback"] != "now" || a.field(0, "expiry") != "server" {
		t.Errorf("the answer says %v", c)
	}
	job := r.connect(a.field(0, "username"), a.field(0, "password"))
	if _, err := job.ExecContext(t.Context(), "INSERT INTO stock.items VALUES (1)"); err != nil {
		t.Fatalf("the credential does not work: %v", err)
	}
	if out, code := r.command([]string{"ORDERS_ADMIN_URL=" + r.pg.AdminURL("postgres")}, "daypassd", "check", "--config", b.config, "--connect"); code != 0 || !strings.Contains(out, "target stock-my") {
		t.Errorf("check --connect: %d\n%s", code, out)
	}
	if status, body := b.call(http.MethodDelete, "/v1/session", a.session(), nil); status != http.StatusOK {
		t.Fatalf("give back: %d %v", status, body)
	}
	if _, err := job.ExecContext(t.Context(), "INSERT INTO stock.items VALUES (2)"); err == nil {
		t.Error("a session or a password outlived its lease")
	}
	if n := r.count(oursOnMaria); n != 0 {
		t.Errorf("%d users and events are left", n)
	}
	b.stop()
	for _, secret := range []string{"planted-my-admin", a.field(0, "password")} {
		if strings.Contains(b.out.String(), secret) {
			t.Error("a secret is in the broker's log")
		}
	}
	if out, code := r.command(nil, "daypassd", "audit", "verify", b.data+"/journal"); code != 0 {
		t.Errorf("the journal does not verify: %s", out)
	}
}

func TestMariaDBEndsWhatADeadBrokerCannot(t *testing.T) {
	r := newMariaRig(t)
	b := r.maria("one")
	short := map[string]any{"name": "stock-db", "ttl": "4s"}
	_, a := b.fresh(short)
	job := r.connect(a.field(0, "username"), a.field(0, "password"))
	if err := job.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.kill()
	r.eventually(15*time.Second, func() error {
		if n, m := r.count(oursOnMaria), r.count(sessionsOnMaria); n+m != 0 {
			return fmt.Errorf("%d users and events, %d sessions are left", n, m)
		}
		return nil
	})
	b.start()
	r.eventually(20*time.Second, func() error {
		out, code := r.command(nil, "daypassd", "lease", "list", "--config", b.config, "--output", "json")
		if code != 0 || strings.Contains(out, `"stock-db"`) {
			return fmt.Errorf("the lease is still on the books: %d %s", code, out)
		}
		return nil
	})
	if _, a := b.fresh(short); r.connect(a.field(0, "username"), a.field(0, "password")).PingContext(t.Context()) != nil {
		t.Error("after the restart a credential does not work")
	}
}
