package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// bench is a whole daypassd in this process: embedded state, journal on disk,
// the jwt kind.
type bench struct {
	d      *daemon
	ci     *fakeissuer.Server
	server *httptest.Server
}

const benchConfig = `url: http://127.0.0.1:1
deployment: bnch
broker: bench
state: embedded
issuers:
  github: {profile: github, url: %s, insecure: true, jwks_file: jwks.json}
grants:
  web-identity: {kind: jwt, max_ttl: 30m, params: {audience: sts.example.com}}
`

const benchPolicy = `rules:
  - name: main
    issuer: github
    match: {repository_owner_id: "1234", repository_id: "5678", ref: refs/heads/main, event_name: push}
    allow: [{grant: web-identity}]
`

// newBench waits until exchanges are served.
func newBench(b testing.TB) *bench {
	b.Helper()
	e := openBench(b)
	time.Sleep(6 * time.Second) // tokens issued within 5 s of the first start are stale
	return e
}

// openBench serves at once what buys nothing.
func openBench(b testing.TB) *bench {
	b.Helper()
	dir := b.TempDir()
	ci, err := fakeissuer.Start(fakeissuer.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ci.Close() })
	jwks, err := ci.JWKS()
	if err != nil {
		b.Fatal(err)
	}
	for name, text := range map[string]string{
		"daypass.yaml": fmt.Sprintf(benchConfig, ci.URL(fakeissuer.GitHub)), "policies/bench.yaml": benchPolicy, "jwks.json": string(jwks),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	c, err := loadConfig(filepath.Join(dir, "daypass.yaml"))
	if err != nil {
		b.Fatal(err)
	}
	p := process{env: os.LookupEnv, stdout: os.Stdout, stderr: os.Stderr}
	d, err := assemble(context.Background(), c, p, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.close(context.Background()) })
	server := httptest.NewServer(d.public)
	b.Cleanup(server.Close)
	return &bench{d: d, ci: ci, server: server}
}

// tokens signs n fresh ones on all cores.
func (e *bench) tokens(b *testing.B, n int) []string {
	b.Helper()
	return e.tokensOf(b, n, func(int) string { return "5678" })
}

// tokensOf makes tokens of repositories of one owner.
func (e *bench) tokensOf(b *testing.B, n int, repository func(i int) string) []string {
	b.Helper()
	out := make([]string, n)
	var all sync.WaitGroup
	for w := range 2 {
		all.Go(func() {
			for i := w; i < n; i += 2 {
				t, err := e.ci.Token(fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: e.d.config.Audience, Set: map[string]any{
					"repository_owner_id": "1234", "repository_id": repository(i)}})
				if err != nil {
					b.Error(err)
				}
				out[i] = t
			}
		})
	}
	all.Wait()
	return out
}

var benchWants = []broker.Want{{Name: "web-identity", TTL: 10 * time.Minute}}

func BenchmarkExchangeInProcess(b *testing.B) {
	e := newBench(b)
	tokens := e.tokens(b, b.N)
	b.ReportAllocs()
	b.ResetTimer()
	for _, token := range tokens {
		answer, err := e.d.broker.Exchange(context.Background(), broker.NewSecret(token), broker.Request{ID: "req_bench", Wants: benchWants})
		if err != nil || len(answer.Granted) != 1 {
			b.Fatal(err)
		}
	}
}

func BenchmarkExchangeInProcess32AtOnce(b *testing.B) {
	e := newBench(b)
	tokens := make(chan string, b.N)
	for _, t := range e.tokens(b, b.N) {
		tokens <- t
	}
	b.ReportAllocs()
	b.SetParallelism(16) // times two cores
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := e.d.broker.Exchange(context.Background(), broker.NewSecret(<-tokens), broker.Request{ID: "req_bench", Wants: benchWants}); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkExchangeOverHTTP(b *testing.B) {
	e := newBench(b)
	tokens := make(chan string, b.N)
	for _, t := range e.tokens(b, b.N) {
		tokens <- t
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DialContext: (&net.Dialer{}).DialContext}}
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := exchangeOnce(client, e.server.URL, <-tokens); err != nil {
				b.Error(err)
			}
		}
	})
}

func exchangeOnce(client *http.Client, url, token string) error {
	req, err := http.NewRequest(http.MethodPost, url+"/v1/exchange", strings.NewReader(`{"grants":[{"name":"web-identity","ttl":"10m"}]}`))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Credentials []json.RawMessage `json:"credentials"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || len(answer.Credentials) != 1 {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	return nil
}

// BenchmarkBareRSAVerify and BenchmarkBareRSASign are what the others are
// ratios of.
func BenchmarkBareRSAVerify(b *testing.B) {
	key, sum, sig := bareRSA(b)
	b.ReportAllocs()
	for b.Loop() {
		if rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], sig) != nil {
			b.Fatal("does not verify")
		}
	}
}

func BenchmarkBareRSASign(b *testing.B) {
	key, sum, _ := bareRSA(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:]); err != nil {
			b.Fatal(err)
		}
	}
}

func bareRSA(b *testing.B) (*rsa.PrivateKey, [32]byte, []byte) {
	b.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256([]byte("a token"))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	return key, sum, sig
}
