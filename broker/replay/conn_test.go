package replay_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/replay"
)

func marker(c broker.Claim) string {
	return "dp:{test}:used:" + base64.RawURLEncoding.EncodeToString(c.Token[:])
}

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*replay.RedisConfig)
		says   string
	}{
		"sentinel without a master":                 {func(c *replay.RedisConfig) { sentinel(c).Master = "" }, "needs master"},
		"sentinel without sentinels":                {func(c *replay.RedisConfig) { sentinel(c).Sentinels = nil }, "needs sentinels"},
		"a sentinel without a port":                 {func(c *replay.RedisConfig) { sentinel(c).Sentinels = []string{"a:1", "b"} }, `"b" is not host:port`},
		"sentinel beside a host":                    {func(c *replay.RedisConfig) { sentinel(c); c.URL = "redis://hunter2/0" }, "must name no host"},
		"sentinel without replicas":                 {func(c *replay.RedisConfig) { sentinel(c); c.Replicas = 0 }, "replicas of at least 1"},
		"a sentinel's password that cannot be read": {func(c *replay.RedisConfig) { sentinel(c).Password = &password{} }, "no such file"},
		"sentinels without sentinel":                {func(c *replay.RedisConfig) { c.Sentinel.Master = "main" }, "for mode sentinel"},
		"cluster":                                   {func(c *replay.RedisConfig) { c.Mode = "cluster" }, "cluster is not supported"},
		"a mode that nobody knows":                  {func(c *replay.RedisConfig) { c.Mode = "mirror" }, `mode "mirror"`},
		"no key":                                    {func(c *replay.RedisConfig) { c.Key = [32]byte{} }, "key"},
		"a wrong deployment":                        {func(c *replay.RedisConfig) { c.Deployment = "Production" }, "four lower-case"},
		"negative replicas":                         {func(c *replay.RedisConfig) { c.Replicas = -1 }, "replicas"},
		"a negative timeout":                        {func(c *replay.RedisConfig) { c.Timeout = -1 }, "timeout"},
		"no clock":                                  {func(c *replay.RedisConfig) { c.Now = nil }, "Now"},
		"no URL":                                    {func(c *replay.RedisConfig) { c.URL = "" }, "redis://"},
		"another scheme":                            {func(c *replay.RedisConfig) { c.URL = "http://localhost:hunter2" }, "redis url"},
		"no host":                                   {func(c *replay.RedisConfig) { c.URL = "redis://:hunter2@/0" }, "redis url"},
		"options in the URL":                        {func(c *replay.RedisConfig) { c.URL = "redis://:hunter2@h/0?max_retries=9" }, "redis url"},
		"a database of words":                       {func(c *replay.RedisConfig) { c.URL = "redis://:hunter2@h/zero" }, "number"},
		"no URL at all":                             {func(c *replay.RedisConfig) { c.URL = "redis://:hunter2@h:%zz\x00" }, "not a URL"},
		"TLS settings without TLS":                  {func(c *replay.RedisConfig) { c.TLS = &tls.Config{MinVersion: tls.VersionTLS13} }, "rediss://"},
		"two passwords": {func(c *replay.RedisConfig) {
			c.URL, c.Password = "redis://:hunter2@h", &password{}
		}, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config("redis://127.0.0.1:6379/0")
			row.change(&c)
			_, err := replay.NewRedis(c)
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Fatalf("got %v, want something about %q", err, row.says)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

// sentinel makes a configuration one for Sentinel.
func sentinel(c *replay.RedisConfig) *replay.SentinelConfig {
	c.URL, c.Mode, c.Replicas = "", "sentinel", 1
	c.Sentinel = replay.SentinelConfig{Master: "main", Sentinels: []string{"127.0.0.1:26379"}}
	return &c.Sentinel
}

// password is a secret that can change.
type password struct{ v atomic.Pointer[string] }

func (p *password) set(s string) { p.v.Store(&s) }

func (p *password) Read(context.Context) (broker.SecretValue, error) {
	s := p.v.Load()
	if s == nil {
		return broker.SecretValue{}, errors.New("no such file")
	}
	return broker.SecretValue{Current: broker.NewSecret(*s)}, nil
}

func TestAPasswordIsReadAnewForEveryConnectionAndNeverShown(t *testing.T) {
	t.Parallel()
	server := startRedis(t, "--requirepass", "swordfish-1")
	var secret password
	var log lines
	c := config(server.URL())
	c.Password, c.Log = &secret, slog.New(slog.NewTextHandler(&log, nil))
	r := open(t, c)
	var said bytes.Buffer
	check := func() error {
		err := r.Check(t.Context())
		if err != nil {
			said.WriteString(err.Error())
		}
		return err
	}
	if err := check(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without a password: %v", err)
	}
	secret.set("swordfish-wrong")
	if err := check(); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("with a wrong password: %v", err)
	}
	secret.set("swordfish-1")
	if err := check(); err != nil {
		t.Errorf("with the password: %v", err)
	}
	if strings.Contains(said.String()+log.String(), "swordfish") {
		t.Errorf("the password is shown: %s\n%s", &said, log.String())
	}
}

func TestAURLMayCarryUserAndPassword(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	// The commands are those that the package comment names.
	do(t, admin(t, server), "ACL", "SETUSER", "daypass", "on", ">open sesame", "~dp:{test}:*", "-@all",
		"+eval", "+evalsha", "+info", "+time", "+wait", "+hmget", "+hset", "+hdel", "+del", "+set", "+get", "+ping")
	r := serve(t, config("redis://daypass:open%20sesame@"+server.Addr()))
	claimFresh(t, r)
	wrong := open(t, config("redis://daypass:hunter2@"+server.Addr()))
	if err := wrong.Check(t.Context()); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestRedisIsReachedOverTLSAndItsCertificateChecked(t *testing.T) {
	t.Parallel()
	cert, key, roots := selfSigned(t)
	server, err := servers.StartRedis(t.Context(), servers.RedisConfig{TLSCert: cert, TLSKey: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	c := config(server.URL())
	if err := open(t, c).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v", err)
	}
	c.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	claimFresh(t, serve(t, c))
}

// selfSigned makes a certificate for 127.0.0.1.
func selfSigned(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AddCert(cert)
	return certFile, keyFile, roots
}
