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
//
// A rule that denies may mean an identity whose claim cannot be compared with
// what it pins, so it is found by such claims too.
type index map[string]*issuerIndex // by issuer; rules for all issuers under anyIssuer

type issuerIndex struct {
	unpinned []int                  // rules that pin nothing at this issuer
	pinned   map[string]*claimIndex // by claim
	claims   []string               // keys of pinned, sorted
}

// claimIndex are the rules that are filed under one claim.
type claimIndex struct {
	values map[pinKey][]int      // by value
	deny   []int                 // those that deny
	other  map[PatternKind][]int // those that deny and have no value of a type
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
// exact value equals, with an empty text.
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

// filed is one place of a rule, under the number by which the rule is found.
type filed struct {
	number int
	denies bool
	place  *place
}

// newIndex files each entry under the rarest of its pinned ids: under the
// repository's rather than under its owner's.
func newIndex(entries []filed) index {
	rarity := countPins(entries)
	ix := index{}
	for _, e := range entries {
		at := ix[e.place.issuer]
		if at == nil {
			at = &issuerIndex{pinned: map[string]*claimIndex{}}
			ix[e.place.issuer] = at
		}
		if len(e.place.pins) == 0 {
			at.unpinned = append(at.unpinned, e.number)
			continue
		}
		at.add(e, rarest(e.place, rarity))
	}
	for _, at := range ix {
		for claim := range at.pinned {
			at.claims = append(at.claims, claim)
		}
		slices.Sort(at.claims)
	}
	return ix
}

// indexRules finds rules by their positions.
func indexRules(rules []*rule) index {
	var entries []filed
	for i, r := range rules {
		for p := range r.places {
			entries = append(entries, filed{number: i, denies: r.denies, place: &r.places[p]})
		}
	}
	return newIndex(entries)
}

// fewPlaces are so few that looking at each costs no more than an index.
const fewPlaces = 16

// indexPlaces finds places of one rule by their positions, where there are many.
func indexPlaces(places []place, denies bool) index {
	if len(places) <= fewPlaces {
		return nil
	}
	entries := make([]filed, len(places))
	for i := range places {
		entries[i] = filed{number: i, denies: denies, place: &places[i]}
	}
	return newIndex(entries)
}

// pin is one value of one claim at one issuer.
type pin struct {
	issuer, claim string
	value         pinKey
}

func countPins(entries []filed) map[pin]int {
	n := map[pin]int{}
	for _, e := range entries {
		for _, c := range e.place.pins {
			for i := range c.Any {
				n[pin{e.place.issuer, c.Claim, c.Any[i].key()}]++
			}
		}
	}
	return n
}

// rarest is the pin of a place that brings up the fewest rules.
func rarest(p *place, rarity map[pin]int) *Condition {
	crowd := func(c *Condition) int { // the most rules that one of the values brings up
		most := 0
		for i := range c.Any {
			most = max(most, rarity[pin{p.issuer, c.Claim, c.Any[i].key()}])
		}
		return most
	}
	best, fewest := &p.pins[0], crowd(&p.pins[0])
	for i := range p.pins[1:] {
		c := &p.pins[i+1]
		n := crowd(c)
		if order := cmp.Or(cmp.Compare(n, fewest), cmp.Compare(c.Claim, best.Claim)); order < 0 {
			best, fewest = c, n
		}
	}
	return best
}

func (at *issuerIndex) add(e filed, pin *Condition) {
	ci := at.pinned[pin.Claim]
	if ci == nil {
		ci = &claimIndex{values: map[pinKey][]int{}, other: map[PatternKind][]int{}}
		at.pinned[pin.Claim] = ci
	}
	for v := range pin.Any {
		k := pin.Any[v].key()
		ci.values[k] = append(ci.values[k], e.number)
	}
	if !e.denies {
		return
	}
	ci.deny = append(ci.deny, e.number)
	for _, kind := range []PatternKind{ExactText, ExactNum, ExactBool} {
		if !slices.ContainsFunc(pin.Any, func(p Pattern) bool { return p.Kind == kind }) {
			ci.other[kind] = append(ci.other[kind], e.number)
		}
	}
}

// find appends the rules that may be for an identity to found, sorted and each
// once.
func (ix index) find(id broker.Identity, found []int) []int {
	for _, issuer := range [...]string{anyIssuer, id.Issuer} {
		if at := ix[issuer]; at != nil {
			found = at.find(id, found)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (at *issuerIndex) find(id broker.Identity, found []int) []int {
	found = append(found, at.unpinned...)
	for _, name := range at.claims {
		ci := at.pinned[name]
		claim, ok := id.Claims.Lookup(name)
		if !ok {
			if id.Trimmed {
				found = append(found, ci.deny...)
			}
			continue
		}
		items, ok := claim.([]any)
		if !ok {
			found = ci.find(claim, found)
			continue
		}
		found = ci.findAny(items, found)
	}
	return found
}

func (ci *claimIndex) find(claim any, found []int) []int {
	k, ok := keyOf(claim)
	if !ok {
		return append(found, ci.deny...)
	}
	return append(append(found, ci.values[k]...), ci.other[k.kind]...)
}

// findAny is find for a list, of which an item must match. However many items
// say the same, rules are appended once or twice.
func (ci *claimIndex) findAny(items []any, found []int) []int {
	seen := make(map[pinKey]bool, len(items))
	var kinds [GlobOfText]bool
	for _, item := range items {
		k, ok := keyOf(item)
		if seen[k] {
			continue
		}
		seen[k] = true
		if !ok {
			found = append(found, ci.deny...)
			continue
		}
		found = append(found, ci.values[k]...)
		if !kinds[k.kind] {
			kinds[k.kind] = true
			found = append(found, ci.other[k.kind]...)
		}
	}
	return found
}
