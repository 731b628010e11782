package api

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// serving runs a server until the test ends, and checks that it stops well.
func serving(t *testing.T, c ServerConfig) string {
	t.Helper()
	if c.Log == nil {
		c.Log = (&logBook{}).logger()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server did not stop well: %v", err)
		}
	})
	return l.Addr().String()
}

func TestTheLimitsAreThoseThatWereAgreed(t *testing.T) {
	s, err := NewServer(ServerConfig{Handler: http.NotFoundHandler(), Log: (&logBook{}).logger(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	h := s.http
	if h.ReadHeaderTimeout != 5*time.Second || h.ReadTimeout != 10*time.Second || h.WriteTimeout != time.Minute || h.IdleTimeout != time.Minute ||
		h.MaxHeaderBytes != 20<<10 || h.HTTP2.MaxConcurrentStreams != 100 || maxBody != 64<<10 || maxToken != 16<<10 || maxGrants != 16 {
		t.Errorf("they are %+v", h)
	}
	if (&certs{}).config().MinVersion != tls.VersionTLS12 {
		t.Error("TLS 1.1 is spoken")
	}
	if _, err := NewServer(ServerConfig{}); err == nil {
		t.Error("a server of nothing is made")
	}
}

// pipes is a listener without a network, so that time can be synctest's.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	shut  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), shut: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.shut:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.shut) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

func TestASlowClientIsSentAwayInTime(t *testing.T) {
	const post = "POST /v1/exchange HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\nContent-Type: application/json\r\n"
	for name, row := range map[string]struct {
		sends  []string // one a second; the last one again and again
		within time.Duration
		says   string
	}{
		"says nothing":                      {nil, readHeaderTimeout, ""},
		"drips a header":                    {[]string{"GET /healthz HTTP/1.1\r\nX: ", "a"}, readHeaderTimeout, ""},
		"drips header lines":                {[]string{"GET /healthz HTTP/1.1\r\nHost: x\r\n", "X: y\r\n"}, readHeaderTimeout, ""},
		"promises a body":                   {[]string{post + "Content-Length: 1000\r\n\r\n"}, readTimeout, "did not arrive in time"},
		"drips a body":                      {[]string{post + "Content-Length: 1000\r\n\r\n{", " "}, readTimeout, "did not arrive in time"},
		"drips chunks":                      {[]string{post + "Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"}, readTimeout, "did not arrive in time"},
		"keeps an idle connection":          {[]string{"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"}, idleTimeout, `{"alive":true}`},
		"never ends a body nobody asks for": {[]string{"POST /v1/exchange HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"}, readTimeout, "token_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeBroker{answer: anAnswer()}
				s, err := NewServer(ServerConfig{Handler: NewPublic(publicConfig(f, &logBook{})), Log: (&logBook{}).logger(), Now: time.Now})
				if err != nil {
					t.Fatal(err)
				}
				l := newPipes()
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- s.Serve(ctx, l) }()
				conn := l.dial()
				began := time.Now()
				var dripping sync.WaitGroup
				dripping.Go(func() { drip(conn, row.sends) })
				said, _ := io.ReadAll(conn)
				if took := time.Since(began); took > row.within+2*time.Second {
					t.Errorf("closed after %v, want %v", took, row.within)
				}
				if !strings.Contains(string(said), row.says) {
					t.Errorf("said %q", said)
				}
				if len(f.calls()) != 0 {
					t.Error("the broker was asked")
				}
				_ = conn.Close()
				dripping.Wait()
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func drip(conn net.Conn, sends []string) {
	for i := 0; len(sends) > 0; i++ {
		if i >= len(sends) && len(sends) == 1 {
			return
		}
		if _, err := io.WriteString(conn, sends[min(i, len(sends)-1)]); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

func TestARequestThatIsStillRunningMayEndWithinTheGrace(t *testing.T) {
	for name, row := range map[string]struct {
		takes time.Duration
		cut   bool
	}{"within": {20 * time.Second, false}, "beyond": {2 * time.Minute, true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeBroker{answer: anAnswer(), before: func() { time.Sleep(row.takes) }}
				s, err := NewServer(ServerConfig{Handler: NewPublic(publicConfig(f, &logBook{})), Log: (&logBook{}).logger(), Now: time.Now, Grace: 30 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				l := newPipes()
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- s.Serve(ctx, l) }()
				conn := l.dial()
				answered := make(chan string, 1)
				go func() {
					b, _ := io.ReadAll(conn)
					answered <- string(b)
				}()
				_, _ = io.WriteString(conn, "DELETE /v1/session HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+sessionToken+"\r\n\r\n")
				synctest.Wait()
				began := time.Now()
				stop()
				err = <-ended
				took, said := time.Since(began), <-answered
				if row.cut && (err == nil || !strings.Contains(err.Error(), "cut off") || took > 31*time.Second) {
					t.Errorf("%v after %v", err, took)
				}
				if !row.cut && (err != nil || !strings.Contains(said, "200 OK") || took > 21*time.Second) {
					t.Errorf("%v after %v: %q", err, took, said)
				}
				_ = conn.Close()
				time.Sleep(row.takes) // the bubble waits for the handler that was cut off
			})
		})
	}
}

func TestAListenerThatFailsEndsTheServer(t *testing.T) {
	s, err := NewServer(ServerConfig{Handler: http.NotFoundHandler(), Log: (&logBook{}).logger(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	l := newPipes()
	_ = l.Close()
	if err := s.Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// writePair makes a self-signed certificate for 127.0.0.1 and its key.
func writePair(t *testing.T, files TLSFiles, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "daypass test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{files.Cert: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if path == "" {
			continue
		}
		next := path + ".next"
		if err := os.WriteFile(next, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func tempPair(t *testing.T) TLSFiles {
	dir := t.TempDir()
	return TLSFiles{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
}

func TestARenewedCertificateIsUsedWithoutARestart(t *testing.T) {
	files, log := tempPair(t), &logBook{}
	writePair(t, files, 1)
	now := noon
	c, err := newCerts(files, func() time.Time { return now }, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		t.Helper()
		pair, err := c.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.SerialNumber.Int64()
	}
	writePair(t, files, 2)
	if serial() != 1 {
		t.Error("the files are read at every handshake")
	}
	now = now.Add(certsAge)
	if serial() != 2 {
		t.Error("the renewed certificate is not used")
	}

	writePair(t, TLSFiles{Cert: files.Cert}, 3) // half way through a renewal
	for range 3 {
		now = now.Add(certsAge)
		if serial() != 2 {
			t.Error("a certificate without its key is used")
		}
	}
	if strings.Count(log.String(), "cannot be used") != 1 {
		t.Errorf("told more than once, or not: %s", log)
	}
	if err := os.Remove(files.Key); err != nil {
		t.Fatal(err)
	}
	now = now.Add(certsAge)
	if serial() != 2 {
		t.Error("a lost key stopped the server")
	}
	writePair(t, files, 4)
	now = now.Add(certsAge)
	if serial() != 4 {
		t.Error("it did not recover")
	}
	now = now.Add(certsAge)
	if serial() != 4 || strings.Count(log.String(), "read again") != 2 {
		t.Errorf("files that did not change are read again: %s", log)
	}
}

func TestABrokenCertificateStopsTheStart(t *testing.T) {
	files := tempPair(t)
	writePair(t, files, 1)
	other := tempPair(t)
	writePair(t, other, 2)
	for name, bad := range map[string]TLSFiles{"no files": {}, "no key": {Cert: files.Cert, Key: files.Key + "x"}, "another key": {Cert: files.Cert, Key: other.Key}} {
		if _, err := NewServer(ServerConfig{Handler: http.NotFoundHandler(), TLS: &bad, Log: (&logBook{}).logger(), Now: time.Now}); err == nil {
			t.Errorf("%s: it starts", name)
		}
	}
}

func TestTLSIsSpokenFromOnePointTwoOnWithHTTP2(t *testing.T) {
	files := tempPair(t)
	cert := writePair(t, files, 1)
	addr := serving(t, ServerConfig{Handler: NewPublic(publicConfig(&fakeBroker{}, &logBook{})), TLS: &files})
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	res, err := client.Get("https://" + addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 || res.ProtoMajor != 2 {
		t.Errorf("%d over %s", res.StatusCode, res.Proto)
	}
	if _, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	_, _ = io.WriteString(plain, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	line, _ := bufio.NewReader(plain).ReadString('\n')
	if !strings.Contains(line, "400") {
		t.Errorf("plain HTTP on the TLS port: %q", line)
	}
}
