package mysql_test

import (
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/mint/mysql"
)

// benchServer writes each commit to disk, as servers do, and logs nothing.
func benchServer(b *testing.B) *servers.MariaDB {
	own, err := start(b.Context(), both(awkward(), map[string]string{"innodb-flush-log-at-trx-commit": "1", "general-log": "OFF", "innodb-buffer-pool-size": "256M", "autocommit": "ON"}), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = own.Close() })
	if err := prepare(b.Context(), own); err != nil {
		b.Fatal(err)
	}
	return own
}

// planned is an order with its handle.
func planned(b *testing.B, m broker.Minter, g broker.Grant) (broker.Order, broker.Handle) {
	o := orderFor(g, time.Hour)
	h, err := m.Plan(o)
	if err != nil {
		b.Error(err)
	}
	return o, h
}

// BenchmarkMintBesideABareLoop mints by turns with the kind, and with a loop over
// the same driver that runs the same statements, on as many connections as the
// kind has, and nothing else: the ratio is what the kind costs.
func BenchmarkMintBesideABareLoop(b *testing.B) {
	own := benchServer(b)
	for name, g := range map[string]broker.Grant{"with a role": roleGrant, "with privileges": dbGrant} {
		for _, workers := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%d at once %s", workers, name), func(b *testing.B) {
				m := openMinter(b, holding(own.AdminURL("daypass")))
				conns := make(chan *link, min(workers, mysql.MintConnections))
				for range cap(conns) {
					c := rootOn(b, own)
					exec(b, c, "SET time_zone = '+00:00'")
					conns <- c
				}
				bare := func(int, int) error {
					o, h := planned(b, m, g)
					list, err := mysql.Statements(o, h, "daypass", !own.IsMySQL())
					if err != nil {
						return err
					}
					c := <-conns
					defer func() { conns <- c }()
					for _, statement := range list {
						if _, err := c.ExecContext(b.Context(), statement); err != nil {
							return err
						}
					}
					return nil
				}
				ours := func(int, int) error {
					o, h := planned(b, m, g)
					_, err := m.Mint(b.Context(), o, h)
					return err
				}
				brokertest.AtOnce(b, workers, workers, ours) // connects
				turn := func(do func(int, int) error) func() float64 {
					return func() float64 { tidy(b, own); return brokertest.AtOnce(b, workers, 192, do) }
				}
				brokertest.Compare(b, turn(bare), turn(ours))
			})
		}
	}
}

// BenchmarkRevokeBesideTheClient drops users by turns with the kind, and with
// the mariadb client that is given nothing but DROP USER.
func BenchmarkRevokeBesideTheClient(b *testing.B) {
	own := benchServer(b)
	for name, g := range map[string]broker.Grant{"with a role": roleGrant, "with privileges": dbGrant} {
		for _, workers := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%d at once %s", workers, name), func(b *testing.B) {
				m := openMinter(b, holding(own.AdminURL("daypass")))
				const n = 192
				bare := func() float64 {
					var script strings.Builder
					for _, h := range makeUsers(b, own, m, g, n) {
						fmt.Fprintf(&script, "DROP USER %s@`%%`;\n", mysql.QuoteName(string(h)))
					}
					path := filepath.Join(b.TempDir(), "drop.sql")
					if err := os.WriteFile(path, []byte(script.String()), 0o600); err != nil {
						b.Fatal(err)
					}
					cmd := osexec.CommandContext(b.Context(), "mariadb", "--no-defaults", "-B", "--protocol=tcp", "-h", own.Host(), "-P", strconv.Itoa(own.Port()), "-u", "root", "-e", "source "+path)
					cmd.Env = append(os.Environ(), "MYSQL_PWD="+own.AdminPassword())
					began := time.Now()
					if out, err := cmd.CombinedOutput(); err != nil {
						b.Fatalf("%v: %s", err, out)
					}
					return n / time.Since(began).Seconds()
				}
				ours := func() float64 {
					handles := make(chan broker.Handle, n)
					for _, h := range makeUsers(b, own, m, g, n) {
						handles <- h
					}
					return brokertest.AtOnce(b, workers, n, func(int, int) error {
						return m.Revoke(b.Context(), broker.Lease{Handle: <-handles, Grant: g})
					})
				}
				if err := m.Revoke(b.Context(), broker.Lease{Handle: makeUsers(b, own, m, g, 1)[0], Grant: g}); err != nil { // connects
					b.Fatal(err)
				}
				brokertest.Compare(b, bare, ours)
			})
		}
	}
}

// makeUsers makes users as mints would have.
func makeUsers(b *testing.B, own *servers.MariaDB, m broker.Minter, g broker.Grant, n int) []broker.Handle {
	b.Helper()
	tidy(b, own)
	c := rootOn(b, own)
	defer func() { _ = c.Close() }()
	exec(b, c, "SET time_zone = '+00:00'", "CREATE DATABASE IF NOT EXISTS daypass")
	handles := make([]broker.Handle, n)
	for i := range handles {
		o, h := planned(b, m, g)
		list, err := mysql.Statements(o, h, "daypass", !own.IsMySQL())
		if err != nil {
			b.Fatal(err)
		}
		exec(b, c, list...)
		handles[i] = h
	}
	return handles
}

// tidy drops what the turn before left, so that each begins alike.
func tidy(b *testing.B, own *servers.MariaDB) {
	b.Helper()
	c := rootOn(b, own)
	defer func() { _ = c.Close() }()
	for kind, query := range map[string]string{
		"USER":  "SELECT CONCAT('`', User, '`@`', Host, '`') FROM mysql.user WHERE User LIKE 'dp\\_test\\_%'",
		"EVENT": "SELECT CONCAT('daypass.`', EVENT_NAME, '`') FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'daypass'",
	} {
		rows, err := c.QueryContext(b.Context(), query)
		if err != nil {
			b.Fatal(err)
		}
		var names []string
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				b.Fatal(err)
			}
			names = append(names, "DROP "+kind+" "+name)
		}
		if err := rows.Err(); err != nil {
			b.Fatal(err)
		}
		exec(b, c, names...)
	}
}
