package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

// said is what the kind tells the server for one user, learnt from the wire.
type said struct {
	settings   map[string]string // of the session
	named      map[string]string // prepared statements
	statements []statement
	handle     string // whom they make
}

// A statement is one that is prepared, or the text of one.
type statement struct {
	prepared, sql string
	params        [][]byte
}

// learn has the kind make a user through a relay that listens.
func learn(tb testing.TB, admin, params string) said {
	tb.Helper()
	relay := &relay{server: mustParse(tb, admin).Host, said: said{named: make(map[string]string)}}
	u := mustParse(tb, admin)
	u.Host = relay.listen(tb)
	m, err := postgres.Kind().Open(broker.TargetConfig{Name: "pg", Deployment: "bnch", Admin: fixedSecret(u.String()), Params: json.RawMessage(`{"connections": 1}`)})
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = m.(io.Closer).Close() }()
	for range 2 { // the first connects and prepares
		relay.forget()
		lease, err := broker.NewLeaseID(rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		o := broker.Order{Lease: lease, NotAfter: time.Now().Add(time.Hour).Truncate(time.Second),
			Grant: broker.Grant{Name: "g", Target: "pg", Kind: "postgres", MaxTTL: time.Hour, Params: json.RawMessage(params)}}
		h, err := m.Plan(o)
		if err == nil {
			_, err = m.Mint(tb.Context(), o, h)
		}
		if err != nil {
			tb.Fatal(err)
		}
		relay.said.handle = string(h)
	}
	return relay.said
}

var verifierRE = regexp.MustCompile(`SCRAM-SHA-256\$[^']+`)

// again is the same for another user of a name as long, as one message. Whose
// lock it takes does not matter, as long as nobody else's is the same.
func (s said) again(b *pgconn.Batch, handle, lock, verifier string) {
	for _, one := range s.statements {
		if one.prepared != "" {
			params := one.params
			if strings.Contains(s.named[one.prepared], "pg_advisory") {
				params = [][]byte{[]byte(lock)}
			}
			b.ExecPrepared(one.prepared, params, nil, nil)
			continue
		}
		sql := strings.ReplaceAll(one.sql, s.handle, handle)
		b.ExecParams(verifierRE.ReplaceAllLiteralString(sql, verifier), nil, nil, nil, nil)
	}
}

// relay passes on what a client and a server say, and notes the client's
// statements.
type relay struct {
	server string
	mu     sync.Mutex // guards said
	said   said
}

func (r *relay) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said.statements = nil
}

func (r *relay) listen(tb testing.TB) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", r.server)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
			go func() { r.up(client, server); _ = server.Close() }()
		}
	}()
	return l.Addr().String()
}

func (r *relay) up(client, server net.Conn) {
	d, settled, unnamed := &postgresDialect{}, false, ""
	for {
		m, err := d.next(client)
		if err != nil {
			return
		}
		if settled {
			r.note(m, &unnamed)
		} else {
			settled = r.greeting(m)
		}
		if _, err := server.Write(m); err != nil {
			return
		}
	}
}

// greeting keeps the settings that a session begins with, and reports whether
// there were any: a client may ask for TLS first.
func (r *relay) greeting(m []byte) bool {
	var s pgproto3.StartupMessage
	if s.Decode(m[4:]) != nil {
		return false
	}
	delete(s.Parameters, "user")
	delete(s.Parameters, "database")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said.settings = s.Parameters
	return true
}

// note keeps what a message runs.
func (r *relay) note(m []byte, unnamed *string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch m[0] {
	case 'P':
		var p pgproto3.Parse
		if p.Decode(m[5:]) != nil {
			return
		}
		if p.Name == "" {
			*unnamed = p.Query
		} else {
			r.said.named[p.Name] = p.Query
		}
	case 'B':
		var b pgproto3.Bind
		if b.Decode(m[5:]) != nil {
			return
		}
		one := statement{prepared: b.PreparedStatement, params: b.Parameters}
		if one.prepared == "" {
			one.sql = *unnamed
		}
		r.said.statements = append(r.said.statements, one)
	}
}

// fixedSecret is an admin credential that never changes.
type fixedSecret string

func (s fixedSecret) Read(context.Context) (broker.SecretValue, error) {
	return broker.SecretValue{Current: broker.NewSecret(string(s))}, nil
}

func mustParse(tb testing.TB, text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}
