package main

import (
	"fmt"
	"testing"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// mariaField is several MariaDBs. Those with an odd number end users by
// themselves as well; with the others only brokers do.
type mariaField struct {
	mys    []*servers.MariaDB
	guests []*mariaVisit // sessions of others, by server
}

// points inside a mint hold one of the few connections for that, and so do those
// inside a revocation, or around it: a server has one of each. The others are
// spread, for what fails is taken back with the rest of them.
func (*mariaField) points() []point {
	return pointsAround(
		map[string]int{"mint-eventless": 1, "mint-scheduled": 3, "mint-created": 2, "mint-granted": 4, "mint-defaulted": 5, "mint-listed": 6, "mint-unlocked": 7},
		map[string]int{"revoke-locked": 1, "revoke-ended": 2, "revoke-unlisted": 3, "revoke-stripped": 4, "revoke-tidied": 5, "revoke-dropped": 6, "revoke-cleared": 7},
		map[string]int{"revoke-before": 0, "revoke-after": 8, "close-before": 1, "close-after": 2,
			"mint-before": 3, "mint-after": 4, "activate-before": 5, "activate-after": 6, "issued-before": 7, "issued-after": 8})
}

// prepareMariaDB makes what an operator makes, and what is none of ours.
func prepareMariaDB(t *testing.T, root *mariaVisit) {
	t.Helper()
	if err := root.exec(t.Context(), "CREATE DATABASE shop", "CREATE TABLE shop.items (n INT PRIMARY KEY)", "CREATE TABLE shop.ci_users (name VARCHAR(32) PRIMARY KEY)",
		"CREATE ROLE shop_rw", "GRANT SELECT, INSERT, CREATE VIEW ON shop.* TO shop_rw",
		"CREATE USER daypass@'127.0.0.1' IDENTIFIED BY 'planted-my-admin'", "GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO daypass@'127.0.0.1'",
		"GRANT SELECT, UPDATE ON mysql.* TO daypass@'127.0.0.1'", "GRANT ALL PRIVILEGES ON daypass.* TO daypass@'127.0.0.1'",
		"GRANT shop_rw TO daypass@'127.0.0.1' WITH ADMIN OPTION", "GRANT SELECT, INSERT, DELETE, SHOW VIEW, TRIGGER, EVENT, DROP, ALTER ROUTINE ON shop.* TO daypass@'127.0.0.1'",
	); err != nil {
		t.Fatal(err)
	}
	plantForeignAccounts(t, root)
}

func (f *mariaField) open(t *testing.T, n int) (string, engine) {
	my, err := servers.StartMariaDB(t.Context(), servers.MariaDBConfig{Settings: map[string]string{
		"event-scheduler": []string{"OFF", "ON"}[n%2], "max-connections": "300", "max-connect-errors": "1000000"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = my.Close() })
	f.mys = append(f.mys, my)
	prepareMariaDB(t, mustVisitMariaDB(t, my.AdminURL("")))
	f.guests = append(f.guests, mustVisitMariaDB(t, my.URL("dp_prod_t0aaaa_aaaaaaaaaaaa", "theirs", "")))
	return my.URL("daypass", "planted-my-admin", "daypass"), onMariaDB(my.AdminURL(""))
}

func (f *mariaField) grant(n int) (kind, params string) {
	return "mysql", fmt.Sprintf("{roles: [shop_rw], database: shop, require: none, on_owned: drop, host: %s, port: %d,"+
		" statements: {create: [\"INSERT INTO shop.ci_users VALUES ({{name_literal}})\"], revoke: [\"DELETE FROM shop.ci_users WHERE name = {{name_literal}}\"]}}",
		f.mys[n].Host(), f.mys[n].Port())
}

// work leaves a session open, so that there is one to end, and a view of which
// the user is the definer.
func (*mariaField) work(x *crash, p point, a answer) {
	ctx := x.t.Context()
	v, err := visitMariaDB(ctx, a.field(0, "url"))
	for try := 0; try < 3 && err != nil && mariaCode(err) == 0; try++ { // a busy server hangs up on who is slow to say who it is
		v, err = visitMariaDB(ctx, a.field(0, "url"))
	}
	if err != nil {
		x.unusable(p, a, err)
		return
	}
	x.t.Cleanup(v.close)
	if p.name == "revoke-tidied" {
		if err := v.exec(ctx, "CREATE VIEW shop.own_"+a.field(0, "username")+" AS SELECT 1 AS n"); err != nil {
			x.unusable(p, a, err)
		}
	}
}

func (f *mariaField) made(t *testing.T, n int) []string {
	return quotedUsers("CREATE USER `", "`", readAll(t, f.mys[n].LogPath()))
}

// foreign also holds that sessions of others go on.
func (f *mariaField) foreign(t *testing.T, n int) string {
	if _, err := f.guests[n].clock(t.Context()); err != nil {
		t.Errorf("server %d: a session that is not ours ended: %v", n, err)
	}
	return foreignRows(t, f.mys[n].AdminURL(""))
}
