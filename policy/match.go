package policy

import (
	"errors"
	"strings"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Match is what a token's claims must be: every condition has to hold.
type Match []Condition

// Condition is what one claim must be. A claim that is a list is one of some
// patterns, or within bounds, if an item of it is; and it is none of some
// patterns if no item is one.
type Condition struct {
	Node   *strictyaml.Node // the value, as written
	Claim  string           // a claim's name, or a JSON Pointer if it begins with a slash
	Op     Op
	Any    []Pattern // of OneOf and NoneOf
	Bounds []Bound   // of Within; all must hold
}

// Op is how a claim is compared.
type Op int

// The ways to compare a claim.
const (
	OneOf  Op = iota // a value, a list of them, or {glob: …}
	NoneOf           // {not: …}
	Exists           // {exists: true}
	Absent           // {exists: false}
	Within           // {above: 1}, {at_least: 1}, {below: 9}, {at_most: 9}, or one of each side
)

// Bound is one end of the numbers that a claim may be.
type Bound struct {
	Is     string // above, at_least, below or at_most
	Number string // as written
	value  decimal
}

// Pattern is a text, a number or a boolean that a claim must be exactly, or a
// glob that it must match.
type Pattern struct {
	Kind PatternKind
	Text string // as written; numbers as well
	same string // for numbers: in canonical form
	glob glob
}

// PatternKind is the type that a claim must have, and how it is compared.
type PatternKind int

// The kinds of patterns. The zero value matches nothing.
const (
	_          PatternKind = iota
	ExactText              // byte for byte
	ExactNum               // by value, without rounding
	ExactBool              // true or false
	GlobOfText             // see docs/policy.md
)

const maxExact = 1024 // bytes of a text to match

// DecodeYAML implements [strictyaml.Decoder].
func (m *Match) DecodeYAML(n *strictyaml.Node) error {
	if n.Kind != strictyaml.Map {
		return n.Fault("must be a mapping of claims to what they must be, not %s", n.Kind)
	}
	if len(n.Keys) == 0 {
		return n.Fault("is empty: name the claims to match, or leave match out")
	}
	var faults strictyaml.Faults
	for _, k := range n.Keys {
		if err := checkClaim(k.Name); err != nil {
			faults = append(faults, n.KeyFault(k, "%s", err))
			continue
		}
		c := Condition{Node: k.Value, Claim: k.Name}
		faults.Add(k.Value, c.read(k.Value))
		*m = append(*m, c)
	}
	return faults.Err()
}

func checkClaim(name string) error {
	switch {
	case name == "":
		return errors.New("is not a claim: it is empty")
	case !printable(name) || len(name) > 256:
		return errors.New("is not a claim that can be matched: it must be printable ASCII, of at most 256 bytes")
	case !strings.HasPrefix(name, "/"):
		return nil
	}
	rest := strings.NewReplacer("~0", "", "~1", "").Replace(name)
	if strings.Contains(rest, "~") {
		return errors.New("is not a JSON Pointer: ~ is written ~0, and / within a name ~1")
	}
	return nil
}

func readPattern(n *strictyaml.Node) (Pattern, error) {
	switch n.Kind {
	case strictyaml.Text:
		if len(n.Text) > maxExact {
			return Pattern{}, n.Fault("is longer than %d bytes", maxExact)
		}
		if strings.ContainsFunc(n.Text, func(r rune) bool { return r < 0x20 || r == 0x7F }) {
			return Pattern{}, n.Fault("holds a control character")
		}
		return Pattern{Kind: ExactText, Text: n.Text}, nil
	case strictyaml.Number:
		same, ok := canonical(n.Text)
		if !ok {
			return Pattern{}, n.Fault("is a number too large")
		}
		return Pattern{Kind: ExactNum, Text: n.Text, same: same}, nil
	case strictyaml.Bool:
		return Pattern{Kind: ExactBool, Text: n.Text}, nil
	case strictyaml.Map:
		return readGlob(n)
	}
	return Pattern{}, n.Fault("must be text, a number, true or false, {glob: text}, or a list of these, not %s", n.Kind)
}

// exact reports whether a claim must be one of some values.
func (c *Condition) exact() bool {
	if c.Op != OneOf {
		return false
	}
	for _, p := range c.Any {
		if p.Kind == GlobOfText {
			return false
		}
	}
	return true
}
