package access

import (
	"slices"

	"github.com/daypass-dev/daypass/policy"
)

// exception says what a rule that denies takes from what a rule gives at one
// place, and reports whether it may take anything: it does not where no token can
// be meant by both.
func exception(d, r policy.RuleInfo, p policy.Place) (Except, bool) {
	gives := slices.Concat(p.Pins, r.Conditions)
	e := Except{Rule: d.ID, When: d.Rule.When, Until: d.Until.String(), until: endOf(d)}
	var some []policy.Place
	for _, place := range d.Places {
		if place.Issuer != "" && place.Issuer != p.Issuer || apart(place.Pins, gives) {
			continue
		}
		some = append(some, place)
	}
	if len(some) == 0 || apart(d.Conditions, gives) {
		return Except{}, false
	}
	whole := slices.ContainsFunc(some, func(place policy.Place) bool { return implied(place.Pins, p.Pins) })
	switch {
	case whole: // all of those that the permission is for
	case len(some) == 1:
		e.Conditions = shown(some[0].Pins)
	default:
		for _, place := range some {
			e.Repos = append(e.Repos, place.Repo)
		}
	}
	e.Conditions = append(e.Conditions, shown(d.Conditions)...)
	e.all = whole && len(d.Conditions) == 0 && d.Rule.When == ""
	return e, true
}

// apart reports whether no token can meet conditions of both: of one claim they
// name values that have none in common. It says no where it cannot tell.
func apart(some, others []policy.Condition) bool {
	for i := range some {
		for j := range others {
			a, b := &some[i], &others[j]
			if a.Claim == b.Claim && named(a) && named(b) && !slices.ContainsFunc(a.Any, func(p policy.Pattern) bool { return has(b, p) }) {
				return true
			}
		}
	}
	return false
}

// implied reports whether each token that has the pins of a permission has others:
// each claim is pinned to values that the others name.
func implied(others, pins []policy.Condition) bool {
	for i := range others {
		o := &others[i]
		if !slices.ContainsFunc(pins, func(c policy.Condition) bool {
			return c.Claim == o.Claim && named(&c) && named(o) && !slices.ContainsFunc(c.Any, func(p policy.Pattern) bool { return !has(o, p) })
		}) {
			return false
		}
	}
	return true
}

// named reports whether a condition is a list of texts: of numbers one value has
// many spellings, and what is no text may be undecided.
func named(c *policy.Condition) bool {
	return c.Op == policy.OneOf && !slices.ContainsFunc(c.Any, func(p policy.Pattern) bool { return p.Kind != policy.ExactText })
}

func has(c *policy.Condition, p policy.Pattern) bool {
	return slices.ContainsFunc(c.Any, func(q policy.Pattern) bool { return q.Text == p.Text })
}
