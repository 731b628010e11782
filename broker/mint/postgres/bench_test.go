package postgres_test

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

// benchServer syncs to disk, as servers do, and logs nothing.
func benchServer(b *testing.B) *servers.Postgres {
	own, err := servers.StartPostgres(b.Context(), servers.PostgresConfig{Settings: map[string]string{"fsync": "on", "shared_buffers": "256MB"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = own.Close() })
	if err := prepare(b.Context(), own); err != nil {
		b.Fatal(err)
	}
	return own
}

func benchMinter(b *testing.B, own *servers.Postgres, connections int) broker.Minter {
	c := config(holding(own.AdminURL("app")))
	c.Params = fmt.Appendf(nil, `{"connections": %d}`, connections)
	m, err := postgres.Kind().Open(c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closeMinter(m) })
	return m
}

// BenchmarkIssueBesideABareLoop mints by turns with the kind, and with a loop
// over pgx that runs the same statements on as many connections, each user's in
// one message, and nothing else: the ratio is what the kind costs, whatever the machine is busy with.
func BenchmarkIssueBesideABareLoop(b *testing.B) {
	own := benchServer(b)
	for _, iterations := range []int{4096, 1} {
		for _, workers := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%d at once with %d iterations", workers, iterations), func(b *testing.B) {
				m := benchMinter(b, own, workers)
				g := grant(fmt.Sprintf(`{"roles": ["app_owner"], "scram_iterations": %d}`, iterations))
				conns := make([]postgres.Bare, workers)
				for i := range conns {
					var err error
					if conns[i], err = postgres.ConnectBare(b.Context(), broker.NewSecret(own.AdminURL("app"))); err != nil {
						b.Fatal(err)
					}
					b.Cleanup(conns[i].Close)
				}
				var mu sync.Mutex
				order := func() (broker.Order, broker.Handle) {
					mu.Lock()
					defer mu.Unlock()
					o := orderFor(g, time.Hour)
					h, err := m.Plan(o)
					if err != nil {
						b.Error(err)
					}
					return o, h
				}
				bare := func(w, _ int) error {
					o, h := order()
					return conns[w].Mint(b.Context(), o, h)
				}
				ours := func(int, int) error {
					o, h := order()
					_, err := m.Mint(b.Context(), o, h)
					return err
				}
				n := 96
				if iterations == 1 {
					n = 640
				}
				brokertest.AtOnce(b, workers, workers, ours) // connects
				brokertest.Compare(b, func() float64 { return brokertest.AtOnce(b, workers, n, bare) }, func() float64 { return brokertest.AtOnce(b, workers, n, ours) })
			})
		}
	}
}

// BenchmarkRevokeBesidePsql drops users by turns with the kind, and with psql
// that is given nothing but DROP ROLE.
func BenchmarkRevokeBesidePsql(b *testing.B) {
	own := benchServer(b)
	for _, workers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("%d at once", workers), func(b *testing.B) {
			m := benchMinter(b, own, 8)
			const n = 1000
			users := func() []broker.Handle { return makeUsers(b, own, n) }
			bare := func() float64 {
				var script strings.Builder
				for _, h := range users() {
					fmt.Fprintf(&script, "DROP ROLE %s;\n", postgres.QuoteName(string(h)))
				}
				path := filepath.Join(b.TempDir(), "drop.sql")
				if err := os.WriteFile(path, []byte(script.String()), 0o600); err != nil {
					b.Fatal(err)
				}
				began := time.Now()
				out, err := osexec.CommandContext(b.Context(), own.Bin("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", path, own.AdminURL("app")).CombinedOutput()
				if err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				return n / time.Since(began).Seconds()
			}
			ours := func() float64 {
				handles := make(chan broker.Handle, n)
				for _, h := range users() {
					handles <- h
				}
				return brokertest.AtOnce(b, workers, n, func(int, int) error {
					return m.Revoke(b.Context(), broker.Lease{Handle: <-handles, Grant: appGrant})
				})
			}
			revokeOnce := makeUsers(b, own, 1)
			if err := m.Revoke(b.Context(), broker.Lease{Handle: revokeOnce[0], Grant: appGrant}); err != nil { // connects
				b.Fatal(err)
			}
			brokertest.Compare(b, bare, ours)
		})
	}
}

// makeUsers makes many users quickly, as mints would have.
func makeUsers(tb testing.TB, own *servers.Postgres, n int) []broker.Handle {
	tb.Helper()
	c, err := pgx.Connect(tb.Context(), own.AdminURL("app"))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	g := grant(`{"roles": ["app_owner"], "scram_iterations": 1}`)
	handles := make([]broker.Handle, n)
	var script strings.Builder
	for i := range handles {
		o := orderFor(g, time.Hour)
		if handles[i], err = broker.NewHandle("test", o.NotAfter, o.Lease); err != nil {
			tb.Fatal(err)
		}
		sql, err := postgres.Statements(o, handles[i])
		if err != nil {
			tb.Fatal(err)
		}
		script.WriteString(sql + ";\n")
	}
	if _, err := c.Exec(tb.Context(), script.String()); err != nil {
		tb.Fatal(err)
	}
	return handles
}
