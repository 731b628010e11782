package policy

import (
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestGlobs(t *testing.T) {
	for sentence, c := range map[string]struct {
		pattern, text string
		want          bool
	}{
		"a star stands for characters":        {"release/*", "release/1.2", true},
		"a star stands for none":              {"release/*", "release/", true},
		"a star stops at a slash":             {"release/*", "release/1/2", false},
		"a star stops at a colon":             {"repo:*", "repo:acme:evil", false},
		"a star takes an at sign":             {"v3@*", "v3@x@y", true},
		"a double star crosses a slash":       {"release/**", "release/1/2:3", true},
		"a double star stands for none":       {"a**b", "ab", true},
		"a question mark is one":              {"v?", "v3", true},
		"a question mark is not none":         {"v?", "v", false},
		"a question mark is not two":          {"v?", "v10", false},
		"a question mark is no slash":         {"a?b", "a/b", false},
		"a question mark is no colon":         {"a?b", "a:b", false},
		"a dot is a dot":                      {"v1.*", "v1x0", false},
		"a match is in full at the end":       {"release/?", "release/1x", false},
		"a match is in full at the start":     {"release/*", "xrelease/1", false},
		"stars can be many":                   {"*-*-*", "a-b-c-d", true},
		"a star and the rest again":           {"*ab", "aabab", true},
		"the empty text has no question mark": {"?", "", false},
		"the empty text has a star":           {"*", "", true},
		"a space is a character":              {"Default *", "Default Project", true},
		"a line end matches no glob":          {"**", "a\nb", false},
		"a tab matches no glob":               {"**", "a\tb", false},
		"an umlaut matches no glob":           {"**", "m\u00fcnchen", false},
		"a byte that is no text does not":     {"**", "\xff", false},
		"a text too long matches no glob":     {"**", strings.Repeat("a", maxGlobClaim+1), false},
		"the longest text matches":            {"**", strings.Repeat("a", maxGlobClaim), true},
	} {
		g, err := compileGlob(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", sentence, err)
			continue
		}
		if got := g.match(c.text); got != c.want {
			t.Errorf("%s: %q and %q match: %v", sentence, c.pattern, c.text, got)
		}
	}
}

func TestGlobsThatSayNothingClearAreRefused(t *testing.T) {
	for _, pattern := range []string{
		"", "main", "***", "a***b", "[a-z]*", "{a,b}*", `\*`, "m\u00fc*", "a\n*", "*]", "*}", strings.Repeat("*a", maxGlob),
	} {
		if _, err := compileGlob(pattern); err == nil {
			t.Errorf("%q is accepted", pattern)
		}
	}
	if _, err := compileGlob(strings.Repeat("a", maxGlob-1) + "*"); err != nil {
		t.Errorf("the longest glob: %v", err)
	}
}

// slowGlob says what a glob means, one character at a time.
func slowGlob(pattern, text string) bool {
	separator := text != "" && (text[0] == '/' || text[0] == ':')
	switch {
	case pattern == "":
		return text == ""
	case strings.HasPrefix(pattern, "**"):
		return slowGlob(pattern[2:], text) || text != "" && slowGlob(pattern, text[1:])
	case pattern[0] == '*':
		return slowGlob(pattern[1:], text) || text != "" && !separator && slowGlob(pattern, text[1:])
	case text == "":
		return false
	case pattern[0] == '?':
		return !separator && slowGlob(pattern[1:], text[1:])
	}
	return pattern[0] == text[0] && slowGlob(pattern[1:], text[1:])
}

func TestAGlobMatchesAsItsMeaningSays(t *testing.T) {
	pattern := rapid.StringMatching(`[ab/:?]{0,3}(\*{1,2}[ab/:?]{1,2}){0,4}\*{0,2}`)
	text := rapid.StringMatching(`[ab/:]{0,14}`)
	rapid.Check(t, func(t *rapid.T) {
		p, s := pattern.Draw(t, "pattern"), text.Draw(t, "text")
		g, err := compileGlob(p)
		if err != nil {
			return
		}
		if got, want := g.match(s), slowGlob(p, s); got != want {
			t.Fatalf("%q and %q: %v, want %v", p, s, got, want)
		}
	})
}

// FuzzGlob takes any pattern and text: a pattern that compiles matches as its
// meaning says, and never what is not plain.
func FuzzGlob(f *testing.F) {
	f.Fuzz(func(t *testing.T, pattern, text string) {
		g, err := compileGlob(pattern)
		if err != nil {
			return
		}
		got := g.match(text)
		if got && !printable(text) {
			t.Fatalf("%q matches %q", pattern, text)
		}
		// The reference takes exponential time: only small cases are compared.
		if strings.Count(pattern, "*") <= 6 && len(text) <= 24 && printable(text) && got != slowGlob(pattern, text) {
			t.Fatalf("%q and %q: %v", pattern, text, got)
		}
	})
}

func TestNumbersAreTheSameIfTheirValuesAre(t *testing.T) {
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,4})?([eE][-+]?[0-9]{1,2})?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		if rapid.Bool().Draw(t, "alike") {
			b = a + rapid.SampledFrom([]string{"", "e0", "E+0"}).Draw(t, "end")
		}
		ca, ok := canonical(a)
		if !ok {
			t.Fatalf("%s is refused", a)
		}
		cb, ok := canonical(b)
		if !ok {
			return // two exponents
		}
		ra, _ := new(big.Rat).SetString(a)
		rb, _ := new(big.Rat).SetString(b)
		if (ca == cb) != (ra.Cmp(rb) == 0) {
			t.Fatalf("%s is %s and %s is %s", a, ca, b, cb)
		}
	})
	for _, s := range []string{"", "-", "+1", "01", ".5", "5.", "1e", "1e1e1", "0x1", "NaN", "Infinity", " 1", "1 ", "1e1234567890", "1_0", "\u0661"} {
		if c, ok := canonical(s); ok {
			t.Errorf("%q is the number %s", s, c)
		}
	}
}
