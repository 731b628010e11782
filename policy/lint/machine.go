package lint

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// jsonFinding is one finding as --output json has it.
type jsonFinding struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	Severity Severity   `json:"severity"`
	File     string     `json:"file"`
	Line     int        `json:"line,omitempty"`
	Column   int        `json:"column,omitempty"`
	Rule     string     `json:"rule,omitempty"`
	Message  string     `json:"message"`
	Fix      string     `json:"fix"`
	Waived   *jsonWaive `json:"waived,omitempty"`
}

type jsonWaive struct {
	Reason string `json:"reason"`
	Until  string `json:"until"`
}

// WriteJSON writes {"findings": […], "summary": {…}}, with waived findings and
// by whom they are.
func (f Findings) WriteJSON(w io.Writer) error {
	all := make([]jsonFinding, 0, len(f))
	for _, one := range f {
		j := jsonFinding{ID: one.ID, Name: one.Name, Severity: one.Severity, File: one.File, Line: one.Line, Column: one.Col,
			Rule: one.Rule, Message: one.Message, Fix: one.Fix}
		if one.Waived != nil {
			j.Waived = &jsonWaive{Reason: one.Waived.Reason, Until: one.Waived.Until.String()}
		}
		all = append(all, j)
	}
	return writeJSON(w, map[string]any{"findings": all, "summary": map[string]any{
		"critical": f.Count(Critical), "high": f.Count(High), "warning": f.Count(Warning), "waived": f.waived(),
		"passed": len(f.Failing()) == 0,
	}})
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// WriteGitHub writes workflow commands, which a GitHub run shows at the lines of
// the pull request, and the summary.
func (f Findings) WriteGitHub(w io.Writer) error {
	var b strings.Builder
	for _, one := range f {
		if one.Waived != nil {
			continue
		}
		command := "error"
		if one.Severity == Warning {
			command = "warning"
		}
		var properties []string
		if one.File != "" {
			properties = append(properties, "file="+githubProperty(one.File))
		}
		if one.Line > 0 {
			properties = append(properties, fmt.Sprintf("line=%d,col=%d", one.Line, one.Col))
		}
		properties = append(properties, "title="+githubProperty(fmt.Sprintf("%s %s (%s)", one.ID, one.Name, one.Severity)))
		message := one.Message
		if one.Rule != "" {
			message = one.Rule + ": " + message
		}
		fmt.Fprintf(&b, "::%s %s::%s\n", command, strings.Join(properties, ","), githubData(message+"\nfix: "+one.Fix))
	}
	b.WriteString(f.summary() + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// githubData and githubProperty escape as the runner reads it: a line break in
// a value would otherwise begin a command of the value's own.
func githubData(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func githubProperty(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}

// orOne is a position as formats have it that count from one and know no place
// that is none.
func orOne(n int) int { return cmp.Or(n, 1) }
