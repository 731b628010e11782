// Package cases tries policy against the test cases that lie beside it: files
// that end in _test.yaml, each a list of jobs, what they ask for, and what is
// to come of it. docs/policy.md describes them.
//
// It guarantees that
//
//   - a case is decided by the function that decides exchanges;
//   - a case that could not fail is a fault and not a pass: one of an issuer,
//     a grant, a fixture or a rule that there is not, or that removes a claim
//     which the job does not have;
//   - what comes of the cases depends on the book, the files and the fixtures
//     alone. A case that gives no time is decided as long before any rule's
//     last day, so that what passes today passes tomorrow.
//
// It refuses files with any fault, with all faults at once, and reads no file
// by itself. That all cases pass says nothing of jobs that no case is about:
// [Coverage] says which rules and conditions those are.
package cases

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Fixtures are the claims of tokens, by the names that cases give them: a
// profile, or a profile and one of its cases.
type Fixtures map[string]broker.Claims

// file is one _test.yaml.
type file struct {
	Description string `yaml:"description"`
	Cases       []spec `yaml:"cases,required"`
}

// spec is one case as it was written.
type spec struct {
	Node        *strictyaml.Node `yaml:",node"`
	Name        string           `yaml:"name,required"`
	Description string           `yaml:"description"`
	Issuer      string           `yaml:"issuer,required"`
	Fixture     string           `yaml:"fixture"` // claims to begin with
	Claims      claims           `yaml:"claims"`  // those that differ, or all
	Remove      []string         `yaml:"remove"`  // of the fixture's
	At          instant          `yaml:"at"`      // default: before any rule's last day
	Grant       string           `yaml:"grant,required"`
	Expect      string           `yaml:"expect,required"`
	Rule        string           `yaml:"rule"` // that gives it or denies it
	TTL         time.Duration    `yaml:"ttl"`  // that it gives
}

// What a case expects.
const (
	expectAllow = "allow"
	expectDeny  = "deny"
)

// claims keep the types that YAML gave them, as a token's keep JSON's.
type claims broker.Claims

// DecodeYAML implements [strictyaml.Decoder].
func (c *claims) DecodeYAML(n *strictyaml.Node) error {
	if n.Kind != strictyaml.Map {
		return n.Fault("must be a mapping of claims to their values, not %s", n.Kind)
	}
	raw, err := n.JSON()
	if err != nil {
		return err
	}
	var read broker.Claims
	if err := json.Unmarshal(raw, &read); err != nil {
		return n.Fault("cannot be read as claims")
	}
	*c = claims(read)
	return nil
}

// instant is a time such as 2026-12-01T00:00:00Z.
type instant struct{ time.Time }

// DecodeYAML implements [strictyaml.Decoder].
func (i *instant) DecodeYAML(n *strictyaml.Node) error {
	at, err := time.Parse(time.RFC3339, n.Text)
	if n.Kind != strictyaml.Text || err != nil {
		return n.Fault("must be a time such as 2026-12-01T00:00:00Z")
	}
	i.Time = at
	return nil
}

// ParseWant reads GRANT[?ttl=30m], the way grants are written everywhere.
func ParseWant(s string) (broker.Want, error) {
	name, query, asked := strings.Cut(s, "?")
	w := broker.Want{Name: name}
	if name == "" {
		return w, fmt.Errorf("grant %q: want GRANT[?ttl=30m]", s)
	}
	if !asked {
		return w, nil
	}
	values, err := url.ParseQuery(query)
	if err != nil || len(values) != 1 || len(values["ttl"]) != 1 {
		return w, fmt.Errorf("grant %q: after ? comes ttl and nothing else, as in %s?ttl=30m", s, name)
	}
	if w.TTL, err = time.ParseDuration(values["ttl"][0]); err != nil || w.TTL < time.Second {
		return w, fmt.Errorf("grant %q: ttl must be a duration of a second at least, such as 30m", s)
	}
	return w, nil
}

// read decodes one file, and reports everything that is wrong with it.
func read(name string, text []byte) ([]spec, strictyaml.Faults) {
	var f file
	var faults strictyaml.Faults
	doc, err := strictyaml.Parse(name, text, strictyaml.DefaultLimits())
	if doc == nil {
		faults.Add(nil, err)
		return nil, faults
	}
	faults.Add(doc.Root, err)
	faults.Add(doc.Root, doc.Root.Decode(&f))
	if n := doc.Root.Get("cases"); n != nil && n.Kind == strictyaml.List && len(n.Items) == 0 {
		faults = append(faults, n.Fault("is empty: write a case, or remove the file"))
	}
	first := map[string]int{}
	var whole []spec
	for _, s := range f.Cases {
		if s.Node == nil { // no mapping; reported
			continue
		}
		if line, twice := first[s.Name]; twice && s.Name != "" {
			faults = append(faults, s.Node.At("name").Fault("case %q is in this file already, on line %d", s.Name, line))
		} else {
			first[s.Name] = s.Node.Line
		}
		faults = append(faults, s.faults()...)
		whole = append(whole, s)
	}
	return whole, faults
}

// faults are what the case alone shows.
func (s *spec) faults() strictyaml.Faults {
	var faults strictyaml.Faults
	add := func(key, format string, args ...any) {
		faults = append(faults, s.Node.At(key).Fault(format, args...))
	}
	text := func(key string) bool { n := s.Node.Get(key); return n != nil && n.Kind == strictyaml.Text }
	if text("name") && strings.TrimSpace(s.Name) == "" {
		add("name", "is empty: say what the case shows")
	}
	if text("expect") && s.Expect != expectAllow && s.Expect != expectDeny {
		add("expect", "must be allow or deny")
	}
	if text("grant") {
		if _, err := ParseWant(s.Grant); err != nil {
			add("grant", "%s", err)
		}
	}
	switch n := s.Node.Get("ttl"); {
	case n == nil:
	case s.Expect == expectDeny:
		add("ttl", "is how long the grant is given: what is denied has none")
	case n.Kind == strictyaml.Text && s.TTL <= 0:
		add("ttl", "must be above zero")
	}
	if s.Node.Get("fixture") == nil {
		if s.Node.Get("claims") == nil {
			faults = append(faults, s.Node.Fault("says nothing of the job: give fixture, claims, or both"))
		}
		if s.Node.Get("remove") != nil {
			add("remove", "takes claims of a fixture away, and there is none")
		}
	}
	return faults
}

// identity is the job that the case is about.
func (s *spec) identity(fixtures Fixtures) (broker.Identity, strictyaml.Faults) {
	var faults strictyaml.Faults
	id := broker.Identity{Issuer: s.Issuer, Claims: broker.Claims{}}
	if s.Fixture != "" {
		base, ok := fixtures[s.Fixture]
		if !ok {
			faults = append(faults, s.Node.At("fixture").Fault("no fixture is called %q%s", s.Fixture,
				orThese(s.Fixture, slices.Sorted(maps.Keys(fixtures)))))
		}
		maps.Copy(id.Claims, base)
		for i, name := range s.Remove {
			if _, there := id.Claims[name]; !there && ok {
				faults = append(faults, s.Node.At("remove", i).Fault("the fixture has no claim %q to remove", name))
			}
			if _, there := s.Claims[name]; there {
				faults = append(faults, s.Node.At("remove", i).Fault("claim %q is under claims as well", name))
			}
			delete(id.Claims, name)
		}
	}
	maps.Copy(id.Claims, s.Claims)
	id.Subject, _ = id.Claims["sub"].(string)
	return id, faults
}

// orThese helps somebody who has misspelt a name.
func orThese(name string, known []string) string {
	if near := strictyaml.DidYouMean(name, known); near != "" {
		return near
	}
	var short []string
	for _, k := range known {
		if !strings.Contains(k, "/") {
			short = append(short, k)
		}
	}
	if len(short) == 0 {
		return "; there are none"
	}
	return "; there are " + strings.Join(short, ", ") + ", and the cases of each, such as " + known[len(known)-1]
}
