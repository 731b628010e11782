package strictyaml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a document.
type Fault struct {
	File  string
	Line  int    // from 1; 0 where the fault has no place in the file
	Col   int    // from 1, in characters
	Field string // rules[0].allow[1].ttl; empty for the document as a whole
	Msg   string
}

// Error returns file:line:column: field: message, without the parts that are
// not known.
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Col)
	}
	b.WriteString(": ")
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Msg)
	return b.String()
}

// Faults are all the faults that were found. As an error it prints one line
// for each of the first hundred, and errors.As finds the first [*Fault].
type Faults []*Fault

const shownFaults = 100

// Error returns the faults, one on each line.
func (f Faults) Error() string {
	lines := make([]string, 0, min(len(f), shownFaults)+1)
	for _, one := range f[:min(len(f), shownFaults)] {
		lines = append(lines, one.Error())
	}
	if more := len(f) - shownFaults; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more faults", more))
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.Is and errors.As see each fault.
func (f Faults) Unwrap() []error {
	errs := make([]error, len(f))
	for i, one := range f {
		errs[i] = one
	}
	return errs
}

// Err returns the faults in the order in which they stand in their files, or
// nil if there are none.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil
	}
	sorted := slices.Clone(f)
	slices.SortStableFunc(sorted, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return sorted
}

// Add appends err: all of its faults if it holds any, and otherwise its text as
// a fault at n.
func (f *Faults) Add(n *Node, err error) {
	if err == nil {
		return
	}
	if many, ok := errors.AsType[Faults](err); ok {
		*f = append(*f, many...)
	} else if one, ok := errors.AsType[*Fault](err); ok {
		*f = append(*f, one)
	} else {
		*f = append(*f, n.Fault("%s", err))
	}
}
