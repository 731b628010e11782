package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A wire stands between a broker and its PostgreSQL, reads what goes to the
// server message by message, and fails at the statements that make up a mint
// or a revocation: before the server gets one, or after it did what the
// statement says and before anybody hears of it.
type wire struct {
	f      *mishaps
	server string
}

// A step is a statement at which a wire may fail.
type step struct {
	statement *regexp.Regexp
	after     bool // the server has done it
}

// wireSteps are the steps inside the server, by the name of their point.
var wireSteps = map[string]step{
	"mint-created":     {regexp.MustCompile(`^COMMIT$`), false}, // all is done but the commit
	"mint-committed":   {regexp.MustCompile(`^COMMIT$`), true},
	"revoke-disabled":  {regexp.MustCompile(`ALTER ROLE "dp_\w+" NOLOGIN`), true},
	"revoke-ended":     {regexp.MustCompile(`pg_terminate_backend`), true},
	"revoke-ungrouped": {regexp.MustCompile(`REVOKE "orders_rw" FROM`), true},
	"revoke-tidied":    {regexp.MustCompile(`DROP OWNED BY`), true},
	"revoke-undropped": {regexp.MustCompile(`DROP ROLE "dp_`), false},
	"revoke-dropped":   {regexp.MustCompile(`DROP ROLE "dp_`), true},
}

var namesUser = regexp.MustCompile(`dp_test_[0-9a-z]{6}_[a-z2-7]{12}`)

// startWire listens before a server and returns where.
func startWire(f *mishaps, server string) (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	w := &wire{f, server}
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
	f              *mishaps
	client, server net.Conn
	armed          atomic.Pointer[string] // how to fail when the server answers next
	user           string                 // whom the last statement that named one was about
	prepared       map[string]string      // statements by name
	cut            sync.Once
}

func (w *wire) join(client net.Conn) {
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &line{f: w.f, client: client, server: server, prepared: map[string]string{}}
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

// up passes on what the broker says: a greeting, and then messages.
func (l *line) up() {
	if m, err := readMessage(l.client, 0); err != nil || !l.pass(m) {
		return
	}
	for {
		m, err := readMessage(l.client, 1)
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
		if !l.pass(m) {
			return
		}
	}
}

func (l *line) pass(m []byte) bool {
	_, err := l.server.Write(m)
	return err == nil
}

// due says whether a message is a statement to fail at.
func (l *line) due(m []byte) (way string, after bool) {
	sql := l.statement(m)
	if l.user == "" || sql == "" {
		return "", false
	}
	for point, s := range wireSteps {
		if s.statement.MatchString(sql) {
			if way := l.f.due(point, l.user); way != "" {
				return way, s.after
			}
		}
	}
	return "", false
}

// statement is what a message tells the server to run; one that is prepared is
// run when it is bound.
func (l *line) statement(m []byte) string {
	parts := strings.SplitN(string(m[min(5, len(m)):]), "\x00", 3)
	if len(parts) < 2 {
		return ""
	}
	switch name := parts[0]; m[0] {
	case 'Q':
		return parts[0]
	case 'P':
		if name == "" {
			return parts[1]
		}
		l.prepared[name] = parts[1]
	case 'B':
		return l.prepared[parts[1]]
	}
	return ""
}

// readMessage reads a message whose length stands behind so many bytes.
func readMessage(r io.Reader, skip int) ([]byte, error) {
	head := make([]byte, skip+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[skip:])
	if size < 4 || size > 16<<20 {
		return nil, io.ErrUnexpectedEOF
	}
	var m bytes.Buffer
	m.Write(head)
	_, err := io.CopyN(&m, r, int64(size)-4)
	return m.Bytes(), err
}
