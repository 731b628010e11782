package brokertest

import (
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
)

// Cutter stands between a part and its server, on a loopback port, and cuts
// all connections at a message of one's choice: what a client sends in one
// piece. Safe for concurrent use.
type Cutter struct {
	listener net.Listener
	network  string
	server   string

	mu    sync.Mutex // guards what follows
	open  map[net.Conn]bool
	left  int // messages until the cut; negative: none is due
	when  CutWhen
	isCut bool
}

// CutWhen says on which side of a message a connection is cut.
type CutWhen string

// A message that is cut off before it is one that the server never gets; of
// one that is cut after it, the server does what it says, and nobody hears.
const (
	CutBefore CutWhen = "before"
	CutAfter  CutWhen = "after"
)

// NewCutter starts one before a server, such as "127.0.0.1:5432", or before a
// socket's path. The test's end closes it.
func NewCutter(t testing.TB, server string) *Cutter {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cutter{listener: l, network: "tcp", server: server, open: map[net.Conn]bool{}, left: -1}
	if server != "" && server[0] == '/' {
		c.network = "unix"
	}
	var accepting sync.WaitGroup
	accepting.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.closeAll()
		accepting.Wait()
	})
	return c
}

// Addr is where clients connect.
func (c *Cutter) Addr() *net.TCPAddr {
	a, _ := c.listener.Addr().(*net.TCPAddr)
	return a
}

// Set cuts at the n-th message from now, counted from 0. From then on nobody
// gets through until [Cutter.Heal].
func (c *Cutter) Set(n int, when CutWhen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.when, c.isCut = n, when, false
}

// Heal lets everybody through again, and reports whether there was a cut.
func (c *Cutter) Heal() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.isCut
	c.left, c.isCut = -1, false
	return was
}

func (c *Cutter) accept() {
	for {
		client, err := c.listener.Accept()
		if err != nil {
			return
		}
		go c.carry(client)
	}
}

func (c *Cutter) carry(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial(c.network, c.server)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	if !c.enter(client, server) {
		return
	}
	defer c.leave(client, server)
	go func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if n > 0 {
			if !c.pass(func() error { _, err := server.Write(buffer[:n]); return err }) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *Cutter) enter(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut {
		return false
	}
	for _, one := range conns {
		c.open[one] = true
	}
	return true
}

func (c *Cutter) leave(conns ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range conns {
		delete(c.open, one)
	}
}

// pass counts a message and sends it on, or cuts.
func (c *Cutter) pass(send func() error) bool {
	c.mu.Lock()
	if c.isCut {
		c.mu.Unlock()
		return false
	}
	due := c.left == 0
	if c.left >= 0 {
		c.left--
	}
	when := c.when
	var doomed []net.Conn // who comes after a Heal is not among them
	if due {
		c.isCut = true
		doomed = slices.Collect(maps.Keys(c.open))
	}
	c.mu.Unlock()
	if !due {
		return send() == nil
	}
	if when == CutAfter {
		// The answer must not get back: the clients' side goes first.
		for _, one := range doomed {
			if one.LocalAddr().String() == c.listener.Addr().String() {
				_ = one.Close()
			}
		}
		_ = send() // the server may have gone by itself
	}
	for _, one := range doomed {
		_ = one.Close()
	}
	return false
}

func (c *Cutter) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for one := range c.open {
		_ = one.Close()
	}
}
