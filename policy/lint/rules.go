package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Rule is one thing that lint looks for.
type Rule struct {
	ID       string // DP001; an id is never used again for another thing
	Name     string // for people
	Severity Severity
	Attack   string   // who gains what, in a sentence
	Fix      string   // what to write instead
	Sources  []string // where it is published
	MayWaive string   // where a critical finding may be waived nonetheless

	way    func(*way) []hit        // looks at each way through a rule that allows
	deny   func(*way) []hit        // looks at each way through a rule that denies
	issuer func(*issuerView) []hit // looks at each configured issuer
	policy func(*linter) []ruleHit // looks at the policy as a whole
}

// ruleHit is a hit in a rule of the policy.
type ruleHit struct {
	hit
	rule   *ruleView // nil where none is meant
	issuer *Issuer   // whose waivers count then; may be nil
}

// issuerView is one configured issuer.
type issuerView struct {
	*Issuer
	name     string
	provider *provider
}

// Ids that lint itself speaks of.
const (
	idFault         = "DP000"
	idWaiverExpired = "DP037"
	idWaiverUnused  = "DP038"
	idWaiverRefused = "DP039"
)

// table are the rules, by position.
type table []Rule

func newTable() table {
	return slices.Concat([]Rule{{
		ID: idFault, Name: "not-loaded", Severity: Critical,
		Attack: "A folder with a fault in it is not loaded, so that whoever breaks one file on purpose would keep an old policy in force.",
		Fix:    "correct what the message says",
	}}, identityRules(), textRules(), refRules(), codeRules(), providerRules(), issuerRules(), acrossRules(), upkeepRules())
}

func (t table) byID(id string) *Rule {
	if i := slices.IndexFunc(t, func(r Rule) bool { return r.ID == id }); i >= 0 {
		return &t[i]
	}
	return nil
}

// Rules returns all rules, by id.
func Rules() []Rule {
	all := newTable()
	slices.SortFunc(all, func(a, b Rule) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// run lets every rule look at what it is about.
func (l *linter) run() {
	for i := range l.table {
		r := &l.table[i]
		l.lookAtWays(r)
		l.lookAtIssuers(r)
		if r.policy != nil {
			for _, h := range r.policy(l) {
				switch {
				case h.rule != nil:
					l.report(r, h.hit, h.rule.id, h.rule.rule.Waive)
				case h.issuer != nil:
					l.report(r, h.hit, "", h.issuer.Waive)
				default:
					l.report(r, h.hit, "")
				}
			}
		}
	}
}

func (l *linter) lookAtWays(r *Rule) {
	for _, v := range l.rules {
		look := r.way
		if v.rule.Denies() {
			look = r.deny
		}
		for _, w := range v.ways {
			if look != nil {
				l.reportAll(r, w, look(w))
			}
		}
	}
}

func (l *linter) lookAtIssuers(r *Rule) {
	for _, name := range l.issuerNames() {
		i := l.issuer(name)
		if r.issuer == nil || i.Node == nil {
			continue
		}
		for _, h := range r.issuer(&issuerView{Issuer: i, name: name, provider: l.provider(name)}) {
			h.outside = true
			l.report(r, h, "", i.Waive)
		}
	}
}

// reportAll reports hits on a way. What stands under repos is the repo's, and is
// said once for all rules that use it.
func (l *linter) reportAll(r *Rule, w *way, hits []hit) {
	for _, h := range hits {
		id := w.id
		if w.repo != nil && h.at.File() == w.repo.Node.File() && strings.HasPrefix(h.at.Field()+".", w.repo.Node.Field()+".") {
			id = fmt.Sprintf("repos/%s", w.repo.ID)
		}
		l.report(r, h, id, w.rule.Waive, w.settings.Waive)
	}
}

func (l *linter) issuerNames() []string { return slices.Sorted(maps.Keys(l.config.Issuers)) }

// quote shows a value of the policy in a message: escaped, and not too long.
func quote(s string) string {
	if len(s) > 120 {
		return fmt.Sprintf("%+q…", s[:120])
	}
	return fmt.Sprintf("%+q", s)
}

// listed writes patterns as a list.
func listed(patterns []pattern) string {
	var all []string
	for _, p := range patterns {
		all = append(all, p.shown())
	}
	return strings.Join(all, ", ")
}
