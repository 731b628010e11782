package policy

import (
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Names of bounds.
const (
	boundAbove   = "above"
	boundAtLeast = "at_least"
	boundBelow   = "below"
	boundAtMost  = "at_most"
)

// read reads what a claim must be: a value, a list of values, or a mapping
// that says how it is compared.
func (c *Condition) read(n *strictyaml.Node) error {
	if n.Kind != strictyaml.Map {
		return c.readPatterns(n)
	}
	var form struct {
		Glob    *strictyaml.Node `yaml:"glob"`
		Not     *strictyaml.Node `yaml:"not"`
		Exists  *bool            `yaml:"exists"`
		Above   *strictyaml.Node `yaml:"above"`
		AtLeast *strictyaml.Node `yaml:"at_least"`
		Below   *strictyaml.Node `yaml:"below"`
		AtMost  *strictyaml.Node `yaml:"at_most"`
	}
	if err := n.Decode(&form); err != nil {
		return err
	}
	single := form.Glob != nil || form.Not != nil || form.Exists != nil
	switch {
	case len(n.Keys) == 0:
		return n.Fault("is empty: say glob, not, exists, or a bound: above, at_least, below, at_most")
	case single && len(n.Keys) > 1:
		return n.Fault("glob, not and exists stand alone")
	case form.Glob != nil:
		return c.readPatterns(n)
	case form.Not != nil:
		c.Op = NoneOf
		return c.readPatterns(form.Not)
	case form.Exists != nil:
		c.Op = Absent
		if *form.Exists {
			c.Op = Exists
		}
		return nil
	}
	c.Op = Within
	return c.readBounds(n)
}

func (c *Condition) readPatterns(n *strictyaml.Node) error {
	if n.Kind != strictyaml.List {
		p, err := readPattern(n)
		if err == nil {
			c.Any = []Pattern{p}
		}
		return err
	}
	if len(n.Items) == 0 {
		return n.Fault("is an empty list, which no claim can match")
	}
	var faults strictyaml.Faults
	for _, item := range n.Items {
		p, err := readPattern(item)
		faults.Add(item, err)
		c.Any = append(c.Any, p)
	}
	return faults.Err()
}

func readGlob(n *strictyaml.Node) (Pattern, error) {
	var v struct {
		Glob *string `yaml:"glob"`
	}
	if err := n.Decode(&v); err != nil {
		return Pattern{}, err
	}
	if v.Glob == nil {
		return Pattern{}, n.Fault("is empty: write {glob: text}")
	}
	g, err := compileGlob(*v.Glob)
	if err != nil {
		return Pattern{}, n.At("glob").Fault("%s", err)
	}
	return Pattern{Kind: GlobOfText, Text: *v.Glob, glob: g}, nil
}

// readBounds reads one bound or one of each side, between which there must be
// a number.
func (c *Condition) readBounds(n *strictyaml.Node) error {
	var faults strictyaml.Faults
	var low, high *Bound
	for _, k := range n.Keys {
		if k.Value.Kind != strictyaml.Number {
			faults = append(faults, k.Value.Fault("must be a number, not %s", k.Value.Kind))
			continue
		}
		number, ok := decimalOf(k.Value.Text)
		if !ok {
			faults = append(faults, k.Value.Fault("is a number too large"))
			continue
		}
		c.Bounds = append(c.Bounds, Bound{Is: k.Name, Number: k.Value.Text, value: number})
		side := &low
		if k.Name == boundBelow || k.Name == boundAtMost {
			side = &high
		}
		if *side != nil {
			faults = append(faults, n.KeyFault(k, "bounds the same side as %s", (*side).Is))
		}
		*side = &Bound{Is: k.Name, value: number}
	}
	if low != nil && high != nil && len(faults) == 0 {
		closed := low.Is == boundAtLeast && high.Is == boundAtMost
		if order := low.value.compare(high.value); order > 0 || order == 0 && !closed {
			faults = append(faults, n.Fault("no number lies between its bounds"))
		}
	}
	return faults.Err()
}

// holds reports whether a number is on the right side.
func (b *Bound) holds(number decimal) bool {
	order := number.compare(b.value)
	switch b.Is {
	case boundAbove:
		return order > 0
	case boundAtLeast:
		return order >= 0
	case boundBelow:
		return order < 0
	case boundAtMost:
		return order <= 0
	}
	return false
}
