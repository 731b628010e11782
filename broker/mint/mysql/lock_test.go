package mysql_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// reading holds the table of accounts in some sessions of a user, anew as soon as
// they are ended, until it is stopped. Who waits for the table has others wait
// behind it.
func reading(t *testing.T, u user, n int) (stop func()) {
	t.Helper()
	exec(t, rootOn(t, u.on), "GRANT SELECT ON mysql.* TO '"+u.name()+"'@'%'")
	query := "SELECT SLEEP(600) FROM " + onMySQL("mysql.user", "mysql.global_priv") + " LIMIT 1"
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	for range n {
		first, err := u.tryLogin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for c := first; ctx.Err() == nil; {
				_, _ = c.ExecContext(ctx, query) // it is ended
				_ = c.Close()
				for c, err = u.tryLogin(ctx); err != nil && ctx.Err() == nil; c, err = u.tryLogin(ctx) {
					time.Sleep(time.Millisecond)
				}
			}
		}()
	}
	watcher := rootOn(t, u.on)
	until(t, 5*time.Second, "the table is being read", func() bool {
		return ask[int](t, watcher, "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = ? AND INFO LIKE 'SELECT SLEEP%'", u.name()) == n
	})
	return cancel
}

// The event's DROP USER waits for who reads the table of accounts, and whoever
// would find the account waits behind the event.
func TestAJobThatReadsTheTableOfAccountsIsTakenBack(t *testing.T) {
	for name, sessionsOf := range map[string]int{"in one session": 1, "in many, which come back": 20} {
		t.Run(name, func(t *testing.T) {
			own := startOwn(t, nil)
			m, admin := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass"))), rootOn(t, own)
			live := mintOn(t, own, m, orderFor(roleGrant, time.Hour))
			neighbour := live.login(t)
			u := mintOn(t, own, m, orderFor(roleGrant, 4*time.Second))
			stop := reading(t, u, sessionsOf)
			time.Sleep(time.Until(u.lease.NotAfter) + 1500*time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			if err := m.Revoke(ctx, u.lease); err != nil {
				t.Error(err)
			}
			if c, err := u.tryLogin(t.Context()); err == nil {
				_ = c.Close()
				t.Error("it can log in")
			}
			stop()
			if accounts(t, admin, u.name()) != 0 || sessions(t, admin, u) != 0 {
				t.Error("it is still there")
			}
			exec(t, neighbour, "DO 1")
		})
	}
}

func TestAJobThatReadsTheTableOfAccountsDoesNotKeepOthersFromBeingListed(t *testing.T) {
	own := startOwn(t, nil)
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass")))
	live := mintOn(t, own, m, orderFor(roleGrant, time.Hour))
	neighbour := live.login(t)
	u := mintOn(t, own, m, orderFor(roleGrant, 4*time.Second))
	forged := "dp_other" + u.name()[len("dp_test"):] // overdue as well, and of another deployment
	exec(t, rootOn(t, own), "CREATE USER "+forged+"@'%'")
	stranger, err := session(t.Context(), dsn(own, forged, "", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	reading(t, u, 1)
	time.Sleep(time.Until(u.lease.NotAfter) + 1500*time.Millisecond)
	if _, ok := heldAs(t, m, live.lease.Handle); !ok {
		t.Error("another job is not listed")
	}
	if err := m.Revoke(t.Context(), broker.Lease{Handle: u.lease.Handle}); err != nil {
		t.Error(err)
	}
	exec(t, neighbour, "DO 1")
	exec(t, stranger, "DO 1")
}

// An account of somebody else's puts revocations off on MariaDB, as long as it
// reads. Sessions of the user are ended all the same.
func TestWhileSomebodyElseReadsTheTableOfAccountsSessionsAreEnded(t *testing.T) {
	own := startOwn(t, nil)
	m, admin := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass"))), rootOn(t, own)
	exec(t, admin, "GRANT SELECT ON mysql.* TO mallory@'%'")
	reader, err := session(t.Context(), dsn(own, "mallory", "mallory", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	u := mintOn(t, own, m, orderFor(roleGrant, 3*time.Second))
	c := u.login(t)
	slowly, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = reader.ExecContext(slowly, "SELECT SLEEP(600) FROM "+onMySQL("mysql.user", "mysql.global_priv")+" LIMIT 1") // it is ended
	}()
	time.Sleep(time.Until(u.lease.NotAfter) + 1500*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := m.Revoke(ctx, u.lease); !own.IsMySQL() && (err == nil || !strings.Contains(err.Error(), "error 1205")) {
		t.Errorf("got %v", err)
	}
	if _, err := c.ExecContext(t.Context(), "DO 1"); err == nil {
		t.Error("a session goes on")
	}
	if err := killUser(t.Context(), admin, "mallory"); err != nil {
		t.Fatal(err)
	}
	<-done
	revoke(t, m, u)
	if accounts(t, admin, u.name()) != 0 {
		t.Error("it is still there")
	}
}
