package cases

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Options say which cases are tried and with what.
type Options struct {
	Fixtures Fixtures
	// Only tries the cases whose file and name, joined by a slash, hold this
	// text; empty: all.
	Only string
}

// Report is what came of the cases.
type Report struct {
	Version  string            // of the book that was tried
	Results  []Result          // in order of files and lines
	Faults   strictyaml.Faults // of the files; a case with a fault is not tried
	Coverage Coverage
}

// Result is what came of one case.
type Result struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Name    string `json:"name"`
	Failure string `json:"failure,omitempty"` // in one line; empty: it passed

	Explanation *policy.Explanation `json:"explanation,omitempty"` // of a case that failed
}

// MarshalJSON writes what the report holds, with its counts.
func (r Report) MarshalJSON() ([]byte, error) {
	type fault struct {
		File  string `json:"file"`
		Line  int    `json:"line"`
		Field string `json:"field"`
		Fault string `json:"fault"`
	}
	faults := make([]fault, len(r.Faults))
	for i, f := range r.Faults {
		faults[i] = fault{f.File, f.Line, f.Field, f.Msg}
	}
	results := r.Results
	if results == nil {
		results = []Result{}
	}
	return json.Marshal(struct {
		Version  string   `json:"version"`
		Failed   int      `json:"failed"`
		Cases    []Result `json:"cases"`
		Faults   []fault  `json:"faults"`
		Coverage Coverage `json:"coverage"`
	}{r.Version, r.Failed(), results, faults, r.Coverage})
}

// Join makes one report of those of several folders, without their coverage.
func Join(reports ...Report) Report {
	var all Report
	for _, r := range reports {
		all.Results = append(all.Results, r.Results...)
		all.Faults = append(all.Faults, r.Faults...)
	}
	return all
}

// Passed reports whether the case went as it expects.
func (r Result) Passed() bool { return r.Failure == "" }

// Failed counts the cases that went otherwise than they expect.
func (r Report) Failed() int {
	n := 0
	for _, one := range r.Results {
		if !one.Passed() {
			n++
		}
	}
	return n
}

// Err is nil if there was no fault and every case passed, also where there is
// none: what keeps a policy from taking effect.
func (r Report) Err() error {
	if err := r.Faults.Err(); err != nil {
		return fmt.Errorf("test cases have faults:\n%w", err)
	}
	if n := r.Failed(); n > 0 {
		i := slices.IndexFunc(r.Results, func(one Result) bool { return !one.Passed() })
		one := r.Results[i]
		return fmt.Errorf("%d of %d test cases failed; the first is %s:%d %q: %s", n, len(r.Results), one.File, one.Line, one.Name, one.Failure)
	}
	return nil
}

// Run tries the cases of some files, by their names, against a book. It is
// pure: the same book and files give the same report.
func Run(book *policy.Book, files map[string][]byte, o Options) Report {
	t := trial{book: book, options: o, coverage: newCounts(book)}
	r := Report{Version: book.Version()}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		specs, faults := read(name, files[name])
		r.Faults = append(r.Faults, faults...)
		faulty := map[int]bool{}
		for _, f := range faults {
			faulty[caseOf(f.Field)] = true
		}
		for i := range specs {
			s := &specs[i]
			if faulty[caseOf(s.Node.Field())] || faulty[-1] || !strings.Contains(name+"/"+s.Name, o.Only) {
				continue
			}
			result, faults := t.try(s)
			r.Faults = append(r.Faults, faults...)
			if len(faults) == 0 {
				r.Results = append(r.Results, result)
			}
		}
	}
	r.Coverage = t.coverage.coverage()
	return r
}

// caseOf is the position of the case that a fault is about; -1 where it is
// about the file.
func caseOf(field string) int {
	var i int
	if _, err := fmt.Sscanf(field, "cases[%d]", &i); err != nil {
		return -1
	}
	return i
}

// trial is one run under way.
type trial struct {
	book     *policy.Book
	options  Options
	coverage *counts

	guesses   int // what unknown rules may have meant, so far
	explained int // failures for which all rules were looked at, so far
}

// Bounds of what takes a look at all rules: a reload waits for it.
const (
	maxGuesses   = 20  // unknown rules, of what they may have meant
	maxExplained = 100 // failures, of the nearest rule of others
)

// meant helps somebody who has misspelt the name of a rule.
func (t *trial) meant(rule string) string {
	if t.guesses++; t.guesses > maxGuesses {
		return ""
	}
	return strictyaml.DidYouMean(rule, t.coverage.ids())
}

// try decides one case.
func (t *trial) try(s *spec) (Result, strictyaml.Faults) {
	id, faults := s.identity(t.options.Fixtures)
	want, err := ParseWant(s.Grant)
	faults.Add(s.Node.At("grant"), err)
	if s.Rule != "" && !t.coverage.knows(s.Rule) {
		faults = append(faults, s.Node.At("rule").Fault("no rule is called %q%s", s.Rule, t.meant(s.Rule)))
	}
	e := t.book.Trace(id, want, s.At.Time)
	switch e.Why {
	case policy.NoSuchIssuer:
		faults = append(faults, s.Node.At("issuer").Fault("no issuer is called %q: every job of it would be denied", s.Issuer))
	case policy.NoSuchGrant:
		faults = append(faults, s.Node.At("grant").Fault("no grant is called %q: it would be denied to everybody", want.Name))
	}
	if len(faults) > 0 {
		return Result{}, faults
	}
	t.coverage.count(e)
	result := Result{File: s.Node.File(), Line: s.Node.Line, Name: s.Name, Failure: s.judge(e)}
	if !result.Passed() {
		result.Explanation = &e
		if t.explained++; t.explained <= maxExplained {
			e = t.book.Explain(id, want, s.At.Time)
			result.Failure += nearest(e)
		}
	}
	return result, nil
}

// judge says how the decision differs from what the case expects.
func (s *spec) judge(e policy.Explanation) string {
	switch {
	case e.Allowed && s.Expect == expectDeny:
		return fmt.Sprintf("expected deny, and rule %s allows it", e.Rule)
	case !e.Allowed && s.Expect == expectAllow:
		return "expected allow, and it is denied"
	case e.Allowed && s.Rule != "" && e.Rule != s.Rule:
		return fmt.Sprintf("expected rule %s, and rule %s gives it", s.Rule, e.Rule)
	case e.Allowed && s.TTL != 0 && !lasts(e.Life, s.TTL):
		return fmt.Sprintf("expected a ttl of %s, and it is %s", s.TTL, e.Life.TTL)
	case !e.Allowed && s.Rule != "" && !slices.ContainsFunc(e.Denied, func(r policy.Ruling) bool { return r.Rule == s.Rule }):
		return fmt.Sprintf("expected rule %s to deny it, and that does not", s.Rule)
	}
	return ""
}

func lasts(l *policy.Life, ttl time.Duration) bool {
	got, err := time.ParseDuration(l.TTL)
	return err == nil && got == ttl
}

// nearest says what is in the way of the nearest rule.
func nearest(e policy.Explanation) string {
	if e.Allowed {
		return ""
	}
	if len(e.Denied) > 0 {
		return fmt.Sprintf(": rule %s denies it", e.Denied[0].Rule)
	}
	if len(e.Rules) == 0 {
		return ": no rule gives it at this issuer"
	}
	r := e.Rules[0]
	if r.Over {
		return fmt.Sprintf(": rule %s ended with %s", r.Rule, r.Until)
	}
	var way []string
	for _, list := range [][]policy.Check{r.Pins.Checks, r.Conditions} {
		for _, c := range list {
			if c.Holds != policy.Holds {
				way = append(way, fmt.Sprintf("%s is %s, wanted %s", c.Claim, saw(c), asJSON(c.Wanted)))
			}
		}
	}
	if r.When != nil && r.When.Holds != policy.Holds {
		way = append(way, "its expression does not hold")
	}
	return fmt.Sprintf(": of the nearest rule %s, %s", r.Rule, strings.Join(way, "; "))
}

func saw(c policy.Check) string {
	if c.Absent {
		return "not there"
	}
	return asJSON(c.Saw)
}

func asJSON(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "?"
	}
	return strings.TrimSpace(b.String())
}
