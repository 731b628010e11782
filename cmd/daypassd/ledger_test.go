package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A ledger is what journals say of leases, read without the broker's code.
type ledger struct {
	intents map[string]bool   // by handle
	issued  map[string]bool   // by lease
	leaseOf map[string]string // by handle, where it was journalled as issued
	ended   map[string]bool   // by handle: undone, revoked, or dropped without a lease
}

// readLedger reads the journals of brokers, up to what is being written.
func readLedger(t *testing.T, brokers ...*broker1) ledger {
	t.Helper()
	l := ledger{map[string]bool{}, map[string]bool{}, map[string]string{}, map[string]bool{}}
	for _, b := range brokers {
		files, err := filepath.Glob(filepath.Join(b.data, "journal", "*.jsonl"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no journal of %s: %v", b.name, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(data)) {
				l.add(line)
			}
		}
	}
	return l
}

func (l ledger) add(line string) {
	var r struct {
		Event  string
		Leases []struct{ ID, Handle string }
	}
	if json.Unmarshal([]byte(line), &r) != nil {
		return // torn, or being written: then it promises nothing
	}
	for _, lease := range r.Leases {
		switch r.Event {
		case "intent":
			l.intents[lease.Handle] = true
		case "issued":
			l.issued[lease.ID] = true
			l.leaseOf[lease.Handle] = lease.ID
		case "undone", "revoked", "orphan":
			l.ended[lease.Handle] = true
		}
	}
}

// leaseKeys are the leases that Redis knows, asked for as any client could.
func (r *rig) leaseKeys() (map[string]bool, error) {
	c, err := net.DialTimeout("tcp", r.redis.Addr(), 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	const prefix = "dp:{test}:lease:"
	if _, err := fmt.Fprintf(c, "KEYS %s*\r\n", prefix); err != nil {
		return nil, err
	}
	in := bufio.NewReader(c)
	n, err := redisCount(in, '*')
	keys := map[string]bool{}
	for range n {
		size, e := redisCount(in, '$')
		key := make([]byte, size+2)
		if _, e2 := io.ReadFull(in, key); e != nil || e2 != nil {
			return nil, fmt.Errorf("redis: %v %v", e, e2)
		}
		keys[strings.TrimPrefix(string(key[:size]), prefix)] = true
	}
	return keys, err
}

func redisCount(in *bufio.Reader, sign byte) (int, error) {
	line, err := in.ReadString('\n')
	if err != nil || line[0] != sign {
		return 0, fmt.Errorf("redis answered %q: %v", line, err)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// unknown are users that can log in, that a journal has as issued and not as
// ended, and that the books do not know.
func (r *rig) unknown(c *checker, brokers ...*broker1) ([]string, error) {
	live := map[string]bool{}
	for _, w := range c.servers {
		w.mu.Lock()
		for _, name := range w.now {
			live[name] = true
		}
		w.mu.Unlock()
	}
	l := readLedger(r.t, brokers...)
	keys, err := r.leaseKeys()
	var lost []string
	for name := range live {
		if id := l.leaseOf[name]; id != "" && !l.ended[name] && !keys[id] {
			lost = append(lost, name)
		}
	}
	return lost, err
}

// auditBooks compares journals, books and servers every two seconds until stop:
// who is missing twice in a row, and was there all the time, is missing. It
// returns how often it looked.
func (r *rig) auditBooks(stop <-chan struct{}, c *checker, brokers ...*broker1) int {
	before, looks := map[string]int{}, 0
	for {
		select {
		case <-stop:
			return looks
		case <-time.After(2 * time.Second):
		}
		lost, err := r.unknown(c, brokers...)
		if err != nil {
			continue
		}
		looks++
		now := map[string]int{}
		for _, name := range lost {
			if now[name] = before[name] + 1; now[name] == 3 {
				r.t.Errorf("%s is journalled as issued, can log in, and is unknown to the books", name)
			}
		}
		before = now
	}
}
