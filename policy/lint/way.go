package lint

import (
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// at is the place of something in the rule, or of the rule.
func (v *ruleView) at(path ...any) *strictyaml.Node { return v.rule.Node.At(path...) }

// whom is where the rule says whom it is for.
func (w *way) whom() *strictyaml.Node {
	switch {
	case w.repo != nil:
		return w.repo.Node.At("match")
	case w.rule.Node.Get("match") != nil:
		return w.at("match")
	}
	return w.at("issuer")
}

// on returns what the way says of a claim.
func (w *way) on(claim string) []*condition {
	var all []*condition
	for i := range w.conditions {
		if c := &w.conditions[i]; c.claim == claim && c.op != notRead {
			all = append(all, c)
		}
	}
	return all
}

// says returns the first condition on one of the claims that says what it is.
func (w *way) says(claims ...string) *condition {
	for i := range w.conditions {
		if c := &w.conditions[i]; c.positive() && slices.Contains(claims, c.claim) && c.claim != "" {
			return c
		}
	}
	return nil
}

// pins reports whether a claim can only be one of some values, all named.
func (w *way) pins(claim string) bool {
	return slices.ContainsFunc(w.on(claim), func(c *condition) bool { return c.exact() })
}

// only reports whether a claim can only be one of the values given.
func (w *way) only(claim string, values ...string) bool {
	return slices.ContainsFunc(w.on(claim), func(c *condition) bool {
		return c.exact() && !slices.ContainsFunc(c.any, func(p pattern) bool { return !slices.Contains(values, p.text) })
	})
}

// admits reports whether a token can come this way whose claims are these: what
// is neither excluded by the rule nor surely denied by another.
func (w *way) admits(claim, value string) bool {
	if slices.ContainsFunc(w.on(claim), func(c *condition) bool { return !c.admits(value) }) {
		return false
	}
	return !w.denied(claim, value)
}

// lists reports whether the rule names a value of a claim itself.
func (w *way) lists(claim, value string) bool {
	return slices.ContainsFunc(w.on(claim), func(c *condition) bool {
		return c.op == isOne && slices.ContainsFunc(c.any, func(p pattern) bool { return !p.wild() && p.text == value })
	})
}

// denied reports whether a rule that denies surely stops a token of this way
// whose claim has the value, for all of the grants.
func (w *way) denied(claim, value string) bool {
	left := slices.Clone(w.grants)
	for _, d := range w.denies.about(w) {
		if !d.names(claim, value) || d.file != w.file && d.bounded() || !d.stops(w, claim, value) {
			continue
		}
		left = slices.DeleteFunc(left, func(grant string) bool {
			return slices.ContainsFunc(d.grants, func(g string) bool {
				return g == grant || strings.ContainsAny(g, "*?") && globOf(g).matches(grant)
			})
		})
	}
	return len(left) == 0
}

// bounded reports whether a file stands in a folder with a ceiling: what it
// denies then binds there only.
func (w *way) bounded() bool {
	for _, f := range w.files {
		for _, c := range f.Ceilings {
			if strings.HasPrefix(w.file.Path, c.Folder+"/") {
				return true
			}
		}
	}
	return false
}

// names reports whether a rule that denies has a condition that holds for the
// value of the claim: what is most often not so is looked at first.
func (d *way) names(claim, value string) bool {
	for i := range d.conditions {
		if d.conditions[i].holds(claim, value) {
			return true
		}
	}
	return false
}

// holds reports whether the condition is on the claim, and surely holds if it
// has the value.
func (c *condition) holds(claim, value string) bool {
	return c.claim == claim && (c.op == isOne || c.op == isNone) && c.admits(value)
}

// stops reports whether each condition of a rule that denies surely holds on
// the way w if the claim has the value.
func (d *way) stops(w *way, claim, value string) bool {
	if d.issuer != "" && d.issuer != w.issuer {
		return false
	}
	for i := range d.conditions {
		c := &d.conditions[i]
		if !c.holds(claim, value) && !slices.ContainsFunc(w.conditions, func(mine condition) bool { return mine.implies(c) }) {
			return false
		}
	}
	return true
}

// writes names a grant of the way that can write, or nothing.
func (w *way) writes() string {
	for _, g := range w.grants {
		if known, ok := w.config.Grants[g]; !ok || known.Access != broker.Read {
			return g
		}
	}
	return ""
}

// owners returns the owner ids that a rule at the issuer can pin.
func (w *way) owners() []string {
	if len(w.settings.OwnerIDs) > 0 {
		return w.settings.OwnerIDs
	}
	return w.settings.ImmutableIDs
}

// gated reports whether anything beside whose job it is decides: a branch, an
// environment, an event, a workflow.
func (w *way) gated() bool {
	p := w.provider
	return w.onRef() || w.says("sub", p.Events.Claim, p.Environment.Claim) != nil || w.workflow() != nil
}

// onRef reports whether the way says which branch or tag it is, or that it is a
// protected one.
func (w *way) onRef() bool {
	p := w.provider
	for _, r := range p.Refs {
		if w.says(r.Claim) != nil {
			return true
		}
	}
	return w.protected()
}

func (w *way) protected() bool {
	return w.provider.Protected != "" && w.only(w.provider.Protected, "true")
}

// workflow returns the first condition that says which workflow it is.
func (w *way) workflow() *condition {
	for _, f := range w.provider.Workflows {
		if c := w.says(f.Claim); c != nil {
			return c
		}
	}
	return nil
}

// wayIndex finds ways by a value they ask for, so that looking for those that
// concern a way does not take a look at all.
type wayIndex struct {
	open  []*way            // that name no value
	named map[wayKey][]*way // by the rarest value
	count map[wayKey]int
}

type wayKey struct{ issuer, claim, value string }

func newWayIndex() *wayIndex {
	return &wayIndex{named: map[wayKey][]*way{}, count: map[wayKey]int{}}
}

// keys are the values that a way names of claims that can be only one.
func (w *way) keys() []wayKey {
	var all []wayKey
	for i := range w.conditions {
		if c := &w.conditions[i]; c.exact() && len(c.any) == 1 {
			all = append(all, wayKey{w.issuer, c.claim, c.any[0].text})
		}
	}
	return all
}

func (x *wayIndex) add(w *way) {
	keys := w.keys()
	if len(keys) == 0 || w.issuer == "" {
		x.open = append(x.open, w)
		return
	}
	rarest := slices.MinFunc(keys, func(a, b wayKey) int { return x.count[a] - x.count[b] })
	for _, k := range keys {
		x.count[k]++
	}
	x.named[rarest] = append(x.named[rarest], w)
}

// maxCompared bounds the ways that one way is compared with, so that a policy of
// rules that are all alike is looked at in time. What is left out makes no
// finding go away: a rule that denies and is not seen excuses nothing.
const maxCompared = 250

// about returns ways that may ask for no more than w does.
func (x *wayIndex) about(w *way) []*way {
	all := slices.Clone(x.open[:min(len(x.open), maxCompared)])
	for _, k := range w.keys() {
		more := x.named[k]
		all = append(all, more[:min(len(more), maxCompared-len(all))]...)
	}
	return all
}
