package policy

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a glob and of what it is matched with: a longer claim does not
// match.
const (
	maxGlob      = 256
	maxGlobClaim = 2048
)

type globKind byte

const (
	globByte globKind = iota // the byte itself
	globOne                  // ?: one character, neither / nor :
	globStar                 // *: any number of those
	globMany                 // **: any number of any characters
)

type globPart struct {
	kind globKind
	b    byte
}

// glob is a compiled pattern. It matches printable ASCII in full: a claim with
// any other character matches no glob, so that nothing that merely looks like
// a permitted name does.
type glob []globPart

func compileGlob(pattern string) (glob, error) {
	switch {
	case pattern == "":
		return nil, errors.New("is an empty glob")
	case len(pattern) > maxGlob:
		return nil, fmt.Errorf("is a glob of more than %d bytes", maxGlob)
	case strings.Contains(pattern, "***"):
		return nil, errors.New("is not a glob: * stays between / and :, ** crosses them, *** is neither")
	case strings.ContainsAny(pattern, `[]{}\`):
		return nil, errors.New(`is not a glob: only *, ** and ? are special, and [ ] { } \ cannot be matched`)
	case !strings.ContainsAny(pattern, "*?"):
		return nil, errors.New("is a glob without * or ?: write the text itself, without glob")
	case !printable(pattern):
		return nil, errors.New("is a glob with a character outside printable ASCII, which can never match")
	}
	var g glob
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '?':
			g = append(g, globPart{kind: globOne})
		case c == '*' && strings.HasPrefix(pattern[i:], "**"):
			g = append(g, globPart{kind: globMany})
			i++
		case c == '*':
			g = append(g, globPart{kind: globStar})
		default:
			g = append(g, globPart{kind: globByte, b: c})
		}
	}
	return g, nil
}

// printable reports whether s is printable ASCII throughout.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7E {
			return false
		}
	}
	return true
}

// match reports whether the glob matches text in full. What most texts differ in
// is how they begin, which is looked at first.
func (g glob) match(text string) bool {
	if len(text) > maxGlobClaim || !printable(text) {
		return false
	}
	for len(g) > 0 && g[0].kind == globByte {
		if text == "" || text[0] != g[0].b {
			return false
		}
		g, text = g[1:], text[1:]
	}
	return g.follow(text)
}

// follow follows all ways through the pattern at once, until none is left: time
// is at most the product of the two lengths, whatever the pattern.
func (g glob) follow(text string) bool {
	var a, b [maxGlob + 1]bool // position in the pattern → reachable
	now, next := a[:len(g)+1], b[:len(g)+1]
	now[0] = true
	for j, part := range g {
		now[j+1] = now[j] && part.kind >= globStar
	}
	for i := range len(text) {
		c := text[i]
		free := c != '/' && c != ':'
		next[0] = false
		alive := false
		for j, part := range g {
			switch part.kind {
			case globByte:
				next[j+1] = now[j] && c == part.b
			case globOne:
				next[j+1] = now[j] && free
			case globStar:
				next[j+1] = next[j] || now[j+1] && free
			case globMany:
				next[j+1] = next[j] || now[j+1]
			}
			alive = alive || next[j+1]
		}
		if !alive {
			return false
		}
		now, next = next, now
	}
	return now[len(g)]
}
