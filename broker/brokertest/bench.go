package brokertest

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// leaseBench is a store under test, and what tests need to fill it.
type leaseBench struct {
	LeaseStore
	clock *Clock
}

func newLeaseBench(t *testing.T, open func(t *testing.T, now func() time.Time) LeaseStore) *leaseBench {
	clock := NewClock(time.Now().Truncate(time.Second))
	return &leaseBench{open(t, clock.Now), clock}
}

// session starts a job session that mints for ten minutes.
func (b *leaseBench) session(t *testing.T) broker.Session {
	t.Helper()
	s := NewSession(b.clock.Now())
	must(t, b.Start(t.Context(), s))
	return s
}

// NewSession is a job session that nobody has seen and that mints for ten
// minutes.
func NewSession(at time.Time) broker.Session {
	_, id, err := broker.NewSessionToken(rand.Reader)
	if err != nil {
		panic(err) // the system's random source does not fail
	}
	return broker.Session{ID: id, Opened: at, Expires: at.Add(10 * time.Minute), For: broker.Identity{
		Issuer: "github", URL: "https://issuer.example", Subject: "repo:acme/api", Token: NewClaim(at).Token,
		IssuedAt: at, Expires: at.Add(10 * time.Minute), KeepUntil: at.Add(11 * time.Minute),
		Claims: broker.Claims{"sub": "repo:acme/api", "run_id": json.Number("12345678901234567"), "big": json.Number("1e2"),
			"aud": []any{"https://daypass.example"}, "nested": map[string]any{"ok": true, "null": nil}},
		Listed: []string{"sub"},
		Job:    broker.Job{Repository: "acme/api", RepositoryID: "77", Run: "5", Key: "job-1"},
	}}
}

// NewLease is a pending lease of a session, for an hour, that a sweeper takes
// up in 25 seconds.
func NewLease(s broker.Session, at time.Time) broker.Lease {
	id, err := broker.NewLeaseID(rand.Reader)
	if err != nil {
		panic(err)
	}
	return broker.Lease{
		ID: id, Handle: broker.Handle("dp_test_t00000_" + string(id[4:16])), Session: s.ID, Request: "req_1", Rule: "teams/rule",
		Grant: broker.Grant{Name: "db", Kind: "postgres", Target: "pg", MaxTTL: time.Hour, Access: broker.Write,
			Labels: map[string]string{"env": "prod"}, Params: json.RawMessage(`{"roles":["rw"]}`)},
		Issuer: s.For.Issuer, Place: s.For.Place(), Repo: s.For.Job.Repository, Run: s.For.Job.Run,
		State: broker.LeasePending, Opened: at, NotAfter: at.Add(time.Hour), Due: at.Add(25 * time.Second),
	}
}

// open stores one pending lease and returns it.
func (b *leaseBench) open(t *testing.T, s broker.Session, change ...func(*broker.Lease)) broker.Lease {
	t.Helper()
	l := NewLease(s, b.clock.Now())
	for _, c := range change {
		c(&l)
	}
	must(t, b.Open(t.Context(), []broker.Lease{l}, broker.Caps{}))
	return l
}

// active stores one lease and activates it.
func (b *leaseBench) active(t *testing.T, s broker.Session, change ...func(*broker.Lease)) broker.Lease {
	t.Helper()
	l := b.open(t, s, change...)
	must(t, b.Activate(t.Context(), made(l)))
	return b.get(t, l.ID)
}

func (b *leaseBench) get(t *testing.T, id broker.LeaseID) broker.Lease {
	t.Helper()
	l, err := b.Lease(t.Context(), id)
	must(t, err)
	return l
}

func (b *leaseBench) live(t *testing.T, f broker.LeaseFilter) int {
	t.Helper()
	n, err := b.Live(t.Context(), f)
	must(t, err)
	if len(n) != 1 {
		t.Fatalf("%d counts for one filter", len(n))
	}
	return n[0]
}

func (b *leaseBench) due(t *testing.T, target string, limit int) []broker.LeaseID {
	t.Helper()
	due, err := b.Due(t.Context(), target, b.clock.Now(), limit)
	must(t, err)
	return idsOf(due)
}

func (b *leaseBench) list(t *testing.T, f broker.LeaseFilter) []broker.LeaseID {
	t.Helper()
	leases, err := b.List(t.Context(), f)
	must(t, err)
	return idsOf(leases)
}

func made(leases ...broker.Lease) []broker.Minted {
	m := make([]broker.Minted, len(leases))
	for i, l := range leases {
		m[i] = broker.Minted{ID: l.ID, ServerID: "server-7", Takeback: broker.TakebackNow}
	}
	return m
}

func idsOf(leases []broker.Lease) []broker.LeaseID {
	ids := make([]broker.LeaseID, len(leases))
	for i, l := range leases {
		ids[i] = l.ID
	}
	return ids
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same[T any](t *testing.T, what string, got, want []T, eq func(a, b T) bool) {
	t.Helper()
	if !slices.EqualFunc(got, want, eq) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func sameIDs(t *testing.T, what string, got []broker.LeaseID, want ...broker.LeaseID) {
	t.Helper()
	same(t, what, got, want, func(a, b broker.LeaseID) bool { return a == b })
}

// sameJSON compares what matters of two values: what is stored of them.
func sameJSON(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err1 := json.Marshal(got)
	w, err2 := json.Marshal(want)
	must(t, errors.Join(err1, err2))
	if string(g) != string(w) {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// together runs n calls at once and waits for them.
func together(n int, do func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() { <-start; do(i) })
	}
	close(start)
	wg.Wait()
}
