package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/daypass-dev/daypass/broker"
)

// Bounds of what a denial tells.
const (
	maxNearest = 3   // rules for one grant
	maxSaw     = 256 // bytes of a claim
	maxSawList = 16  // items of a claim that is a list, or of what was wanted
	maxFailed  = 16  // conditions of one rule

	maxTold = 3000 // weight of claims and of what was wanted, in all denials of a decision: some 30 KiB
)

// allWanted is for who may read the policy.
const allWanted = math.MaxInt

// denials says what kept the nearest rules from giving a grant: those that
// give it, whose pinned ids match, and of whose conditions the fewest failed.
func (c *choosing) denials(w broker.Want) []broker.Denial {
	var nearest []*candidate
	fewest := 0
	for i := range c.allow {
		r := &c.allow[i]
		if _, gives := r.given(w); !gives {
			continue
		}
		n := max(c.failing(r.others), 1) // if none did, it was the expression
		if len(nearest) > 0 && n < fewest {
			nearest = nil
		}
		if len(nearest) == 0 || n == fewest && len(nearest) < maxNearest {
			nearest, fewest = append(nearest, r), n
		}
	}
	var denials []broker.Denial
	for _, r := range nearest {
		denials = append(denials, broker.Denial{Grant: w.Name, Rule: r.id, Failed: c.mismatches(r)})
	}
	return denials
}

// failing counts the conditions that do not hold.
func (c *choosing) failing(conditions []Condition) int {
	n := 0
	for i := range conditions {
		if conditions[i].truth(c.id) != yes {
			n++
		}
	}
	return n
}

// mismatches lists the first conditions of a rule that failed, or could not be
// decided; if none did, it was the expression, of which nothing is told.
func (c *choosing) mismatches(r *candidate) []broker.Mismatch {
	if c.conditions(r) == yes {
		return []broker.Mismatch{{Claim: "when"}}
	}
	var failed []broker.Mismatch
	for i := range r.others {
		cond := &r.others[i]
		if cond.truth(c.id) == yes {
			continue
		}
		if len(failed) == maxFailed {
			break
		}
		m := broker.Mismatch{Claim: cond.Claim}
		if saw, ok := c.id.Claims.Lookup(cond.Claim); ok {
			m.Saw = c.tell(shown(saw))
		}
		if r.ast.Explain == explainFull {
			m.Wanted = c.tell(cond.wanted(maxSawList))
		}
		failed = append(failed, m)
	}
	return failed
}

// tell returns what is shown, or, where a decision has shown so much that its
// answer and its record would be too long, that it is left out.
func (c *choosing) tell(v any) any {
	if n := weight(v); c.told+n <= maxTold {
		c.told += n
		return v
	}
	return "(left out)"
}

// wanted returns what a condition asks for, as it was written: of many values
// the first ones.
func (c *Condition) wanted(most int) any {
	switch c.Op {
	case Exists, Absent:
		return map[string]any{"exists": c.Op == Exists}
	case NoneOf:
		return map[string]any{"not": c.patterns(most)}
	case Within:
		bounds := make(map[string]any, len(c.Bounds))
		for _, b := range c.Bounds {
			bounds[b.Is] = json.Number(b.Number)
		}
		return bounds
	}
	return c.patterns(most)
}

func (c *Condition) patterns(most int) any {
	few := c.Any[:min(len(c.Any), most)]
	list := make([]any, len(few))
	for i, p := range few {
		switch p.Kind {
		case ExactNum:
			list[i] = json.Number(p.Text)
		case ExactBool:
			list[i] = p.Text == "true"
		case GlobOfText:
			list[i] = map[string]any{"glob": p.Text}
		default:
			list[i] = p.Text
		}
	}
	switch more := len(c.Any) - len(few); {
	case more > 0:
		return append(list, andMore(more))
	case len(list) == 1:
		return list[0]
	}
	return list
}

func andMore(n int) string { return fmt.Sprintf("(and %d more)", n) }

// shown makes a claim fit to be shown: short, and without characters that are
// not what they look like.
func shown(claim any) any {
	switch claim := claim.(type) {
	case bool:
		return claim
	case json.Number:
		if len(claim) > maxSaw {
			return shownText(claim.String())
		}
		return claim
	case string:
		return shownText(claim)
	case []any:
		list := make([]any, 0, min(len(claim), maxSawList)+1)
		for _, item := range claim[:min(len(claim), maxSawList)] {
			if _, nested := item.([]any); nested {
				item = "(a list)"
			}
			list = append(list, shown(item))
		}
		if more := len(claim) - maxSawList; more > 0 {
			list = append(list, andMore(more))
		}
		return list
	case map[string]any:
		return "(an object)"
	}
	return nil
}

func shownText(s string) string { return escaped(s, maxSaw) }

// escaped is printable ASCII, of so many bytes of s at most.
func escaped(s string, most int) string {
	cut := s
	if len(s) > most {
		cut = s[:most]
		for len(cut) > 0 && !utf8.RuneStart(s[len(cut)]) {
			cut = cut[:len(cut)-1]
		}
	}
	if printable(cut) && len(cut) == len(s) {
		return s
	}
	var b strings.Builder
	for _, r := range cut {
		switch {
		case r >= 0x20 && r <= 0x7E:
			b.WriteRune(r)
		case r > 0xFFFF:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	if len(cut) < len(s) {
		b.WriteString("...")
	}
	return b.String()
}
