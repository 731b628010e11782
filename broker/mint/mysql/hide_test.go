package mysql_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// rawClient speaks the servers' protocol by itself, and so can stop half way.
type rawClient struct {
	t *testing.T
	net.Conn
}

// dialRaw says who it is, by a password of the server's sort or by a plugin that
// the server will ask to change.
func dialRaw(t *testing.T, user, password, plugin string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort(server.Host(), strconv.Itoa(server.Port())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &rawClient{t, conn}
	greeting, err := c.read()
	if err != nil {
		t.Fatal(err)
	}
	at := 1 + bytes.IndexByte(greeting[1:], 0) + 1 + 4 // behind version and number of the session
	salt := append(bytes.Clone(greeting[at:at+8]), greeting[at+27:at+39]...)
	const protocol41, secure, pluginAuth, transactions = 1 << 9, 1 << 15, 1 << 19, 1 << 13
	caps := 1 | protocol41 | transactions | secure | pluginAuth
	hello := append([]byte{byte(caps), byte(caps >> 8), byte(caps >> 16), byte(caps >> 24), 0, 0, 0, 1, 45}, make([]byte, 23)...)
	proof := proves(password, salt, plugin)
	hello = append(append(hello, user+"\x00"...), byte(len(proof)))
	c.send(1, append(append(hello, proof...), plugin+"\x00"...))
	return c
}

// proves is what a client sends for a password.
func proves(password string, salt []byte, plugin string) []byte {
	sum := func(b []byte) []byte { s := sha1.Sum(b); return s[:] }
	order := func(salt, hash []byte) []byte { return append(bytes.Clone(salt), hash...) }
	if plugin == "caching_sha2_password" {
		sum = func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
		order = func(salt, hash []byte) []byte { return append(bytes.Clone(hash), salt...) }
	}
	proof := sum([]byte(password))
	for i, b := range sum(order(salt, sum(proof))) {
		proof[i] ^= b
	}
	return proof
}

// loginRaw logs in. MySQL knows a password by its proof when it has seen it once.
func loginRaw(t *testing.T, user, password string) *rawClient {
	t.Helper()
	if !server.IsMySQL() {
		c := dialRaw(t, user, password, "mysql_native_password")
		c.expect(0)
		return c
	}
	once, err := session(t.Context(), dsn(server, user, password, ""))
	if err != nil {
		t.Fatal(err)
	}
	_ = once.Close()
	c := dialRaw(t, user, password, "caching_sha2_password")
	c.expect(1) // it knows it
	c.expect(0)
	return c
}

func (c *rawClient) send(number byte, body []byte) {
	c.t.Helper()
	if _, err := c.Write(append([]byte{byte(len(body)), byte(len(body) >> 8), byte(len(body) >> 16), number}, body...)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) read() ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	body := make([]byte, int(head[0])|int(head[1])<<8|int(head[2])<<16)
	_, err := io.ReadFull(c, body)
	return body, err
}

// expect reads what begins with a byte: 0 is yes, 0xfe asks for another plugin.
func (c *rawClient) expect(first byte) {
	c.t.Helper()
	if body, err := c.read(); err != nil || body[0] != first {
		c.t.Fatalf("got %q, %v, want %#x", body, err, first)
	}
}

func (c *rawClient) run(statement string) {
	c.t.Helper()
	c.send(0, append([]byte{3}, statement...))
	c.expect(0)
}

// hide begins to change the user, and leaves it at that.
func (c *rawClient) hide(as string) {
	c.t.Helper()
	c.send(0, []byte("\x11"+as+"\x00\x01x\x00\x2d\x00mysql_clear_password\x00"))
	c.expect(0xfe)
}

// A session that changes its user is listed as somebody else, for as long as it
// likes, and goes on as its old user when it is refused: with the rights of roles
// and of the database it is in, though the account is gone.
func TestASessionThatHidesBehindAChangeOfUserIsEnded(t *testing.T) {
	m, admin := plainMinter(t), root(t)
	u := mint(t, m, orderFor(roleGrant, time.Minute))
	job := loginRaw(t, u.name(), u.env["MYSQL_PWD"])
	job.run("SET SESSION net_read_timeout = 1000")
	job.run("USE app_db")
	job.hide("root")
	neighbour := loginRaw(t, "mallory", "mallory")
	if n := sessions(t, admin, u); n != 0 && !server.IsMySQL() {
		t.Fatal("its session can be seen")
	}
	revoke(t, m, u)
	if body, err := job.read(); err == nil && body[0] != 0xff {
		t.Errorf("it is told %q", body)
	}
	if _, err := job.Write([]byte("\x14\x00\x00\x02" + strings.Repeat("x", 20))); err == nil {
		_, _ = job.read() // the refusal, if anybody is left to say it
		if _, err := job.Write([]byte("\x05\x00\x00\x00\x03DO 1")); err == nil {
			if body, err := job.read(); err == nil && body[0] == 0 {
				t.Error("it works on after its account was taken back")
			}
		}
	}
	neighbour.run("DO 1")
}

// Who only says that he is one of ours, and proves nothing, must not give us
// work, or records to write.
func TestAStrangerWhoClaimsOneOfOurNamesIsNotHeld(t *testing.T) {
	m := plainMinter(t)
	const name = "dp_test_t0aaaa_qqqqqqqqqqqq"
	stranger := dialRaw(t, name, "x", "mysql_clear_password")
	stranger.expect(0xfe)
	neighbour := loginRaw(t, "mallory", "mallory")
	neighbour.hide(name)
	if n := ask[int](t, root(t), "SELECT COUNT(*) FROM "+listed()+" WHERE USER = '"+name+"'"); n != 2 && !server.IsMySQL() {
		t.Fatalf("%d sessions claim the name, want 2", n)
	}
	if holds(t, m, name) {
		t.Error("the claim is held")
	}
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			for ctx.Err() == nil {
				if c, err := session(ctx, dsn(server, name, "x", "")); err == nil {
					_ = c.Close()
					t.Error("a stranger got in")
				}
			}
		})
	}
	const looks = 400
	n := 0
	for range looks {
		if holds(t, m, name) {
			n++
		}
	}
	stop()
	asking.Wait()
	if n > 3 { // as it goes away one may look like any session, once in a thousand looks
		t.Errorf("who was refused is held at %d of %d looks", n, looks)
	}
}

func holds(t *testing.T, m broker.Minter, name string) bool {
	t.Helper()
	held, err := m.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(held, func(h broker.Held) bool { return string(h.Handle) == name })
}
