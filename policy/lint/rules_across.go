package lint

import (
	"maps"
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// acrossRules are about the policy as a whole.
func acrossRules() []Rule {
	return []Rule{
		{
			ID: "DP031", Name: "unreachable-rule", Severity: Warning, policy: unreachable,
			Attack: "A rule that no token can satisfy reads like a permission, and is loosened in a hurry when a job needs it.",
			Fix:    "correct the condition, or remove the rule",
		},
		{
			ID: "DP032", Name: "shadowed-rule", Severity: Warning, policy: shadowed,
			Attack: "A stricter rule beside a wider one changes nothing: a reviewer believes conditions that do not bind.",
			Fix:    "remove the stricter rule, or narrow the wider one",
		},
		{
			ID: "DP033", Name: "duplicate-rule", Severity: Warning, policy: duplicate,
			Attack: "When one of two equal rules is withdrawn the other still gives the grant.",
			Fix:    "keep one of them",
		},
		{
			ID: "DP034", Name: "grant-without-rule", Severity: Warning, policy: grantWithoutRule,
			Attack: "A grant that nobody gets keeps an admin credential in place for nothing.",
			Fix:    "write a rule for it, or remove the grant",
		},
		{
			ID: "DP040", Name: "unread-expression", Severity: High, way: unreadExpression,
			Attack: "An expression that is not understood can admit what another rule of lint would have found.",
			Fix:    "say it under match, or with ==, !=, in [...], startsWith, has, && and || on single claims",
		},
		{
			ID: "DP042", Name: "unused-repo", Severity: Warning, policy: unusedRepo,
			Attack: "Ids that no rule uses are not reviewed, and are there for the next rule to trust.",
			Fix:    "remove it",
		},
		{
			ID: "DP043", Name: "unknown-claim", Severity: Warning, way: unknownClaim, deny: unknownClaim,
			Attack: "A misspelt claim never matches: an allow is then loosened until it works, and a deny does not stop what it names.",
			Fix:    "write the claim as the provider does",
		},
		{
			ID: "DP044", Name: "deny-by-name", Severity: Warning, deny: denyByName,
			Attack: "Who is denied by name renames the repository or owner, and is denied no more.",
			Fix:    "deny by id",
		},
	}
}

func unreachable(l *linter) []ruleHit {
	var hits []ruleHit
	for _, v := range l.rules {
		if len(v.ways) == 0 && len(v.dead) > 0 {
			hits = append(hits, ruleHit{hitAt(v.at("name"), "no token can satisfy all conditions of the rule"), v, nil})
			continue
		}
		for _, w := range v.ways {
			if c, want := w.wrongType(); c != nil {
				hits = append(hits, ruleHit{hitAt(c.node, "%s is %s in tokens of %s, and is compared with %s", c.claim, want, w.provider.Title, listed(c.any)), v, nil})
			}
		}
	}
	return hits
}

// wrongType finds a condition that compares a claim with values of another type
// only.
func (w *way) wrongType() (*condition, string) {
	p := w.provider
	for i := range w.conditions {
		c := &w.conditions[i]
		if c.op != isOne || strings.HasPrefix(c.claim, "/") || len(p.Claims) == 0 || !p.knows(c.claim) || slices.Contains(registered, c.claim) {
			continue
		}
		kind, name := policy.ExactText, "text"
		switch {
		case slices.Contains(p.Lists, c.claim):
			continue
		case slices.Contains(p.Numbers, c.claim):
			kind, name = policy.ExactNum, "a number"
		case slices.Contains(p.Booleans, c.claim):
			kind, name = policy.ExactBool, "true or false"
		}
		if !slices.ContainsFunc(c.any, func(x pattern) bool { return x.kind == kind || x.wild() && kind == policy.ExactText }) {
			return c, name
		}
	}
	return nil, ""
}

// cover finds, for a rule, another that gives the same to all whom it is for.
func (l *linter) cover(x *wayIndex, v *ruleView) *ruleView {
	if len(v.ways) == 0 {
		return nil
	}
	for _, other := range x.about(v.ways[0]) {
		if other.ruleView != v && !slices.ContainsFunc(v.ways, func(w *way) bool { return !x.covered(w, other.ruleView) }) && l.givesAll(other.rule, v.rule) {
			return other.ruleView
		}
	}
	return nil
}

// covered reports whether each token that comes the way w also comes one of
// those of a rule.
func (x *wayIndex) covered(w *way, by *ruleView) bool {
	return slices.ContainsFunc(by.ways, func(o *way) bool {
		return o.issuer == w.issuer && !slices.ContainsFunc(o.conditions, func(c condition) bool {
			return !slices.ContainsFunc(w.conditions, func(mine condition) bool { return mine.implies(&c) })
		})
	})
}

// givesAll reports whether a rule gives all grants of another, for as long.
func (l *linter) givesAll(wide, narrow *policy.Rule) bool {
	return !slices.ContainsFunc(narrow.Allow, func(n policy.Allow) bool {
		return !slices.ContainsFunc(wide.Allow, func(a policy.Allow) bool {
			return a.Grant == n.Grant && (a.TTL == 0 || n.TTL != 0 && n.TTL <= a.TTL)
		})
	})
}

// comparable rules bind, give something, and are not past their day.
func (l *linter) comparable() ([]*ruleView, *wayIndex) {
	var rules []*ruleView
	x := newWayIndex()
	for _, v := range l.rules {
		if v.rule.Denies() || v.rule.Reports() || v.rule.Until.Over(l.config.Now) || v.unread() {
			continue
		}
		rules = append(rules, v)
		for _, w := range v.ways {
			x.add(w)
		}
	}
	return rules, x
}

// unread reports whether a part of the rule's expression is not understood.
func (v *ruleView) unread() bool {
	return slices.ContainsFunc(v.ways, func(w *way) bool {
		return slices.ContainsFunc(w.conditions, func(c condition) bool { return c.op == notRead || c.op == isNumber })
	})
}

// needless is a rule, and another that makes it so.
type needless struct {
	rule, by *ruleView
	equal    bool // they say the same
}

// needlessRules finds the rules without which each token would get the same.
func (l *linter) needlessRules() []needless {
	if l.compared {
		return l.needless
	}
	l.compared = true
	rules, x := l.comparable()
	for _, v := range rules {
		by := l.cover(x, v)
		if by == nil || !outlives(by.rule.Until, v.rule.Until) {
			continue
		}
		equal := l.givesAll(v.rule, by.rule) && outlives(v.rule.Until, by.rule.Until) &&
			!slices.ContainsFunc(by.ways, func(w *way) bool { return !x.covered(w, v) })
		l.needless = append(l.needless, needless{v, by, equal})
	}
	return l.needless
}

// outlives reports whether a rule that ends on a does so no earlier than one
// that ends on b.
func outlives(a, b strictyaml.Date) bool {
	return a.IsZero() || !b.IsZero() && a.String() >= b.String()
}

func shadowed(l *linter) []ruleHit {
	var hits []ruleHit
	for _, n := range l.needlessRules() {
		if !n.equal {
			hits = append(hits, ruleHit{hitAt(n.rule.at("name"), "rule %s gives the same to all whom this one is for", n.by.id), n.rule, nil})
		}
	}
	return hits
}

func duplicate(l *linter) []ruleHit {
	var hits []ruleHit
	for _, n := range l.needlessRules() {
		if n.equal && n.by.id < n.rule.id {
			hits = append(hits, ruleHit{hitAt(n.rule.at("name"), "rule %s says the same", n.by.id), n.rule, nil})
		}
	}
	return hits
}

func grantWithoutRule(l *linter) []ruleHit {
	given := map[string]bool{}
	for _, v := range l.rules {
		for _, a := range v.rule.Allow {
			given[a.Grant] = true
		}
	}
	var hits []ruleHit
	for _, name := range slices.Sorted(maps.Keys(l.config.Grants)) {
		if g := l.config.Grants[name]; !given[name] {
			h := hitAt(g.Node, "grant %q%s is given by no rule", name, g.describe())
			h.outside = true
			hits = append(hits, ruleHit{h, nil, nil})
		}
	}
	return hits
}

// describe says what a grant is for, in brackets, or nothing.
func (g Grant) describe() string {
	var words []string
	if g.Access != "" && g.Access != broker.Read {
		words = append(words, "access: "+string(g.Access))
	}
	for _, k := range slices.Sorted(maps.Keys(g.Labels)) {
		words = append(words, k+"="+g.Labels[k])
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, ", ") + ")"
}

func unreadExpression(w *way) []hit {
	var hits []hit
	for i := range w.conditions {
		c := &w.conditions[i]
		if c.op != notRead {
			continue
		}
		what := "a part of the expression"
		if c.excerpt != "" {
			what += " (" + c.excerpt + ")"
		}
		switch read := slices.DeleteFunc(slices.Clone(c.reads), func(claim string) bool { return !w.provider.decisive(claim) }); {
		case c.dynamic:
			hits = append(hits, hitAt(c.node, "%s is not understood, and may read any claim", what))
		case len(read) > 0:
			hits = append(hits, hitAt(c.node, "%s is not understood, and reads %s", what, strings.Join(read, ", ")))
		}
	}
	return hits
}

func unusedRepo(l *linter) []ruleHit {
	var hits []ruleHit
	for _, id := range slices.Sorted(maps.Keys(l.repos)) {
		r := l.repos[id]
		if !r.used && !l.inCeiling(id) {
			hits = append(hits, ruleHit{hitAt(r.Node, "repo %q is used by no rule", id), nil, nil})
		}
	}
	return hits
}

// inCeiling reports whether a ceiling names a repo, for rules that are yet to
// come.
func (l *linter) inCeiling(id string) bool {
	for _, f := range l.files {
		for _, c := range f.Ceilings {
			if slices.ContainsFunc(c.Repos, func(p string) bool { return globOf(p).matches(id) }) {
				return true
			}
		}
	}
	return false
}

func unknownClaim(w *way) []hit {
	var hits []hit
	for i := range w.conditions {
		c := &w.conditions[i]
		for _, claim := range []string{c.claim, c.other} {
			if claim == "" || c.op == notRead || strings.HasPrefix(claim, "\x00") || w.provider.knows(claim) {
				continue
			}
			hits = append(hits, hitAt(c.node, "%s is not a claim of %s%s", claim, w.provider.Title, strictyaml.DidYouMean(claim, w.provider.Claims)))
		}
	}
	return hits
}

func denyByName(w *way) []hit {
	var hits []hit
	for _, n := range w.provider.Names {
		if c := w.says(n.Claim); c != nil && !w.pins(n.ID) {
			hits = append(hits, hitAt(c.node, "%s %s is denied by name", n.Claim, listed(c.any)).fixing("deny by %s", n.ID))
		}
	}
	return hits
}
