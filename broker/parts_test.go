package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// booth verifies the tokens that it issued itself.
type booth struct {
	course *course

	mu     sync.Mutex // guards issued
	issued map[string]broker.Identity
}

// issue makes a token that verifies as id.
func (b *booth) issue(text string, id broker.Identity) broker.Secret {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.issued == nil {
		b.issued = make(map[string]broker.Identity)
	}
	b.issued[text] = id
	return broker.NewSecret(text)
}

func (b *booth) Verify(ctx context.Context, token broker.Secret) (broker.Identity, error) {
	if err := b.course.step(ctx, "verify"); err != nil {
		return broker.Identity{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	id, ok := b.issued[token.Reveal()]
	if !ok {
		return broker.Identity{}, &broker.Error{Code: broker.TokenInvalid, Public: "not one of ours"}
	}
	return id, nil
}

// statute is a policy that gives the grants it lists to whom it knows.
type statute struct {
	course *course

	mu      sync.Mutex // guards what is below
	version string
	grants  map[string]broker.Grant
	places  []string                              // who is known
	answer  func(broker.Decision) broker.Decision // for answers that no policy should give
}

func (p *statute) Decide(id broker.Identity, wants []broker.Want, _ time.Time) (broker.Decision, error) {
	if err := p.course.step(context.Background(), "decide"); err != nil {
		return broker.Decision{Version: "v1", Allowed: true}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d := broker.Decision{Version: p.version, Known: slices.Contains(p.places, id.Place())}
	for _, w := range wants {
		g, ok := p.grants[w.Name]
		if !ok || !d.Known {
			d.Denied = append(d.Denied, w.Name)
			continue
		}
		ttl := g.MaxTTL
		if w.TTL > 0 {
			ttl = min(ttl, w.TTL)
		}
		d.Permits = append(d.Permits, broker.Permit{Grant: g, Rule: "rules.yaml/all", TTL: ttl})
	}
	d.Allowed = d.Known && len(d.Denied) == 0
	if !d.Allowed {
		d.Permits = nil
	}
	if d.Known {
		for _, name := range d.Denied {
			ref, _ := id.Claims.Lookup("ref")
			mail, _ := id.Claims.Lookup("user_email")
			d.Denials = append(d.Denials, broker.Denial{Grant: name, Rule: "rules.yaml/all",
				Failed: []broker.Mismatch{{Claim: "ref", Saw: ref}, {Claim: "user_email", Saw: mail}}})
		}
	}
	if p.answer != nil {
		d = p.answer(d)
	}
	return d, nil
}

// Offer gives whom it knows all its grants.
func (p *statute) Offer(id broker.Identity, at time.Time) (broker.Decision, error) {
	if err := p.course.step(context.Background(), "offer"); err != nil {
		return broker.Decision{Version: "v1", Allowed: true}, err
	}
	p.mu.Lock()
	known := slices.Contains(p.places, id.Place())
	names := slices.Sorted(maps.Keys(p.grants))
	p.mu.Unlock()
	if !known {
		return broker.Decision{Version: "v1"}, nil
	}
	return p.Decide(id, ask(names...).Wants, at)
}

// change makes a new version of the policy.
func (p *statute) change(edit func(*statute)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	edit(p)
}

// locksmith is a target that makes keys. It keeps each under its handle, as a
// database keeps a role.
type locksmith struct {
	course *course
	name   string

	mu          sync.Mutex // guards what is below
	keys        map[broker.Handle]time.Time
	given       []broker.Secret // all secrets it ever gave, those of lost answers too
	ever        []broker.Handle // all keys it ever held
	clockAhead  time.Duration   // of its own clock
	expiresOnly bool            // its keys cannot be taken back

	listsNothing bool // it has no way to say what it holds

	foreign []broker.Held // what else it holds under our name
	hidden  bool          // its list lacks its keys
}

func (l *locksmith) Plan(o broker.Order) (broker.Handle, error) {
	if err := l.course.step(context.Background(), "plan "+o.Grant.Name); err != nil {
		return "", err
	}
	return broker.NewHandle("test", o.NotAfter, o.Lease)
}

// Mint makes the key and then fails if it is to: what crashed leaves behind is
// the caller's to undo.
func (l *locksmith) Mint(ctx context.Context, o broker.Order, h broker.Handle) (broker.Credential, error) {
	l.mu.Lock()
	if l.keys == nil {
		l.keys = make(map[broker.Handle]time.Time)
	}
	l.keys[h] = o.NotAfter
	l.ever = append(l.ever, h)
	key := broker.NewSecret(fmt.Sprintf("key-%d-of-%s", len(l.given), h))
	l.given = append(l.given, key)
	takeback := broker.TakebackNow
	if l.expiresOnly {
		takeback = broker.TakebackExpiry
	}
	l.mu.Unlock()
	if err := l.course.step(ctx, "mint "+o.Grant.Name); err != nil {
		return broker.Credential{}, err
	}
	return broker.Credential{ServerID: "server of " + l.name, Takeback: takeback, Fields: []broker.Field{
		{Name: "user", Value: broker.NewSecret(string(h)), Public: true},
		{Name: "key", Env: []string{"KEY"}, Value: key},
	}}, nil
}

func (l *locksmith) Revoke(ctx context.Context, lease broker.Lease) error {
	if err := l.course.step(ctx, "revoke "+lease.Grant.Name); err != nil {
		return err
	}
	if err := l.course.step(ctx, "drop "+string(lease.Handle)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expiresOnly {
		return fmt.Errorf("key %s: %w", lease.Handle, broker.ErrExpiresOnly)
	}
	delete(l.keys, lease.Handle)
	l.foreign = slices.DeleteFunc(l.foreign, func(h broker.Held) bool { return h.Handle == lease.Handle })
	return nil
}

func (l *locksmith) Held(ctx context.Context) ([]broker.Held, error) {
	if err := l.course.step(ctx, "held "+l.name); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expiresOnly || l.listsNothing {
		return nil, nil
	}
	held := append([]broker.Held{}, l.foreign...)
	if l.hidden {
		return held, nil
	}
	now := time.Now().Add(l.clockAhead)
	for h, until := range l.keys {
		held = append(held, broker.Held{Handle: h, Expires: until, Overdue: !now.Before(until)})
	}
	slices.SortFunc(held, func(a, b broker.Held) int { return strings.Compare(string(a.Handle), string(b.Handle)) })
	return held, nil
}

// left returns how many keys there are.
func (l *locksmith) left() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.keys) + len(l.foreign)
}

// holds reports whether a key is there.
func (l *locksmith) holds(h broker.Handle) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.keys[h]
	return ok
}

// ledger is a journal in memory. It keeps each record as the line it would be
// when it was handed over, so that what is changed later does not show.
type ledger struct {
	course *course

	mu     sync.Mutex // guards what is below
	lines  []broker.Record
	text   strings.Builder
	notes  []broker.Record
	closed error // why it cannot be written
}

func (l *ledger) Append(ctx context.Context, r broker.Record) error {
	return done(ctx, l.course, string(r.Event), func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed != nil {
			return l.closed
		}
		l.lines = append(l.lines, l.write(r))
		return nil
	})
}

func (l *ledger) Note(r broker.Record) {
	_ = l.course.step(context.Background(), "note "+string(r.Event))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, l.write(r))
}

// write is called with mu held.
func (l *ledger) write(r broker.Record) broker.Record {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	l.text.Write(b)
	l.text.WriteByte('\n')
	var again broker.Record
	if err := json.Unmarshal(b, &again); err != nil {
		panic(err)
	}
	// Grant.Params are raw; all else is read as it was written.
	return again
}

func (l *ledger) Healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// close makes the journal unwritable; with nil it is opened again.
func (l *ledger) close(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = why
}

// of returns the records of an event, notes too.
func (l *ledger) of(e broker.Event) []broker.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []broker.Record
	for _, r := range slices.Concat(l.lines, l.notes) {
		if r.Event == e {
			found = append(found, r)
		}
	}
	return found
}

func (l *ledger) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// tally counts what the broker measures.
type tally struct {
	mu     sync.Mutex // guards what is below
	counts map[string]int
	live   int
	lag    time.Duration
	lost   map[string]time.Duration // by target
}

func (t *tally) add(words ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = make(map[string]int)
	}
	t.counts[strings.Join(words, " ")]++
}

func (t *tally) Exchanged(issuer, outcome string)             { t.add("exchanged", issuer, outcome) }
func (t *tally) Minted(kind, outcome string, _ time.Duration) { t.add("minted", kind, outcome) }
func (t *tally) Revoked(kind, outcome string)                 { t.add("revoked", kind, outcome) }
func (t *tally) Reported(rule string, e broker.Effect)        { t.add("reported", rule, string(e)) }
func (t *tally) Found(target, what string)                    { t.add("found", target, what) }
func (t *tally) Swept(live int, lag time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live, t.lag = live, lag
}

func (t *tally) Reached(target string, lost time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost == nil {
		t.lost = make(map[string]time.Duration)
	}
	t.lost[target] = lost
}

func (t *tally) of(words string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[words]
}

func (t *tally) swept() (int, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live, t.lag
}

// frailReplay is a store of used tokens that can break.
type frailReplay struct {
	broker.Replay
	course *course
}

func (f frailReplay) Claim(ctx context.Context, c broker.Claim) error {
	return done(ctx, f.course, "claim", func() error { return f.Replay.Claim(ctx, c) })
}

// frailLeases is a store of leases and sessions whose every operation can break.
type frailLeases struct {
	broker.Leases
	broker.LeaseBook
	broker.Sessions
	broker.Alarms
	course *course
}

// tried takes a step of a store or of the journal. If it breaks it had no
// effect; if the step with "late " before its name breaks it had, and only its
// answer is lost.
func tried[T any](ctx context.Context, c *course, name string, do func() (T, error)) (T, error) {
	var none T
	if err := errors.Join(c.step(ctx, name), ctx.Err()); err != nil {
		return none, err
	}
	v, err := do()
	if err != nil {
		return none, err
	}
	return v, c.step(ctx, "late "+name)
}

// done is tried for what gives nothing back.
func done(ctx context.Context, c *course, name string, do func() error) error {
	_, err := tried(ctx, c, name, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

func (f frailLeases) Open(ctx context.Context, leases []broker.Lease, caps broker.Caps) error {
	return done(ctx, f.course, "open", func() error { return f.Leases.Open(ctx, leases, caps) })
}

func (f frailLeases) Activate(ctx context.Context, made []broker.Minted) error {
	return done(ctx, f.course, "activate", func() error { return f.Leases.Activate(ctx, made) })
}

func (f frailLeases) Postpone(ctx context.Context, l broker.Lease) error {
	return done(ctx, f.course, "postpone", func() error { return f.Leases.Postpone(ctx, l) })
}

func (f frailLeases) Close(ctx context.Context, id broker.LeaseID) error {
	return done(ctx, f.course, "close", func() error { return f.Leases.Close(ctx, id) })
}

func (f frailLeases) Lease(ctx context.Context, id broker.LeaseID) (broker.Lease, error) {
	return tried(ctx, f.course, "lease", func() (broker.Lease, error) { return f.LeaseBook.Lease(ctx, id) })
}

func (f frailLeases) List(ctx context.Context, by broker.LeaseFilter) ([]broker.Lease, error) {
	return tried(ctx, f.course, "list", func() ([]broker.Lease, error) { return f.LeaseBook.List(ctx, by) })
}

func (f frailLeases) Due(ctx context.Context, target string, at time.Time, limit int) ([]broker.Lease, error) {
	return tried(ctx, f.course, "due", func() ([]broker.Lease, error) { return f.LeaseBook.Due(ctx, target, at, limit) })
}

func (f frailLeases) Live(ctx context.Context, by ...broker.LeaseFilter) ([]int, error) {
	return tried(ctx, f.course, "live", func() ([]int, error) { return f.LeaseBook.Live(ctx, by...) })
}

func (f frailLeases) Start(ctx context.Context, s broker.Session) error {
	return done(ctx, f.course, "start", func() error { return f.Sessions.Start(ctx, s) })
}

func (f frailLeases) Session(ctx context.Context, id broker.SessionID) (broker.Session, error) {
	return tried(ctx, f.course, "session", func() (broker.Session, error) { return f.Sessions.Session(ctx, id) })
}

func (f frailLeases) Extend(ctx context.Context, id broker.SessionID, fresh broker.Identity, until time.Time) error {
	return done(ctx, f.course, "extend", func() error { return f.Sessions.Extend(ctx, id, fresh, until) })
}

func (f frailLeases) Shut(ctx context.Context, id broker.SessionID, at time.Time) error {
	return done(ctx, f.course, "closing", func() error { return f.Sessions.Shut(ctx, id, at) })
}

func (f frailLeases) Alarm(ctx context.Context, id broker.SessionID, until, at time.Time) (broker.Session, error) {
	return tried(ctx, f.course, "alarm", func() (broker.Session, error) { return f.Alarms.Alarm(ctx, id, until, at) })
}

var (
	_ broker.Verifier  = (*booth)(nil)
	_ broker.Policy    = (*statute)(nil)
	_ broker.Minter    = (*locksmith)(nil)
	_ broker.Journal   = (*ledger)(nil)
	_ broker.Meter     = (*tally)(nil)
	_ broker.Replay    = frailReplay{}
	_ broker.Leases    = frailLeases{}
	_ broker.LeaseBook = frailLeases{}
	_ broker.Sessions  = frailLeases{}
	_ broker.Alarms    = frailLeases{}
)
