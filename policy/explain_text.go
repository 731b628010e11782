package policy

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// maxTextRules is how many rules WriteText shows of each sort; JSON has all.
const maxTextRules = 5

// maxTextSaw is how much of a claim WriteText shows; JSON has more.
const maxTextSaw = 72

// WriteText writes the explanation for a terminal. What tokens said is shown
// as JSON in printable ASCII.
func (e Explanation) WriteText(w io.Writer) error {
	var b strings.Builder
	word := "DENIED "
	if e.Allowed {
		word = "ALLOWED"
	}
	when := "at " + e.At.Format(time.RFC3339)
	if e.At.IsZero() {
		when = "before any rule's last day"
	}
	fmt.Fprintf(&b, "%s  %s, to a job of issuer %s, %s\n", word, e.Grant, quotedName(e.Issuer), when)
	fmt.Fprintf(&b, "         %s\n", e.reason())
	if e.Trimmed {
		b.WriteString("         not all claims of the token are known: what depends on the others cannot be said\n")
	}
	sections := []struct {
		title   string
		rulings []Ruling
	}{
		{"rules that deny it", e.Denied},
		{"rules for this job that give it", e.Rules},
		{"rules that only report", e.Reported},
	}
	if len(e.Rules) > 0 && e.Rules[0].Pins.Match != Holds {
		sections[1].title = "the nearest rules, which are for others"
	}
	for _, s := range sections {
		if len(s.rulings) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s:\n", s.title)
		for i, r := range s.rulings {
			if i == maxTextRules {
				fmt.Fprintf(&b, "  and %d more\n", len(s.rulings)-i)
				break
			}
			r.write(&b)
		}
	}
	fmt.Fprintf(&b, "\npolicy %s\n", e.Version)
	for line := range strings.Lines(b.String()) {
		if _, err := io.WriteString(w, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// reason is why, as a sentence.
func (e Explanation) reason() string {
	switch e.Why {
	case Given:
		return fmt.Sprintf("rule %s gives it%s", e.Rule, e.Life.text())
	case DeniedByRule:
		if e.Denied[0].Holds == CannotSay {
			return "a rule that denies it may mean this job, and what cannot be said counts as a yes there"
		}
		return "a rule denies it, whatever others say"
	case Ended:
		return "a rule for this job gave it, and has ended"
	case InTheWay:
		return "there are rules for this job, and conditions are in the way"
	case NotGiven:
		return "no rule for this job gives it"
	case Stranger:
		return "no rule's pinned ids match: the job is a stranger"
	case NoSuchGrant:
		return "there is no such grant"
	case NoSuchIssuer:
		return "there is no such issuer"
	}
	return "the ttl is below a second"
}

// text says how long, and why no longer.
func (l *Life) text() string {
	if l.TTL == "" {
		return ", as long as the grant allows"
	}
	bound := map[string]string{
		"asked": "what was asked for", "rule": "what the rule gives",
		"ceiling": "what the folder's ceiling leaves", "grant": "what the grant allows",
	}[l.Bound]
	var more []string
	for _, other := range []struct{ key, what, value string }{
		{"asked", "asked for", l.Asked}, {"rule", "the rule says", l.Rule}, {"ceiling", "the ceiling leaves", l.Ceiling}, {"grant", "the grant allows", l.Grant},
	} {
		if other.value != "" && other.key != l.Bound {
			more = append(more, other.what+" "+other.value)
		}
	}
	text := fmt.Sprintf(" for %s, %s", l.TTL, bound)
	if len(more) > 0 {
		text += " (" + strings.Join(more, ", ") + ")"
	}
	return text
}

// write writes one rule with a line for each condition.
func (r Ruling) write(b *strings.Builder) {
	fmt.Fprintf(b, "  %s (%s:%d", r.Rule, r.File, r.Line)
	if r.Owner != "" {
		fmt.Fprintf(b, ", owner %s", quotedName(r.Owner))
	}
	fmt.Fprintf(b, "): %s\n", r.verdict())
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, c := range r.Pins.Checks {
		c.write(table, "pinned")
	}
	for _, c := range r.Conditions {
		c.write(table, "")
	}
	if r.When != nil {
		fmt.Fprintf(table, "    %s\twhen\t%s\t\n", r.When.Holds.mark(), onOneLine(r.When.Wanted))
	}
	_ = table.Flush() // into memory
}

// verdict says what a rule does about the grant.
func (r Ruling) verdict() string {
	does := map[broker.Effect]string{broker.EffectAllow: "gives it", broker.EffectDeny: "denies it"}[r.Effect]
	would := map[broker.Effect]string{broker.EffectAllow: "would give it", broker.EffectDeny: "would deny it"}[r.Effect]
	if r.TTL != "" {
		does, would = does+" for "+r.TTL, would+" for "+r.TTL
	}
	switch {
	case r.Over:
		return would + ", but ended with " + r.Until
	case r.Holds == CannotSay && r.Effect == broker.EffectDeny && r.Mode == modeEnforce:
		return does + ", since what cannot be said counts as a yes here"
	case r.Holds == CannotSay && r.Effect == broker.EffectDeny:
		return would + ", since what cannot be said counts as a yes here"
	case r.Holds == CannotSay:
		return "does not: something cannot be said, which counts as a no"
	case r.Holds == Fails:
		return would + " if all were yes"
	case r.Mode == modeReport:
		return would
	}
	return does
}

func (t Truth) mark() string {
	return map[Truth]string{Holds: "yes", Fails: "NO", CannotSay: "?"}[t]
}

func (c Check) write(w io.Writer, note string) {
	saw := oneLine(c.Saw)
	text, isText := c.Saw.(string)
	switch {
	case isText: // escaped already
		saw = `"` + strings.ReplaceAll(text, `"`, `\"`) + `"`
	case c.Unknown:
		saw = "(not known)"
	case c.Absent:
		saw = "(not in the token)"
	}
	if len(saw) > maxTextSaw {
		saw = saw[:maxTextSaw] + "..."
	}
	wanted := ""
	if c.Holds != Holds {
		wanted = "wanted " + oneLine(c.Wanted)
	}
	if note != "" && wanted != "" {
		note += ", "
	}
	fmt.Fprintf(w, "    %s\t%s\t%s\t%s\n", c.Holds.mark(), c.Claim, saw, note+wanted)
}

// oneLine writes a value as JSON.
func oneLine(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "?"
	}
	return escaped(strings.TrimSuffix(b.String(), "\n"), maxWhen)
}

// onOneLine writes an expression without its line breaks.
func onOneLine(expression any) string {
	text, _ := expression.(string)
	return escaped(strings.Join(strings.Fields(text), " "), maxWhen)
}

// quotedName leaves a name as it is, and quotes what looks like none.
func quotedName(s string) string {
	if nameRE.MatchString(s) {
		return s
	}
	return oneLine(s)
}
