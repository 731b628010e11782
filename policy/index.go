package policy

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/daypass-dev/daypass/broker"
)

// index finds the rules whose pinned ids may match an identity, so that the
// cost of a decision does not grow with the rules of others. It may find rules
// that do not match, and never misses one that does.
type index map[string]*issuerIndex // by issuer

type issuerIndex struct {
	unpinned []int                       // rules that pin nothing at this issuer
	pinned   map[string]map[pinKey][]int // by claim, then value: rules that pin it
	claims   []string                    // keys of pinned, sorted
}

// pinKey is a value of a pinned id, with its type.
type pinKey struct {
	kind PatternKind
	text string
}

func (p *Pattern) key() pinKey {
	if p.Kind == ExactNum {
		return pinKey{ExactNum, p.same}
	}
	return pinKey{p.Kind, p.Text}
}

// keyOf returns the key that a claim is found under; false for a claim that no
// exact value equals.
func keyOf(claim any) (pinKey, bool) {
	switch claim := claim.(type) {
	case string:
		return pinKey{ExactText, claim}, true
	case json.Number:
		same, ok := canonical(claim.String())
		return pinKey{ExactNum, same}, ok
	case bool:
		if claim {
			return pinKey{ExactBool, "true"}, true
		}
		return pinKey{ExactBool, "false"}, true
	}
	return pinKey{}, false
}

// newIndex files each rule under the rarest of its pinned ids: under the
// repository's rather than under its owner's.
func newIndex(rules []*rule) index {
	rarity := countPins(rules)
	ix := index{}
	for i, r := range rules {
		for _, p := range r.places {
			at := ix[p.issuer]
			if at == nil {
				at = &issuerIndex{pinned: map[string]map[pinKey][]int{}}
				ix[p.issuer] = at
			}
			at.add(i, p, rarity)
		}
	}
	for _, at := range ix {
		for claim := range at.pinned {
			at.claims = append(at.claims, claim)
		}
		slices.Sort(at.claims)
	}
	return ix
}

// pin is one value of one claim at one issuer.
type pin struct {
	issuer, claim string
	value         pinKey
}

func countPins(rules []*rule) map[pin]int {
	n := map[pin]int{}
	for _, r := range rules {
		for _, p := range r.places {
			for _, c := range p.pins {
				for i := range c.Any {
					n[pin{p.issuer, c.Claim, c.Any[i].key()}]++
				}
			}
		}
	}
	return n
}

func (at *issuerIndex) add(rule int, p place, rarity map[pin]int) {
	if len(p.pins) == 0 {
		at.unpinned = append(at.unpinned, rule)
		return
	}
	crowd := func(c Condition) int { // the most rules that one of the values brings up
		most := 0
		for i := range c.Any {
			most = max(most, rarity[pin{p.issuer, c.Claim, c.Any[i].key()}])
		}
		return most
	}
	rarest := slices.MinFunc(p.pins, func(a, b Condition) int {
		return cmp.Or(cmp.Compare(crowd(a), crowd(b)), cmp.Compare(a.Claim, b.Claim))
	})
	values := at.pinned[rarest.Claim]
	if values == nil {
		values = map[pinKey][]int{}
		at.pinned[rarest.Claim] = values
	}
	for i := range rarest.Any {
		k := rarest.Any[i].key()
		values[k] = append(values[k], rule)
	}
}

// find appends the rules that may be for an identity to found, sorted and each
// once.
func (ix index) find(id broker.Identity, found []int) []int {
	at := ix[id.Issuer]
	if at == nil {
		return found
	}
	found = append(found, at.unpinned...)
	for _, name := range at.claims {
		claim, ok := id.Claims.Lookup(name)
		if !ok {
			continue
		}
		values := at.pinned[name]
		items, ok := claim.([]any)
		if !ok {
			if k, ok := keyOf(claim); ok {
				found = append(found, values[k]...)
			}
			continue
		}
		for _, item := range items {
			if k, ok := keyOf(item); ok {
				found = append(found, values[k]...)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
