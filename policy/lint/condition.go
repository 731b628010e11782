package lint

import (
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// condition is what a rule says of one claim, whether under match, in the ids
// of a repo, or in its expression.
type condition struct {
	claim string // a name, or a JSON Pointer into what a claim holds
	op    op
	any   []pattern // of isOne and isNone
	other string    // of isSame: the claim it must equal
	node  *strictyaml.Node
	many  bool // the claim may be a list, of which one item is enough

	reads   []string // of notRead: the claims that it reads
	dynamic bool     // of notRead: it reads claims that cannot be named
	excerpt string   // of notRead: what it is
}

// op is how a condition judges its claim.
type op byte

const (
	isOne    op = iota // one of any
	isNone             // none of any
	isThere            // exists
	isAbsent           // does not
	isNumber           // within bounds
	isSame             // equals another claim
	notRead            // an expression that is not understood
)

// What expressions call the grant and the issuer, as claims that no token can
// have.
const (
	theGrant  = "\x00grant"
	theIssuer = "\x00issuer"
)

// fromMatch reads the conditions of a match.
func fromMatch(match policy.Match) []condition {
	var all []condition
	for i := range match {
		m := &match[i]
		c := condition{claim: plainClaim(m.Claim), node: m.Node}
		switch m.Op {
		case policy.OneOf:
			c.op = isOne
		case policy.NoneOf:
			c.op = isNone
		case policy.Exists:
			c.op = isThere
		case policy.Absent:
			c.op = isAbsent
		default:
			c.op = isNumber
		}
		for _, p := range m.Any {
			c.any = append(c.any, fromPolicy(p))
		}
		all = append(all, c)
	}
	return all
}

// plainClaim writes a JSON Pointer of one step as the name it is.
func plainClaim(name string) string {
	step, ok := strings.CutPrefix(name, "/")
	if !ok || strings.Contains(step, "/") {
		return name
	}
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
}

// pointer writes the steps to a claim: a name, or a JSON Pointer.
func pointer(steps []string) string {
	if len(steps) == 1 {
		return steps[0]
	}
	var b strings.Builder
	for _, s := range steps {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(s))
	}
	return b.String()
}

// positive reports whether it says what a claim is, and not only what it is
// not.
func (c *condition) positive() bool { return c.op == isOne || c.op == isSame }

// exact reports whether it names all values that the claim may have.
func (c *condition) exact() bool {
	return c.op == isOne && !slices.ContainsFunc(c.any, func(p pattern) bool { return p.wild() || p.text == "" })
}

// admits reports whether a claim that is this text can satisfy it.
func (c *condition) admits(text string) bool {
	matches := func(p pattern) bool { return p.matches(text) }
	switch c.op {
	case isOne:
		return slices.ContainsFunc(c.any, matches)
	case isNone:
		return !slices.ContainsFunc(c.any, matches)
	case isAbsent, isNumber:
		return false
	}
	return true
}

// implies reports whether each claim that satisfies c satisfies other. It says
// no where it cannot tell.
func (c *condition) implies(other *condition) bool {
	if c.claim != other.claim {
		return false
	}
	switch {
	case c.op == isOne && other.op == isOne:
		return !slices.ContainsFunc(c.any, func(p pattern) bool {
			return !slices.ContainsFunc(other.any, p.within)
		})
	case c.op == isOne && other.op == isNone:
		return c.exact() && !c.many && !slices.ContainsFunc(c.any, func(p pattern) bool {
			return p.kind != policy.ExactText || !other.admits(p.text)
		})
	case c.op == isNone && other.op == isNone: // it is none of more
		return !slices.ContainsFunc(other.any, func(p pattern) bool { return !slices.ContainsFunc(c.any, p.within) })
	case other.op == isThere:
		return c.op != isAbsent && c.op != notRead
	case c.op == isSame && other.op == isSame:
		return c.other == other.other
	}
	return c.op == other.op && c.op == isAbsent
}

// contradicts reports whether no claim can satisfy both. It says no where it
// cannot tell.
func (c *condition) contradicts(other *condition) bool {
	if c.claim != other.claim || c.op == notRead || other.op == notRead {
		return false
	}
	switch {
	case c.op == isAbsent:
		return other.op != isAbsent
	case other.op == isAbsent:
		return true
	case c.op != isOne || !c.exact() || c.many:
		return false
	case other.op == isOne:
		return !slices.ContainsFunc(c.any, func(p pattern) bool {
			return slices.ContainsFunc(other.any, func(q pattern) bool {
				return p.same(q) || p.kind == policy.ExactText && q.matches(p.text)
			})
		})
	case other.op == isNone:
		return !slices.ContainsFunc(c.any, func(p pattern) bool {
			return !slices.ContainsFunc(other.any, func(q pattern) bool {
				return p.same(q) || p.kind == policy.ExactText && q.matches(p.text)
			})
		})
	}
	return false
}
