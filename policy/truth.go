package policy

import (
	"encoding/json"

	"github.com/daypass-dev/daypass/broker"
)

// truth is what can be said of a condition. What cannot be decided counts
// against the job: a rule that allows takes it for a no, and one that denies
// for a yes.
type truth byte

const (
	no truth = iota
	undecided
	yes
)

// both is the truth of two conditions that must hold together.
func (t truth) both(other truth) truth { return min(t, other) }

// opposite of what is undecided is undecided.
func (t truth) opposite() truth { return yes - t }

func truthOf(holds bool) truth {
	if holds {
		return yes
	}
	return no
}

// all is the truth of conditions that must all hold.
func all(conditions []Condition, id broker.Identity) truth {
	t := yes
	for i := range conditions {
		if t = t.both(conditions[i].truth(id)); t == no {
			break
		}
	}
	return t
}

// truth compares one claim. Where claims of the token are missing, nothing can
// be said of one that is not there.
func (c *Condition) truth(id broker.Identity) truth {
	claim, there := id.Claims.Lookup(c.Claim)
	switch {
	case !there && id.Trimmed:
		return undecided
	case !there:
		return c.ofNothing()
	}
	switch c.Op {
	case Exists, Absent:
		if claim == nil {
			return undecided
		}
		return truthOf(c.Op == Exists)
	case NoneOf:
		return c.ofAny(claim).opposite()
	}
	return c.ofAny(claim)
}

// ofNothing is the truth about a claim that the token does not have. It equals
// nothing, which is not to say that it differs from anything.
func (c *Condition) ofNothing() truth {
	switch c.Op {
	case NoneOf, Within:
		return undecided
	}
	return truthOf(c.Op == Absent)
}

// ofAny is yes if the claim, or an item of it where it is a list, is what the
// condition names.
func (c *Condition) ofAny(claim any) truth {
	items, list := claim.([]any)
	if !list {
		return c.ofOne(claim)
	}
	t := no
	for _, item := range items {
		t = max(t, c.ofOne(item))
	}
	return t
}

// ofOne looks at a claim that is no list. A claim of a type that none of the
// patterns has cannot be compared.
func (c *Condition) ofOne(claim any) truth {
	if c.Op == Within {
		return c.within(claim)
	}
	t, compared := no, false
	key, _ := keyOf(claim) // once: reading a number takes longer than comparing it
	for i := range c.Any {
		one, same := c.Any[i].compare(claim, key)
		t = max(t, one)
		compared = compared || same
	}
	if !compared {
		return undecided
	}
	if text, ok := claim.(string); ok && t == no && c.Op == NoneOf && !printable(text) {
		return undecided // it may look like what is meant
	}
	return t
}

func (c *Condition) within(claim any) truth {
	text, ok := claim.(json.Number)
	if !ok {
		return undecided
	}
	number, ok := decimalOf(text.String())
	if !ok {
		return undecided
	}
	for i := range c.Bounds {
		if !c.Bounds[i].holds(number) {
			return no
		}
	}
	return yes
}

// compare says whether a claim that is no list, and has this key, is what the
// pattern says, and whether it has the pattern's type: values of different types
// are never the same, and no answer follows from them.
func (p *Pattern) compare(claim any, key pinKey) (is truth, same bool) {
	switch claim := claim.(type) {
	case string:
		switch {
		case p.Kind == ExactText:
			return truthOf(p.Text == claim), true
		case p.Kind != GlobOfText:
		case len(claim) > maxGlobClaim || !printable(claim):
			return undecided, true
		default:
			return truthOf(p.glob.match(claim)), true
		}
	case json.Number:
		if p.Kind == ExactNum {
			if key.text == "" { // too large to be read
				return undecided, true
			}
			return truthOf(key.text == p.same), true
		}
	case bool:
		if p.Kind == ExactBool {
			return truthOf((p.Text == "true") == claim), true
		}
	}
	return no, false
}
