package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestACrashAnErrorOrAStallAtAnyStepLeavesNothingThatOutlivesItsExpiry(t *testing.T) {
	sideBySide(t, map[string]func(t *testing.T){
		"PostgreSQL": func(t *testing.T) { breakEverywhere(t, &postgresField{}) },
		"MariaDB":    func(t *testing.T) { breakEverywhere(t, &mariaField{}) },
	})
}

// breakEverywhere takes jobs to each point of a field, and has them fail there.
func breakEverywhere(t *testing.T, f field) {
	rounds := 20
	if os.Getenv("DAYPASS_SOAK") != "" {
		rounds = 200
	}
	x := newCrash(t, f)
	brokers := []*broker1{x.faulty("a"), x.faulty("b"), x.faulty("c")}
	before := make([]string, x.servers)
	for n := range x.servers {
		before[n] = x.foreign(t, n)
	}
	for _, b := range brokers {
		t.Cleanup(b.stop)
	}
	brokers[1].start()
	brokers[2].start()
	time.Sleep(6 * time.Second) // tokens issued within 5 s of the first start are stale

	stop, audited := make(chan struct{}), make(chan int, 1)
	began := time.Now()
	var work sync.WaitGroup
	work.Go(func() { x.kills(brokers[0], rounds) })
	work.Go(func() { x.batter(brokers[1:], rounds) })
	go func() {
		time.Sleep(5 * time.Second) // until each has a journal
		audited <- x.auditBooks(stop, x.checker, brokers...)
	}()
	work.Wait()
	for _, b := range brokers {
		x.hear(b)
	}
	t.Logf("all faults were met after %.0f s", time.Since(began).Seconds())
	x.checker.finish()
	close(stop)
	if n := <-audited; n < 5 {
		t.Errorf("journals and books were compared %d times only", n)
	}
	x.judge(brokers, rounds)
	for n := range x.servers {
		if now := x.foreign(t, n); now != before[n] {
			t.Errorf("server %d: what is not ours was touched:\n%s\nwas\n%s", n, now, before[n])
		}
	}
}

// judge says whether every fault was met, and what clients, journals and
// servers have to say about it.
func (x *crash) judge(brokers []*broker1, rounds int) {
	for _, p := range x.list {
		for _, way := range []string{faultKill, faultError, faultStall} {
			if n := x.met[p.name+"-"+way]; n < rounds {
				x.t.Errorf("%s: only %d of %d met the %s: %v", p.name, n, rounds, way, x.statuses[p.name+"-"+way])
			}
		}
	}
	for _, p := range x.list { // a target may be slow for other reasons, but seldom
		if answers := x.statuses[p.name+"-"+faultStall]; answers[http.StatusOK] < rounds*3/4 {
			x.t.Errorf("%s: five seconds made jobs fail: %v", p.name, answers)
		}
	}
	l := readLedger(x.t, brokers...)
	for lease, user := range x.delivered {
		if !l.issued[lease] || !l.intents[user] {
			x.t.Errorf("%s was delivered: intent %v, issued %v", user, l.intents[user], l.issued[lease])
		}
	}
	created := 0
	for n := range x.servers {
		for _, name := range x.made(x.t, n) {
			if !l.intents[name] {
				x.t.Errorf("%s was made without an intent", name)
			}
			created++
		}
	}
	if created < len(x.list)*rounds {
		x.t.Errorf("the servers' logs tell of %d users only", created)
	}
	for _, b := range brokers {
		b.stop()
		if out, code := x.command(nil, "daypassd", "audit", "verify", filepath.Join(b.data, "journal")); code != 0 {
			x.t.Errorf("the journal of %s does not verify: %s", b.name, out)
		}
	}
	x.t.Logf("%d credentials delivered, %d users made", len(x.delivered), created)
}

// quotedUsers are the names of ours that stand in quotes behind some words.
func quotedUsers(words, quote, text string) []string {
	var names []string
	for _, rest := range strings.Split(text, words)[1:] {
		name, _, _ := strings.Cut(rest, quote)
		if _, ours := expiryOf(name); ours {
			names = append(names, name)
		}
	}
	return names
}
