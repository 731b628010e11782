package lint

import (
	"strings"

	"github.com/daypass-dev/daypass/policy"
)

// pattern is what one value of a claim may be: a policy pattern, or what an
// expression says in its own words.
type pattern struct {
	kind  policy.PatternKind
	text  string // as written
	parts []part // of a glob
	call  string // the function of an expression that it stands for; empty otherwise
}

// part is a literal text, or a wildcard.
type part struct {
	lit  string
	wild wildcard
}

type wildcard byte

const (
	literal wildcard = iota
	one              // ?: a character, neither / nor :
	star             // *: any number of those
	many             // **: any number of any characters
)

func exactly(text string) pattern { return pattern{kind: policy.ExactText, text: text} }

func globOf(text string) pattern {
	p := pattern{kind: policy.GlobOfText, text: text}
	for rest := text; rest != ""; {
		i := strings.IndexAny(rest, "*?")
		switch {
		case i < 0:
			p.parts, rest = append(p.parts, part{lit: rest}), ""
		case i > 0:
			p.parts, rest = append(p.parts, part{lit: rest[:i]}), rest[i:]
		case strings.HasPrefix(rest, "**"):
			p.parts, rest = append(p.parts, part{wild: many}), rest[2:]
		case rest[0] == '*':
			p.parts, rest = append(p.parts, part{wild: star}), rest[1:]
		default:
			p.parts, rest = append(p.parts, part{wild: one}), rest[1:]
		}
	}
	return p
}

// called is what claims.x.startsWith("text") and its kin admit.
func called(function, text string) pattern {
	p := pattern{kind: policy.GlobOfText, text: text, call: function}
	lit, rest := part{lit: text}, part{wild: many}
	switch function {
	case "startsWith":
		p.parts = []part{lit, rest}
	case "endsWith":
		p.parts = []part{rest, lit}
	default: // contains
		p.parts = []part{rest, lit, rest}
	}
	return p
}

func fromPolicy(p policy.Pattern) pattern {
	if p.Kind == policy.GlobOfText {
		return globOf(p.Text)
	}
	return pattern{kind: p.Kind, text: p.Text}
}

// shown is the pattern as a reviewer reads it.
func (p pattern) shown() string {
	switch {
	case p.call != "":
		return p.call + "(" + quote(p.text) + ")"
	case p.kind == policy.GlobOfText:
		return "glob " + quote(p.text)
	case p.kind == policy.ExactText:
		return quote(p.text)
	}
	return p.text
}

func (p pattern) wild() bool { return p.kind == policy.GlobOfText }

// prefix is the text before the first wildcard.
func (p pattern) prefix() string {
	if !p.wild() {
		return p.text
	}
	if len(p.parts) > 0 && p.parts[0].wild == literal {
		return p.parts[0].lit
	}
	return ""
}

// matches reports whether a claim that is this text does.
func (p pattern) matches(text string) bool {
	switch p.kind {
	case policy.ExactText:
		return p.text == text
	case policy.GlobOfText:
		return matchParts(p.parts, text)
	}
	return false
}

// matchParts follows all ways at once, as policy does: time is at most the
// product of the two lengths.
func matchParts(parts []part, text string) bool {
	now, next := make([]bool, len(text)+1), make([]bool, len(text)+1) // how much of text is used up
	now[0] = true
	for _, p := range parts {
		clear(next)
		for from, ok := range now {
			switch {
			case p.wild == star || p.wild == many:
				next[from] = ok || from > 0 && next[from-1] && (p.wild == many || !delimiter(text[from-1]))
			case !ok:
			case p.wild == literal && strings.HasPrefix(text[from:], p.lit):
				next[from+len(p.lit)] = true
			case p.wild == one && from < len(text) && !delimiter(text[from]):
				next[from+1] = true
			}
		}
		now, next = next, now
	}
	return now[len(text)]
}

func delimiter(c byte) bool { return c == '/' || c == ':' }

// same reports whether two patterns admit the same values, as they are written.
func (p pattern) same(other pattern) bool {
	return p.kind == other.kind && p.text == other.text && p.call == other.call
}

// within reports whether all that p admits is admitted by other too. It says no
// where it cannot tell.
func (p pattern) within(other pattern) bool {
	return p.same(other) || p.kind == policy.ExactText && other.kind == policy.GlobOfText && other.matches(p.text)
}

// swallows reports a ** with text behind it: it can stand for any number of
// parts, so that what follows need not be where it seems to be.
func (p pattern) swallows() bool {
	for i, part := range p.parts {
		if part.wild == many && i+1 < len(p.parts) {
			return true
		}
	}
	return false
}
