package broker

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// plan is what an exchange is about to make: every name is fixed, nothing has
// been contacted.
type plan struct {
	request Request
	id      Identity
	version string
	would   []Reported // what rules that do not bind would have done
	orders  []Order
	leases  []Lease
	session Session

	ruleCaps map[string]int // live leases, by the rule that gives them
	token    Secret         // zero: the session exists already
	once     TokenID        // the request's Idempotency-Key on the session, if it has one
	seal     sealer
}

// plan draws the ids and asks each minter for its handle. Whole seconds only:
// names, tokens and databases carry no fractions.
func (b *Broker) plan(id Identity, r Request, d Decision) (*plan, error) {
	now := b.now()
	p := &plan{request: r, id: id, version: d.Version, would: few(d.Reported, recordRules), ruleCaps: make(map[string]int)}
	for _, permit := range d.Permits {
		order, lease, err := b.planOne(id, r, permit, now)
		if err != nil {
			return nil, &Error{Code: Internal, Reason: "plan", Err: err,
				Public: fmt.Sprintf("grant %s cannot be made for this job", permit.Grant.Name)}
		}
		p.orders = append(p.orders, order)
		p.leases = append(p.leases, lease)
		if permit.MaxLive > 0 {
			p.ruleCaps[permit.Rule] = permit.MaxLive
		}
	}
	return p, nil
}

// startSession binds a plan to a job session that is still to be stored.
func (b *Broker) startSession(p *plan) error {
	token, id, err := NewSessionToken(b.rand)
	if err != nil {
		return &Error{Code: Internal, Reason: "no_randomness", Err: err, Public: "something went wrong on our side"}
	}
	s := Session{ID: id, For: p.id, Opened: b.now(), Expires: p.id.Expires, Recipient: p.request.Recipient}
	for _, o := range p.orders {
		if o.Grant.OnReuse == OnReuseRevoke {
			s.OnReuse = OnReuseRevoke
		}
	}
	p.bind(s, token)
	return nil
}

// bind ties the plan's leases to a session; token is zero where the session is
// stored already.
func (p *plan) bind(s Session, token Secret) {
	p.session, p.token = s, token
	for i := range p.leases {
		p.leases[i].Session = s.ID
	}
}

func (b *Broker) planOne(id Identity, r Request, permit Permit, now time.Time) (Order, Lease, error) {
	g := permit.Grant
	ln, ok := b.lanes[g.Target]
	if !ok {
		return Order{}, Lease{}, fmt.Errorf("grant %q names target %q, which is not configured", g.Name, g.Target)
	}
	if permit.TTL < time.Second || permit.TTL > g.MaxTTL {
		return Order{}, Lease{}, fmt.Errorf("rule %q gives grant %q for %v, outside 1 s to %v", permit.Rule, g.Name, permit.TTL, g.MaxTTL)
	}
	lid, err := NewLeaseID(b.rand)
	if err != nil {
		return Order{}, Lease{}, err
	}
	o := Order{Lease: lid, Grant: g, NotAfter: now.Add(permit.TTL).Truncate(time.Second), For: id}
	handle, err := ln.minter.Plan(o)
	if err != nil {
		return Order{}, Lease{}, fmt.Errorf("plan grant %q: %w", g.Name, err)
	}
	return o, Lease{
		ID: lid, Handle: handle, Grant: g, Request: r.ID, Rule: permit.Rule,
		Issuer: id.Issuer, Place: id.Place(), Repo: id.Job.Repository, Run: id.Job.Run,
		State: LeasePending, Opened: now, NotAfter: o.NotAfter,
		Due: now.Add(b.mintEnds()), // by then it is active, or whoever planned it is gone
	}, nil
}

// issue makes what was planned. The intent is durable before a target hears of
// it, and the credentials are ours to hand out only when the journal says that
// they were issued; whatever fails in between is taken back by handle.
func (b *Broker) issue(ctx context.Context, answer Answer, p *plan) (Answer, error) {
	b.issuing.Add(1)
	defer b.issuing.Add(-1)
	if err := b.journal.Append(ctx, p.record(EventIntent, b.now())); err != nil {
		return answer, b.failed(p, &Error{Code: Unavailable, Reason: "journal_intent", Err: err,
			Public: "the journal could not be written, so nothing was issued"})
	}
	if !p.token.IsZero() {
		if err := b.sessions.Start(ctx, p.session); err != nil {
			b.undo(ctx, p, 0, "session_start")
			return answer, b.failed(p, asError(err, Unavailable, "the session store cannot be written"))
		}
	}
	answer.Session, answer.Token = p.session, p.token // whatever fails below, the session stays usable
	if err := b.open(ctx, p); err != nil {
		b.undo(ctx, p, 0, "lease_open")
		return answer, b.failed(p, asError(err, Unavailable, "the lease store cannot be written"))
	}
	made, err := b.mintAll(ctx, p)
	if err != nil {
		b.undo(ctx, p, len(made)+1, "mint")
		failed := b.failed(p, asError(err, MintFailed, "nothing was issued"))
		return b.sealFailed(ctx, p, answer, failed), failed
	}
	if err := b.activate(ctx, p, made); err != nil {
		b.undo(ctx, p, len(made), "activate")
		return answer, b.failed(p, asError(err, Unavailable, "the lease store cannot be written"))
	}
	if err := b.journal.Append(ctx, p.record(EventIssued, b.now())); err != nil {
		b.undo(ctx, p, len(made), "journal_issued")
		return answer, b.failed(p, &Error{Code: Unavailable, Reason: "journal_issued", Err: err,
			Public: "the journal could not be written, so what was made is taken back"})
	}
	for i, c := range made {
		answer.Granted = append(answer.Granted, Granted{Lease: p.leases[i], Credential: c})
	}
	sealed, err := b.seal(ctx, p.seal, answer, nil)
	if err != nil { // a fault of ours: what nobody can read is taken back
		b.undo(ctx, p, len(made), "seal")
		return answer.withoutCredentials(), b.failed(p, asError(err, Internal, "something went wrong on our side"))
	}
	b.meter.Exchanged(p.id.Issuer, "issued")
	return sealed, nil
}

// withoutCredentials is an answer whose credentials are being taken back.
func (a Answer) withoutCredentials() Answer {
	a.Granted = nil
	return a
}

// open stores the leases as pending: from then on a sweeper finds them.
func (b *Broker) open(ctx context.Context, p *plan) error {
	if len(p.leases) == 0 {
		return nil
	}
	return b.leases.Open(ctx, p.leases, Caps{LivePerPlace: b.limits.LivePerPlace, LivePerRule: p.ruleCaps})
}

// mintAll mints in order and stops at the first failure, with what was made.
func (b *Broker) mintAll(ctx context.Context, p *plan) ([]Credential, error) {
	var made []Credential
	for i, order := range p.orders {
		began := b.now()
		c, err := b.lanes[order.Grant.Target].mint(ctx, order, p.leases[i].Handle)
		if err == nil && !b.now().Before(order.NotAfter) {
			err = errors.New("the target took longer than the credential was to live")
		}
		if err != nil {
			b.meter.Minted(order.Grant.Kind, "failed", b.now().Sub(began))
			return made, &Error{Code: MintFailed, Err: fmt.Errorf("mint %s: %w", p.leases[i].Handle, err),
				Public: fmt.Sprintf("the target of grant %s did not give a credential; nothing was issued", order.Grant.Name)}
		}
		b.meter.Minted(order.Grant.Kind, "ok", b.now().Sub(began))
		made = append(made, c)
	}
	return made, nil
}

// activate tells the lease store what became of the plan; it fails where the
// session was given back meanwhile.
func (b *Broker) activate(ctx context.Context, p *plan, made []Credential) error {
	if len(made) == 0 {
		return nil
	}
	known := make([]Minted, len(made))
	for i, c := range made {
		l := &p.leases[i]
		l.State, l.ServerID, l.Takeback, l.Due = LeaseActive, c.ServerID, c.Takeback, l.NotAfter
		known[i] = Minted{ID: l.ID, ServerID: c.ServerID, Takeback: c.Takeback}
	}
	return b.leases.Activate(ctx, known)
}

// undo takes back the first n leases of a plan by handle and forgets the rest,
// which no target heard of. What cannot be taken back now stays with the
// sweeper.
func (b *Broker) undo(ctx context.Context, p *plan, n int, reason string) {
	ctx = context.WithoutCancel(ctx)
	begin, done := context.WithTimeout(ctx, b.revokeTimeout/2) // somebody waits for it
	defer done()
	var gone []Lease
	for i, l := range p.leases {
		if i < n {
			err := b.takeBack(begin, l)
			if errors.Is(err, errBusy) {
				l.State = LeaseRevoking // its mint is over
				b.leaveToSweeper(ctx, l)
				continue
			}
			if errors.Is(err, errGaveWay) {
				b.goOnLater(ctx, l)
				continue
			}
			if err != nil && !errors.Is(err, ErrExpiresOnly) {
				b.postpone(ctx, l, err)
				continue
			}
		}
		if err := b.close(ctx, l.ID); err != nil {
			b.postpone(ctx, l, err)
			continue
		}
		gone = append(gone, l)
	}
	if len(gone) == 0 {
		return
	}
	r := p.record(EventUndone, b.now())
	r.Reason, r.Leases, r.Claims = reason, gone, nil
	b.tell(ctx, r)
}

// record is the plan as the journal keeps it.
func (p *plan) record(e Event, at time.Time) Record {
	r := about(e, at, p.request.ID, p.id, p.version)
	r.Keep, r.Owner = p.id.KeepUntil, OwnerOf(p.session.Recipient)
	r.Leases = append([]Lease(nil), p.leases...)
	for _, l := range p.leases {
		r.Rules = append(r.Rules, l.Rule)
		r.Grants = append(r.Grants, l.Grant.Name)
	}
	if e == EventIntent {
		s := p.session
		s.For = listedOnly(s.For)
		r.Claims, r.Session, r.Once, r.Reported = s.For.Claims, &s, p.once, p.would
	}
	return r
}
