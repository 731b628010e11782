package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A rotation changes an administrator's password at the server, and in the file
// that the broker reads.
type rotation struct {
	b      *broker1
	server func(password string) // at the server
	file   func(password string) // in the file
	hangUp func()                // ends the administrator's sessions, so that new ones are needed
}

// replace puts a new secret in the place of a file's, whole.
func (r *rig) replace(name, secret string) {
	if err := os.Rename(r.write(name+".new", secret+"\n"), filepath.Join(r.dir, name)); err != nil {
		r.t.Error(err)
	}
}

// errors are the lines of a broker's log that tell of any.
func (b *broker1) errors() string {
	var list []string
	for line := range strings.Lines(b.out.String()) {
		if strings.Contains(line, `"err":`) {
			list = append(list, line)
		}
	}
	return strings.Join(list[max(0, len(list)-10):], "")
}

// load has several jobs make exchanges all the time, until stop: each makes a
// user and gives it back. A pause is between exchanges.
type load struct {
	mu     sync.RWMutex // held for writing in a pause
	done   atomic.Bool
	all    sync.WaitGroup
	bought atomic.Int64
	width  atomic.Int32 // so many of the workers work
}

func startLoad(b *broker1, workers int32, grants ...map[string]any) *load {
	l := &load{}
	l.width.Store(workers)
	for i := range workers {
		l.all.Go(func() {
			for !l.done.Load() {
				if i >= l.width.Load() {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				l.mu.RLock()
				status, a := b.exchange(b.rig.token(b, nil), grants...)
				if status != http.StatusOK {
					b.rig.t.Errorf("an exchange failed: %d %v", status, a.body)
				} else if status, body := b.call(http.MethodDelete, "/v1/session", a.session(), nil); status != http.StatusOK || strings.Contains(fmt.Sprint(body), "revoking") {
					b.rig.t.Errorf("giving back failed: %d %v", status, body)
				}
				l.bought.Add(1)
				l.mu.RUnlock()
			}
		})
	}
	return l
}

// moves waits until so many more exchanges were made.
func (l *load) moves(t *testing.T, n int64) {
	t.Helper()
	want := l.bought.Load() + n
	for deadline := time.Now().Add(60 * time.Second); l.bought.Load() < want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d exchanges in a minute", l.bought.Load()-want+n)
		}
	}
}

// paused does something between exchanges.
func (l *load) paused(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

// rotate changes the password in every order under load. Sessions are ended
// where the server takes a password that the file has had last, so that every
// connection has to be made anew.
func (x rotation) rotate(t *testing.T, l *load) {
	const some = 24
	for name, do := range map[string]func(){
		"the server first": func() {
			width := l.width.Swap(1) // so that one connection is there, and more are needed
			l.paused(x.hangUp)
			l.moves(t, 6)
			x.server("planted-first")
			l.width.Store(width)
			l.moves(t, some) // on the one connection there is: nobody told us the new password
			x.file("planted-first")
		},
		"the file first": func() {
			x.file("planted-second")
			l.paused(x.hangUp)
			l.moves(t, some) // with the previous one
			x.server("planted-second")
		},
		"half done, and undone": func() {
			x.file("planted-never")
			l.paused(x.hangUp)
			l.moves(t, some)
			x.server("planted-back")
			x.file("planted-back")
		},
	} {
		do()
		l.moves(t, some)
		l.paused(x.hangUp)
		l.moves(t, some)
		if t.Failed() {
			t.Fatalf("in a rotation of this sort: %s; the broker says:\n%s", name, x.b.errors())
		}
	}
}

const workers = 6 // of a load

func TestAnAdminPasswordIsRotatedUnderLoadInEitherOrderAndHalfDone(t *testing.T) {
	t.Run("PostgreSQL", func(t *testing.T) {
		r := newRig(t)
		r.sql(`CREATE ROLE daypass_admin SUPERUSER LOGIN PASSWORD 'planted-zero'`)
		file := func(password string) { r.replace("pg-admin", r.pg.URL("daypass_admin", password, "postgres")) }
		file("planted-zero")
		b := r.changed("one", "embedded", func(c string) string {
			return strings.Replace(c, `"env:ORDERS_ADMIN_URL"`, `"file:`+r.dir+`/pg-admin"`, 1)
		})
		b.fresh()
		l := startLoad(b, workers)
		defer func() { l.done.Store(true); l.all.Wait() }()
		l.moves(t, 24)
		rotation{b: b, file: file,
			server: func(password string) { r.sql(`ALTER ROLE daypass_admin PASSWORD '` + password + `'`) },
			hangUp: func() {
				if n := len(r.sql(`SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = 'daypass_admin'`)); n == 0 {
					t.Error("the administrator had no session")
				}
			},
		}.rotate(t, l)
		t.Logf("%d exchanges", l.bought.Load())
	})
	t.Run("MariaDB", func(t *testing.T) {
		r := newMariaRig(t)
		b := r.maria("one")
		b.fresh(map[string]any{"name": "stock-db"})
		l := startLoad(b, workers, map[string]any{"name": "stock-db", "ttl": "10m"})
		defer func() { l.done.Store(true); l.all.Wait() }()
		l.moves(t, 24)
		tell := func(sql string) {
			if _, err := r.admin.ExecContext(t.Context(), sql); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
		}
		rotation{b: b,
			file:   func(password string) { r.replace("my-admin", r.my.URL("daypass", password, "daypass")) },
			server: func(password string) { tell(`ALTER USER daypass@'%' IDENTIFIED BY '` + password + `'`) },
			hangUp: func() { tell(`KILL CONNECTION USER daypass`) },
		}.rotate(t, l)
		t.Logf("%d exchanges", l.bought.Load())
	})
}
