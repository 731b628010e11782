package policy

import (
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Offer implements [broker.Policy]. Each grant is decided as [Book.Decide]
// would, so nothing is offered that asking for it would not give.
func (b *Book) Offer(id broker.Identity, at time.Time) (broker.Decision, error) {
	var room [32]int
	candidates := b.index.find(id, room[:0])
	d, err := b.decide(candidates, id, nil, at)
	if err != nil || !d.Allowed {
		return d, err
	}
	for _, name := range b.grantsOf(candidates) {
		one, err := b.decide(candidates, id, []broker.Want{{Name: name}}, at)
		if err != nil {
			return broker.Decision{Version: b.version}, err
		}
		d.Permits = append(d.Permits, one.Permits...)
	}
	return d, nil
}

// grantsOf are the names of the grants that candidates give, each once.
func (b *Book) grantsOf(candidates []int) []string {
	var names []string
	for _, i := range candidates {
		for _, a := range b.rules[i].allow {
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
