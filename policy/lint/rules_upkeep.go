package lint

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/policy"
)

// upkeepRules are about who looks after the policy, and about names that were
// given away.
func upkeepRules() []Rule {
	return []Rule{
		{
			ID: "DP035", Name: "review-overdue", Severity: High, policy: reviewOverdue,
			Attack: "Trust that nobody looked at for long is trust in people and repositories that have moved on.",
			Fix:    "review the rules, and set review_by to the next date",
		},
		{
			ID: "DP036", Name: "nobody-answers", Severity: Warning, policy: nobodyAnswers,
			Attack: "When a rule is misused nobody knows whom to ask, and it stays.",
			Fix:    "write owner: and review_by: at the head of the file",
		},
		{
			ID: idWaiverExpired, Name: "waiver-expired", Severity: High,
			Attack: "A risk that was accepted for a time is taken for longer than anybody agreed to.",
			Fix:    "correct the rule, or have the waiver agreed anew",
		},
		{
			ID: idWaiverUnused, Name: "waiver-unused", Severity: Warning,
			Attack: "A waiver that silences nothing today silences the next mistake in the rule.",
			Fix:    "remove the waiver",
		},
		{
			ID: idWaiverRefused, Name: "waiver-refused", Severity: High,
			Attack: "A waiver of what must not be waived makes a reviewer believe that it was decided.",
			Fix:    "correct the rule, and remove the waiver",
		},
		{
			ID: "DP041", Name: "rule-ended", Severity: Warning, policy: ruleEnded,
			Attack: "A rule that ended comes back to life when somebody changes its date without reading it.",
			Fix:    "remove the rule",
		},
	}
}

func reviewOverdue(l *linter) []ruleHit {
	var hits []ruleHit
	for _, f := range l.files {
		if f.ReviewBy.Over(l.config.Now) {
			hits = append(hits, ruleHit{hitAt(f.Node.At("review_by"), "the rules were to be reviewed by %s", f.ReviewBy), nil, nil})
		}
	}
	return hits
}

func nobodyAnswers(l *linter) []ruleHit {
	var hits []ruleHit
	for _, f := range l.files {
		var missing []string
		if f.Owner == "" {
			missing = append(missing, "owner")
		}
		if f.ReviewBy.IsZero() {
			missing = append(missing, "review_by")
		}
		if len(f.Rules) > 0 && len(missing) > 0 {
			hits = append(hits, ruleHit{hitAt(f.Node, "the file has rules and no %s", strings.Join(missing, " and no ")), nil, nil})
		}
	}
	return hits
}

func ruleEnded(l *linter) []ruleHit {
	var hits []ruleHit
	for _, v := range l.rules {
		if v.rule.Until.Over(l.config.Now) {
			hits = append(hits, ruleHit{hitAt(v.at("until"), "the rule ended on %s", v.rule.Until), v, nil})
		}
	}
	return hits
}

// identity is a name that goes with an id, as the policy says.
type identity struct {
	issuer, id, name string
	repo             *repo // where it says so
}

// nameOfAnotherID finds names and ids that do not belong together: by other
// entries of the policy, and by what earlier tokens said.
func nameOfAnotherID(l *linter) []ruleHit {
	var hits []ruleHit
	byID, byName := map[string]identity{}, map[string]identity{}
	names, ids := l.earlier()
	for _, repoID := range slices.Sorted(maps.Keys(l.repos)) {
		n, ok := l.identity(l.repos[repoID])
		if !ok {
			continue
		}
		idKey, nameKey := n.issuer+" "+n.id, n.issuer+" "+strings.ToLower(n.name)
		if other, twice := byID[idKey]; twice && !strings.EqualFold(other.name, n.name) {
			hits = append(hits, ruleHit{hitAt(n.repo.Node.At("name"), "%q and %q, under %q, are two names of id %s", n.name, other.name, other.repo.ID, n.id), nil, l.issuer(n.issuer)})
		}
		if other, twice := byName[nameKey]; twice && other.id != n.id {
			hits = append(hits, ruleHit{hitAt(n.repo.Node.At("name"), "%q is id %s here and id %s under %q", n.name, n.id, other.id, other.repo.ID), nil, l.issuer(n.issuer)})
		}
		byID[idKey], byName[nameKey] = n, n
		if h, ok := n.disagrees(names, ids); ok {
			hits = append(hits, ruleHit{h, nil, l.issuer(n.issuer)})
		}
		if h, ok := l.nameInMatch(n); ok {
			hits = append(hits, ruleHit{h, nil, l.issuer(n.issuer)})
		}
	}
	return hits
}

// identity is the name of a repo with its most specific id, as the provider's
// first name has it.
func (l *linter) identity(r *repo) (identity, bool) {
	p := l.provider(r.Issuer)
	if len(p.Names) == 0 || r.Name == "" {
		return identity{}, false
	}
	for _, c := range fromMatch(r.Match) {
		if c.claim == p.Names[0].ID && c.exact() && len(c.any) == 1 {
			return identity{issuer: r.Issuer, id: c.any[0].text, name: r.Name, repo: r}, true
		}
	}
	return identity{}, false
}

// seenName is the name that the latest of the earlier tokens had for an id.
type seenName struct {
	name string
	at   time.Time
}

// earlier tells names by id, and ids by name, of what tokens said.
func (l *linter) earlier() (names map[string]seenName, ids map[string]string) {
	names, ids = map[string]seenName{}, map[string]string{}
	for _, e := range l.config.Earlier {
		p := l.provider(e.Issuer)
		if len(p.Names) == 0 {
			continue
		}
		id, hasID := e.Claims[p.Names[0].ID].(string)
		name, hasName := e.Claims[p.Names[0].Claim].(string)
		if !hasID || !hasName {
			continue
		}
		if last, ok := names[e.Issuer+" "+id]; !ok || e.At.After(last.at) {
			names[e.Issuer+" "+id] = seenName{name, e.At}
		}
		ids[e.Issuer+" "+strings.ToLower(name)] = id
	}
	return names, ids
}

// disagrees compares with what earlier tokens said: the latest for the id, or,
// without any, those that had the name.
func (n identity) disagrees(names map[string]seenName, ids map[string]string) (hit, bool) {
	at := n.repo.Node.At("name")
	if last, ok := names[n.issuer+" "+n.id]; ok {
		return hitAt(at, "id %s was called %q on %s, and is called %q here", n.id, last.name, last.at.UTC().Format(time.DateOnly), n.name),
			!strings.EqualFold(last.name, n.name)
	}
	other, ok := ids[n.issuer+" "+strings.ToLower(n.name)]
	return hitAt(at, "%q was the name of id %s in an earlier token, and is id %s here", n.name, other, n.id), ok && other != n.id
}

// nameInMatch finds a name that is matched and is not the one shown to
// reviewers.
func (l *linter) nameInMatch(n identity) (hit, bool) {
	claim := l.provider(n.issuer).Names[0].Claim
	for _, c := range fromMatch(n.repo.Match) {
		if c.claim == claim && !slices.ContainsFunc(c.any, func(p pattern) bool { return strings.EqualFold(p.text, n.name) && p.kind == policy.ExactText }) {
			return hitAt(c.node, "%s %s is matched, and %q is shown to reviewers", claim, listed(c.any), n.name), true
		}
	}
	return hit{}, false
}
