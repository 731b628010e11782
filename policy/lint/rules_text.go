package lint

import (
	"regexp"
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/policy"
)

// textRules are about audiences, and about how texts are compared.
func textRules() []Rule {
	return []Rule{
		{
			ID: "DP003", Name: "foreign-audience", Severity: Critical, way: audienceInRule, issuer: audienceOfIssuer,
			Attack:   "Whoever is handed such a token for another service, or makes one that names no service, can offer it here.",
			Fix:      "configure an audience that only this broker has, and leave aud out of rules: the broker checks it",
			Sources:  []string{"GitLab docs: ci/secrets/id_token_authentication", "gravitational/teleport lib/azuredevops", "CVE-2024-5798"},
			MayWaive: "at Azure DevOps, whose jobs cannot choose the audience",
		},
		{
			ID: "DP004", Name: "several-audiences", Severity: High, way: audienceAmongOthers, issuer: severalAudiences,
			Attack:  "A token that names several services can be taken by one of them and offered to the others.",
			Fix:     "let tokens name this broker alone; the broker takes no others, and rules need no aud",
			Sources: []string{"pypi/warehouse warehouse/oidc/services.py", "atlassian.com bitbucket-pipelines-oidc-now-supports-multiple-audiences"},
		},
		{
			ID: "DP011", Name: "partial-match", Severity: Critical, way: partialMatch,
			Attack:  "A comparison that looks at a part of a name is satisfied by a name that was made to contain that part.",
			Fix:     "compare in full: an exact value, or a glob whose wildcards stay within one part",
			Sources: []string{"octo-sts/app pkg/octosts/trust_policy.go", "CVE-2026-49478"},
		},
	}
}

// foreign are audiences that services of others ask for. Never changed.
var foreign = regexp.MustCompile(`(?i)\A(sts\.amazonaws\.com|api://azureadtokenexchange|sigstore|pypi|testpypi|npm:registry\.npmjs\.org|vault|https://github\.com(/.*)?|https://gitlab\.com|https://buildkite\.com/.*|https://iam\.googleapis\.com/.*|//iam\.googleapis\.com/.*|https://kubernetes\.default\.svc.*|ari:cloud:bitbucket::workspace/.*|https://[a-z0-9-]+\.semaphoreci\.com|[a-z0-9-]+\.app\.spacelift\.io)\z`)

func audienceInRule(w *way) []hit {
	var hits []hit
	for _, c := range w.on("aud") {
		for _, p := range c.any {
			switch {
			case !c.positive():
			case p.wild():
				hits = append(hits, hitAt(c.node, "aud %s admits audiences that are not this broker's", p.shown()))
			case foreign.MatchString(p.text):
				hits = append(hits, hitAt(c.node, "aud %s is what tokens for another service name", p.shown()))
			}
		}
		if c.op == isNone || c.op == isAbsent {
			hits = append(hits, hitAt(c.node, "aud is only said not to be something, which admits all else"))
		}
	}
	if fixed := w.provider.FixedAudience; fixed != "" {
		h := hitAt(w.whom(), "tokens of %s name %s, as they do for every other service", w.provider.Title, quote(fixed)).
			fixing("waive this with a reason, after pinning everything else: such jobs cannot choose the audience")
		h.waivable = true
		hits = append(hits, h)
	}
	return hits
}

func audienceOfIssuer(i *issuerView) []hit {
	if len(i.Audiences) == 0 {
		return []hit{hitAt(i.Node, "issuer %q: no audience is asked for", i.name)}
	}
	var hits []hit
	for _, a := range i.Audiences {
		if strings.ContainsAny(a, "*?") || a == "" {
			hits = append(hits, hitAt(i.Node, "issuer %q: audience %s admits tokens for other services", i.name, quote(a)))
		} else if foreign.MatchString(a) {
			h := hitAt(i.Node, "issuer %q: audience %s is what tokens for another service name", i.name, quote(a))
			h.waivable = a == i.provider.FixedAudience
			hits = append(hits, h)
		}
	}
	return hits
}

func audienceAmongOthers(w *way) []hit {
	if !w.provider.SeveralAudiences {
		return nil
	}
	var hits []hit
	for _, c := range w.on("aud") {
		if c.op == isOne && (len(c.any) > 1 || slices.ContainsFunc(c.any, func(p pattern) bool { return p.call == "in" })) {
			hits = append(hits, hitAt(c.node, "aud may be one of several: %s, and tokens of %s can name them all at once", listed(c.any), w.provider.Title))
		}
	}
	return hits
}

func severalAudiences(i *issuerView) []hit {
	if !i.provider.SeveralAudiences || i.OneAudience && len(i.Audiences) <= 1 {
		return nil
	}
	return []hit{hitAt(i.Node, "issuer %q: tokens of %s can name several services at once, and are taken nonetheless", i.name, i.provider.Title)}
}

// regexLike tells texts that were written as regular expressions.
var regexLike = regexp.MustCompile(`\A\^|\$\z|\.[*+]|\\[.dws/]|\(\?|\[[a-zA-Z0-9]-[a-zA-Z0-9]|\([^()]*\|[^()]*\)|\]\+`)

// looksLikeRegex keeps the regular expression for texts that can match it at
// all.
func looksLikeRegex(text string) bool {
	return (strings.ContainsAny(text, `^$\([`) || strings.Contains(text, ".*") || strings.Contains(text, ".+") || strings.Contains(text, "]+")) &&
		regexLike.MatchString(text)
}

func partialMatch(w *way) []hit {
	var hits []hit
	for i := range w.conditions {
		c := &w.conditions[i]
		if c.op == notRead && strings.Contains(c.excerpt, "matches") {
			hits = append(hits, hitAt(c.node, "the expression uses a regular expression, which matches a part of a text unless both ends are anchored around all of it"))
		}
		for _, p := range c.any {
			if why := w.provider.partial(c, p); why != "" {
				hits = append(hits, hitAt(c.node, "%s %s %s", shownClaim(c.claim), p.shown(), why))
			}
		}
	}
	return hits
}

// partial says why a comparison does not look at all of a claim.
func (p *provider) partial(c *condition, pat pattern) string {
	switch {
	case pat.kind != policy.ExactText && pat.kind != policy.GlobOfText:
		return ""
	case looksLikeRegex(pat.text):
		return "is written as a regular expression, and is none: it does not mean what it seems to"
	case c.op != isOne || !p.structured(c.claim):
		return ""
	case pat.call == "endsWith" || pat.call == "contains":
		return "looks at a part of the text, which others can have in theirs"
	case pat.swallows():
		return "has text behind **, which can swallow the parts before it"
	}
	return ""
}

// structured reports claims whose parts others choose in part: names with their
// owner, workflows, branches.
func (p *provider) structured(claim string) bool {
	return slices.ContainsFunc(p.Owners, func(o ownerPart) bool { return o.Claim == claim }) ||
		slices.ContainsFunc(p.Workflows, func(f workflow) bool { return f.Claim == claim }) ||
		slices.ContainsFunc(p.Refs, func(r refClaim) bool { return r.Claim == claim }) || claim == "sub"
}

// shownClaim is a claim's name, or what an expression calls it.
func shownClaim(claim string) string { return strings.TrimPrefix(claim, "\x00") }
