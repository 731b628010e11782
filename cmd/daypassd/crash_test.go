package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// A point is a place on the way of a credential where a broker may fail.
type point struct {
	name   string
	revoke bool // it is on the way back
	server int  // which of the servers it is tried on
}

// points are all of them, in order. Those inside a revocation hold one of the
// few connections that are kept for it, so each has a server of its own.
var points = func() []point {
	var list []point
	for _, name := range []string{
		"claim-before", "claim-after", "intent-before", "intent-after", "open-before", "open-after",
		"mint-before", "mint-created", "mint-committed", "mint-after", "activate-before", "activate-after", "issued-before", "issued-after",
	} {
		list = append(list, point{name: name})
	}
	for i, name := range []string{"revoke-disabled", "revoke-ended", "revoke-ungrouped", "revoke-tidied", "revoke-undropped", "revoke-dropped"} {
		list = append(list, point{name: name, revoke: true, server: i + 1})
	}
	for _, name := range []string{"revoke-before", "revoke-after", "close-before", "close-after"} {
		list = append(list, point{name: name, revoke: true})
	}
	return list
}()

// crash is a deployment to be broken: brokers over one Redis, seven servers,
// and a checker.
type crash struct {
	*rig
	pgs     []*servers.Postgres
	checker *checker

	mu        sync.Mutex        // guards what follows
	delivered map[string]string // what clients got: user by lease
	read      map[*broker1]int  // how much of a broker's words was read
	met       map[string]int    // how many met the fault of a grant
	statuses  map[string]map[int]int
}

const crashTTL = 25 * time.Second

func newCrash(t *testing.T) *crash {
	t.Helper()
	t.Parallel()
	x := &crash{rig: &rig{t: t, dir: t.TempDir()}, delivered: map[string]string{}, read: map[*broker1]int{}, met: map[string]int{}, statuses: map[string]map[int]int{}}
	var err error
	if x.ci, err = fakeissuer.Start(fakeissuer.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.ci.Close() })
	urls := map[string]string{}
	var admins []string
	for i := range 7 {
		pg, err := servers.StartPostgres(t.Context(), servers.PostgresConfig{Settings: map[string]string{
			"max_connections": "300", "shared_buffers": "16MB", "log_statement": "ddl"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pg.Close() })
		x.pgs = append(x.pgs, pg)
		urls[fmt.Sprintf("PG%d_URL", i)] = pg.AdminURL("postgres")
		admins = append(admins, pg.AdminURL("postgres"))
		conn := mustConnect(t, pg.AdminURL("postgres"))
		if _, err := conn.Exec(t.Context(), "CREATE ROLE orders_rw NOLOGIN; GRANT CREATE, USAGE ON SCHEMA public TO orders_rw"); err != nil {
			t.Fatal(err)
		}
		plantForeign(t, pg.AdminURL("postgres"))
	}
	x.pg = x.pgs[0]
	list, err := json.Marshal(urls)
	if err != nil {
		t.Fatal(err)
	}
	x.write("servers.json", string(list))
	x.writePolicy()
	x.withRedis()
	x.checker = watchOver(t, false, admins...)
	return x
}

// writePolicy allows every grant.
func (x *crash) writePolicy() {
	var allow strings.Builder
	for _, p := range points {
		for _, way := range []string{faultKill, faultError, faultStall} {
			fmt.Fprintf(&allow, "      - {grant: %s-%s}\n", p.name, way)
		}
	}
	x.write("policies/shop.yaml", strings.Replace(rigPolicy, "      - {grant: orders-db}\n      - {grant: web-identity}\n", allow.String(), 1))
}

// config has a target for each server and a grant for each fault.
func (x *crash) config(c string) string {
	head, _, _ := strings.Cut(c, "targets:\n")
	var b strings.Builder
	b.WriteString(head + "targets:\n")
	for i := range x.pgs {
		fmt.Fprintf(&b, "  pg%d: {kind: postgres, admin: \"env:PG%d_URL\"}\n", i, i)
	}
	b.WriteString("grants:\n")
	for _, p := range points {
		for _, way := range []string{faultKill, faultError, faultStall} {
			fmt.Fprintf(&b, "  %s-%s: {target: pg%d, max_ttl: 30m, params: {roles: [orders_rw], scram_iterations: 1, on_owned: drop, host: %s, port: %d}}\n",
				p.name, way, p.server, x.pgs[p.server].Host(), x.pgs[p.server].Port())
		}
	}
	return b.String()
}

// faulty prepares a broker whose parts fail.
func (x *crash) faulty(name string) *broker1 {
	x.t.Helper()
	self, err := os.Executable()
	if err != nil {
		x.t.Fatal(err)
	}
	b := x.prepare(name, "redis", x.config)
	b.shell = fmt.Sprintf("shift; %s='%s' exec '%s'", faultyServers, filepath.Join(x.dir, "servers.json"), self)
	return b
}

// hear reads what a broker has said since: who was made, and who met what.
func (x *crash) hear(b *broker1) {
	text := b.out.String()
	x.mu.Lock()
	defer x.mu.Unlock()
	from := x.read[b]
	end := strings.LastIndexByte(text, '\n') + 1
	if end <= from {
		return
	}
	x.read[b] = end
	for line := range strings.Lines(text[from:end]) {
		var word, grant, url string
		switch _, _ = fmt.Sscan(line, &word, &grant, &url); word {
		case "MET":
			x.met[grant]++
		case "MADE":
			x.checker.pgs[serverOf(grant)].knows(url, x.met[grant]%2 == 0)
		}
	}
}

func serverOf(grant string) int {
	for _, p := range points {
		if strings.HasPrefix(grant, p.name+"-") {
			return p.server
		}
	}
	return 0
}

// round takes one job to a point: it exchanges, and gives back where that is
// where the point is. It returns the last status.
func (x *crash) round(b *broker1, p point, way string) int {
	status, a := b.exchange(x.token(b, nil), map[string]any{"name": p.name + "-" + way, "ttl": crashTTL.String()})
	if status == http.StatusOK {
		lease, _ := a.credential(0)["lease_id"].(string)
		x.mu.Lock()
		x.delivered[lease] = a.field(0, "username")
		x.mu.Unlock()
		x.checker.pgs[p.server].knows(a.field(0, "url"), true)
	}
	if p.revoke && status == http.StatusOK {
		x.work(p, a)
		status, _ = b.call(http.MethodDelete, "/v1/session", a.session(), nil)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.statuses[p.name+"-"+way] == nil {
		x.statuses[p.name+"-"+way] = map[int]int{}
	}
	x.statuses[p.name+"-"+way][status]++
	return status
}

// work is what a job does: it leaves a session open, so that it is taken back
// step by step, and a table of its own where that is the step.
func (x *crash) work(p point, a answer) {
	ctx := x.t.Context()
	conn, err := pgx.Connect(ctx, a.field(0, "url"))
	if err != nil {
		x.t.Errorf("%s: a credential that was just delivered does not work: %v", p.name, err)
		return
	}
	x.t.Cleanup(func() { _ = conn.Close(ctx) })
	if p.name == "revoke-tidied" {
		if _, err := conn.Exec(ctx, "SET ROLE NONE; CREATE TABLE own_"+a.field(0, "username")+" (n int)"); err != nil {
			x.t.Errorf("%s: %v", p.name, err)
		}
	}
}

// kills takes a few jobs at a time to every point, and kills the broker while
// they are there, until each point has had so many.
func (x *crash) kills(b *broker1, rounds int) {
	const together = 3 // as many as there are connections to revoke with
	for wave := 0; len(x.spared(rounds)) > 0; wave++ {
		if wave > 2*rounds {
			x.t.Errorf("after %d kills there are still points that had too few: %v", wave, x.spared(rounds))
			return
		}
		b.start()
		before, spared := x.metSoFar(), x.spared(rounds)
		var jobs sync.WaitGroup
		// What waits for an answer of a server waits no longer than a mint or
		// a revocation may take, so it comes last.
		for _, inside := range []bool{false, true} {
			for _, p := range spared {
				for range together {
					if _, is := wireSteps[p.name]; is == inside {
						jobs.Go(func() { x.round(b, p, faultKill) })
					}
				}
			}
			x.await(b, before, spared, inside)
		}
		b.kill()
		jobs.Wait()
		x.hear(b)
	}
	b.start() // and it finds what it left
}

// await waits until some jobs of each point are where they shall be, a while.
func (x *crash) await(b *broker1, before map[string]int, list []point, inside bool) {
	const enough = 2
	for deadline := time.Now().Add(12 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		x.hear(b)
		there := true
		x.mu.Lock()
		for _, p := range list {
			grant := p.name + "-" + faultKill
			_, is := wireSteps[p.name]
			there = there && (is != inside || x.met[grant]-before[grant] >= enough)
		}
		x.mu.Unlock()
		if there {
			return
		}
	}
}

// spared are the points where fewer than so many jobs were killed: they met
// the fault, and had no answer.
func (x *crash) spared(rounds int) []point {
	x.mu.Lock()
	defer x.mu.Unlock()
	var list []point
	for _, p := range points {
		if x.killed(p) < rounds {
			list = append(list, p)
		}
	}
	return list
}

func (x *crash) metSoFar() map[string]int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return maps.Clone(x.met)
}

func (x *crash) killed(p point) int {
	grant := p.name + "-" + faultKill
	answered := 0
	for status, n := range x.statuses[grant] {
		if status != 0 {
			answered += n
		}
	}
	return x.met[grant] - answered
}

// batter lets jobs meet errors and stalls, at each point a few at a time, until
// so many have: another broker may be faster to take back what a job gave back.
func (x *crash) batter(brokers []*broker1, rounds int) {
	var all sync.WaitGroup
	for _, p := range points {
		for _, way := range []string{faultError, faultStall} {
			for _, b := range brokers {
				all.Go(func() {
					for tries := 0; x.metSoFar()[p.name+"-"+way] < rounds && tries < 2*rounds; tries++ {
						x.round(b, p, way)
						x.hear(b)
					}
				})
			}
		}
	}
	all.Wait()
}

func TestACrashAnErrorOrAStallAtAnyStepLeavesNothingThatOutlivesItsExpiry(t *testing.T) {
	rounds := 20
	if os.Getenv("DAYPASS_SOAK") != "" {
		rounds = 200
	}
	x := newCrash(t)
	brokers := []*broker1{x.faulty("a"), x.faulty("b"), x.faulty("c")}
	before := make([]string, len(x.pgs))
	for i, pg := range x.pgs {
		before[i] = foreignHash(t, pg.AdminURL("postgres"))
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
	for i, pg := range x.pgs {
		if foreignHash(t, pg.AdminURL("postgres")) != before[i] {
			t.Errorf("server %d: a role that is not ours was touched", i)
		}
	}
}

// judge says whether every fault was met, and what clients, journals and
// servers have to say about it.
func (x *crash) judge(brokers []*broker1, rounds int) {
	for _, p := range points {
		for _, way := range []string{faultKill, faultError, faultStall} {
			if n := x.met[p.name+"-"+way]; n < rounds {
				x.t.Errorf("%s: only %d of %d met the %s: %v", p.name, n, rounds, way, x.statuses[p.name+"-"+way])
			}
		}
	}
	for _, p := range points { // a target may be slow for other reasons, but seldom
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
	for _, pg := range x.pgs {
		for _, line := range strings.Split(readAll(x.t, pg.LogPath()), "CREATE ROLE \"dp_test_")[1:] {
			name := "dp_test_" + line[:strings.IndexByte(line, '"')]
			if _, ours := expiryOf(name); ours && !l.intents[name] {
				x.t.Errorf("%s was made without an intent", name)
			}
			created++
		}
	}
	if created < len(points)*rounds {
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
