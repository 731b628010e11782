package lint

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// WriteText writes findings for people: by file, the worst of a line first, and
// a summary at the end.
func (f Findings) WriteText(w io.Writer) error {
	var b strings.Builder
	file := ""
	for _, one := range f {
		if one.Waived != nil {
			continue
		}
		if one.File != file || b.Len() == 0 {
			file = one.File
			fmt.Fprintf(&b, "%s\n", cmp.Or(printable(file), "(no file)"))
		}
		fmt.Fprintf(&b, "  %-6s %-8s  %s %s", position(one), one.Severity, one.ID, one.Name)
		if one.Rule != "" {
			fmt.Fprintf(&b, "  (%s)", printable(one.Rule))
		}
		fmt.Fprintf(&b, "\n         %s\n         fix: %s\n", printable(one.Message), printable(one.Fix))
	}
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	b.WriteString(f.summary() + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func position(f Finding) string {
	if f.Line == 0 {
		return "-"
	}
	return fmt.Sprintf("%d:%d", f.Line, f.Col)
}

// summary counts what was found, and says how lint ends.
func (f Findings) summary() string {
	var parts []string
	for _, s := range []Severity{Critical, High, Warning} {
		if n := f.Count(s); n > 0 {
			parts = append(parts, count(n, s))
		}
	}
	text := "no findings"
	if len(parts) > 0 {
		text = strings.Join(parts, ", ")
	}
	if n := f.waived(); n > 0 {
		text += fmt.Sprintf(" (%d waived)", n)
	}
	switch {
	case f.Count(Critical) > 0:
		return text + ": failed, and a broker would not load this"
	case len(f.Failing()) > 0:
		return text + ": failed"
	}
	return text + ": passed"
}

func count(n int, s Severity) string {
	if s == Warning && n > 1 {
		return fmt.Sprintf("%d warnings", n)
	}
	return fmt.Sprintf("%d %s", n, s)
}

func (f Findings) waived() int {
	return len(slices.DeleteFunc(slices.Clone(f), func(one Finding) bool { return one.Waived == nil }))
}

// printable keeps what a policy's author wrote from steering a terminal.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < 0x20 || r >= 0x7F && r < 0xA0 || r == 0x2028 || r == 0x2029 || r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069 {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
