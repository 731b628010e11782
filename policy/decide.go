package policy

import (
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

var (
	_ broker.Policy = (*Book)(nil)
	_ broker.Policy = (*Current)(nil)
)

// Decide implements [broker.Policy]. A grant is permitted if a rule for the
// identity gives it: one whose pinned ids, other conditions and expression all
// hold, and that is not past its last day at the time given. Of several, the
// one that gives it longest counts, and of these the first by id. The error is
// a [broker.BadRequest] for a ttl below a second.
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
	for _, i := range candidates {
		if r := b.rules[i]; r.live(at) && r.isFor(id) {
			c.rules = append(c.rules, candidate{rule: r})
		}
	}
	d := broker.Decision{Version: b.version, Known: len(c.rules) > 0}
	if len(wants) == 0 {
		d.Allowed = d.Known
		return d, nil
	}
	for _, w := range wants {
		if p, ok := c.permit(w); ok {
			d.Permits = append(d.Permits, p)
		} else if name := b.known(w.Name); !slices.Contains(d.Denied, name) {
			d.Denied = append(d.Denied, name)
			d.Denials = append(d.Denials, c.denials(w)...)
		}
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

// isFor reports whether the pinned ids of one of the rule's places match.
func (r *rule) isFor(id broker.Identity) bool {
	for i := range r.places {
		if p := &r.places[i]; p.issuer == id.Issuer && holdAll(p.pins, id.Claims) {
			return true
		}
	}
	return false
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
	book  *Book
	id    broker.Identity
	rules []candidate // those whose pinned ids match, by id

	vars      *whenVars // claims as expressions see them, once one needs them
	varsWhole bool
}

// candidate remembers whether a rule's conditions hold, for the next grant.
type candidate struct {
	*rule
	state matchState
}

type matchState byte

const (
	notLookedAt matchState = iota
	matching
	failing
)

// permit finds the rule that gives a grant longest.
func (c *choosing) permit(w broker.Want) (broker.Permit, bool) {
	grant, ok := c.book.grants[w.Name]
	if !ok {
		return broker.Permit{}, false
	}
	best := broker.Permit{Grant: grant}
	for i := range c.rules {
		r := &c.rules[i]
		ttl, ok := r.given(w)
		if ok && ttl > best.TTL && r.matches(c.id.Claims) && c.whenHolds(r.rule, w.Name, ttl) {
			best.Rule, best.TTL = r.id, ttl
		}
	}
	return best, best.TTL > 0
}

func (r *candidate) matches(claims broker.Claims) bool {
	if r.state == notLookedAt {
		r.state = failing
		if holdAll(r.others, claims) {
			r.state = matching
		}
	}
	return r.state == matching
}

func (c *choosing) whenHolds(r *rule, grant string, ttl time.Duration) bool {
	if r.when == nil {
		return true
	}
	if c.vars == nil {
		claims, whole := whenClaims(c.id.Claims)
		c.vars = &whenVars{claims: claims, issuer: c.id.Issuer}
		c.varsWhole = whole
	}
	c.vars.grant, c.vars.ttl = grant, ttl
	return c.varsWhole && !c.id.Trimmed && holdsWhen(r.when, c.vars)
}
