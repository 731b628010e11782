package postgres_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// authority signs a certificate for names; it returns its own, the new one and
// its key, all in PEM.
func authority(t *testing.T, names ...string) (ca, cert, key []byte) {
	t.Helper()
	caKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ownKey, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test server"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, n)
		}
	}
	caDER, err1 := x509.CreateCertificate(rand.Reader, root, root, &caKey.PublicKey, caKey)
	leafDER, err2 := x509.CreateCertificate(rand.Reader, leaf, root, &ownKey.PublicKey, caKey)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(ownKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return block("CERTIFICATE", caDER), block("CERTIFICATE", leafDER), block("PRIVATE KEY", keyDER)
}

func TestTheServersCertificateIsVerified(t *testing.T) {
	ca, cert, key := authority(t, "127.0.0.1")
	otherCA, otherCert, otherKey := authority(t, "db.example.com")
	file := func(name string, pem []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own := ownServer(t, servers.PostgresConfig{Cert: cert, Key: key})
	misnamed := ownServer(t, servers.PostgresConfig{Cert: otherCert, Key: otherKey})
	caFile, otherFile := file("ca", ca), file("other", otherCA)
	for name, c := range map[string]struct {
		server     *servers.Postgres
		mode, root string
		want       string
	}{
		"the right authority and name":               {own, "verify-full", caFile, ""},
		"the right authority is enough if so wanted": {misnamed, "verify-ca", otherFile, ""},
		"another authority":                          {own, "verify-full", otherFile, "not signed by an authority we know"},
		"an authority of the system":                 {own, "verify-full", "", "not signed by an authority we know"},
		"another name":                               {misnamed, "verify-full", otherFile, "names another host"},
	} {
		t.Run(name, func(t *testing.T) {
			admin := strings.Replace(c.server.AdminURL("app"), "sslmode=disable", url.Values{"sslmode": {c.mode}, "sslrootcert": {c.root}}.Encode(), 1)
			if c.root == "" {
				admin = strings.Replace(admin, "sslrootcert=&", "", 1)
			}
			m := openMinter(t, holding(admin))
			err := check(t, m)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				return
			}
			u := mint(t, m, orderFor(grant(`{"roles": ["app_owner"], "probe": true}`), time.Minute))
			if n := ask[int](t, connect(t, c.server.AdminURL("app")), "SELECT count(*)::int FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name LIKE 'daypass%' AND NOT ssl"); n != 0 {
				t.Errorf("%d connections are in clear", n)
			}
			if u.env["PGSSLMODE"] != c.mode {
				t.Errorf("the job is told %q", u.env["PGSSLMODE"])
			}
			revoke(t, m, u)
		})
	}
	t.Run("a server without TLS", func(t *testing.T) {
		if err := check(t, openMinter(t, holding(strings.Replace(server.AdminURL("app"), "disable", "require", 1)))); err == nil {
			t.Error("went on in clear")
		}
	})
}

// A cluster of two loses its primary. What was minted on the one is taken back
// on the other, which is the same system; and who is led to a standby is told.
func TestAFailoverToAStandbyIsFollowed(t *testing.T) {
	first := ownServer(t, servers.PostgresConfig{})
	second, err := first.StartStandby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = second.Close() })
	pair := strings.Replace(first.AdminURL("app"), "/app", ","+net.JoinHostPort(second.Host(), strconv.Itoa(second.Port()))+"/app", 1) + "&target_session_attrs="
	m := openMinter(t, holding(pair+"read-write"))
	u := mint(t, m, orderFor(grant(`{"roles": ["app_owner"], "scram_iterations": 1}`), time.Minute))
	u2 := mint(t, m, orderFor(appGrant, time.Minute))

	standby := openMinter(t, holding(second.AdminURL("app")))
	readers := openMinter(t, holding(pair+"standby"))
	for name, err := range map[string]error{
		"check": check(t, standby), "revoke": standby.Revoke(t.Context(), u.lease), "check of a reader endpoint": check(t, readers),
	} {
		if err == nil || !strings.Contains(err.Error(), "replica") {
			t.Errorf("%s on a standby: %v", name, err)
		}
	}
	synced := connect(t, second.AdminURL("app"))
	for deadline := time.Now().Add(10 * time.Second); !ask[bool](t, synced, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", string(u2.lease.Handle)); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the standby does not follow")
		}
	}
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := m.Revoke(t.Context(), u.lease); err == nil {
		t.Error("revoked where there is no primary")
	}
	if err := second.PromoteNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	revoke(t, m, u)
	revoke(t, standby, u2) // its connection was to a replica
	again := mint(t, m, orderFor(appGrant, time.Minute))
	if again.ServerID != u.ServerID {
		t.Errorf("the system is %q, was %q", again.ServerID, u.ServerID)
	}
	after := connect(t, second.AdminURL("app"))
	if ask[bool](t, after, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = ANY ($1))", []string{string(u.lease.Handle), string(u2.lease.Handle)}) {
		t.Error("a user is left on the new primary")
	}
	revoke(t, m, again)
}

// A primary that turns read-only under its connections, as managed ones do
// while they fail over: nothing is believed of it, and it works again after.
func TestAServerThatTurnsReadOnlyIsAnErrorUntilItIsNot(t *testing.T) {
	own, m := signalServer(t)
	u, left := mint(t, m, orderFor(appGrant, time.Minute)), mint(t, m, orderFor(appGrant, time.Minute))
	admin := connect(t, own.AdminURL("app"))
	exec(t, admin, "ALTER SYSTEM SET default_transaction_read_only = on")
	exec(t, admin, "SELECT pg_reload_conf()")
	time.Sleep(200 * time.Millisecond)
	o := orderFor(appGrant, time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mint(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("mint: %v", err)
	}
	if err := m.Revoke(t.Context(), u.lease); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("revoke: %v", err)
	}
	exec(t, admin, "ALTER SYSTEM RESET default_transaction_read_only")
	exec(t, admin, "SELECT pg_reload_conf()")
	time.Sleep(200 * time.Millisecond)
	revoke(t, m, u)
	revoke(t, m, left)
	revoke(t, m, mint(t, m, o))
}
