package cases

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// WriteText writes the report for a terminal: each case that failed with the
// explanation of its decision, and a last line that counts.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "FAULT %s\n", f)
	}
	for _, one := range r.Results {
		if one.Passed() {
			continue
		}
		fmt.Fprintf(&b, "FAIL  %s:%d: %s\n      %s\n", one.File, one.Line, one.Name, one.Failure)
		if one.Explanation != nil {
			var text strings.Builder
			if err := one.Explanation.WriteText(&text); err != nil {
				return err
			}
			for line := range strings.Lines(text.String()) {
				b.WriteString(strings.TrimRight("      "+line, " \n") + "\n")
			}
		}
	}
	fmt.Fprintf(&b, "%d cases tried, %d failed", len(r.Results), r.Failed())
	if n := len(r.Faults); n > 0 {
		fmt.Fprintf(&b, "; faults in their files: %d", n)
	}
	fmt.Fprintf(&b, "; coverage %d%% of %d rules and %d conditions\n", r.Coverage.Percent, r.Coverage.Rules, r.Coverage.Conditions)
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteText writes what no case has shown, one line each.
func (c Coverage) WriteText(w io.Writer) error {
	for _, g := range c.Gaps {
		if _, err := fmt.Fprintln(w, g); err != nil {
			return err
		}
	}
	return nil
}

// The part of JUnit's XML that CI systems read.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string       `xml:"name,attr"`
		Class   string       `xml:"classname,attr"`
		File    string       `xml:"file,attr"`
		Line    int          `xml:"line,attr"`
		Failure *junitReason `xml:"failure"`
		Error   *junitReason `xml:"error"`
	}
	junitReason struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit's XML: a suite for each file, and a
// fault of a file as an error in it.
func (r Report) WriteJUnit(w io.Writer) error {
	all := junitSuites{}
	suite := func(name string) *junitSuite {
		for i := range all.Suites {
			if all.Suites[i].Name == name {
				return &all.Suites[i]
			}
		}
		all.Suites = append(all.Suites, junitSuite{Name: name})
		return &all.Suites[len(all.Suites)-1]
	}
	for _, one := range r.Results {
		s, c := suite(one.File), junitCase{Name: one.Name, Class: className(one.File), File: one.File, Line: one.Line}
		if !one.Passed() {
			var text strings.Builder
			if err := one.Explanation.WriteText(&text); err != nil {
				return err
			}
			c.Failure = &junitReason{Message: one.Failure, Text: text.String()}
			s.Failures++
			all.Failures++
		}
		s.Cases = append(s.Cases, c)
		s.Tests++
		all.Tests++
	}
	for _, f := range r.Faults {
		s := suite(f.File)
		s.Cases = append(s.Cases, junitCase{Name: f.Field, Class: className(f.File), File: f.File, Line: f.Line,
			Error: &junitReason{Message: f.Msg, Text: f.Error()}})
		s.Tests++
		s.Errors++
		all.Tests++
		all.Errors++
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// className is the file as CI systems group by it: without its ending.
func className(file string) string {
	return strings.NewReplacer("/", ".", ".yaml", "", ".yml", "").Replace(file)
}
