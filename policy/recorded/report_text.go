package recorded

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/daypass-dev/daypass/policy"
)

// maxTextRows is how many rows WriteText shows of each table; JSON has all.
const maxTextRows = 50

// WriteText writes the report for a terminal. What tokens said is shown as JSON in
// printable ASCII.
func (r Report) WriteText(w io.Writer) error {
	t := &textWriter{}
	t.line("candidate %s", r.Version)
	if r.Decisions == 0 {
		t.line("no recorded decision: there is nothing to compare")
	} else {
		t.line("%s, recorded from %s to %s: %d the same, %d flip, %d cannot be said",
			counted(r.Decisions, "decision"), r.First.Format(time.RFC3339), r.Last.Format(time.RFC3339), r.Same, len(r.Flips), r.NotSaid)
	}
	if r.Refused > 0 {
		t.line("%s failed by a limit or otherwise; what they asked for is not journalled", counted(r.Refused, "other request"))
	}
	t.flips("allowed, and would be denied", r.flipsOf(AllowToDeny))
	t.flips("denied, and would be allowed", r.flipsOf(DenyToAllow))
	t.flips("given by another rule, or for another time", r.flipsOf(RuleChanged, TTLChanged))
	t.unsaid(r.Unsaid)
	if len(r.Flips) > 0 {
		t.repositories(r.Repositories)
		t.rules(r.Rules)
	}
	t.reports(r.Reports)
	_, err := io.WriteString(w, t.b.String())
	return err
}

func (r Report) flipsOf(changes ...Change) []Flip {
	var some []Flip
	for _, f := range r.Flips {
		for _, c := range changes {
			if f.Changes[0] == c {
				some = append(some, f)
			}
		}
	}
	return some
}

// textWriter writes tables of bounded length.
type textWriter struct{ b strings.Builder }

func (t *textWriter) line(format string, args ...any) { fmt.Fprintf(&t.b, format+"\n", args...) }

// table writes a title and rows, each of cells.
func (t *textWriter) table(title string, head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	t.line("\n%s:", title)
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  "+strings.Join(head, "\t"))
	for _, row := range rows[:min(len(rows), maxTextRows)] {
		fmt.Fprintln(table, "  "+strings.Join(row, "\t"))
	}
	_ = table.Flush() // into memory
	for line := range strings.Lines(b.String()) {
		t.b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if more := len(rows) - maxTextRows; more > 0 {
		t.line("  and %d more; --output json has all", more)
	}
}

func (t *textWriter) flips(title string, flips []Flip) {
	rows := make([][]string, len(flips))
	for i, f := range flips {
		rows[i] = []string{f.At.Format(time.RFC3339), plain(f.Request), where(f.Issuer, f.Repository, f.RepositoryID), f.Grant, f.Was.text(), f.Now.text()}
	}
	t.table(title, []string{"AT", "REQUEST", "REPOSITORY", "GRANT", "WAS", "WOULD BE"}, rows)
}

func (o Outcome) text() string {
	switch {
	case o.Allowed && o.TTL != "":
		return o.Rule + " for " + o.TTL
	case o.Allowed:
		return o.Rule
	case len(o.DeniedBy) > 0:
		return "denied by " + strings.Join(o.DeniedBy, ", ")
	case o.Why != "":
		return map[policy.Why]string{
			policy.InTheWay: "denied: conditions in the way", policy.Ended: "denied: its rule has ended", policy.NotGiven: "denied: no rule gives it",
			policy.Stranger: "denied: a stranger", policy.NoSuchGrant: "denied: no such grant", policy.NoSuchIssuer: "denied: no such issuer",
		}[o.Why]
	}
	return "denied"
}

func (t *textWriter) unsaid(unsaid []Unsaid) {
	rows := make([][]string, len(unsaid))
	for i, u := range unsaid {
		grant, missing := u.Grant, u.Missing
		if grant == "" {
			grant = "-"
		}
		rows[i] = []string{fmt.Sprint(u.Count), where(u.Issuer, u.Repository, u.RepositoryID), grant, strings.Join(missing, ", "), plain(u.Example)}
	}
	t.table("cannot be said, since claims were not journalled", []string{"COUNT", "REPOSITORY", "GRANT", "NOT KNOWN", "SUCH AS"}, rows)
}

func (t *textWriter) repositories(counts []RepositoryCount) {
	rows := make([][]string, len(counts))
	for i, c := range counts {
		rows[i] = append([]string{where(c.Issuer, c.Repository, c.RepositoryID), fmt.Sprint(c.Decisions)}, c.Changes.cells()...)
		rows[i] = append(rows[i], fmt.Sprint(c.NotSaid))
	}
	t.table("by repository", []string{"REPOSITORY", "DECISIONS", "TO DENY", "TO ALLOW", "RULE", "TTL", "NOT SAID"}, rows)
}

func (t *textWriter) rules(counts []RuleCount) {
	rows := make([][]string, len(counts))
	for i, c := range counts {
		rows[i] = append([]string{c.Rule}, c.Changes.cells()...)
	}
	t.table("by rule, as it was or would be", []string{"RULE", "TO DENY", "TO ALLOW", "RULE", "TTL"}, rows)
}

func (c Changes) cells() []string {
	return []string{fmt.Sprint(c.AllowToDeny), fmt.Sprint(c.DenyToAllow), fmt.Sprint(c.RuleChanged), fmt.Sprint(c.TTLChanged)}
}

func (t *textWriter) reports(reports []ReportRule) {
	rows := make([][]string, len(reports))
	for i, r := range reports {
		rows[i] = []string{r.Rule, "would " + string(r.Effect), fmt.Sprint(r.Count), fmt.Sprint(r.Otherwise), fmt.Sprint(r.Repositories),
			strings.Join(r.Grants, ", "), r.First.Format(time.DateOnly), r.Last.Format(time.DateOnly)}
	}
	t.table("rules that only report, as journalled", []string{"RULE", "EFFECT", "TIMES", "AGAINST THE DECISION", "REPOSITORIES", "GRANTS", "FIRST", "LAST"}, rows)
}

// where names a repository for people.
func where(issuer, name, id string) string {
	text := issuer
	if name != "" {
		text += " " + plain(name)
	}
	if id != "" {
		text += " (" + plain(id) + ")"
	}
	return text
}

// plain leaves a name as it is where it is made of what names are made of, and
// writes anything else as JSON.
func plain(text string) string {
	ordinary := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-/@", c)
	}
	if text != "" && len(text) <= 100 && !strings.ContainsFunc(text, func(c rune) bool { return !ordinary(c) }) {
		return text
	}
	return policy.Describe(policy.Shown(text))
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
