package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// checker turns the files of a folder into a book, or into all their faults.
type checker struct {
	known   Known
	sources map[string][]byte
	faults  strictyaml.Faults

	when   *whenCompiler
	files  []*File
	repos  map[string]*Repo
	broken bool // a file could not be read, so what is not found may be in it
	rules  []*rule
}

func (c *checker) book() (*Book, error) {
	var err error
	if c.when, err = newWhenCompiler(); err != nil {
		return nil, err
	}
	c.checkKnown()
	c.parse()
	c.collectRepos()
	for _, f := range c.files {
		for i := range f.Ceilings {
			if n := f.Ceilings[i].Node; n != nil { // otherwise no mapping; reported
				c.faults = append(c.faults, n.Fault("ceilings are not supported by this version"))
			}
		}
		c.checkFile(f)
	}
	if len(c.rules) == 0 && len(c.faults) == 0 {
		c.faults = append(c.faults, &strictyaml.Fault{File: ".", Msg: "a policy folder without any rule: " +
			"nothing could be given to anyone; write a rule in a file that ends in .yaml, or name another folder"})
	}
	if err := c.faults.Err(); err != nil {
		return nil, err
	}
	return newBook(c), nil
}

// checkKnown refuses grants that no decision could give.
func (c *checker) checkKnown() {
	for _, name := range slices.Sorted(maps.Keys(c.known.Grants)) {
		g := c.known.Grants[name]
		if g.Name != name {
			c.faults = append(c.faults, &strictyaml.Fault{File: "grants", Field: name, Msg: fmt.Sprintf("is called %q in itself", g.Name)})
		}
		if g.MaxTTL < time.Second {
			c.faults = append(c.faults, &strictyaml.Fault{File: "grants", Field: name, Msg: "max_ttl must be a second at least"})
		}
	}
}

func (c *checker) parse() {
	ids := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.sources)) {
		file := &File{Path: name}
		doc, err := strictyaml.Parse(name, c.sources[name], strictyaml.DefaultLimits())
		if doc == nil {
			c.broken = true
			c.faults.Add(nil, err)
			continue
		}
		c.faults.Add(doc.Root, err)
		c.faults.Add(doc.Root, doc.Root.Decode(file))
		if file.Node == nil { // no mapping
			c.broken = true
			continue
		}
		if other, twice := ids[file.id()]; twice {
			c.faults = append(c.faults, file.Node.Fault("its rules would have the same ids as those of %s: rename one of the files", other))
		}
		ids[file.id()] = name
		c.files = append(c.files, file)
	}
}

func (c *checker) collectRepos() {
	c.repos = map[string]*Repo{}
	for _, f := range c.files {
		for i := range f.Repos {
			r := &f.Repos[i]
			if first, twice := c.repos[r.ID]; twice {
				c.faults = append(c.faults, r.Node.Fault("repo %q is defined already, in %s:%d", r.ID, first.Node.File(), first.Node.Line))
				continue
			}
			c.repos[r.ID] = r
			c.checkRepo(r)
		}
	}
}

func (c *checker) checkRepo(r *Repo) {
	for i := range r.Match {
		if m := &r.Match[i]; !m.exact() {
			c.faults = append(c.faults, m.Node.Fault("a repo is named by exact values: no glob and no comparison here"))
		}
	}
	if r.Issuer == "" {
		return
	}
	issuer, ok := c.known.Issuers[r.Issuer]
	if !ok {
		c.faults = append(c.faults, r.Node.At("issuer").Fault("%s", unknown("issuer", r.Issuer, slices.Collect(maps.Keys(c.known.Issuers)))))
		return
	}
	if match := r.Node.Get("match"); match != nil && len(match.Keys) > 0 { // otherwise reported
		c.checkPins(r.Node.At("match"), r.Match, r.Issuer, issuer, fmt.Sprintf("repo %q", r.ID))
	}
}

// checkPins makes sure that ids are matched exactly, and that strangers on a
// shared issuer are kept out by one of them.
func (c *checker) checkPins(at *strictyaml.Node, match Match, name string, issuer Issuer, who string) {
	owners := issuer.OwnerIDs
	if len(owners) == 0 {
		owners = issuer.ImmutableIDs
	}
	pinned := false
	for i := range match {
		m := &match[i]
		if !slices.Contains(issuer.ImmutableIDs, m.Claim) && !slices.Contains(owners, m.Claim) {
			continue
		}
		if !m.exact() {
			c.faults = append(c.faults, m.Node.Fault("%s: an id is matched exactly: no glob and no comparison here", who))
		}
		for _, p := range m.Any {
			if p.Kind == ExactText && p.Text == "" {
				c.faults = append(c.faults, m.Node.Fault("%s: an empty id pins nothing", who))
			}
		}
		pinned = pinned || slices.Contains(owners, m.Claim)
	}
	if !issuer.Shared || pinned {
		return
	}
	if len(owners) == 0 {
		c.faults = append(c.faults, at.Fault("%s: issuer %q is shared with strangers, and has no immutable id that could be pinned", who, name))
		return
	}
	c.faults = append(c.faults, at.Fault("%s: issuer %q is shared with strangers: pin %s", who, name, strings.Join(owners, " or ")))
}

// grants are those that decisions may be about.
func (c *checker) grants() map[string]broker.Grant {
	all := maps.Clone(c.known.Grants)
	if !c.known.AnyGrant {
		return all
	}
	if all == nil {
		all = map[string]broker.Grant{}
	}
	for _, f := range c.files {
		for _, r := range f.Rules {
			for _, a := range r.Allow {
				if g, ok := c.known.grant(a.Grant); ok {
					all[a.Grant] = g
				}
			}
		}
	}
	return all
}

func (c *checker) checkFile(f *File) {
	first := map[string]int{}
	for i := range f.Rules {
		r := &f.Rules[i]
		if r.Node == nil { // no mapping; reported
			continue
		}
		name := r.Node.At("name")
		if r.Name != "" && !nameRE.MatchString(r.Name) {
			c.faults = append(c.faults, name.Fault("is not a name: %s", nameForm))
		}
		if line, twice := first[r.Name]; twice && r.Name != "" {
			c.faults = append(c.faults, name.Fault("rule %q is in this file already, on line %d", r.Name, line))
		} else {
			first[r.Name] = r.Node.Line
		}
		(&ruleChecker{checker: c, file: f, rule: r}).check()
	}
	if n := f.Node.Get("rules"); n != nil && n.Kind == strictyaml.List && len(n.Items) == 0 {
		c.faults = append(c.faults, n.Fault("is empty: write a rule, or leave rules out"))
	}
}

// ruleChecker looks at one rule.
type ruleChecker struct {
	*checker
	file   *File
	rule   *Rule
	places []place
	others []Condition // conditions that are no pinned ids
	when   cel.Program
}

// fault reports what is wrong at a path within the rule.
func (c *ruleChecker) fault(path []any, format string, args ...any) {
	c.faults = append(c.faults, c.rule.Node.At(path...).Fault("rule %q: %s", c.rule.Name, fmt.Sprintf(format, args...)))
}

func (c *ruleChecker) check() {
	c.checkWords()
	c.checkLater()
	c.checkWaivers()
	c.checkWhom()
	c.checkWhen()
	c.checkAllow()
	if len(c.faults) == 0 { // otherwise there will be no book
		c.rules = append(c.rules, newRule(c))
	}
}

func (c *ruleChecker) checkWords() {
	for _, w := range []struct{ key, have, honoured, later string }{
		{"mode", c.rule.Mode, modeEnforce, modeReport},
		{"replay", c.rule.Replay, replayOnce, replayJob},
		{"explain", c.rule.Explain, explainFull, ""},
	} {
		switch n := c.rule.Node.Get(w.key); {
		case n == nil || n.Kind != strictyaml.Text || w.have == w.honoured:
		case w.have == w.later && w.later != "":
			c.fault([]any{w.key}, "%s is not supported by this version", w.later)
		default:
			c.fault([]any{w.key}, "must be %s, or left out", w.honoured)
		}
	}
}

// checkLater refuses what is read and not yet honoured.
func (c *ruleChecker) checkLater() {
	if c.rule.Denies() {
		c.fault([]any{"deny"}, "is not supported by this version")
	}
	for i := range c.rule.Match {
		if m := &c.rule.Match[i]; m.Op != OneOf {
			c.faults = append(c.faults, m.Node.Fault("is not supported by this version"))
		}
	}
}

// waiverRE is the form of the ids of lint's findings. Compiled once, never
// changed.
var waiverRE = regexp.MustCompile(`\ADP[0-9]{3}\z`)

func (c *ruleChecker) checkWaivers() {
	for i, w := range c.rule.Waive {
		if w.Node == nil { // no mapping; reported
			continue
		}
		if w.ID != "" && !waiverRE.MatchString(w.ID) {
			c.fault([]any{"waive", i, "id"}, "is not the id of a finding, such as DP015")
		}
		if n := w.Node.Get("reason"); n != nil && n.Kind == strictyaml.Text && strings.TrimSpace(w.Reason) == "" {
			c.fault([]any{"waive", i, "reason"}, "is empty: say why the finding is meant")
		}
	}
}

// checkWhom finds out which identities the rule means.
func (c *ruleChecker) checkWhom() {
	repos, issuer := c.rule.Node.Get("for"), c.rule.Node.Get("issuer")
	switch {
	case repos != nil && issuer != nil:
		c.fault([]any{"issuer"}, "give for or issuer, not both")
	case repos == nil && issuer == nil:
		c.fault(nil, "say whom it is for: for (names given under repos), or issuer and match")
	case repos != nil:
		c.checkFor(repos)
	default:
		c.checkIssuer(issuer)
	}
}

func (c *ruleChecker) checkFor(n *strictyaml.Node) {
	if n.Kind == strictyaml.List && len(n.Items) == 0 {
		c.fault([]any{"for"}, "is empty: name a repo")
	}
	seen := map[string]bool{}
	for i, name := range c.rule.For {
		repo, ok := c.repos[name]
		switch {
		case name == "": // not text; reported
		case seen[name]:
			c.fault([]any{"for", i}, "%q is in the list already", name)
		case !ok && !c.broken:
			c.fault([]any{"for", i}, "%s", unknown("repo", name, slices.Collect(maps.Keys(c.repos))))
		case ok:
			c.places = append(c.places, place{repo: name, issuer: repo.Issuer, pins: repo.Match})
		}
		seen[name] = true
	}
	c.others = c.rule.Match
}

func (c *ruleChecker) checkIssuer(n *strictyaml.Node) {
	issuer, ok := c.known.Issuers[c.rule.Issuer]
	if !ok {
		if n.Kind == strictyaml.Text {
			c.fault([]any{"issuer"}, "%s", unknown("issuer", c.rule.Issuer, slices.Collect(maps.Keys(c.known.Issuers))))
		}
		return
	}
	match := c.rule.Node.Get("match")
	if match == nil && !issuer.Shared {
		c.fault(nil, "match is missing: it would let every job of issuer %q pass", c.rule.Issuer)
	} else if match == nil || len(match.Keys) > 0 { // otherwise reported
		c.checkPins(c.rule.Node.At("match"), c.rule.Match, c.rule.Issuer, issuer, fmt.Sprintf("rule %q", c.rule.Name))
	}
	p := place{issuer: c.rule.Issuer}
	for _, m := range c.rule.Match {
		if slices.Contains(issuer.ImmutableIDs, m.Claim) || slices.Contains(issuer.OwnerIDs, m.Claim) {
			p.pins = append(p.pins, m)
		} else {
			c.others = append(c.others, m)
		}
	}
	c.places = []place{p}
}

func (c *ruleChecker) checkWhen() {
	n := c.rule.Node.Get("when")
	if n == nil || n.Kind != strictyaml.Text {
		return
	}
	program, err := c.checker.when.compile(n, c.rule.When)
	var faults strictyaml.Faults
	faults.Add(n, err)
	for _, f := range faults {
		f.Msg = fmt.Sprintf("rule %q: %s", c.rule.Name, f.Msg)
	}
	c.faults = append(c.faults, faults...)
	c.when = program
}

func (c *ruleChecker) checkAllow() {
	if c.rule.Node.Get("allow") == nil && !c.rule.Denies() {
		c.fault(nil, "allow is missing")
	}
	if n := c.rule.Node.Get("allow"); n != nil && n.Kind == strictyaml.List && len(n.Items) == 0 {
		c.fault([]any{"allow"}, "is empty: name a grant")
	}
	seen := map[string]bool{}
	for i, a := range c.rule.Allow {
		grant, ok := c.known.grant(a.Grant)
		switch {
		case a.Grant == "": // missing or not text; reported
			continue
		case !ok:
			c.fault([]any{"allow", i, "grant"}, "%s", unknown("grant", a.Grant, slices.Collect(maps.Keys(c.known.Grants))))
			continue
		case seen[a.Grant]:
			c.fault([]any{"allow", i, "grant"}, "%q is in the list already", a.Grant)
		}
		seen[a.Grant] = true
		n := a.Node.Get("ttl")
		if n == nil {
			continue
		}
		switch _, err := time.ParseDuration(n.Text); {
		case n.Kind != strictyaml.Text || err != nil: // reported
		case a.TTL < time.Second || a.TTL%time.Second != 0:
			c.fault([]any{"allow", i, "ttl"}, "must be whole seconds, one at least")
		case a.TTL > grant.MaxTTL:
			c.fault([]any{"allow", i, "ttl"}, "%s is more than grant %q allows: its max_ttl is %s", short(a.TTL), a.Grant, short(grant.MaxTTL))
		}
	}
}

// short writes a duration as people do: 1h30m, not 1h30m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// unknown says that nothing is called so, and what is.
func unknown(what, name string, known []string) string {
	slices.Sort(known)
	msg := fmt.Sprintf("no %s is called %q", what, name)
	switch near := strictyaml.DidYouMean(name, known); {
	case near != "":
		return msg + near
	case len(known) == 0:
		return msg + "; none is defined"
	case len(known) <= 8:
		return msg + "; there are " + strings.Join(known, ", ")
	}
	return msg
}
