package policy

import (
	"iter"
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

var (
	_ broker.Policy = (*Book)(nil)
	_ broker.Policy = (*Current)(nil)
)

// Decide implements [broker.Policy]. A grant is permitted if a rule for the
// identity gives it, one whose pinned ids, other conditions and expression all
// hold, and no rule that denies it may mean the identity; rules that are past
// their last day at the time given, or only report, count for nothing. Of
// several, the one that gives it longest counts, and of these the first by id.
// The error is a [broker.BadRequest] for a ttl below a second.
func (b *Book) Decide(id broker.Identity, wants []broker.Want, at time.Time) (broker.Decision, error) {
	var room [32]int
	return b.decide(b.index.find(id, room[:0]), id, wants, at)
}

// decide looks at the candidates, which are positions in b.rules in order, and
// at no other rule.
func (b *Book) decide(candidates []int, id broker.Identity, wants []broker.Want, at time.Time) (broker.Decision, error) {
	for _, w := range wants {
		if w.TTL < 0 || w.TTL > 0 && w.TTL < time.Second {
			return broker.Decision{Version: b.version}, &broker.Error{Code: broker.BadRequest, Public: "a ttl is at least one second"}
		}
	}
	c := choosing{book: b, id: id}
	c.choose(candidates, at)
	d := broker.Decision{Version: b.version, Known: len(c.allow) > 0}
	if len(wants) == 0 {
		d.Allowed = d.Known
		return d, nil
	}
	for i, w := range wants {
		if !slices.ContainsFunc(wants[:i], func(before broker.Want) bool { return before == w }) {
			d.Reported = append(d.Reported, c.reported(w)...)
		}
		c.answer(&d, w)
	}
	d.Allowed = len(d.Denied) == 0
	if !d.Allowed {
		d.Permits = nil
	}
	return d, nil
}

// known is a grant's name as it may be written down: one that no grant has is
// a caller's text, and may be a secret in the wrong place.
func (b *Book) known(name string) string {
	if _, ok := b.grants[name]; !ok {
		return broker.UnknownGrant
	}
	return name
}

func (r *rule) live(at time.Time) bool { return !r.ast.Until.Over(at) }

// isFor says whether the pinned ids of one of the rule's places match.
func (r *rule) isFor(id broker.Identity) truth {
	t := no
	if r.among != nil {
		var room [16]int
		for _, i := range r.among.find(id, room[:0]) {
			t = max(t, all(r.places[i].pins, id))
		}
		return t
	}
	for i := range r.places {
		if p := &r.places[i]; p.issuer == anyIssuer || p.issuer == id.Issuer {
			t = max(t, all(p.pins, id))
		}
	}
	return t
}

// given returns what the rule gives of a grant, at most as long as asked.
func (r *rule) given(w broker.Want) (time.Duration, bool) {
	for _, a := range r.allow {
		if a.grant == w.Name {
			if w.TTL == 0 {
				return a.ttl, true
			}
			return min(a.ttl, w.TTL.Truncate(time.Second)), true
		}
	}
	return 0, false
}

// choosing is one decision under way.
type choosing struct {
	book   *Book
	id     broker.Identity
	allow  []candidate // rules that give, whose pinned ids match, by id
	deny   []candidate // rules that deny and may mean the identity, by id
	report []candidate // rules of both sorts that do not bind, by id

	vars      *whenVars // claims as expressions see them, once one needs them
	varsWhole bool
	told      uint64 // what denials have shown, as weight counts
}

// candidate remembers what its conditions say, for the next grant.
type candidate struct {
	*rule
	rest   truth // of the conditions that are no pinned ids
	looked bool
}

// choose sorts out the candidates that may matter for the identity.
func (c *choosing) choose(candidates []int, at time.Time) {
	for _, i := range candidates {
		r := c.book.rules[i]
		if !r.live(at) {
			continue
		}
		pins := r.isFor(c.id)
		if pins == no || pins == undecided && !r.denies {
			continue
		}
		list := &c.allow
		switch {
		case r.reports:
			list = &c.report
		case r.denies:
			list = &c.deny
		}
		*list = append(*list, candidate{rule: r})
	}
}

// answer adds what becomes of one grant. Where a rule denies it, nothing is told
// of any rule: the denial would say what the rules that deny do not cover.
func (c *choosing) answer(d *broker.Decision, w broker.Want) {
	name := c.book.known(w.Name)
	again, denied := slices.Contains(d.Denied, name), false
	for r := range c.denying(w) {
		denied = true
		one := broker.Reported{Grant: name, Rule: r.id, Effect: broker.EffectDeny}
		if !again || !slices.Contains(d.DeniedBy, one) {
			d.DeniedBy = append(d.DeniedBy, one)
		}
	}
	if p, ok := c.permit(w); ok && !denied {
		d.Permits = append(d.Permits, p)
		return
	}
	if again {
		return
	}
	d.Denied = append(d.Denied, name)
	if !denied {
		d.Denials = append(d.Denials, c.denials(w)...)
	}
}

// denying are the rules that bind and deny a grant, by id. One is enough.
func (c *choosing) denying(w broker.Want) iter.Seq[*candidate] {
	return func(yield func(*candidate) bool) {
		for i := range c.deny {
			if r := &c.deny[i]; c.denies(r, w) && !yield(r) {
				return
			}
		}
	}
}

// reported says what the rules that do not bind would have done about a grant.
func (c *choosing) reported(w broker.Want) []broker.Reported {
	var would []broker.Reported
	for i := range c.report {
		r := &c.report[i]
		switch {
		case r.denies && c.denies(r, w):
			would = append(would, broker.Reported{Grant: w.Name, Rule: r.id, Effect: broker.EffectDeny})
		case !r.denies && c.gives(r, w) > 0:
			would = append(would, broker.Reported{Grant: w.Name, Rule: r.id, Effect: broker.EffectAllow})
		}
	}
	return would
}

// permit finds the rule that gives a grant longest; of several, the one with
// the most room.
func (c *choosing) permit(w broker.Want) (broker.Permit, bool) {
	grant, ok := c.book.grants[w.Name]
	if !ok {
		return broker.Permit{}, false
	}
	best := broker.Permit{Grant: grant}
	for i := range c.allow {
		r := &c.allow[i]
		if ttl, ok := r.given(w); ok && betters(best, r, ttl) && c.gives(r, w) > 0 {
			best.Rule, best.TTL, best.MaxLive = r.id, ttl, r.ast.MaxLive
		}
	}
	return best, best.TTL > 0
}

// betters reports whether a rule that gives a grant for so long is to be
// preferred to the best so far.
func betters(best broker.Permit, r *candidate, ttl time.Duration) bool {
	roomier := best.MaxLive > 0 && (r.ast.MaxLive == 0 || r.ast.MaxLive > best.MaxLive)
	return ttl > best.TTL || (ttl == best.TTL && roomier)
}

// gives returns how long a rule gives a grant: 0 where it does not, or where
// that cannot be decided.
func (c *choosing) gives(r *candidate, w broker.Want) time.Duration {
	ttl, ok := r.given(w)
	if !ok || c.conditions(r) != yes || c.when(r.rule, w.Name, ttl) != yes {
		return 0
	}
	return ttl
}

// denies reports whether a rule denies a grant: also where that cannot be
// decided. Its expression sees the life that was asked for, which no rule that
// allows can change.
func (c *choosing) denies(r *candidate, w broker.Want) bool {
	if r.looked && r.rest == no {
		return false
	}
	ttl, ok := c.book.asked(w)
	if _, named := slices.BinarySearch(r.deny, w.Name); !ok || !named {
		return false
	}
	return c.conditions(r) != no && c.when(r.rule, w.Name, ttl) != no
}

// asked is the life that was asked for, at most the grant's; false for a grant
// that there is not.
func (b *Book) asked(w broker.Want) (time.Duration, bool) {
	grant, ok := b.grants[w.Name]
	ttl := grant.MaxTTL.Truncate(time.Second)
	if w.TTL > 0 {
		ttl = min(ttl, w.TTL.Truncate(time.Second))
	}
	return ttl, ok
}

// conditions is the truth of the conditions that are no pinned ids.
func (c *choosing) conditions(r *candidate) truth {
	if !r.looked {
		r.rest, r.looked = all(r.others, c.id), true
	}
	return r.rest
}

// when is the truth of a rule's expression.
func (c *choosing) when(r *rule, grant string, ttl time.Duration) truth {
	if r.when == nil {
		return yes
	}
	if c.vars == nil {
		claims, whole := whenClaims(c.id.Claims)
		c.vars = &whenVars{claims: claims, issuer: c.id.Issuer}
		c.varsWhole = whole
	}
	if !c.varsWhole || c.id.Trimmed {
		return undecided
	}
	c.vars.grant, c.vars.ttl = grant, ttl
	return truthOfWhen(r.when, c.vars)
}
