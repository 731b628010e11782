package fromsub

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/daypass-dev/daypass/policy"
)

// Trust is one way in that the original allows: all its conditions hold for a
// token that it admits.
type Trust struct {
	From     string // where it was read, for people: "statement 1", or the subject itself
	Provider string // github or gitlab; empty: told from the subject
	Claims   []Condition
	Notes    []string // what is true of it whatever becomes of it
	Refused  string   // why it cannot become a rule; empty if it may
}

// Condition is what the original asks of one claim of the token: one of the
// patterns.
type Condition struct {
	Claim string
	Any   []Pattern
}

// Pattern is a text, or one in which * stands for any characters and ? for one.
type Pattern struct {
	Text string
	Wild bool
}

// Subject is the trust of one pattern: a subject with wildcards, or a principal
// of Google Cloud (see [Principal]).
func Subject(text string) Trust {
	if t, ok := Principal(text); ok {
		return t
	}
	return Trust{From: text, Claims: []Condition{condition("sub", []string{text}, true)}}
}

// Options are what a rule needs and no subject says.
type Options struct {
	Provider string // what to read subjects as; empty: told from each
	Issuer   string // what the configuration calls the provider; empty: as the provider
	Grant    string // what the rules give
}

// Result is a policy file, and what could not be put into it.
type Result struct {
	File     policy.File
	Notes    []string // what a reader of the file has to know, rule by rule
	NotTaken []string // what gave no rule, with its reason
}

// Translate makes the rules for what each trust admits.
func Translate(trusts []Trust, o Options) Result {
	b := &builder{options: o, repos: map[string]string{}, rules: map[string]bool{}, called: map[string]bool{}}
	for _, t := range trusts {
		if t.Refused != "" {
			b.refuse(t.From, "%s", t.Refused)
			continue
		}
		b.trust(t)
	}
	return b.result
}

// builder collects the rules of one file.
type builder struct {
	options Options
	result  Result
	repos   map[string]string // what a repository is, to what it is called
	called  map[string]bool   // what repositories are called
	rules   map[string]bool   // what rules are called
}

func (b *builder) refuse(from, format string, args ...any) {
	b.result.NotTaken = append(b.result.NotTaken, fmt.Sprintf("%s: %s", visible(from), fmt.Sprintf(format, args...)))
}

func (b *builder) note(rule, format string, args ...any) {
	b.result.Notes = append(b.result.Notes, rule+": "+fmt.Sprintf(format, args...))
}

// trust makes a rule for each subject that a trust admits: two subjects may
// differ in more than one claim, and a rule for both would mix them.
func (b *builder) trust(t Trust) {
	subjects := []Pattern{{}}
	var rest []Condition
	for _, c := range t.Claims {
		if c.Claim == "sub" {
			if subjects[0].Text != "" {
				b.refuse(t.From, "it has two conditions on sub, of which both must hold")
				return
			}
			subjects = c.Any
		} else {
			rest = append(rest, c)
		}
	}
	for _, s := range subjects {
		from := t.From
		if s.Text != "" {
			from = s.Text
		}
		provider := t.Provider
		if b.options.Provider != "" {
			provider = b.options.Provider
		}
		m, err := read(provider, s)
		if err == nil {
			err = m.and(rest)
		}
		if err == nil {
			err = m.sound()
		}
		if err != nil {
			b.refuse(from, "%s", err)
			continue
		}
		b.add(from, m, t.Notes)
	}
}

// add writes one rule, for a named repository where there is one.
func (b *builder) add(from string, m *meaning, notes []string) {
	rule := policy.Rule{Match: m.match(), Allow: []policy.Allow{{Grant: b.options.Grant}}}
	pins := m.pins()
	if name, exact := m.repository(); exact {
		rule.Name = nameIn(b.rules, name+"-"+m.context)
		rule.For = []string{b.repo(m, name, pins)}
	} else {
		rule.Name = nameIn(b.rules, m.owner()+"-"+m.context)
		rule.Issuer = b.issuer(m.provider.name)
		rule.Match = append(pins, rule.Match...)
	}
	b.result.File.Rules = append(b.result.File.Rules, rule)
	b.note(rule.Name, "from %s", visible(from))
	for _, n := range append(m.notes, notes...) {
		b.note(rule.Name, "%s", n)
	}
}

func (b *builder) issuer(provider string) string {
	if b.options.Issuer != "" {
		return b.options.Issuer
	}
	return provider
}

// repo returns what the file calls a repository, after writing it there.
func (b *builder) repo(m *meaning, name string, pins policy.Match) string {
	key := m.provider.name + "\x00" + name
	for _, p := range pins {
		key += "\x00" + p.Claim + "=" + p.Any[0].Text
	}
	if known, ok := b.repos[key]; ok {
		return known
	}
	id := nameIn(b.called, name)
	b.repos[key] = id
	b.result.File.Repos = append(b.result.File.Repos, policy.Repo{
		ID: id, Issuer: b.issuer(m.provider.name), Name: name, Match: pins,
	})
	for _, p := range pins {
		if p.Any[0].Text == "" {
			b.note(id, "fill in %s; %s", p.Claim, m.provider.find[p.Claim])
		}
	}
	return id
}

// notName is what names may not hold. Compiled once, never changed.
var notName = regexp.MustCompile(`[^A-Za-z0-9._]+`)

// nameIn makes a name that is not among the taken, and takes it.
func nameIn(taken map[string]bool, from string) string {
	base := strings.ToLower(strings.Trim(notName.ReplaceAllString(from, "-"), "-._"))
	if len(base) > 56 {
		base = strings.Trim(base[:56], "-._")
	}
	if base == "" {
		base = "rule"
	}
	name := base
	for n := 2; taken[name]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	taken[name] = true
	return name
}

// YAML writes the file with its notes as comments, ready to be reviewed.
func (r Result) YAML() []byte {
	var b strings.Builder
	for _, n := range r.Notes {
		comment(&b, n)
	}
	if len(r.NotTaken) > 0 {
		comment(&b, "Not taken over:")
		for _, n := range r.NotTaken {
			comment(&b, "  "+n)
		}
	}
	if len(r.File.Rules) > 0 {
		b.Write(r.File.YAML())
	}
	return []byte(b.String())
}

// comment writes one line: nothing of what was read can end it.
func comment(b *strings.Builder, text string) { b.WriteString("# " + oneLine(text) + "\n") }

func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7E {
			return '?'
		}
		return r
	}, text)
}

// visible is text of the original, as it may stand in a line.
func visible(text string) string {
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return oneLine(text)
}
