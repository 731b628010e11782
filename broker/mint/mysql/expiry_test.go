package mysql_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/mint/mysql"
)

// until waits for something that a server does by itself.
func until(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func heldAs(t *testing.T, m broker.Minter, h broker.Handle) (broker.Held, bool) {
	t.Helper()
	held, err := m.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range held {
		if one.Handle == h {
			return one, true
		}
	}
	return broker.Held{}, false
}

func TestTheServerEndsUserAndSessionsByItselfAtTheExpiry(t *testing.T) {
	for _, host := range []string{"%", "127.0.0.%", "127.0.0.1", "127.0.0.0/255.255.255.0"} {
		t.Run("from "+host, func(t *testing.T) { endsByItself(t, host) })
	}
}

func endsByItself(t *testing.T, host string) {
	m, admin := plainMinter(t), root(t)
	g := grant(`{"roles": ["app_rw"], "database": "app_db", "require": "none", "client_host": "` + host + `"}`)
	u := mint(t, m, orderFor(g, 3*time.Second))
	if u.field["expiry"] != "server" {
		t.Errorf("the job is told that the %s ends it", u.field["expiry"])
	}
	upper := strings.ToUpper(u.name()) // the server compares loosely
	exec(t, admin, "CREATE USER `"+upper+"`@`%`")
	t.Cleanup(func() { afterwards(t, "DROP USER `"+upper+"`@`%`") })
	other, err := session(t.Context(), dsn(server, upper, "", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	c, idle := u.login(t), u.login(t)
	if _, err := c.ExecContext(t.Context(), "DO SLEEP(10)"); err == nil {
		t.Error("a session went on after the expiry")
	}
	if late := time.Since(u.lease.NotAfter); late < 0 || late > 3*time.Second {
		t.Errorf("it ended %v after the expiry", late)
	}
	until(t, time.Second, "all its sessions have ended", func() bool {
		_, err := idle.ExecContext(t.Context(), "DO 1")
		return err != nil && sessions(t, admin, u) == 0
	})
	if _, err := other.ExecContext(t.Context(), "DO 1"); err != nil {
		t.Errorf("a session of another account was ended: %v", err)
	}
	until(t, 3*time.Second, "the event is gone", func() bool {
		return ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_NAME = ?", u.name()) == 0
	})
	if _, err := u.tryLogin(t.Context()); !refused(err, 1045) || accounts(t, admin, u.name()) != 0 {
		t.Errorf("it can log in: %v", err)
	}
	if _, ok := heldAs(t, m, u.lease.Handle); ok {
		t.Error("nothing is left, and it is held")
	}
	revoke(t, m, u)
}

// An event cannot end sessions where the admin has lost the right to: they
// outlive the account.
func TestASessionWhoseAccountIsGoneIsHeldUntilItIsEnded(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	u := mint(t, m, orderFor(roleGrant, 2*time.Second))
	c := u.login(t)
	exec(t, admin, "DROP USER '"+u.name()+"'@'%'", "DROP EVENT daypass."+u.name())
	time.Sleep(time.Until(u.lease.NotAfter) + 100*time.Millisecond)
	if h, ok := heldAs(t, m, u.lease.Handle); !ok || !h.Overdue {
		t.Errorf("held %v, as %+v", ok, h)
	}
	if err := m.Revoke(t.Context(), broker.Lease{Handle: u.lease.Handle}); err != nil { // as a sweeper does
		t.Error(err)
	}
	if _, err := c.ExecContext(t.Context(), "DO 1"); err == nil {
		t.Error("the session goes on")
	}
	if _, ok := heldAs(t, m, u.lease.Handle); ok {
		t.Error("it is held")
	}
}

func TestAServerThatRunsNoEventsIsSpokenOf(t *testing.T) {
	own := startOwn(t, map[string]string{"event-scheduler": "OFF"})
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass")))
	admin := rootOn(t, own)
	checker := m.(interface {
		CheckGrant(context.Context, broker.Grant) error
	})
	params := func(expiry string) broker.Grant {
		return grant(`{"roles": ["app_rw"], "database": "app_db", "require": "none", "server_expiry": "` + expiry + `"}`)
	}
	for expiry, complains := range map[string]bool{"wanted": true, "required": true, "none": false} {
		err := checker.CheckGrant(t.Context(), params(expiry))
		if complains != (err != nil && strings.Contains(err.Error(), "SET GLOBAL event_scheduler = ON")) {
			t.Errorf("%s: %v", expiry, err)
		}
		o := orderFor(params(expiry), time.Minute)
		h, err := m.Plan(o)
		if err != nil {
			t.Fatal(err)
		}
		c, err := m.Mint(t.Context(), o, h)
		if (expiry == "required") != (err != nil) {
			t.Errorf("%s: mint: %v", expiry, err)
		}
		for _, f := range c.Fields {
			if f.Name == "expiry" && f.Value.Reveal() != "broker" {
				t.Errorf("%s: the job is told that the %s ends it", expiry, f.Value.Reveal())
			}
		}
		if n := ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.EVENTS"); n != 0 {
			t.Errorf("%s: %d events were made that nobody runs", expiry, n)
		}
		if err := m.Revoke(t.Context(), broker.Lease{Handle: h, Grant: o.Grant}); err != nil {
			t.Error(err)
		}
	}
	exec(t, admin, "SET GLOBAL event_scheduler = ON")
	for expiry, events := range map[string]int{"wanted": 1, "required": 1, "none": 0} {
		if err := checker.CheckGrant(t.Context(), params(expiry)); err != nil {
			t.Errorf("%s: %v", expiry, err)
		}
		u := mintOn(t, own, m, orderFor(params(expiry), time.Minute))
		if n := ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.EVENTS"); n != events {
			t.Errorf("%s: %d events, want %d", expiry, n, events)
		}
		revoke(t, m, u)
		if n := ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.EVENTS"); n != 0 {
			t.Errorf("%s: the event outlives its user", expiry)
		}
	}
}

// Whoever gets in the way of a mint leaves no account that nothing would end,
// and none that was dropped comes back.
func TestAMintThatBreaksOffAnywhereIsUndoneByItsName(t *testing.T) {
	own := startOwn(t, nil)
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass")))
	g := grant(`{"roles": ["app_rw", "App \"` + "`" + `Ro'le"], "default_role": "app_rw", "require": "none"}`)
	total, err := mysql.MintSteps(t.Context(), m, orderFor(g, time.Minute), 0, func(int) {})
	if err != nil || total != 5 {
		t.Fatalf("%d statements, %v", total, err)
	}
	for n := range total + 1 {
		o := orderFor(g, time.Minute)
		h, err := m.Plan(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mysql.MintSteps(t.Context(), m, o, n, func(int) {}); err != nil {
			t.Fatal(err)
		}
		if err := own.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := own.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		admin := rootOn(t, own)
		events := ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_NAME = ?", string(h))
		if accounts(t, admin, string(h)) > events || (events == 1) != (n > 0) {
			t.Errorf("after %d statements: an account without the event that ends it", n)
		}
		if _, ok := heldAs(t, m, h); ok != (n > 0) {
			t.Errorf("after %d statements: held %v", n, ok)
		}
		if err := m.Revoke(t.Context(), broker.Lease{Handle: h}); err != nil {
			t.Errorf("after %d statements: %v", n, err)
		}
		if _, ok := heldAs(t, m, h); ok || accounts(t, admin, string(h)) != 0 {
			t.Errorf("after %d statements: still there", n)
		}
	}
}

func TestAUserThatIsDroppedWhileItIsMadeDoesNotComeBack(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	exec(t, admin, "SET GLOBAL sql_mode = ''") // as servers are that make users by GRANT
	t.Cleanup(func() { afterwards(t, "SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'") })
	for _, g := range []broker.Grant{roleGrant, dbGrant} {
		m := m
		if string(g.Params) == string(dbGrant.Params) {
			m = grantMinter(t)
		}
		o := orderFor(g, time.Minute)
		h, err := m.Plan(o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = mysql.MintSteps(t.Context(), m, o, -1, func(step int) {
			if step == 1 { // it is there, and may do nothing yet
				if err := m.Revoke(t.Context(), broker.Lease{Handle: h}); err != nil {
					t.Error(err)
				}
			}
		})
		if err == nil || accounts(t, admin, string(h)) != 0 {
			t.Errorf("the mint went on: %v; %d accounts", err, accounts(t, admin, string(h)))
		}
	}
}

func TestARevocationThatBreaksOffAnywhereIsFinished(t *testing.T) {
	own := startOwn(t, nil)
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass")))
	u := mintOn(t, own, m, orderFor(roleGrant, time.Minute))
	total, err := mysql.RevokeSteps(t.Context(), m, u.lease, 0)
	if err != nil || total != 7 {
		t.Fatalf("%d steps, %v", total, err)
	}
	for n := range total + 1 {
		for name, crash := range map[string]func(*testing.T) error{
			"the server is killed":    func(*testing.T) error { return own.Kill() },
			"the server is restarted": func(*testing.T) error { return own.Stop() },
			"the broker is killed":    nil,
		} {
			u := mintOn(t, own, m, orderFor(roleGrant, time.Minute))
			c := u.login(t)
			if _, err := mysql.RevokeSteps(t.Context(), m, u.lease, n); err != nil {
				t.Fatalf("%d steps: %v", n, err)
			}
			if crash != nil {
				if err := crash(t); err != nil {
					t.Fatal(err)
				}
				if err := own.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Revoke(t.Context(), u.lease); err != nil {
				t.Errorf("after %d steps, then %s: %v", n, name, err)
			}
			admin := rootOn(t, own)
			if _, err := c.ExecContext(t.Context(), "DO 1"); err == nil || sessions(t, admin, u) != 0 {
				t.Errorf("after %d steps, then %s: a session goes on", n, name)
			}
			if _, ok := heldAs(t, m, u.lease.Handle); ok || accounts(t, admin, u.name()) != 0 {
				t.Errorf("after %d steps, then %s: still there", n, name)
			}
		}
	}
}
