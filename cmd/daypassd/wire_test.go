package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// A wire stands between a broker and its database, reads what goes to the
// server message by message, and fails at the statements that make up a mint
// or a revocation: before the server gets one, or after it did what the
// statement says and before anybody hears of it.
type wire struct {
	f      *mishaps
	server string
	speaks func() dialect
}

// A dialect is how one client talks to a server.
type dialect interface {
	next(r io.Reader) ([]byte, error) // reads a message
	statement(message []byte) string  // what it tells the server to run, or ""
	steps() map[string]step           // by the name of their point
}

// A step is a statement at which a wire may fail.
type step struct {
	statement *regexp.Regexp
	after     bool // the server has done it
}

// dialects are those of the URLs that administrators have.
var dialects = map[string]func() dialect{
	"postgres": func() dialect { return &postgresDialect{prepared: map[string]string{}} },
	"mysql":    func() dialect { return mariaDialect{} },
}

var namesUser = regexp.MustCompile(`dp_test_[0-9a-z]{6}_[a-z2-7]{12}`)

// behindWire is an administrator's URL that leads through a wire.
func behindWire(f *mishaps, admin string) (string, error) {
	u, err := url.Parse(admin)
	if err != nil {
		return "", err
	}
	speaks := dialects[u.Scheme]
	if speaks == nil {
		return "", fmt.Errorf("no wire speaks %q", u.Scheme)
	}
	u.Host, err = startWire(&wire{f, u.Host, speaks})
	return u.String(), err
}

// startWire listens before a server and returns where.
func startWire(w *wire) (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.join(c)
		}
	}()
	return l.Addr().String(), nil
}

// line is one connection.
type line struct {
	dialect
	f              *mishaps
	client, server net.Conn
	armed          atomic.Pointer[string] // how to fail when the server answers next
	user           string                 // whom the last statement that named one was about
	cut            sync.Once
}

func (w *wire) join(client net.Conn) {
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &line{dialect: w.speaks(), f: w.f, client: client, server: server}
	go func() { l.down(); l.end() }()
	l.up()
	l.end()
}

func (l *line) end() { l.cut.Do(func() { _, _ = l.client.Close(), l.server.Close() }) }

// down passes on what the server says.
func (l *line) down() {
	buf := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buf)
		if way := l.armed.Swap(nil); way != nil && n > 0 && !survives(*way) {
			return
		}
		if n > 0 {
			if _, err := l.client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// survives fails, or lasts a while.
func survives(way string) bool {
	switch way {
	case faultKill:
		select {}
	case faultStall:
		time.Sleep(stallFor)
	}
	return way != faultError
}

// up passes on what the broker says.
func (l *line) up() {
	for {
		m, err := l.next(l.client)
		if err != nil {
			return
		}
		if user := namesUser.Find(m); user != nil {
			l.user = string(user)
		}
		way, after := l.due(m)
		switch {
		case way != "" && after:
			l.armed.Store(&way)
		case way != "" && !survives(way):
			return
		}
		if _, err := l.server.Write(m); err != nil {
			return
		}
	}
}

// due says whether a message is a statement to fail at.
func (l *line) due(m []byte) (way string, after bool) {
	sql := l.statement(m)
	if l.user == "" || sql == "" {
		return "", false
	}
	for point, s := range l.steps() {
		if s.statement.MatchString(sql) {
			if way := l.f.due(point, l.user); way != "" {
				return way, s.after
			}
		}
	}
	return "", false
}

// readBody reads the rest of a message whose head says how long it is.
func readBody(r io.Reader, head []byte, size int) ([]byte, error) {
	if size < 0 || size > 16<<20 {
		return nil, io.ErrUnexpectedEOF
	}
	var m bytes.Buffer
	m.Write(head)
	_, err := io.CopyN(&m, r, int64(size))
	return m.Bytes(), err
}
