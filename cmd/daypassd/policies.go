package main

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/issuers"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/cases"
	"github.com/daypass-dev/daypass/policy/lint"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// material is all that grants and policy are made of, read at one moment: what
// goes through the gates is what is loaded.
type material struct {
	config   *Config        // the grants of a folder are in it once they are parsed
	grants   *policy.Folder // nil where they stand in the configuration, or there is no folder
	policies *policy.Folder // nil where there is none

	grantFaults  strictyaml.Faults
	policyFaults strictyaml.Faults
}

// gather reads the folders that a configuration names.
func gather(c *Config) *material {
	own := *c
	m := &material{config: &own}
	var err error
	if m.policies, err = policy.ReadDir(c.Policies); err != nil {
		m.policyFaults.Add(c.at("policies"), fmt.Errorf("%s is not a folder that can be read; make it and put a policy file there", c.Policies))
	}
	if c.Grants.Folder == "" {
		return m
	}
	if m.grants, err = policy.ReadDir(c.Grants.Folder); err != nil {
		m.grantFaults.Add(c.at("grants"), fmt.Errorf("%s is not a folder that can be read", c.Grants.Folder))
	}
	return m
}

// parseGrants takes the grants of a folder into the configuration.
func (m *material) parseGrants() {
	if m.grants == nil {
		return
	}
	named := map[string]Grant{}
	m.config.Grants.Named = named
	m.grantFaults = append(m.grantFaults, m.grants.Faults()...)
	files := m.grants.Files()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		var file struct {
			Grants map[string]Grant `yaml:"grants,required"`
		}
		m.grantFaults.Add(m.config.at("grants"), strictyaml.Decode(m.grants.Name(path), files[path], &file))
		for _, name := range slices.Sorted(maps.Keys(file.Grants)) {
			g := file.Grants[name]
			if first, twice := named[name]; twice && g.Node != nil && first.Node != nil {
				m.grantFaults = append(m.grantFaults, g.Node.Fault("a grant of this name stands in %s:%d already; give one of them another name",
					first.Node.File(), first.Node.Line))
				continue
			}
			named[name] = g
		}
	}
	m.config.checkGrants(faults{&m.grantFaults})
}

// sum tells apart what was read.
func (m *material) sum() [sha256.Size]byte {
	h := sha256.New()
	for _, f := range []*policy.Folder{m.grants, m.policies} {
		if f == nil {
			h.Write([]byte("none"))
			continue
		}
		sum := f.Sum()
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// places are what has to be watched for changes.
func (m *material) places() []place {
	places := near(m.config.Policies, m.policies)
	if m.config.Grants.Folder != "" {
		places = append(places, near(m.config.Grants.Folder, m.grants)...)
	}
	return places
}

func near(dir string, f *policy.Folder) []place {
	places := placesOf(dir)
	if f != nil {
		for _, sub := range f.Folders() {
			places = append(places, place{dir: filepath.Join(dir, filepath.FromSlash(sub))})
		}
	}
	return places
}

// gates are what grants and policies have to pass before they take effect.
// check, the start and every reload send them through the same ones.
type gates struct {
	issuers  map[string]issuers.Info  // nil: no policy is compiled
	targets  map[string]broker.Minter // nil: no grant is planned
	profiles map[string]issuers.Profile
	fixtures cases.Fixtures
	now      func() time.Time
}

// newGates makes gates that compile no policy and plan no grant, until they are
// told of issuers and targets.
func newGates(now func() time.Time) (gates, error) {
	profiles, err := issuers.Profiles()
	if err != nil {
		return gates{}, err
	}
	fixtures, err := issuers.Fixtures()
	if err != nil {
		return gates{}, err
	}
	return gates{profiles: profiles, fixtures: fixtures, now: now}, nil
}

// verdict is what one gate said.
type verdict struct {
	gate string
	err  error
}

// errNotTried: what a gate needs is not sound itself, or not asked for.
var errNotTried = errors.New("not tried")

// trial is material on its way through the gates.
type trial struct {
	*material
	known policy.Known
	book  *policy.Book // once policies are read
}

// pass sends material through all gates, so that all that is wrong is told at
// once. The book is nil unless every gate let it pass.
func (g gates) pass(m *material) (*policy.Book, []verdict) {
	m.parseGrants()
	t := &trial{material: m, known: knownUnder(m.config, g.issuers)}
	var verdicts []verdict
	passed := true
	for _, gate := range []struct {
		name string
		try  func(*trial) error
	}{
		{"grants", g.tryGrants}, {"policies", g.tryPolicies}, {"lint", g.tryLint}, {"test cases", g.tryCases},
	} {
		err := guarded(func() error { return gate.try(t) })
		if passed = passed && err == nil; !errors.Is(err, errNotTried) {
			verdicts = append(verdicts, verdict{gate.name, err})
		}
	}
	if !passed {
		return nil, verdicts
	}
	return t.book, verdicts
}

// guarded makes an error of a panic: what somebody writes into a policy must
// not end the broker that reads it.
func guarded(try func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a fault of daypassd's own: %v\n%s", p, debug.Stack())
		}
	}()
	return try()
}

// tryGrants plans one credential of each grant, which is pure, so that one that
// could never be made is found now and not by a job.
func (g gates) tryGrants(t *trial) error {
	switch {
	case len(t.grantFaults) > 0:
		return t.grantFaults.Err()
	case g.targets == nil && t.grants == nil: // the configuration was checked with those in it
		return errNotTried
	case g.targets == nil:
		return nil
	}
	var all strictyaml.Faults
	for _, name := range slices.Sorted(maps.Keys(t.config.Grants.Named)) {
		if err := g.plan(t.known.Grants[name]); err != nil {
			all.Add(t.config.Grants.Named[name].Node, err)
		}
	}
	return all.Err()
}

// plan says why a grant could never be made. Only a restart opens targets.
func (g gates) plan(grant broker.Grant) error {
	minter, ok := g.targets[grant.Target]
	if !ok {
		return fmt.Errorf("target %s is not open; targets are opened at a start", grant.Target)
	}
	_, err := minter.Plan(broker.Order{
		Lease: "dpl_aaaaaaaaaaaaaaaaaaaaaaaaaa", Grant: grant, NotAfter: g.now().Add(grant.MaxTTL),
		For: broker.Identity{Issuer: "github", Job: broker.Job{Repository: "acme/app", RepositoryID: "5678"}},
	})
	return err
}

func (g gates) tryPolicies(t *trial) error {
	switch {
	case t.policies == nil:
		return t.policyFaults.Err()
	case g.issuers == nil:
		return cmp.Or(t.policies.Faults().Err(), errNotTried)
	}
	var err error
	t.book, err = t.policies.Book(t.known)
	return err
}

// tryLint refuses what nobody may waive. Policies that do not compile are looked
// at as far as they can be read.
func (g gates) tryLint(t *trial) error {
	if t.policies == nil || g.issuers == nil {
		return errNotTried
	}
	found, err := lint.Check(t.policies.Parsed(), t.config.lintConfig(g.issuers, g.profiles, g.now()))
	if err != nil {
		return err
	}
	return found.Renamed(t.policies.Name).Critical().Err()
}

// tryCases tries the test cases that lie beside the policies.
func (g gates) tryCases(t *trial) error {
	if t.book == nil {
		return errNotTried
	}
	report := cases.Run(t.book, casesOf(t.policies), cases.Options{Fixtures: g.fixtures})
	all := report.Faults
	for _, r := range report.Results {
		if !r.Passed() {
			all = append(all, &strictyaml.Fault{File: r.File, Line: r.Line, Col: 1, Msg: fmt.Sprintf("case %q fails: %s", r.Name, r.Failure)})
		}
	}
	return all.Err()
}

// withGrants is the configuration with the grants of its folder, for commands
// that look at policy without reloading it.
func (c *Config) withGrants() (*Config, error) {
	m := gather(c)
	m.parseGrants()
	return m.config, m.grantFaults.Err()
}

// faultsOf joins what gates have against something, each fault a line.
func faultsOf(verdicts []verdict) error {
	var all []error
	for _, v := range verdicts {
		if v.err != nil {
			all = append(all, v.err)
		}
	}
	return errors.Join(all...)
}
