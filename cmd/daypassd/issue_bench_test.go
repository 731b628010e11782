package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

const issueConfig = `url: http://127.0.0.1:1
deployment: bnch
broker: bench
state: embedded
issuers:
  github: {profile: github, url: %s, insecure: true, jwks_file: jwks.json}
targets:
  pg: {kind: postgres, admin: "env:PG_URL"}
grants:
`

// issueBench is a whole daypassd in this process over a PostgreSQL that syncs
// to disk, with the grants i4096-N and i1-N, N below 16.
type issueBench struct {
	*bench
	pg *servers.Postgres
}

func newIssueBench(b *testing.B) *issueBench {
	b.Helper()
	e := &issueBench{bench: &bench{}}
	var err error
	if e.pg, err = servers.StartPostgres(b.Context(), servers.PostgresConfig{Settings: map[string]string{"fsync": "on", "shared_buffers": "256MB"}}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.pg.Close() })
	if out, err := e.psql("CREATE ROLE orders_rw NOLOGIN"); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	if e.ci, err = fakeissuer.Start(fakeissuer.Options{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.ci.Close() })
	jwks, err := e.ci.JWKS()
	if err != nil {
		b.Fatal(err)
	}
	config, policy := fmt.Sprintf(issueConfig, e.ci.URL(fakeissuer.GitHub)), strings.NewReplacer("[{grant: web-identity}]", "[", `, repository_id: "5678"`, "").Replace(benchPolicy)
	for _, n := range []int{4096, 1} {
		for i := range 16 {
			config += fmt.Sprintf("  i%d-%d: {target: pg, max_ttl: 1h, params: {roles: [orders_rw], scram_iterations: %d}}\n", n, i, n)
			policy = strings.TrimSpace(policy) + fmt.Sprintf("{grant: i%d-%d}, ", n, i)
		}
	}
	e.assemble(b, map[string]string{"daypass.yaml": config, "policies/bench.yaml": policy + "]\n", "jwks.json": string(jwks)})
	time.Sleep(6 * time.Second) // tokens issued within 5 s of the first start are stale
	return e
}

func (e *issueBench) assemble(b *testing.B, files map[string]string) {
	b.Helper()
	dir := b.TempDir()
	for name, text := range files {
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
	p := process{env: func(string) (string, bool) { return e.pg.AdminURL("postgres"), true }, stdout: os.Stdout, stderr: os.Stderr}
	if e.d, err = assemble(context.Background(), c, p, slog.New(slog.DiscardHandler)); err != nil {
		b.Fatal(err)
	}
	weight := ballast(os.LookupEnv)
	b.Cleanup(func() { _ = e.d.close(context.Background()); runtime.KeepAlive(weight) })
	e.server = httptest.NewServer(e.d.public)
	b.Cleanup(e.server.Close)
}

// psql runs a script with the server's own client.
func (e *issueBench) psql(script string) ([]byte, error) {
	cmd := exec.Command(e.pg.Bin("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", e.pg.AdminURL("postgres"))
	cmd.Stdin = strings.NewReader(script)
	return cmd.CombinedOutput()
}

// A shopper makes exchanges over one HTTP connection, and does little else: it
// shares the machine with what is measured.
type shopper struct {
	conn    net.Conn
	answers *bufio.Reader
}

func (e *issueBench) shopper(b *testing.B) *shopper {
	b.Helper()
	conn, err := net.Dial("tcp", e.server.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return &shopper{conn, bufio.NewReader(conn)}
}

func (e *issueBench) shoppers(b *testing.B, n int) []*shopper {
	all := make([]*shopper, n)
	for i := range all {
		all[i] = e.shopper(b)
	}
	return all
}

// buy makes one exchange.
func (s *shopper) buy(token, grants string) error {
	body := `{"grants":[` + grants + `]}`
	if _, err := fmt.Fprintf(s.conn, "POST /v1/exchange HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		s.conn.RemoteAddr(), token, len(body), body); err != nil {
		return err
	}
	resp, err := http.ReadResponse(s.answers, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("exchange: %d %s %v", resp.StatusCode, answer, err)
	}
	return nil
}

// bareUser makes a user like the kind's, as one script.
func bareUser(n int64, iterations int) string {
	name := fmt.Sprintf("bare_%d", n)
	return fmt.Sprintf(`BEGIN; SELECT pg_advisory_xact_lock(%d); SELECT rolname FROM pg_roles WHERE rolname = 'orders_rw';
		CREATE ROLE %[2]s LOGIN INHERIT PASSWORD '%[3]s' VALID UNTIL '2038-01-01';
		GRANT orders_rw TO %[2]s; ALTER ROLE %[2]s SET role = 'orders_rw'; COMMENT ON ROLE %[2]s IS '{"by":"daypass","lease":"dpl_aaaaaaaaaaaaaaaaaaaaaaaaaa","place":"github:5678"}'; COMMIT`,
		n, name, bareVerifier(iterations))
}

// bareVerifier derives what a server stores of a random password (RFC 5802), as
// whoever makes users has to.
func bareVerifier(iterations int) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // it never fails
	salted, err := pbkdf2.Key(sha256.New, rand.Text(), salt, iterations, sha256.Size)
	if err != nil {
		panic(err)
	}
	mac := func(text string) []byte {
		m := hmac.New(sha256.New, salted)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	stored, text := sha256.Sum256(mac("Client Key")), base64.StdEncoding
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, text.EncodeToString(salt), text.EncodeToString(stored[:]), text.EncodeToString(mac("Server Key")))
}

// BenchmarkExchangesBesideABareLoop issues by turns through the whole exchange,
// over HTTP and with the journal on disk, and with a loop that tells the
// server the same over pgx, each user's statements in one message, and does
// nothing else but derive verifiers.
func BenchmarkExchangesBesideABareLoop(b *testing.B) {
	e := newIssueBench(b)
	var made atomic.Int64
	for _, iterations := range []int{4096, 1} {
		same := learn(b, e.pg.AdminURL("postgres"), fmt.Sprintf(`{"roles": ["orders_rw"], "scram_iterations": %d}`, iterations))
		for _, workers := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%d at once with %d iterations", workers, iterations), func(b *testing.B) {
				grant := fmt.Sprintf(`{"name":"i%d-0","ttl":"1h"}`, iterations)
				const n = 256
				conns, shoppers := e.bareConns(b, workers, same), e.shoppers(b, workers)
				bare := func(w, _ int) error {
					var batch pgconn.Batch
					i := made.Add(1)
					same.again(&batch, fmt.Sprintf("dp_bare_000000_%012d", i), strconv.FormatInt(i, 10), bareVerifier(iterations))
					_, err := conns[w].ExecBatch(b.Context(), &batch).ReadAll()
					return err
				}
				ours := func() float64 {
					tokens := e.tokens(b, n)
					return brokertest.AtOnce(b, workers, n, func(w, i int) error { return shoppers[w].buy(tokens[i], grant) })
				}
				ours() // connects
				brokertest.Compare(b, func() float64 { return brokertest.AtOnce(b, workers, n, bare) }, ours)
			})
		}
	}
}

// bareConns are connections like the kind's.
func (e *issueBench) bareConns(b *testing.B, n int, s said) []*pgconn.PgConn {
	b.Helper()
	config, err := pgconn.ParseConfig(e.pg.AdminURL("postgres"))
	if err != nil {
		b.Fatal(err)
	}
	config.RuntimeParams = s.settings
	conns := make([]*pgconn.PgConn, n)
	for i := range conns {
		c, err := pgconn.ConnectConfig(b.Context(), config)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close(context.Background()) })
		for name, sql := range s.named {
			if _, err := c.Prepare(b.Context(), name, sql, nil); err != nil {
				b.Fatal(err)
			}
		}
		conns[i] = c
	}
	return conns
}

// BenchmarkTenThousandExpireInOneSecond measures issuing before and while ten
// thousand leases that end in one second are taken back, and how fast that
// goes beside psql with nothing but DROP ROLE.
func BenchmarkTenThousandExpireInOneSecond(b *testing.B) {
	const users, each = 10_000, 16
	e := newIssueBench(b)
	for b.Loop() {
		psql := e.dropWithPsql(b, users)
		expiry := time.Now().Add(60 * time.Second).Truncate(time.Second)
		// No repository has more than a few credentials, as limits would have it.
		tokens, shoppers := e.tokensOf(b, users/each, func(i int) string { return strconv.Itoa(5678 + i/2) }), e.shoppers(b, 8)
		brokertest.AtOnce(b, len(shoppers), len(tokens), func(w, i int) error {
			var grants []string
			for g := range each {
				grants = append(grants, fmt.Sprintf(`{"name":"i1-%d","ttl":"%ds"}`, g, int(time.Until(expiry).Seconds()+1)))
			}
			return shoppers[w].buy(tokens[i], strings.Join(grants, ","))
		})
		left := time.Until(expiry)
		if left < 12*time.Second {
			b.Fatalf("%v before the expiry there is no time left to measure", left)
		}
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { e.d.broker.Run(ctx) })
		idle := e.latencies(b, func() bool { return time.Until(expiry) > 3*time.Second })
		time.Sleep(time.Until(expiry.Add(time.Second)))
		began := time.Now()
		var rate atomic.Uint64
		var clearing sync.WaitGroup
		clearing.Go(func() { rate.Store(uint64(e.cleared(b, expiry))) })
		busy := e.latencies(b, func() bool { return rate.Load() == 0 && time.Since(began) < 3*time.Minute })
		clearing.Wait()
		stop()
		running.Wait()
		b.ReportMetric(psql, "psql/s")
		b.ReportMetric(float64(rate.Load()), "cleared/s")
		b.ReportMetric(float64(rate.Load())/psql, "ratio")
		b.ReportMetric(brokertest.Quantile(idle, 0.99), "idle-p99-ms")
		b.ReportMetric(brokertest.Quantile(busy, 0.99), "busy-p99-ms")
		b.ReportMetric(time.Since(began).Seconds(), "gone-after-s")
		b.ReportMetric(0, "ns/op")
	}
}

// dropWithPsql makes as many users and says how many psql drops a second.
func (e *issueBench) dropWithPsql(b *testing.B, n int) float64 {
	b.Helper()
	var create, drop strings.Builder
	for i := range n {
		create.WriteString(strings.ReplaceAll(bareUser(int64(i), 1), "bare_", "psql_") + ";\n")
		fmt.Fprintf(&drop, "DROP ROLE psql_%d;\n", i)
	}
	if out, err := e.psql(create.String()); err != nil {
		b.Fatalf("%v: %.500s", err, out)
	}
	began := time.Now()
	if out, err := e.psql(drop.String()); err != nil {
		b.Fatalf("%v: %.500s", err, out)
	}
	rate := float64(n) / time.Since(began).Seconds()
	// What follows is to find the tables as psql did, not full of its dead rows.
	if out, err := e.psql("VACUUM pg_authid; VACUUM pg_auth_members; VACUUM pg_db_role_setting; VACUUM pg_shdescription"); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return rate
}

// latencies makes exchanges one after the other, twenty a second at most.
func (e *issueBench) latencies(b *testing.B, more func() bool) []float64 {
	b.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var took []float64
	s := e.shopper(b)
	for more() {
		token := e.tokens(b, 1)[0]
		began := time.Now()
		if err := s.buy(token, `{"name":"i1-0","ttl":"1h"}`); err != nil {
			b.Error(err)
			break
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
		<-tick.C
	}
	return took
}

// cleared waits until what expired is gone, and says how many went a second
// from the first to the last.
func (e *issueBench) cleared(b *testing.B, expiry time.Time) float64 {
	conn, err := pgx.Connect(context.Background(), e.pg.AdminURL("postgres"))
	if err != nil {
		b.Error(err)
		return 1
	}
	defer conn.Close(context.Background())
	first, all := time.Time{}, -1
	for {
		var n int
		if err := conn.QueryRow(context.Background(), `SELECT count(*)::int FROM pg_roles WHERE starts_with(rolname, 'dp_bnch_') AND rolvaliduntil < $1`, expiry.Add(time.Minute)).Scan(&n); err != nil {
			b.Error(err)
			return 1
		}
		switch {
		case all < 0:
			all = n
		case n < all && first.IsZero():
			first = time.Now()
		case n == 0 || time.Since(expiry) > 3*time.Minute:
			return max(1, float64(all-n)/time.Since(first).Seconds())
		}
		time.Sleep(250 * time.Millisecond)
	}
}
