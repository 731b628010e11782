package broker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// Exchange buys credentials with a CI token, once. It reads top to bottom like
// the table in docs/architecture.md: until the claim nothing is consumed, and
// after it nothing is made that the journal does not know.
//
// Errors are [*Error]. Beside a [MintFailed] or [Conflict] the answer carries
// the job session, which stays usable; beside a [MintFailed], sealed where
// answers are.
func (b *Broker) Exchange(ctx context.Context, token Secret, r Request) (Answer, error) {
	answer := Answer{Request: r.ID, DryRun: r.DryRun}

	id, err := b.verify(ctx, token)
	if err != nil {
		return answer, b.refused(r, Identity{}, Decision{}, err)
	}
	seal, err := newSealer(r.Recipient, id.Token)
	if err == nil {
		answer.Sealed, err = b.redeliver(ctx, seal, id, r)
	}
	if err != nil {
		return answer, b.refused(r, id, Decision{}, err)
	}
	if answer.Sealed != nil { // it was answered before, and the answer was lost
		return answer, answer.Sealed.failure()
	}
	if err := b.lasts(id); err != nil {
		return answer, b.refused(r, id, Decision{}, err)
	}
	answer.Decision, err = b.decide(ctx, id, r)
	if err != nil || r.DryRun {
		return answer, err
	}
	if err := b.admit(ctx, id, id.Token, answer.Decision); err != nil {
		return answer, b.refused(r, id, answer.Decision, err)
	}
	plan, err := b.plan(id, r, answer.Decision)
	if err != nil {
		return answer, b.refused(r, id, answer.Decision, err)
	}
	plan.seal = seal
	if err := b.startSession(plan); err != nil {
		return answer, b.refused(r, id, answer.Decision, err)
	}
	if err := b.claim(ctx, id, plan.session); err != nil {
		return answer, b.refused(r, id, answer.Decision, err)
	}
	// The token is spent. A client that hangs up now does not stop us half way.
	ctx, done := b.detach(ctx)
	defer done()
	return b.issue(ctx, answer, plan)
}

// More buys further credentials with a job session. The request is decided
// anew, from the claims of the session, against the policy of the moment.
func (b *Broker) More(ctx context.Context, session Secret, r Request) (Answer, error) {
	answer := Answer{Request: r.ID, DryRun: r.DryRun}

	s, err := b.session(ctx, session)
	if err != nil {
		return answer, b.refused(r, Identity{}, Decision{}, err)
	}
	answer.Session = s
	if err := b.mints(s); err != nil {
		return answer, b.refused(r, s.For, Decision{}, err)
	}
	seal, err := sealerOf(s, r)
	if err == nil && r.Idempotency != "" {
		answer.Sealed, err = b.redeliver(ctx, seal, s.For, r)
	}
	if err != nil {
		return answer, b.refused(r, s.For, Decision{}, err)
	}
	if answer.Sealed != nil {
		return answer, nil
	}
	answer.Decision, err = b.decideOn(ctx, s, r)
	if err != nil || r.DryRun {
		return answer, err
	}
	if err := b.admit(ctx, s.For, TokenID{}, answer.Decision); err != nil {
		return answer, b.refused(r, s.For, answer.Decision, err)
	}
	plan, err := b.plan(s.For, r, answer.Decision)
	if err != nil {
		return answer, b.refused(r, s.For, answer.Decision, err)
	}
	plan.seal = seal
	plan.bind(s, Secret{})
	if r.Idempotency != "" {
		plan.once = idempotent(s.ID, r.Idempotency)
	}
	if err := b.claimRequest(ctx, s, plan.once); err != nil {
		return answer, b.refused(r, s.For, answer.Decision, err)
	}
	ctx, done := b.detach(ctx)
	defer done()
	return b.issue(ctx, answer, plan)
}

// decide asks the policy for all wants under one version. A denial never
// consumes the token and never reaches a target.
func (b *Broker) decide(ctx context.Context, id Identity, r Request) (Decision, error) {
	if err := checkWants(r.Wants); err != nil {
		return Decision{}, b.refused(r, id, Decision{}, err)
	}
	if r.DryRun && len(r.Wants) == 0 {
		return b.offer(ctx, id, r)
	}
	d, err := b.policy.Decide(id, r.Wants, b.now())
	switch {
	case err != nil:
		err = asError(err, Internal, "the request could not be decided")
		return Decision{Version: d.Version}, b.refused(r, id, Decision{Version: d.Version}, err)
	case !r.DryRun:
		b.countReported(d)
	}
	switch {
	case !d.Allowed:
		return d, b.denied(ctx, id, r, d)
	case !permits(d, r.Wants):
		return d, b.refused(r, id, d, fail(Internal, nil, "the request could not be decided"))
	case r.DryRun:
		b.sayTakeback(d.Permits)
	}
	return d, nil
}

// decideOn is decide for a job session, which may refuse what policy permits.
func (b *Broker) decideOn(ctx context.Context, s Session, r Request) (Decision, error) {
	d, err := b.decide(ctx, s.For, r)
	if err != nil || !s.Reused {
		return d, err
	}
	if len(r.Wants) == 0 { // what it could have
		d.Permits = slices.DeleteFunc(slices.Clone(d.Permits), func(p Permit) bool { return s.Refuses(p.Grant) != nil })
		return d, nil
	}
	for _, p := range d.Permits {
		if err := s.Refuses(p.Grant); err != nil {
			return d, b.refused(r, s.For, d, err)
		}
	}
	return d, nil
}

// offer answers a dry run that names no grants: all that the job could have.
func (b *Broker) offer(ctx context.Context, id Identity, r Request) (Decision, error) {
	d, err := b.policy.Offer(id, b.now())
	switch {
	case err != nil:
		err = asError(err, Internal, "the request could not be decided")
		return Decision{Version: d.Version}, b.refused(r, id, Decision{Version: d.Version}, err)
	case !d.Allowed:
		return d, b.denied(ctx, id, r, d)
	}
	b.sayTakeback(d.Permits)
	return d, nil
}

// countReported counts what rules that do not bind would have done.
func (b *Broker) countReported(d Decision) {
	for _, r := range d.Reported {
		b.meter.Reported(r.Rule, r.Effect)
	}
}

// sayTakeback adds what policy does not know.
func (b *Broker) sayTakeback(permits []Permit) {
	for i := range permits {
		permits[i].Takeback = b.takebacks[permits[i].Grant.Kind]
	}
}

// permits reports whether a decision answers what was asked, and no more.
func permits(d Decision, wants []Want) bool {
	if len(d.Permits) != len(wants) {
		return false
	}
	for i, p := range d.Permits {
		if p.Grant.Name != wants[i].Name || (wants[i].TTL > 0 && p.TTL > wants[i].TTL) {
			return false
		}
	}
	return true
}

// verify asks whose a token is, and does not take an answer that replay
// protection could not work with.
func (b *Broker) verify(ctx context.Context, token Secret) (Identity, error) {
	id, err := b.verifier.Verify(ctx, token)
	if err != nil {
		return Identity{}, err
	}
	if id.Token.IsZero() || id.Issuer == "" || id.KeepUntil.Before(id.Expires) {
		return Identity{}, fail(Internal, nil, "the token could not be verified")
	}
	return id, nil
}

// lasts refuses a token that verified only by the leeway for clocks: its session
// would be over when it opens, and the token would be spent for nothing.
func (b *Broker) lasts(id Identity) error {
	if b.now().Before(id.Expires) {
		return nil
	}
	return &Error{Code: TokenExpired, Reason: "expired", Public: "the CI token has expired; ask your CI provider for a fresh one"}
}

// claim spends a token. Whatever is not a clear yes is a no.
func (b *Broker) claim(ctx context.Context, id Identity, s Session) error {
	err := b.spend(ctx, id, s)
	if CodeOf(err) == TokenReused {
		return b.usedAgain(ctx, id, OwnerOf(s.Recipient), err)
	}
	return err
}

// spend is claim without an alarm.
func (b *Broker) spend(ctx context.Context, id Identity, s Session) error {
	err := b.replay.Claim(ctx, Claim{Token: id.Token, IssuedAt: id.IssuedAt, Until: id.KeepUntil, Owner: OwnerOf(s.Recipient), Session: s.ID})
	if err == nil {
		return nil
	}
	return asError(err, Unavailable, "it could not be made sure that the token is used once")
}

// sealerOf is a session's sealer: its answers go to the key that opened it.
// What makes each answer's context its own is the idempotency key, or the
// request's own id.
func sealerOf(s Session, r Request) (sealer, error) {
	if r.Idempotency != "" && len(s.Recipient) == 0 {
		return sealer{}, fail(BadRequest, nil, "an Idempotency-Key needs a session that was opened with a recipient_key")
	}
	return newSealer(s.Recipient, idempotent(s.ID, cmp.Or(r.Idempotency, r.ID)))
}

// session finds the job session of a token.
func (b *Broker) session(ctx context.Context, token Secret) (Session, error) {
	s, err := b.sessions.Session(ctx, SessionIDOf(token))
	if err != nil {
		return Session{}, asError(err, Unavailable, "the session store cannot be read")
	}
	return s, nil
}

// admit holds the limits that cost nothing to whoever is within them. token is
// the one that is being exchanged; zero for a request on a session.
func (b *Broker) admit(ctx context.Context, id Identity, token TokenID, d Decision) error {
	if wait := b.rate.take(id.Place(), token, b.now()); wait > 0 {
		return &Error{Code: RateLimited, Reason: "rate_limited", RetryAfter: wait,
			Public: "this repository has made too many exchanges in the last minute; try again later"}
	}
	if err := b.journal.Healthy(); err != nil {
		return &Error{Code: Unavailable, Reason: "journal", RetryAfter: retrySoon, Err: err,
			Public: "the journal cannot be written, so nothing is issued"}
	}
	if err := b.lostTarget(d.Permits); err != nil {
		return err
	}
	return b.roomFor(ctx, id, d)
}

// roomFor refuses before the token is spent what Open would refuse after it.
// Open is what holds the caps exactly.
func (b *Broker) roomFor(ctx context.Context, id Identity, d Decision) error {
	bounds := b.bounds(id, d)
	if len(bounds) == 0 {
		return nil
	}
	filters := make([]LeaseFilter, len(bounds))
	for i, c := range bounds {
		filters[i] = c.counts
	}
	live, err := b.book.Live(ctx, filters...)
	if err != nil {
		return asError(err, Unavailable, "the lease store cannot be read")
	}
	for i, c := range bounds {
		if live[i]+c.more > c.most {
			return TooManyLive(c.of)
		}
	}
	return nil
}

// bound is a cap on live leases, and how many more a request would make.
type bound struct {
	of         string
	counts     LeaseFilter
	more, most int
}

// bounds are the caps that a request has to keep within.
func (b *Broker) bounds(id Identity, d Decision) []bound {
	var all []bound
	if most := b.limits.LivePerPlace; most > 0 {
		all = append(all, bound{"this repository", LeaseFilter{Place: id.Place()}, len(d.Permits), most})
	}
	rules := make(map[string]int) // where each is in all
	for _, p := range d.Permits {
		if p.Grant.MaxLive > 0 {
			all = append(all, bound{"grant " + p.Grant.Name, LeaseFilter{Grant: p.Grant.Name}, 1, p.Grant.MaxLive})
		}
		if p.MaxLive == 0 {
			continue
		}
		if i, there := rules[p.Rule]; there {
			all[i].more++
			continue
		}
		rules[p.Rule] = len(all)
		all = append(all, bound{"rule " + p.Rule, LeaseFilter{Rule: p.Rule}, 1, p.MaxLive})
	}
	return all
}

const retrySoon = 5 * time.Second

// checkWants refuses what no policy could mean.
func checkWants(wants []Want) error {
	seen := make(map[string]bool, len(wants))
	for _, w := range wants {
		if w.Name == "" {
			return fail(BadRequest, nil, "grants: a grant has no name")
		}
		if w.TTL < 0 {
			return fail(BadRequest, nil, "grants: the ttl of a grant is negative")
		}
		if seen[w.Name] {
			return fail(BadRequest, nil, "grants: a grant is asked for twice")
		}
		seen[w.Name] = true
	}
	return nil
}

// mints says why a session buys nothing, or nil.
func (b *Broker) mints(s Session) error {
	if err := s.Ended(); err != nil {
		return err
	}
	if !b.now().Before(s.Expires) {
		return &Error{Code: SessionExpired, Public: "the job session has expired; extend it with a fresh CI token of the same job"}
	}
	return nil
}

// detach gives work that must not stop half way a deadline of its own.
func (b *Broker) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), b.mintTimeout)
}

// mintEnds is how long after its planning an exchange is answered or given up,
// by whichever broker: the time it has, and some for clocks that differ.
func (b *Broker) mintEnds() time.Duration { return b.mintTimeout + 5*time.Second }

// asError keeps an [*Error] and wraps everything else.
func asError(err error, code Code, public string) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: code, Public: public, Err: err, RetryAfter: retryOf(code)}
}

func retryOf(code Code) time.Duration {
	if code == Unavailable {
		return retrySoon
	}
	return 0
}
