package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A point is a place on the way of a credential where a broker may fail.
type point struct {
	name   string
	revoke bool // it is on the way back
	server int  // which of the servers it is tried on
	inside bool // it is at a statement, of which the server may not be told
}

// ourPoints are those inside the broker, before a credential is given back and
// after. Points at a server's statements stand between them.
var (
	ourPointsOut  = []string{"claim-before", "claim-after", "intent-before", "intent-after", "open-before", "open-after", "mint-before"}
	ourPointsMade = []string{"mint-after", "activate-before", "activate-after", "issued-before", "issued-after"}
	ourPointsBack = []string{"revoke-before", "revoke-after", "close-before", "close-after"}
)

// pointsAround lists all points, in order: those at statements of minting and
// revoking, and ours around them. It is told which servers they are tried on; ours
// are on the first where nothing is said.
func pointsAround(mint, revoke, ours map[string]int) []point {
	var list []point
	add := func(back bool, names ...string) {
		for _, name := range names {
			list = append(list, point{name: name, revoke: back, server: ours[name]})
		}
	}
	within := func(back bool, servers map[string]int) {
		for _, name := range slices.Sorted(maps.Keys(servers)) {
			list = append(list, point{name: name, revoke: back, server: servers[name], inside: true})
		}
	}
	add(false, ourPointsOut...)
	within(false, mint)
	add(false, ourPointsMade...)
	within(true, revoke)
	add(true, ourPointsBack...)
	return list
}

// A field is servers of one sort, at which brokers are broken.
type field interface {
	points() []point
	open(t *testing.T, n int) (admin string, eyes engine) // starts the n-th server
	grant(n int) (kind, params string)                    // of a credential there
	work(x *crash, p point, a answer)                     // what a job does with one, before it gives it back
	made(t *testing.T, n int) []string                    // the users that the server's own log tells of
	foreign(t *testing.T, n int) string                   // all that is there and not ours
}

// crash is a deployment to be broken: brokers over one Redis, servers, and a
// checker.
type crash struct {
	*rig
	field
	list    []point
	servers int
	checker *checker

	mu        sync.Mutex        // guards what follows
	delivered map[string]string // what clients got: user by lease
	read      map[*broker1]int  // how much of a broker's words was read
	met       map[string]int    // how many met the fault of a grant
	statuses  map[string]map[int]int
}

const crashTTL = 25 * time.Second

func newCrash(t *testing.T, f field) *crash {
	t.Helper()
	x := &crash{rig: bareRig(t), field: f, list: f.points(), delivered: map[string]string{}, read: map[*broker1]int{}, met: map[string]int{}, statuses: map[string]map[int]int{}}
	for _, p := range x.list {
		x.servers = max(x.servers, p.server+1)
	}
	urls := map[string]string{}
	var engines []engine
	for n := range x.servers {
		admin, eyes := f.open(t, n)
		urls[fmt.Sprintf("ADMIN_%d", n)] = admin
		engines = append(engines, eyes)
	}
	list, err := json.Marshal(urls)
	if err != nil {
		t.Fatal(err)
	}
	x.write("servers.json", string(list))
	x.writePolicy()
	x.withRedis()
	x.checker = watchOver(t, false, engines...)
	return x
}

// writePolicy allows every grant.
func (x *crash) writePolicy() {
	var allow strings.Builder
	for _, p := range x.list {
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
	for n := range x.servers {
		kind, _ := x.grant(n)
		fmt.Fprintf(&b, "  server%d: {kind: %s, admin: \"env:ADMIN_%d\"}\n", n, kind, n)
	}
	b.WriteString("grants:\n")
	for _, p := range x.list {
		for _, way := range []string{faultKill, faultError, faultStall} {
			_, params := x.grant(p.server)
			fmt.Fprintf(&b, "  %s-%s: {target: server%d, max_ttl: 30m, params: %s}\n", p.name, way, p.server, params)
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
			x.checker.servers[x.serverOf(grant)].knows(url, x.met[grant]%2 == 0)
		}
	}
}

func (x *crash) serverOf(grant string) int {
	for _, p := range x.list {
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
		x.checker.servers[p.server].knows(a.field(0, "url"), true)
	}
	if p.revoke && status == http.StatusOK {
		x.work(x, p, a)
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

// unusable tells of a credential that was just delivered and does not work,
// unless it took so long to come that its time is up.
func (x *crash) unusable(p point, a answer, err error) {
	if expires, _ := expiryOf(a.field(0, "username")); time.Now().Unix() < expires {
		x.t.Errorf("%s: a credential that was just delivered does not work: %v", p.name, err)
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
					if p.inside == inside {
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
			there = there && (p.inside != inside || x.met[grant]-before[grant] >= enough)
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
	for _, p := range x.list {
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
	for _, p := range x.list {
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
