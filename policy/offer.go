package policy

import (
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Offer implements [broker.Policy]. A grant is permitted and denied by what
// [Book.Decide] asks, so nothing is offered that asking for it would not give.
func (b *Book) Offer(id broker.Identity, at time.Time) (broker.Decision, error) {
	var room [32]int
	c := choosing{book: b, id: id}
	c.choose(b.index.find(id, room[:0]), at)
	known := len(c.allow) > 0
	d := broker.Decision{Version: b.version, Known: known, Allowed: known}
	for _, name := range c.grants() {
		w := broker.Want{Name: name}
		if p, ok := c.permit(w); ok && !c.denied(w) {
			d.Permits = append(d.Permits, p)
		}
	}
	return d, nil
}

func (c *choosing) denied(w broker.Want) bool {
	for range c.denying(w) {
		return true
	}
	return false
}

// grants are the names of those that some rule for the identity gives, each
// once.
func (c *choosing) grants() []string {
	var names []string
	for i := range c.allow {
		for _, a := range c.allow[i].allow {
			names = append(names, a.grant)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Offer implements [broker.Policy], as [Current.Decide] does.
func (c *Current) Offer(id broker.Identity, at time.Time) (broker.Decision, error) {
	b := c.book.Load()
	if b == nil {
		return broker.Decision{}, errNoPolicy
	}
	return b.Offer(id, at)
}
