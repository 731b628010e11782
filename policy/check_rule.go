package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// maxPlaces bounds the repositories that rules are for, over all rules.
const maxPlaces = 1_000_000

// ruleChecker looks at one rule.
type ruleChecker struct {
	*checker
	file    *File
	rule    *Rule
	ceiling *ceiling // what bounds the file; nil: nothing does
	places  []place
	among   index
	others  []Condition // conditions that are no pinned ids
	when    cel.Program
	deny    []string
}

// fault reports what is wrong at a path within the rule.
func (c *ruleChecker) fault(path []any, format string, args ...any) {
	c.faults = append(c.faults, c.rule.Node.At(path...).Fault("rule %q: %s", c.rule.Name, fmt.Sprintf(format, args...)))
}

func (c *ruleChecker) check() {
	c.checkWords()
	c.checkWaivers()
	c.checkEffect()
	c.checkWhom()
	c.checkWhen()
	c.checkAllow()
	c.checkDeny()
	c.countPlaces()
	if len(c.faults) == 0 { // otherwise there will be no book
		c.rules = append(c.rules, c.compiled())
	}
}

// countPlaces bounds what rules for many repositories may take.
func (c *ruleChecker) countPlaces() {
	before := c.checker.named
	if c.checker.named += len(c.places); before <= maxPlaces && c.checker.named > maxPlaces {
		c.fault(nil, "the rules up to here name repositories more than %d times: give repos fewer and wider entries", maxPlaces)
	}
}

func (c *ruleChecker) compiled() *rule {
	r := &rule{
		id: c.file.id() + "/" + c.rule.Name, file: c.file, ast: c.rule,
		places: c.places, among: c.among, others: c.others, when: c.when,
		deny: c.deny, denies: c.rule.Denies(), reports: c.rule.Reports(),
	}
	for _, a := range c.rule.Allow {
		ttl := c.grants[a.Grant].MaxTTL.Truncate(time.Second)
		if a.TTL != 0 {
			ttl = min(ttl, a.TTL)
		}
		r.allow = append(r.allow, allowance{grant: a.Grant, ttl: c.ceiling.ttl(ttl)})
	}
	return r
}

func (c *ruleChecker) checkWords() {
	if c.rule.MaxLive < 1 && c.rule.Node.Get("max_live") != nil {
		c.fault([]any{"max_live"}, "must be 1 or more, or left out")
	}
	for _, w := range []struct {
		key, have string
		honoured  []string
	}{
		{"mode", c.rule.Mode, []string{modeEnforce, modeReport}},
		{"replay", c.rule.Replay, []string{replayOnce}},
		{"explain", c.rule.Explain, []string{explainFull}},
	} {
		switch n := c.rule.Node.Get(w.key); {
		case n == nil || n.Kind != strictyaml.Text:
		case w.have == replayJob && w.key == "replay":
			c.fault([]any{w.key}, "%s is not supported by this version", w.have)
		case !slices.Contains(w.honoured, w.have):
			c.fault([]any{w.key}, "must be %s, or left out", strings.Join(w.honoured, " or "))
		}
	}
}

// checkEffect makes sure that the rule either gives or takes away, and stands
// where it may.
func (c *ruleChecker) checkEffect() {
	allow, deny := c.rule.Node.Get("allow"), c.rule.Node.Get("deny")
	switch {
	case allow == nil && deny == nil:
		c.fault(nil, "allow is missing: name the grants it gives, or those it denies under deny")
	case allow != nil && deny != nil:
		c.fault([]any{"deny"}, "a rule gives or denies, not both: write a rule for each")
	case allow != nil && c.ceiling == nil && len(c.ceilings) > 0:
		c.fault([]any{"allow"}, "no ceiling lists the folder of %s, so nothing can be given from here: list it under ceilings, or move the rule", c.file.Path)
	}
	if deny == nil {
		return
	}
	for _, key := range []string{"explain", "replay", "max_live"} {
		if c.rule.Node.Get(key) != nil {
			c.fault([]any{key}, "is for rules that allow")
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
		if n := w.Node.Get("id"); n != nil && n.Kind == strictyaml.Text && !waiverRE.MatchString(w.ID) {
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
	case repos != nil:
		c.checkFor(repos)
	case issuer != nil && c.ceiling != nil:
		c.fault([]any{"issuer"}, "%s binds this folder: say for which of its repos the rule is, with for", c.ceiling)
	case issuer != nil:
		c.checkIssuer(issuer)
	case !c.rule.Denies():
		c.fault(nil, "say whom it is for: for (names given under repos), or issuer and match")
	default:
		c.everybody()
	}
}

// everybody is whom a rule that denies is for where it does not say: all jobs,
// or those of the repositories that its folder may name.
func (c *ruleChecker) everybody() {
	c.others = c.rule.Match
	if c.ceiling == nil {
		c.places = []place{{issuer: anyIssuer}}
		return
	}
	if !c.ceiling.listed { // many rules may mean them
		for _, name := range slices.Sorted(maps.Keys(c.repos)) {
			if c.ceiling.repo(name) {
				c.ceiling.places = append(c.ceiling.places, place{repo: name, issuer: c.repos[name].Issuer, pins: c.repos[name].Match})
			}
		}
		c.ceiling.listed, c.ceiling.among = true, indexPlaces(c.ceiling.places, true)
	}
	c.places, c.among = c.ceiling.places, c.ceiling.among
}

func (c *ruleChecker) checkFor(n *strictyaml.Node) {
	if n.Kind == strictyaml.List && len(n.Items) == 0 {
		c.fault([]any{"for"}, "is empty: name a repo")
	}
	seen := map[string]bool{}
	for i, name := range c.rule.For {
		repo, ok := c.repos[name]
		switch {
		case n.At(i).Kind != strictyaml.Text: // reported
		case seen[name]:
			c.fault([]any{"for", i}, "%q is in the list already", name)
		case !ok && !c.broken:
			c.fault([]any{"for", i}, "%s", unknown(c.checker, "repo", name, c.repos))
		case ok && !c.ceiling.repo(name):
			c.fault([]any{"for", i}, "%s does not have repo %q", c.ceiling, name)
		case ok:
			c.places = append(c.places, place{repo: name, issuer: repo.Issuer, pins: repo.Match})
		}
		seen[name] = true
	}
	c.others = c.rule.Match
	c.among = indexPlaces(c.places, c.rule.Denies())
}

func (c *ruleChecker) checkIssuer(n *strictyaml.Node) {
	issuer, ok := c.known.Issuers[c.rule.Issuer]
	if !ok {
		if n.Kind == strictyaml.Text {
			c.fault([]any{"issuer"}, "%s", unknown(c.checker, "issuer", c.rule.Issuer, c.known.Issuers))
		}
		return
	}
	if !c.rule.Denies() {
		c.checkPinned(issuer)
	}
	p := place{issuer: c.rule.Issuer}
	for _, m := range c.rule.Match {
		id := slices.Contains(issuer.ImmutableIDs, m.Claim) || slices.Contains(issuer.OwnerIDs, m.Claim)
		if id && m.exact() {
			p.pins = append(p.pins, m)
		} else {
			c.others = append(c.others, m)
		}
	}
	c.places = []place{p}
}

// checkPinned makes sure that a rule that allows keeps strangers out.
func (c *ruleChecker) checkPinned(issuer Issuer) {
	match := c.rule.Node.Get("match")
	if match == nil && !issuer.Shared {
		c.fault(nil, "match is missing: it would let every job of issuer %q pass", c.rule.Issuer)
	} else if match == nil || len(match.Keys) > 0 { // otherwise reported
		c.checkPins(c.rule.Node.At("match"), c.rule.Match, c.rule.Issuer, issuer, fmt.Sprintf("rule %q", c.rule.Name))
	}
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
		c.fault([]any{"when"}, "%s", f.Msg)
	}
	c.when = program
}

func (c *ruleChecker) checkAllow() {
	if n := c.rule.Node.Get("allow"); n != nil && n.Kind == strictyaml.List && len(n.Items) == 0 {
		c.fault([]any{"allow"}, "is empty: name a grant")
	}
	seen := map[string]bool{}
	for i, a := range c.rule.Allow {
		if n := a.Node.Get("grant"); n == nil || n.Kind != strictyaml.Text { // reported
			continue
		}
		grant, ok := c.grants[a.Grant]
		switch {
		case !ok:
			c.fault([]any{"allow", i, "grant"}, "%s", unknown(c.checker, "grant", a.Grant, c.grants))
			continue
		case seen[a.Grant]:
			c.fault([]any{"allow", i, "grant"}, "%q is in the list already", a.Grant)
		case !c.ceiling.grant(a.Grant):
			c.fault([]any{"allow", i, "grant"}, "%s does not have grant %q", c.ceiling, a.Grant)
		}
		seen[a.Grant] = true
		if c.checkLife(a.Node.Get("ttl"), a.TTL) && a.TTL > grant.MaxTTL {
			c.fault([]any{"allow", i, "ttl"}, "%s is more than grant %q allows: its max_ttl is %s", short(a.TTL), a.Grant, short(grant.MaxTTL))
		}
	}
}

// checkDeny finds the grants that the rule denies.
func (c *ruleChecker) checkDeny() {
	if n := c.rule.Node.Get("deny"); n != nil && n.Kind == strictyaml.List && len(n.Items) == 0 {
		c.fault([]any{"deny"}, `is empty: name a grant; "*" is all of them`)
	}
	seen := map[string]bool{}
	for i, name := range c.rule.Deny {
		at := []any{"deny", i}
		_, ok := c.grants[name]
		switch {
		case c.rule.Node.At(at...).Kind != strictyaml.Text: // reported
		case seen[name]:
			c.fault(at, "%q is in the list already", name)
		case isGlob(name):
			c.denyMatching(at, name)
		case !ok:
			c.fault(at, "%s", unknown(c.checker, "grant", name, c.grants))
		case !c.ceiling.grant(name):
			c.fault(at, "%s does not have grant %q", c.ceiling, name)
		default:
			c.deny = append(c.deny, name)
		}
		seen[name] = true
	}
	slices.Sort(c.deny)
	c.deny = slices.Compact(c.deny)
}

// denyMatching denies those of the grants that the folder may name.
func (c *ruleChecker) denyMatching(at []any, pattern string) {
	g, err := compileGlob(pattern)
	if err != nil {
		c.fault(at, "%s", err)
		return
	}
	before := len(c.deny)
	for _, name := range c.matching(pattern, g) {
		if c.ceiling.grant(name) {
			c.deny = append(c.deny, name)
		}
	}
	if len(c.deny) == before && !c.known.AnyGrant {
		c.fault(at, "matches no grant, so the rule would deny nothing")
	}
}
