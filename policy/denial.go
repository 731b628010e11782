package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/daypass-dev/daypass/broker"
)

// Bounds of what a denial tells.
const (
	maxNearest = 3   // rules for one grant
	maxSaw     = 256 // bytes of a claim
	maxSawList = 16  // items of a claim that is a list
)

// denials says what kept the nearest rules from giving a grant: those that
// give it, whose pinned ids match, and of whose conditions the fewest failed.
func (c *choosing) denials(w broker.Want) []broker.Denial {
	var nearest []broker.Denial
	for i := range c.allow {
		r := &c.allow[i]
		if _, gives := r.given(w); !gives {
			continue
		}
		failed := c.mismatches(r)
		if len(nearest) > 0 && len(failed) > len(nearest[0].Failed) {
			continue
		}
		if len(nearest) > 0 && len(failed) < len(nearest[0].Failed) {
			nearest = nil
		}
		if len(nearest) < maxNearest {
			nearest = append(nearest, broker.Denial{Grant: w.Name, Rule: r.id, Failed: failed})
		}
	}
	return nearest
}

// mismatches lists the conditions of a rule that failed, or could not be
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
		m := broker.Mismatch{Claim: cond.Claim}
		if saw, ok := c.id.Claims.Lookup(cond.Claim); ok {
			m.Saw = shown(saw)
		}
		if r.ast.Explain == explainFull {
			m.Wanted = cond.wanted()
		}
		failed = append(failed, m)
	}
	return failed
}

// wanted returns what a condition asks for, as it was written.
func (c *Condition) wanted() any {
	switch c.Op {
	case Exists, Absent:
		return map[string]any{"exists": c.Op == Exists}
	case NoneOf:
		return map[string]any{"not": c.patterns()}
	case Within:
		bounds := make(map[string]any, len(c.Bounds))
		for _, b := range c.Bounds {
			bounds[b.Is] = json.Number(b.Number)
		}
		return bounds
	}
	return c.patterns()
}

func (c *Condition) patterns() any {
	list := make([]any, len(c.Any))
	for i, p := range c.Any {
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
	if len(list) == 1 {
		return list[0]
	}
	return list
}

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
			list = append(list, fmt.Sprintf("(and %d more)", more))
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
