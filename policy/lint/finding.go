package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Severity says what follows from a finding.
type Severity string

// The severities.
const (
	Critical Severity = "critical" // the policy is not loaded
	High     Severity = "high"     // lint fails, unless it is waived
	Warning  Severity = "warning"  // worth a look
)

func (s Severity) rank() int { return slices.Index([]Severity{Critical, High, Warning}, s) }

// Finding is one thing that a rule found.
type Finding struct {
	ID       string // DP005
	Name     string // owner-wildcard
	Severity Severity
	File     string // as the policy names it
	Line     int    // from 1; 0 where there is no place
	Col      int
	Rule     string // file/name of the policy's rule; empty where none is meant
	Message  string
	Fix      string
	Waived   *policy.Waiver // nil, or who said that it is meant

	outside bool // File is no file of the policy
}

// String is the finding in one line.
func (f *Finding) String() string {
	return fmt.Sprintf("%s:%d:%d: %s %s %s: %s", f.File, f.Line, f.Col, f.Severity, f.ID, f.Name, f.Message)
}

// Findings are what a policy's author should read, the worst of each file
// first.
type Findings []Finding

// Critical returns those for which a policy must not be loaded.
func (f Findings) Critical() Findings { return f.open(Critical) }

// Failing returns those for which lint fails: critical and high, not waived.
func (f Findings) Failing() Findings { return f.open(Critical, High) }

func (f Findings) open(of ...Severity) Findings {
	var some Findings
	for _, one := range f {
		if one.Waived == nil && slices.Contains(of, one.Severity) {
			some = append(some, one)
		}
	}
	return some
}

// Count returns how many are of a severity and not waived.
func (f Findings) Count(s Severity) int { return len(f.open(s)) }

// Err returns nil without findings, and otherwise an error that prints one line
// for each of the first hundred.
func (f Findings) Err() error {
	if len(f) == 0 {
		return nil
	}
	faults := make(strictyaml.Faults, len(f))
	for i, one := range f {
		faults[i] = &strictyaml.Fault{File: one.File, Line: one.Line, Col: one.Col, Msg: one.ID + " " + one.Name + ": " + one.Message + "; " + one.Fix}
	}
	return faults.Err()
}

// Renamed returns the findings with other names for the policy's files. What
// stands in a configuration keeps its name.
func (f Findings) Renamed(name func(string) string) Findings {
	all := slices.Clone(f)
	for i := range all {
		if !all[i].outside && all[i].File != "" {
			all[i].File = name(all[i].File)
		}
	}
	return all
}

// With returns both, in order.
func (f Findings) With(others Findings) Findings {
	all := slices.Concat(f, others)
	all.sort()
	return all
}

func (f Findings) sort() {
	slices.SortStableFunc(f, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, a.Severity.rank()-b.Severity.rank(), strings.Compare(a.ID, b.ID),
			a.Col-b.Col, strings.Compare(a.Message, b.Message))
	})
}

// Faults makes findings of what kept a policy from being loaded. What a critical
// finding of others says of the same line is not said again.
func Faults(err error, others Findings) Findings {
	var faults strictyaml.Faults
	faults.Add(&strictyaml.Node{}, err)
	var all Findings
	for _, one := range faults {
		said := slices.ContainsFunc(others, func(f Finding) bool {
			return f.Severity == Critical && f.File == one.File && f.Line == one.Line
		})
		if said {
			continue
		}
		r := newTable().byID(idFault)
		message := one.Msg
		if one.Field != "" {
			message = one.Field + ": " + one.Msg
		}
		all = append(all, Finding{ID: r.ID, Name: r.Name, Severity: r.Severity, File: one.File, Line: one.Line, Col: one.Col, Message: message, Fix: r.Fix})
	}
	return all
}

// hit is what a rule's function returns: where, what, and, where the table's
// own is too general, the fix.
type hit struct {
	at  *strictyaml.Node
	msg string
	fix string

	waivable bool // although its rule is critical
	outside  bool // at is no place in the policy
}

func hitAt(at *strictyaml.Node, format string, args ...any) hit {
	return hit{at: at, msg: fmt.Sprintf(format, args...)}
}

func (h hit) fixing(format string, args ...any) hit {
	h.fix = fmt.Sprintf(format, args...)
	return h
}

// report adds what a rule found, once for each place and message, and applies
// the waivers that are given.
func (l *linter) report(r *Rule, h hit, ruleID string, waivers ...[]policy.Waiver) {
	f := Finding{ID: r.ID, Name: r.Name, Severity: r.Severity, Rule: ruleID, Message: h.msg, Fix: cmp.Or(h.fix, r.Fix), outside: h.outside}
	if h.at != nil {
		f.File, f.Line, f.Col = h.at.File(), h.at.Line, h.at.Col
	}
	f.Waived = l.waiver(r, h, waivers...)
	key := fmt.Sprint(f.ID, f.File, f.Line, f.Col, f.Message, f.Rule)
	if i, ok := l.seen[key]; ok {
		if f.Waived == nil {
			l.findings[i].Waived = nil
		}
		return
	}
	l.seen[key] = len(l.findings)
	l.findings = append(l.findings, f)
}
