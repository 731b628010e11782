package mysql_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/mint/mysql"
)

func check(t *testing.T, m broker.Minter) error {
	t.Helper()
	c, ok := m.(broker.Checker)
	if !ok {
		t.Fatal("not a Checker")
	}
	return c.Check(t.Context())
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	admin := root(t)
	anew(t, admin, "USER powerless@'%' IDENTIFIED BY 'powerless'", "USER halfway@'%' IDENTIFIED BY 'halfway'", "USER blind@'%' IDENTIFIED BY 'blind'")
	exec(t, admin, "GRANT CREATE USER, PROCESS ON *.* TO halfway@'%'", "GRANT CREATE USER, PROCESS, "+connectionAdmin()+" ON *.* TO blind@'%'")
	for want, url := range map[string]string{
		"": server.URL("dpadmin", adminPassword, "daypass"),
		"lacks " + connectionAdmin() + ", CREATE USER, PROCESS on": server.URL("powerless", "powerless", "daypass"),
		"lacks " + connectionAdmin() + " on":                       server.URL("halfway", "halfway", "daypass"),
		"needs SELECT on mysql.*":                                  server.URL("blind", "blind", "daypass"),
		"does not accept the admin":                                server.URL("dpadmin", "wrong", "daypass"),
		"refuses connections":                                      "mysql://u:p@127.0.0.1:1/daypass",
		"is not a mysql://user:password":                           "postgres://u:p@127.0.0.1/daypass",
		"must name user, password and a s":                         server.URL("dpadmin", adminPassword, ""),
	} {
		err := check(t, openMinter(t, holding(url)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("want %q, got %v", want, err)
		}
		if err != nil && (strings.Contains(err.Error(), "dpadmin") || !strings.Contains(err.Error(), `"app-my"`)) {
			t.Errorf("the error shows too much, or not the target: %v", err)
		}
	}
}

func TestCheckSaysWhichGrantsCouldNotBeMade(t *testing.T) {
	checker := plainMinter(t).(interface {
		CheckGrant(context.Context, broker.Grant) error
	})
	for params, want := range map[string]string{
		`{"roles":["app_rw"],"require":"none"}`:                                            "",
		`{"roles":["app_rw"],"require":"none","database":"app_db"}`:                        "",
		`{"roles":["app_rww"],"require":"none"}`:                                           `"app_rww" does not exist`,
		`{"roles":["app_rw","no one"],"default_role":"app_rw","require":"none"}`:           `"no one"`,
		`{"roles":["indirect"],"require":"none"}`:                                          `"great" is too great`,
		`{"roles":["app_rw"],"require":"none","database":"app_db'; DROP DATABASE x"}`:      `does not exist`,
		`{"grants":{"nowhere":["SELECT"]},"require":"none"}`:                               `"nowhere" does not exist`,
		`{"roles":["app_rw"],"require":"none","auth":"` + onMySQL("native", "sha2") + `"}`: "not for " + onMySQL("MySQL", "MariaDB"),
		`{"roles":[]}`: "name at least one role",
	} {
		err := checker.CheckGrant(t.Context(), broker.Grant{Name: "app-db", Params: []byte(params)})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: want %q, got %v", params, want, err)
		}
	}
}

func TestOpeningATargetContactsNothingButWantsAnAdminSecret(t *testing.T) {
	if _, err := mysql.Kind().Open(config(holding("mysql://u:p@127.0.0.1:1/daypass"))); err != nil {
		t.Error(err)
	}
	if _, err := mysql.Kind().Open(config(nil)); err == nil {
		t.Error("opened without an admin secret")
	}
	c := config(holding(""))
	c.Params = []byte(`{"scram_iterations": 1}`)
	if _, err := mysql.Kind().Open(c); err == nil || !strings.Contains(err.Error(), "scram_iterations: no such setting") {
		t.Errorf("opened with a setting that there is not: %v", err)
	}
	c = config(holding(""))
	c.Deployment = "Prod"
	if _, err := mysql.Kind().Open(c); err == nil {
		t.Error("opened for a deployment that cannot be named")
	}
}

func TestAMinterThatIsClosedDoesNothingMore(t *testing.T) {
	admin := root(t)
	anew(t, admin, "USER closing@'%' IDENTIFIED BY 'closing'")
	exec(t, admin, "GRANT ALL PRIVILEGES ON *.* TO closing@'%' WITH GRANT OPTION")
	m := openMinter(t, holding(server.URL("closing", "closing", "daypass")))
	u := mint(t, m, orderFor(dbGrant, time.Minute))
	if err := m.(interface{ Close() error }).Close(); err != nil {
		t.Fatal(err)
	}
	until(t, 3*time.Second, "its connections end", func() bool {
		return ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'closing'") == 0
	})
	if err := m.Revoke(t.Context(), u.lease); err == nil || !strings.Contains(err.Error(), "is stopping") {
		t.Errorf("revoke: %v", err)
	}
	revoke(t, superMinter(t), u)
}

func TestAServerWithoutTLSIsSpokenOf(t *testing.T) {
	own := startOwn(t, onMySQL(map[string]string{"tls-version": ""}, nil))
	admin := own.URL("dpadmin", adminPassword, "daypass")
	if err := check(t, openMinter(t, holding(admin+"?ssl-mode=REQUIRED"))); err == nil || !strings.Contains(err.Error(), "server does not speak TLS") {
		t.Errorf("an admin that wants TLS: %v", err)
	}
	m := openMinter(t, holding(admin))
	for params, want := range map[string]string{`{"roles":["app_rw"],"require":"none"}`: "", `{"roles":["app_rw"]}`: "require: the server has no TLS"} {
		err := m.(interface {
			CheckGrant(context.Context, broker.Grant) error
		}).CheckGrant(t.Context(), grant(params))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: want %q, got %v", params, want, err)
		}
	}
	revoke(t, m, mintOn(t, own, m, orderFor(roleGrant, time.Minute)))
}

func TestTheServerIsKnownForWhatItIs(t *testing.T) {
	sort, version, err := mysql.ServerOf(t.Context(), server.AdminURL("daypass"))
	least, most := onMySQL(80022, 100400), onMySQL(99999, 130000)
	if err != nil || sort != onMySQL("MySQL", "MariaDB") || version < least || version > most {
		t.Errorf("%s %d, %v", sort, version, err)
	}
}

func TestAnAdminWhoseUsersCouldNotBeTakenBackMintsNone(t *testing.T) {
	anew(t, root(t), "USER maker@'%' IDENTIFIED BY 'maker'")
	exec(t, root(t), "GRANT CREATE USER ON *.* TO maker@'%'", "GRANT SELECT, UPDATE ON mysql.* TO maker@'%'",
		"GRANT ALL PRIVILEGES ON daypass.* TO maker@'%'", "GRANT app_rw TO maker@'%' WITH ADMIN OPTION")
	m := openMinter(t, holding(server.URL("maker", "maker", "daypass")))
	o := orderFor(roleGrant, time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mint(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), "lacks "+connectionAdmin()+", PROCESS") {
		t.Errorf("got %v", err)
	}
	u := mint(t, plainMinter(t), orderFor(roleGrant, time.Minute))
	_ = u.login(t)
	if err := m.Revoke(t.Context(), u.lease); err == nil { // it cannot see the session
		t.Error("what cannot be known to be over counts as over")
	}
	revoke(t, plainMinter(t), u)
}

func TestAnAdminPasswordCanChangeUnderway(t *testing.T) {
	admin := root(t)
	anew(t, admin, "USER rotating@'%' IDENTIFIED BY 'one'")
	exec(t, admin, "GRANT ALL PRIVILEGES ON *.* TO rotating@'%' WITH GRANT OPTION",
		"GRANT app_rw TO rotating@'%' WITH ADMIN OPTION")
	one, two := broker.NewSecret(server.URL("rotating", "one", "daypass")), broker.NewSecret(server.URL("rotating", "two", "daypass"))
	source := &secret{value: broker.SecretValue{Current: one}}
	m := openMinter(t, source)
	revoke(t, m, mint(t, m, orderFor(roleGrant, time.Minute)))

	source.set(broker.SecretValue{Current: two, Previous: one}, nil) // stored first, changed in the server later
	fresh := openMinter(t, source)
	for _, m := range []broker.Minter{m, fresh} {
		revoke(t, m, mint(t, m, orderFor(roleGrant, time.Minute)))
	}

	exec(t, admin, "ALTER USER rotating@'%' IDENTIFIED BY 'two'")
	source.set(broker.SecretValue{Current: two}, nil)
	u := mint(t, m, orderFor(roleGrant, time.Minute))

	// While the store of the secret is away, what is open goes on to be used.
	revoke(t, m, mint(t, m, orderFor(roleGrant, time.Minute)))
	source.set(broker.SecretValue{}, errors.New("the secret store is away"))
	revoke(t, m, u)
	if err := check(t, openMinter(t, source)); err == nil || !strings.Contains(err.Error(), "the secret store is away") {
		t.Errorf("got %v", err)
	}
}

func TestOneConnectionServesAllWhileTheServerTakesNoPassword(t *testing.T) {
	admin := root(t)
	anew(t, admin, "USER turning@'%' IDENTIFIED BY 'one'")
	exec(t, admin, "GRANT ALL PRIVILEGES ON *.* TO turning@'%' WITH GRANT OPTION", "GRANT app_rw TO turning@'%' WITH ADMIN OPTION")
	m := openMinter(t, holding(server.URL("turning", "one", "daypass")))
	_ = mint(t, m, orderFor(roleGrant, time.Minute))
	exec(t, admin, "ALTER USER turning@'%' IDENTIFIED BY 'two'")
	var many sync.WaitGroup
	for range 8 {
		many.Go(func() {
			for range 10 {
				o := orderFor(roleGrant, time.Minute)
				h, err := m.Plan(o)
				if err == nil {
					_, err = m.Mint(t.Context(), o, h)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	many.Wait()
}

// Who waits for a connection while no password is taken must not be given one
// that leads to where the admin secret led before.
func TestAConnectionThatComesBackIsNotUsedForAnotherAdminURL(t *testing.T) {
	admin := root(t)
	anew(t, admin, "USER leaving@'%' IDENTIFIED BY 'one'")
	exec(t, admin, "GRANT ALL PRIVILEGES ON *.* TO leaving@'%' WITH GRANT OPTION", "GRANT app_rw TO leaving@'%' WITH ADMIN OPTION")
	source := holding(server.URL("leaving", "one", "daypass"))
	m := openMinter(t, source)
	_ = mint(t, m, orderFor(roleGrant, time.Minute))
	exec(t, admin, "FLUSH TABLES WITH READ LOCK") // so that a mint stays under way
	before, after := make(chan error, 1), make(chan error, 1)
	try := func(to chan error) {
		o := orderFor(roleGrant, time.Minute)
		h, err := m.Plan(o)
		if err == nil {
			_, err = m.Mint(t.Context(), o, h)
		}
		to <- err
	}
	go try(before)
	time.Sleep(100 * time.Millisecond)
	source.set(broker.SecretValue{Current: broker.NewSecret(server.URL("leaving", "another", "daypass"))}, nil)
	go try(after)
	time.Sleep(300 * time.Millisecond)
	exec(t, admin, "UNLOCK TABLES")
	if err := <-before; err != nil {
		t.Errorf("what was under way: %v", err)
	}
	if err := <-after; err == nil {
		t.Error("a user was made with an admin URL that is no longer in use")
	}
}

// An admin that may write on a read-only server must not: what it writes there
// is lost, or splits the data in two.
func TestADemotedServerIsRefusedUntilItIsPrimaryAgain(t *testing.T) {
	own := startOwn(t, nil)
	m, admin := openMinter(t, holding(own.AdminURL("daypass"))), rootOn(t, own)
	u := mintOn(t, own, m, orderFor(roleGrant, time.Minute))
	exec(t, admin, onMySQL("SET GLOBAL super_read_only = ON", "SET GLOBAL read_only = ON"))
	o := orderFor(roleGrant, time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	_, mintErr := m.Mint(t.Context(), o, h)
	for doing, err := range map[string]error{"mint": mintErr, "revoke": m.Revoke(t.Context(), u.lease), "check": check(t, m)} {
		if err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("%s on a read-only server: %v", doing, err)
		}
	}
	if accounts(t, admin, string(h)) != 0 || accounts(t, admin, u.name()) != 1 {
		t.Error("something was changed")
	}
	exec(t, admin, "SET GLOBAL read_only = OFF")
	revoke(t, m, u)
}

// A server whose data is another's is another server, whatever it calls itself;
// one that was started anew with the same data is the same.
func TestAServerIsItsData(t *testing.T) {
	own := startOwn(t, nil)
	m := openMinter(t, holding(own.AdminURL("daypass")))
	u := mintOn(t, own, m, orderFor(roleGrant, time.Minute))
	if err := own.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := mintOn(t, own, m, orderFor(roleGrant, time.Minute))
	elsewhere := mint(t, superMinter(t), orderFor(roleGrant, time.Minute))
	if u.ServerID == "" || again.ServerID != u.ServerID || elsewhere.ServerID == u.ServerID {
		t.Errorf("server %q, restarted %q, another %q", u.ServerID, again.ServerID, elsewhere.ServerID)
	}
	revoke(t, m, u)
	// The data was lost: an empty server stands in its place.
	admin := rootOn(t, own)
	exec(t, admin, "DROP DATABASE daypass", "DROP USER '"+again.name()+"'@'%'")
	if err := m.Revoke(t.Context(), again.lease); err == nil {
		t.Error("not found on a server that lost its data counted as revoked")
	}
	if _, err := m.Held(t.Context()); err != nil {
		t.Errorf("a server without our schema cannot be listed: %v", err)
	}
	if got := ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'daypass'"); got != 0 {
		t.Error("revoking made a server ours")
	}
	if u := mintOn(t, own, m, orderFor(roleGrant, time.Minute)); u.ServerID == "" || u.ServerID == again.ServerID {
		t.Errorf("the new server is %q", u.ServerID)
	}
	exec(t, admin, "ALTER TABLE daypass.daypass_server COMMENT = 'somebody was here'")
	if _, err := m.Held(t.Context()); err == nil || !strings.Contains(err.Error(), "no mark of ours") {
		t.Errorf("a mark that was painted over: %v", err)
	}
}

func TestBrokersThatMintAtOnceOnANewServerAgreeOnWhatItIs(t *testing.T) {
	own := startOwn(t, nil)
	ids := make([]string, 8)
	var all sync.WaitGroup
	for i := range ids {
		m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass")))
		o := orderFor(roleGrant, time.Minute)
		all.Go(func() {
			h, err := m.Plan(o)
			if err != nil {
				t.Error(err)
				return
			}
			c, err := m.Mint(t.Context(), o, h)
			if err != nil {
				t.Error(err)
			}
			ids[i] = c.ServerID
		})
	}
	all.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("they disagree: %q", ids)
			break
		}
	}
}

func TestASessionOfTheAdminThatIsKilledIsNotUsedAgain(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	for range 5 {
		u := mint(t, m, orderFor(roleGrant, time.Minute))
		if _, err := m.Held(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := killUser(t.Context(), admin, "dpadmin"); err != nil {
			t.Fatal(err)
		}
		revoke(t, m, u)
	}
	// In the middle of it, from its own session or ours: an error, and then done.
	for range 10 {
		u := mint(t, m, orderFor(roleGrant, time.Minute))
		var killing sync.WaitGroup
		killing.Go(func() {
			for range 5 {
				_ = killUser(t.Context(), admin, "dpadmin") // there may be none
				time.Sleep(time.Millisecond)
			}
		})
		first := m.Revoke(t.Context(), u.lease)
		killing.Wait()
		if err := m.Revoke(t.Context(), u.lease); err != nil || accounts(t, admin, u.name()) != 0 {
			t.Errorf("first %v, then %v", first, err)
		}
	}
}

// Somebody's backup holds the lock that nothing gets past. Sessions end all the
// same, in bounded time, and the rest when it is done.
func TestABackupThatLocksEverythingPutsRevokingOff(t *testing.T) {
	own := startOwn(t, nil)
	m, backup := openMinter(t, holding(own.URL("dpadmin", adminPassword, "daypass"))), rootOn(t, own)
	u := mintOn(t, own, m, orderFor(roleGrant, time.Minute))
	c := u.login(t)
	exec(t, backup, "FLUSH TABLES WITH READ LOCK")
	begun := time.Now()
	err := m.Revoke(t.Context(), u.lease)
	if err == nil || !strings.Contains(err.Error(), "somebody else holds a lock") || time.Since(begun) > 15*time.Second {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
	if _, err := c.ExecContext(t.Context(), "DO 1"); err == nil {
		t.Error("the session went on meanwhile")
	}
	exec(t, backup, "UNLOCK TABLES")
	revoke(t, m, u)
}

func TestMintsThatHangDoNotKeepRevocationWaiting(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	u := mint(t, m, orderFor(roleGrant, time.Minute))
	release := stallEvents(t) // what a mint needs first and a revocation last
	var stuck sync.WaitGroup
	for range 24 { // six times the connections there are to mint
		o := orderFor(roleGrant, time.Minute)
		h, err := m.Plan(o)
		if err != nil {
			t.Fatal(err)
		}
		stuck.Go(func() { _, _ = m.Mint(t.Context(), o, h) })
	}
	until(t, 5*time.Second, "the mints hang", func() bool {
		return ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'CREATE EVENT%'") >= 4
	})
	var taken sync.WaitGroup
	taken.Go(func() { _ = m.Revoke(t.Context(), u.lease) })
	until(t, 2*time.Second, "the account is locked meanwhile", func() bool {
		_, err := u.tryLogin(t.Context())
		return err != nil
	})
	release()
	taken.Wait()
	stuck.Wait()
	revoke(t, m, u)
}

// A mint whose caller has given up may still be under way in the server.
func TestRevokingWaitsForAMintThatIsStillUnderWay(t *testing.T) {
	admin := root(t)
	anew(t, admin, "USER dp_admin@'%' IDENTIFIED BY 'dp_admin'") // a name like a job's, as an admin may have
	t.Cleanup(func() { afterwards(t, "DROP USER dp_admin@'%'") })
	exec(t, admin, "GRANT ALL PRIVILEGES ON *.* TO dp_admin@'%' WITH GRANT OPTION", "GRANT app_rw TO dp_admin@'%' WITH ADMIN OPTION")
	for name, m := range map[string]broker.Minter{"dpadmin": plainMinter(t), "dp_admin": openMinter(t, holding(server.URL("dp_admin", "dp_admin", "daypass")))} {
		t.Run("whose admin is "+name, func(t *testing.T) { waitsForAMint(t, m, admin) })
	}
}

func waitsForAMint(t *testing.T, m broker.Minter, admin *link) {
	revoke(t, m, mint(t, m, orderFor(roleGrant, time.Minute))) // our schema is there
	o := orderFor(roleGrant, time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	release := stallEvents(t)
	var both sync.WaitGroup
	var mintErr, revokeErr error
	both.Go(func() { _, mintErr = m.Mint(t.Context(), o, h) })
	until(t, 3*time.Second, "the mint hangs", func() bool {
		return ask[int](t, admin, "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'CREATE EVENT%"+string(h)+"%'") == 1
	})
	done := make(chan struct{})
	both.Go(func() { revokeErr = m.Revoke(t.Context(), broker.Lease{Handle: h, Grant: o.Grant}); close(done) })
	select {
	case <-done:
		t.Error("revoking did not wait")
	case <-time.After(300 * time.Millisecond):
	}
	release()
	both.Wait()
	if revokeErr == nil && accounts(t, admin, string(h)) != 0 {
		t.Errorf("the mint (%v) outlived its revocation", mintErr)
	}
	if revokeErr != nil {
		t.Error(revokeErr)
	}
}

// One nonce of ed25519 in 256 ends in a zero, which the driver takes for the end.
func TestAnAdminWithEd25519GetsInEveryTime(t *testing.T) {
	if server.IsMySQL() {
		return // it has no such plugin
	}
	anew(t, root(t), "USER signing@'%' IDENTIFIED VIA ed25519 USING PASSWORD('signing')")
	t.Cleanup(func() { afterwards(t, "DROP USER signing@'%'") })
	exec(t, root(t), "GRANT ALL PRIVILEGES ON *.* TO signing@'%' WITH GRANT OPTION")
	for range 600 {
		if _, _, err := mysql.ServerOf(t.Context(), server.URL("signing", "signing", "daypass")); err != nil {
			t.Fatal(err)
		}
	}
}

// What breaks off before anything is made is made all the same.
func TestAMintWhoseSessionIsEndedGoesOnInAnother(t *testing.T) {
	m, admin, holder := plainMinter(t), root(t), root(t)
	revoke(t, m, mint(t, m, orderFor(roleGrant, time.Minute))) // our schema is there
	o := orderFor(roleGrant, time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, holder, "DO GET_LOCK('"+mysql.LockName(h)+"', 0)")
	var minting sync.WaitGroup
	var made broker.Credential
	var mintErr error
	minting.Go(func() { made, mintErr = m.Mint(t.Context(), o, h) })
	var id int
	until(t, 3*time.Second, "the mint waits", func() bool {
		id = ask[int](t, admin, "SELECT COALESCE(MAX(ID), 0) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT GET_LOCK%"+string(h)+"%'")
		return id != 0
	})
	exec(t, admin, fmt.Sprintf("KILL CONNECTION %d", id))
	exec(t, holder, "DO RELEASE_LOCK('"+mysql.LockName(h)+"')")
	minting.Wait()
	if mintErr != nil || len(made.Fields) == 0 || accounts(t, admin, string(h)) == 0 {
		t.Errorf("%d fields, %v", len(made.Fields), mintErr)
	}
	if err := m.Revoke(t.Context(), broker.Lease{Handle: h, Grant: o.Grant}); err != nil {
		t.Error(err)
	}
}

func TestAServerThatValidatesPasswordsIsSpokenOf(t *testing.T) {
	own := startOwn(t, nil)
	exec(t, rootOn(t, own), onMySQL("INSTALL COMPONENT 'file://component_validate_password'", "INSTALL SONAME 'simple_password_check'"))
	m := openMinter(t, holding(own.AdminURL("daypass")))
	if own.IsMySQL() { // it takes what is stored as it is
		revoke(t, m, mintOn(t, own, m, orderFor(roleGrant, time.Minute)))
		return
	}
	o := orderFor(roleGrant, time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mint(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), "strict_password_validation must be off") {
		t.Errorf("got %v", err)
	}
	exec(t, rootOn(t, own), "SET GLOBAL strict_password_validation = OFF")
	revoke(t, m, mintOn(t, own, m, orderFor(roleGrant, time.Minute)))
}

// certificates makes an authority and a certificate for 127.0.0.1.
func certificates(t *testing.T) (ca, cert, key []byte) {
	t.Helper()
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	make := func(serial int64, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: fmt.Sprint("test ", serial)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
			IsCA: parent == nil, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
		if parent == nil {
			parent, signer = c, k
		} else {
			c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return c, k, der
	}
	root, rootKey, rootDER := make(1, nil, nil)
	_, leafKey, leafDER := make(2, root, rootKey)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", rootDER), encode("CERTIFICATE", leafDER), encode("PRIVATE KEY", der)
}

func TestTLSIsWhatTheGrantAndTheAdminURLSay(t *testing.T) {
	ca, cert, key := certificates(t)
	other, _, _ := certificates(t)
	own, err := start(t.Context(), map[string]string{"ssl-cert": "@cert.pem", "ssl-key": "@key.pem", "event-scheduler": "ON"},
		map[string][]byte{"cert.pem": cert, "key.pem": key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	if err := prepare(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	file := func(name string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	right, wrong := file("ca.pem", ca), file("other.pem", other)
	base := own.AdminURL("daypass")
	byName := strings.Replace(base, "127.0.0.1", "localhost", 1)
	for _, c := range []struct{ url, want string }{
		{base + "?ssl-mode=VERIFY_IDENTITY&ssl-ca=" + url.QueryEscape(right), ""},
		{base + "?ssl-mode=VERIFY_CA&ssl-ca=" + url.QueryEscape(right), ""},
		{base + "?ssl-mode=REQUIRED", ""},
		{base + "?ssl-mode=VERIFY_IDENTITY&ssl-ca=" + url.QueryEscape(wrong), "not signed by an authority we know"},
		{base + "?ssl-mode=VERIFY_CA&ssl-ca=" + url.QueryEscape(wrong), "not signed by an authority we know"},
		{base + "?ssl-mode=VERIFY_IDENTITY", "not signed by an authority we know"},
		{byName + "?ssl-mode=VERIFY_IDENTITY&ssl-ca=" + url.QueryEscape(right), "names another host"},
		{byName + "?ssl-mode=VERIFY_CA&ssl-ca=" + url.QueryEscape(right), ""},
	} {
		err := check(t, openMinter(t, holding(c.url)))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.url[strings.Index(c.url, "?"):], err, c.want)
		}
	}
	m := openMinter(t, holding(base+"?ssl-mode=VERIFY_IDENTITY&ssl-ca="+url.QueryEscape(right)))
	u := mintOn(t, own, m, orderFor(grant(`{"roles": ["app_rw"], "database": "app_db"}`), time.Minute)) // require: ssl
	if _, err := u.tryLogin(t.Context()); !refused(err, 1045) {
		t.Errorf("logged in without TLS: %v", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c := driver.NewConfig()
	c.User, c.Passwd, c.Net, c.Addr = u.name(), u.env["MYSQL_PWD"], "tcp", fmt.Sprintf("127.0.0.1:%d", own.Port())
	c.TLS = &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
	connector, err := driver.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := connector.Connect(t.Context())
	if err != nil {
		t.Fatalf("with TLS: %v", err)
	}
	_ = conn.Close()
	if u.field["ssl_mode"] != "VERIFY_IDENTITY" || !strings.Contains(u.env["DATABASE_URL"], "?ssl-mode=VERIFY_IDENTITY") {
		t.Errorf("told %v", u.field)
	}
	revoke(t, m, u)
	quiet := mintOn(t, own, openMinter(t, holding(base)), orderFor(grant(`{"roles": ["app_rw"]}`), time.Minute))
	if quiet.field["ssl_mode"] != "REQUIRED" {
		t.Errorf("the job is not told that TLS is required: %v", quiet.field)
	}
}

func BenchmarkMintAndRevoke(b *testing.B) {
	for name, g := range map[string]broker.Grant{"with a role": roleGrant, "with a privilege": dbGrant} {
		b.Run(name, func(b *testing.B) {
			m := superMinter(b)
			b.SetParallelism(16) // 32 on two cores
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					o := orderFor(g, time.Minute)
					h, err := m.Plan(o)
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := m.Mint(b.Context(), o, h); err != nil {
						b.Error(err)
					}
					if err := m.Revoke(b.Context(), broker.Lease{Handle: h, Grant: o.Grant}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
