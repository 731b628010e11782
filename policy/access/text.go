package access

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/daypass-dev/daypass/policy"
)

// WriteText writes permissions as a table for a terminal, with what each asks for
// below it.
func WriteText(w io.Writer, rows []Row) error {
	var b strings.Builder
	writeRows(&b, rows)
	giving := 0
	for _, r := range rows {
		if r.Gives {
			giving++
		}
	}
	fmt.Fprintf(&b, "%s", counted(giving, "permission"))
	if more := len(rows) - giving; more > 0 {
		fmt.Fprintf(&b, ", and %d that %s nothing", more, verb(more, "gives", "give"))
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteText writes what could be had in a span.
func (s Span) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "from %s to %s, under %s\n\n", s.Span.From.Format(time.RFC3339), s.Span.To.Format(time.RFC3339), counted(len(s.Versions), "version"))
	writeRows(&b, s.Rows)
	b.WriteString(counted(len(s.Rows), "permission") + "\n")
	writeGaps(&b, s.Gaps)
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteText writes what was not used.
func (i Idle) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "not used since %s\n\n", i.Since.Format(time.RFC3339))
	writeRows(&b, i.Rows)
	fmt.Fprintf(&b, "%s not used, %d used\n", counted(len(i.Rows), "permission"), i.Used)
	writeGaps(&b, i.Gaps)
	_, err := io.WriteString(w, b.String())
	return err
}

func writeGaps(b *strings.Builder, gaps []string) {
	if len(gaps) == 0 {
		return
	}
	b.WriteString("\nTHIS MAY LACK SOMETHING:\n")
	for _, gap := range gaps {
		b.WriteString("  " + gap + "\n")
	}
}

// writeRows aligns the rows with each other, and then puts the conditions of each
// below it.
func writeRows(b *strings.Builder, rows []Row) {
	if len(rows) == 0 {
		return
	}
	var head strings.Builder
	table := tabwriter.NewWriter(&head, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, strings.Join([]string{"GRANT", "ACCESS", "ISSUER", "REPOSITORY", "TTL", "RULE", "OWNER", "REVIEW BY"}, "\t"))
	for _, r := range rows {
		fmt.Fprintln(table, strings.Join([]string{
			r.Grant, dash(string(r.Access)), r.Issuer, r.repository(), dash(r.TTL), r.Rule, dash(plain(r.Owner)), dash(r.ReviewBy),
		}, "\t"))
	}
	_ = table.Flush() // into memory
	n := -1
	for line := range strings.Lines(head.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
		if n >= 0 {
			rows[n].details(b)
		}
		n++
	}
	b.WriteString("\n")
}

func (r Row) repository() string {
	switch {
	case r.Repo == "":
		return "-"
	case r.Repository == "":
		return r.Repo
	}
	return r.Repo + " (" + plain(r.Repository) + ")"
}

// details writes a line for each sort of condition.
func (r Row) details(b *strings.Builder) {
	line := func(key, text string) {
		if text != "" {
			fmt.Fprintf(b, "    %-8s %s\n", key, text)
		}
	}
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
		labels = append(labels, plain(name+"="+r.Labels[name]))
	}
	line("labels", strings.Join(labels, ", "))
	line("ids", conditionsText(r.Pins))
	line("if", conditionsText(r.Conditions))
	line("when", expression(r.When))
	for _, e := range r.Except {
		line("except", e.text())
	}
	line("ceiling", r.Ceiling)
	line("until", r.Until)
	for _, p := range r.Periods {
		line("during", p.From.Format(time.RFC3339)+" to "+p.To.Format(time.RFC3339))
	}
	if r.LastUsed != nil {
		line("used", r.LastUsed.Format(time.RFC3339))
	}
	if r.New {
		line("new", "it was not there then")
	}
	line("NOTHING", r.Nothing)
}

func (e Except) text() string {
	var parts []string
	if len(e.Repos) > 0 {
		parts = append(parts, "for "+strings.Join(e.Repos, ", "))
	}
	if len(e.Conditions) > 0 {
		parts = append(parts, conditionsText(e.Conditions))
	}
	if e.When != "" {
		parts = append(parts, "when "+expression(e.When))
	}
	if len(parts) == 0 {
		parts = append(parts, "all")
	}
	text := "rule " + e.Rule + ": " + strings.Join(parts, ", ")
	if e.Until != "" {
		text += ", until " + e.Until
	}
	return text
}

func conditionsText(conditions []Condition) string {
	var all []string
	for _, c := range conditions {
		all = append(all, c.Claim+" "+policy.Describe(c.Wanted))
	}
	return strings.Join(all, ", ")
}

// expression writes CEL on one line.
func expression(text string) string { return plain(strings.Join(strings.Fields(text), " ")) }

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// plain writes a name of the policy's, escaped where it is not printable ASCII.
func plain(text string) string {
	for _, c := range text {
		if c < 0x20 || c > 0x7E {
			return policy.Describe(text)
		}
	}
	return text
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
