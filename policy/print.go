package policy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// YAML writes the file in the one form that tools of ours write: what it says
// is read back the same, without its comments. Nodes are not needed, so a file
// can be made up; whether its rules make sense is for [Load] to say.
func (f *File) YAML() []byte {
	p := &printer{}
	p.text("", "description", f.Description)
	p.text("", "owner", f.Owner)
	p.line("", "review_by", f.ReviewBy.String())
	if len(f.Repos) > 0 {
		p.open("", "repos")
		for _, r := range f.Repos {
			p.line("  ", scalar(r.ID), flow(
				entry("issuer", scalar(r.Issuer)), entry("name", scalar(r.Name)), entry("match", r.Match.flow())))
		}
	}
	if len(f.Ceilings) > 0 {
		p.open("", "ceilings")
		for _, c := range f.Ceilings {
			p.item("  ", flow(entry("folder", scalar(c.Folder)), entry("repos", list(c.Repos)),
				entry("grants", list(c.Grants)), entry("max_ttl", life(c.MaxTTL))))
		}
	}
	if len(f.Rules) > 0 {
		p.open("", "rules")
		for i := range f.Rules {
			p.rule(&f.Rules[i])
		}
	}
	if p.b.Len() == 0 {
		return []byte("{}\n") // an empty file is none
	}
	return []byte(p.b.String())
}

// printer writes lines, and passes over keys without a value.
type printer struct{ b strings.Builder }

func (p *printer) line(indent, key, value string) {
	if value != "" {
		fmt.Fprintf(&p.b, "%s%s: %s\n", indent, key, value)
	}
}

func (p *printer) text(indent, key, value string) {
	if value != "" {
		p.line(indent, key, scalar(value))
	}
}

func (p *printer) open(indent, key string)   { fmt.Fprintf(&p.b, "%s%s:\n", indent, key) }
func (p *printer) item(indent, value string) { fmt.Fprintf(&p.b, "%s- %s\n", indent, value) }

func (p *printer) rule(r *Rule) {
	const in = "    "
	p.line("  - ", "name", scalar(r.Name))
	p.text(in, "description", r.Description)
	p.line(in, "for", list(r.For))
	p.text(in, "issuer", r.Issuer)
	p.text(in, "mode", r.Mode)
	p.line(in, "until", r.Until.String())
	if r.MaxLive != 0 {
		p.line(in, "max_live", strconv.Itoa(r.MaxLive))
	}
	if len(r.Match) > 0 {
		p.open(in, "match")
		for i := range r.Match {
			p.line(in+"  ", scalar(r.Match[i].Claim), r.Match[i].flow())
		}
	}
	if r.When != "" {
		p.line(in, "when", expression(r.When))
	}
	if len(r.Allow) > 0 {
		p.open(in, "allow")
		for _, a := range r.Allow {
			p.item(in+"  ", flow(entry("grant", scalar(a.Grant)), entry("ttl", life(a.TTL))))
		}
	}
	p.line(in, "deny", list(r.Deny))
	p.text(in, "explain", r.Explain)
	p.text(in, "replay", r.Replay)
	if len(r.Waive) > 0 {
		p.open(in, "waive")
		for _, w := range r.Waive {
			p.item(in+"  ", flow(entry("id", scalar(w.ID)), entry("reason", scalar(w.Reason)), entry("until", w.Until.String())))
		}
	}
}

func (m Match) flow() string {
	entries := make([]string, len(m))
	for i := range m {
		entries[i] = entry(scalar(m[i].Claim), m[i].flow())
	}
	return flow(entries...)
}

func (c *Condition) flow() string {
	switch c.Op {
	case Exists:
		return flow(entry("exists", "true"))
	case Absent:
		return flow(entry("exists", "false"))
	case NoneOf:
		return flow(entry("not", flowPatterns(c.Any)))
	case Within:
		entries := make([]string, len(c.Bounds))
		for i, b := range c.Bounds {
			entries[i] = entry(b.Is, b.Number)
		}
		return flow(entries...)
	}
	return flowPatterns(c.Any)
}

func flowPatterns(any []Pattern) string {
	texts := make([]string, len(any))
	for i, p := range any {
		switch p.Kind {
		case ExactNum, ExactBool:
			texts[i] = p.Text
		case GlobOfText:
			texts[i] = flow(entry("glob", scalar(p.Text)))
		default:
			texts[i] = scalar(p.Text)
		}
	}
	if len(texts) == 1 {
		return texts[0]
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// entry is one entry of a mapping, or nothing where it has no value.
func entry(key, value string) string {
	if value == "" {
		return ""
	}
	return key + ": " + value
}

func flow(entries ...string) string {
	var there []string
	for _, e := range entries {
		if e != "" {
			there = append(there, e)
		}
	}
	return "{" + strings.Join(there, ", ") + "}"
}

func list(names []string) string {
	if len(names) == 0 {
		return ""
	}
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = scalar(name)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

func life(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return short(d)
}

// bare is text that no reader takes for anything else. Compiled once, never
// changed.
var (
	bare  = regexp.MustCompile(`\A[A-Za-z/_][A-Za-z0-9@/._-]*\z`)
	words = regexp.MustCompile(`(?i)\A(?:y|n|yes|no|on|off|true|false|null|nan|inf)\z`)
)

// scalar writes text, in quotes where some reader might not take it for text.
func scalar(text string) string {
	if bare.MatchString(text) && !words.MatchString(text) {
		return text
	}
	return strictyaml.Quote(text)
}

// expression writes CEL, which has double quotes of its own.
func expression(text string) string {
	if printable(text) {
		return "'" + strings.ReplaceAll(text, "'", "''") + "'"
	}
	return strictyaml.Quote(text)
}
