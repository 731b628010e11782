package broker_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/lease"
	"github.com/daypass-dev/daypass/broker/replay"
)

// A rig is a broker with all its parts. The stores are the real ones in
// memory; what a test has to break or to look into is a named fake.
//
// It trusts one issuer, "ci", knows the repositories 1 and 2 there, and has
// the grants db (of the target left), queue (of the target right) and few (of
// left, two at a time).
type rig struct {
	*broker.Broker
	t       testing.TB
	course  *course
	booth   *booth
	statute *statute
	replay  frailReplay
	store   frailLeases
	journal *ledger
	left    *locksmith
	right   *locksmith
	tally   *tally
	log     *logBook
}

// newRig makes one; edit changes what it is made of.
func newRig(t testing.TB, edit func(*broker.Config)) *rig {
	t.Helper()
	c := new(course)
	r := &rig{t: t, course: c,
		booth:   &booth{course: c},
		journal: &ledger{course: c},
		left:    &locksmith{course: c, name: "left"},
		right:   &locksmith{course: c, name: "right"},
		tally:   new(tally), log: new(logBook),
		statute: &statute{course: c, version: "v1", places: []string{"ci/1", "ci/2"}, grants: map[string]broker.Grant{
			"db":    {Name: "db", Kind: "key", Target: "left", MaxTTL: time.Hour, Params: json.RawMessage(`{"door":"front"}`)},
			"queue": {Name: "queue", Kind: "key", Target: "right", MaxTTL: time.Hour},
			"few":   {Name: "few", Kind: "key", Target: "left", MaxTTL: time.Hour, MaxLive: 2},
		}},
	}
	used, err := replay.NewMemory(replay.MemoryConfig{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	books, err := lease.NewMemory(lease.MemoryConfig{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	r.replay = frailReplay{used, c}
	r.store = frailLeases{Leases: books, LeaseBook: books, Sessions: books, Alarms: books, course: c}
	config := r.config(edit)
	b, err := broker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	r.Broker = b
	return r
}

// config is what the rig's broker is made of, or another one on the same parts.
func (r *rig) config(edit func(*broker.Config)) broker.Config {
	config := broker.Config{
		Verifier: r.booth, Policy: r.statute, Replay: r.replay, Journal: r.journal,
		Leases: r.store, Book: r.store, Sessions: r.store, Alarms: r.store, Meter: r.tally,
		Answers: r.replay.Replay.(broker.Answers), Encode: encodeInClear,
		Targets: map[string]broker.Minter{"left": r.left, "right": r.right},
		Log:     slog.New(slog.NewJSONHandler(r.log, nil)), Now: time.Now, Rand: rand.Reader,
	}
	if edit != nil {
		edit(&config)
	}
	return config
}

// sweepUntil lets the broker sweep until done says so, for as
// long as limit at most. It belongs into a synctest bubble.
func (r *rig) sweepUntil(limit time.Duration, done func() bool) {
	r.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { r.Run(ctx) })
	defer run.Wait()
	defer stop()
	for end := time.Now().Add(limit); ; time.Sleep(time.Second) {
		synctest.Wait()
		if done() {
			return
		}
		if !time.Now().Before(end) {
			r.t.Errorf("after %v of sweeping there are %d keys and %d leases", limit, r.left.left()+r.right.left(), len(r.leases()))
			return
		}
	}
}

// clean reports whether targets and books hold nothing.
func (r *rig) clean() bool { return r.left.left()+r.right.left()+len(r.leases()) == 0 }

// job is one CI job of a repository, with a token that is good for an hour.
func job(repository, key string) broker.Identity {
	now := time.Now()
	return broker.Identity{
		Issuer: "ci", URL: "https://ci.example.com", Subject: "repo:" + repository,
		IssuedAt: now, Expires: now.Add(time.Hour), KeepUntil: now.Add(time.Hour + time.Minute),
		Claims: broker.Claims{"ref": "refs/heads/main", "run_id": json.Number("7"), "env_name": "prod",
			"env_tier": "gold", "user_email": "someone@example.com"},
		Listed: []string{"ref", "run_id", "env_*", "absent"},
		Job:    broker.Job{Repository: "acme/r" + repository, RepositoryID: repository, Run: "7", Key: key},
	}
}

// token issues a fresh token for a job.
func (r *rig) token(id broker.Identity) broker.Secret {
	text := "token-" + rand.Text()
	id.Token = broker.NewTokenID(id.URL, text)
	return r.booth.issue(text, id)
}

// ask is a request for grants.
func ask(names ...string) broker.Request {
	r := broker.Request{ID: "req_" + rand.Text()}
	for _, n := range names {
		r.Wants = append(r.Wants, broker.Want{Name: n})
	}
	return r
}

// exchange buys grants with a fresh token of repository 1, and must succeed.
func (r *rig) exchange(names ...string) broker.Answer {
	r.t.Helper()
	return r.exchangeAs("1", names...)
}

// exchangeAs buys grants with a fresh token of a repository, and must succeed.
func (r *rig) exchangeAs(repository string, names ...string) broker.Answer {
	r.t.Helper()
	answer, err := r.Exchange(context.Background(), r.token(job(repository, "job-"+repository)), ask(names...))
	if err != nil {
		r.t.Fatalf("exchange: %v", err)
	}
	return answer
}

// refused checks the code of an error.
func (r *rig) refused(err error, want broker.Code) *broker.Error {
	r.t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) || e.Code != want {
		r.t.Fatalf("error %v, want the code %s", err, want)
	}
	return e
}

// spent reports whether a token has bought its exchange.
func (r *rig) spent(token broker.Secret) bool {
	r.t.Helper()
	_, err := r.Exchange(context.Background(), token, ask())
	switch broker.CodeOf(err) {
	case broker.TokenReused:
		return true
	default:
		if err != nil {
			r.t.Fatalf("whether the token is spent cannot be told: %v", err)
		}
		return false
	}
}

// leases returns what the store holds.
func (r *rig) leases() []broker.Lease {
	r.t.Helper()
	ls, err := r.store.LeaseBook.List(context.Background(), broker.LeaseFilter{})
	if err != nil {
		r.t.Fatal(err)
	}
	return ls
}

// untouched checks that no target, no store and no token felt a request.
func (r *rig) untouched() {
	r.t.Helper()
	if steps := r.course.of("plan", "mint", "revoke", "held", "claim", "intent", "start", "open", "activate", "issued"); len(steps) != 0 {
		r.t.Errorf("it went on to %q", steps)
	}
	if len(r.leases()) != 0 || r.left.left()+r.right.left() != 0 {
		r.t.Errorf("it left %d leases and %d keys", len(r.leases()), r.left.left()+r.right.left())
	}
}

// nothingIsLeft checks that targets hold nothing and the books say so.
func (r *rig) nothingIsLeft() {
	r.t.Helper()
	if n := r.left.left() + r.right.left(); n != 0 {
		r.t.Errorf("targets hold %d keys", n)
	}
	if ls := r.leases(); len(ls) != 0 {
		r.t.Errorf("the store holds %d leases: %+v", len(ls), ls)
	}
}

// booksAreRight checks that every key has a lease, and every lease that is
// active a key.
func (r *rig) booksAreRight() {
	r.t.Helper()
	known := make(map[broker.Handle]bool)
	for _, l := range r.leases() {
		known[l.Handle] = true
		if l.State == broker.LeaseActive && !r.left.holds(l.Handle) && !r.right.holds(l.Handle) {
			r.t.Errorf("lease %s is active, and its key %s is nowhere", l.ID, l.Handle)
		}
	}
	for _, target := range []*locksmith{r.left, r.right} {
		target.mu.Lock()
		for h := range target.keys {
			if !known[h] {
				r.t.Errorf("key %s has no lease", h)
			}
		}
		target.mu.Unlock()
	}
}

// noSecretIsWritten checks that nothing secret is in the journal or the log.
func (r *rig) noSecretIsWritten(more ...broker.Secret) {
	r.t.Helper()
	secrets := slices.Concat(r.left.given, r.right.given)
	for _, s := range more {
		if !s.IsZero() {
			secrets = append(secrets, s)
		}
	}
	r.booth.mu.Lock()
	for token := range r.booth.issued {
		secrets = append(secrets, broker.NewSecret(token))
	}
	r.booth.mu.Unlock()
	if len(secrets) == 0 {
		r.t.Error("there are no secrets to look for")
	}
	for where, text := range map[string]string{"journal": r.journal.all(), "log": r.log.String()} {
		for _, s := range secrets {
			if strings.Contains(text, s.Reveal()) {
				r.t.Errorf("the %s holds the secret %s", where, s.Reveal())
			}
		}
	}
}

// logBook is what was logged.
type logBook struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
