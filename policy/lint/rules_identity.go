package lint

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// identityRules are about whose job it is.
func identityRules() []Rule {
	return []Rule{
		{
			ID: "DP001", Name: "issuer-pattern", Severity: Critical, way: issuerPattern, issuer: issuerURL,
			Attack:  "Whoever can register an issuer whose URL fits the pattern signs tokens that are taken for those of the real one.",
			Fix:     "name one issuer under issuer, and configure it by its exact https URL without query, fragment or slash at the end",
			Sources: []string{"octo-sts/app pkg/provider/provider.go", "github.com/jfrog/setup-jfrog-cli/issues/155", "CVE-2025-52477", "CVE-2026-22772"},
		},
		{
			ID: "DP002", Name: "no-owner-pin", Severity: Critical, way: noOwnerPin,
			Attack:  "The issuer signs for everybody: any stranger's job with the same names, branch and environment gets the grant.",
			Fix:     "match an immutable id of the owner exactly, best under repos",
			Sources: []string{"stateward.com SC-GHA-OIDC-MISCONFIG-2021", "securitylabs.datadoghq.com exploring-github-to-aws-keyless-authentication-flaws", "HCP Terraform workload-identity-tokens", "Buildkite workload identity federation"},
		},
		{
			ID: "DP005", Name: "owner-wildcard", Severity: Critical, way: ownerWildcard,
			Attack:  "A stranger registers an owner whose name begins as the pattern does, such as acme-evil for acme*, and is let in.",
			Fix:     "write the owner in full, and a wildcard only after its delimiter; better match the owner's id",
			Sources: []string{"unit42.paloaltonetworks.com/oidc-misconfigurations-in-ci-cd", "labs.boostsecurity.io sleeper-squats-github-oidc-immutable-subject-claim", "Tinder Security Labs"},
		},
		{
			ID: "DP006", Name: "name-without-id", Severity: High, way: nameWithoutID,
			Attack:  "After a rename or deletion somebody else takes the old name, and with it everything that was given to the name.",
			Fix:     "match the id, and leave the name to the name of the repo",
			Sources: []string{"astrix.security subjugation-hijacking-cloud-identities", "nhimg.org subjugation-exposes-phantom-cloud-identities", "google-github-actions/auth SECURITY_CONSIDERATIONS.md"},
		},
		{
			ID: "DP007", Name: "name-is-not-of-id", Severity: High, policy: nameOfAnotherID,
			Attack:  "A reviewer reads one repository and the rule means another: a name that was given away, or an id that was mistyped.",
			Fix:     "look both up at the provider, and correct the one that is wrong",
			Sources: []string{"astrix.security subjugation-hijacking-cloud-identities"},
		},
		{
			ID: "DP008", Name: "one-shape-of-sub", Severity: High, way: oneShapeOfSub,
			Attack:  "GitHub's sub has two shapes, so a literal one stops working after a transfer, and is then loosened with a wildcard.",
			Fix:     "match repository_owner_id, repository_id, ref and environment instead of sub",
			Sources: []string{"GitHub docs: actions/reference/security/oidc"},
		},
		{
			ID: "DP009", Name: "hyphenated-id-sub", Severity: Critical, way: hyphenatedSub,
			Attack:  "In org-123/repo-456 the number may be part of a name: a stranger registers an owner called so and has the same sub.",
			Fix:     "match repository_owner_id and repository_id",
			Sources: []string{"labs.boostsecurity.io sleeper-squats-github-oidc-immutable-subject-claim"},
		},
		{
			ID: "DP010", Name: "sub-in-parts", Severity: High, way: subInParts,
			Attack:  "sub is claims joined to one text, whose parts are chosen per repository: a value that contains the joint, or another template, moves one part to where another was.",
			Fix:     "match each claim by itself instead of its place in sub",
			Sources: []string{"GitHub docs: actions/reference/security/oidc", "octo-sts/app pkg/oidcvalidate/validate.go"},
		},
	}
}

func issuerPattern(w *way) []hit {
	var hits []hit
	for i := range w.conditions {
		c := &w.conditions[i]
		if c.claim != "iss" && c.claim != theIssuer || !c.positive() {
			continue
		}
		for _, p := range c.any {
			switch {
			case p.wild():
				hits = append(hits, hitAt(c.node, "the issuer is matched by a pattern: %s", p.shown()))
			case c.claim == "iss" && badIssuerURL(p.text) != "":
				hits = append(hits, hitAt(c.node, "iss %s %s", quote(p.text), badIssuerURL(p.text)))
			}
		}
	}
	return hits
}

func issuerURL(i *issuerView) []hit {
	if i.URL == "" {
		return nil
	}
	if why := badIssuerURL(i.URL); why != "" && (!i.Insecure || why != notHTTPS) {
		return []hit{hitAt(i.Node.At("url"), "issuer %q: url %s %s", i.name, quote(i.URL), why)}
	}
	return nil
}

const notHTTPS = "is not https"

// badIssuerURL says why a URL does not name one issuer.
func badIssuerURL(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case strings.ContainsAny(raw, "*^$|\\()["):
		return "is a pattern"
	case err != nil || u.Host == "":
		return "is not a URL"
	case u.Scheme != "https":
		return notHTTPS
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#") || u.User != nil:
		return "has a query, a fragment or a user"
	case strings.HasSuffix(raw, "/"):
		return "ends in a slash"
	}
	return ""
}

func noOwnerPin(w *way) []hit {
	if !w.settings.Shared || w.issuer == "" || slices.ContainsFunc(w.owners(), w.pins) {
		return nil
	}
	owners := strings.Join(w.owners(), " or ")
	h := hitAt(w.whom(), "issuer %q signs for everybody, and nothing here is one of the owner's alone", w.issuer)
	switch {
	case w.says("sub") != nil:
		h = hitAt(w.whom(), "issuer %q signs for everybody, and sub alone does not pin the owner by id", w.issuer)
	case slices.ContainsFunc(w.settings.ImmutableIDs, w.pins):
		h = hitAt(w.whom(), "issuer %q signs for everybody, and the id matched here can change hands with its owner", w.issuer)
	}
	if owners == "" {
		return []hit{h.fixing("the issuer has no id that could be pinned: do not give grants to it")}
	}
	return []hit{h.fixing("match %s exactly, best under repos", owners)}
}

func ownerWildcard(w *way) []hit {
	var hits []hit
	for i := range w.conditions {
		c := &w.conditions[i]
		if c.op != isOne {
			continue
		}
		for _, p := range c.any {
			if p.wild() && w.provider.openOwner(c.claim, p) {
				hits = append(hits, hitAt(c.node, "%s %s leaves the owner open", c.claim, p.shown()))
			}
		}
	}
	return hits
}

// openOwner reports whether a pattern on a claim that holds an owner has a
// wildcard before the owner ends.
func (p *provider) openOwner(claim string, pat pattern) bool {
	holds := false
	for _, o := range p.Owners {
		if o.Claim != claim {
			continue
		}
		holds = true
		rest, fits := strings.CutPrefix(pat.prefix(), o.Prefix)
		if fits && o.End != "" && strings.Count(rest, o.End) >= max(o.Parts, 1) {
			return false
		}
	}
	return holds
}

func nameWithoutID(w *way) []hit {
	var hits []hit
	for _, n := range w.provider.Names {
		c := w.says(n.Claim)
		if c == nil || c.op != isOne || w.pins(n.ID) || n.OwnerID != "" && w.pins(n.OwnerID) && wholeOwner(c) {
			continue
		}
		hits = append(hits, hitAt(c.node, "%s is matched by name: %s", n.Claim, listed(c.any)).fixing("match %s exactly, beside or instead of %s", n.ID, n.Claim))
	}
	return hits
}

// wholeOwner reports patterns such as acme/*, which say no more than the
// owner's id does.
func wholeOwner(c *condition) bool {
	return !slices.ContainsFunc(c.any, func(p pattern) bool {
		return len(p.parts) != 2 || !strings.HasSuffix(p.parts[0].lit, "/") || p.parts[1].wild < star
	})
}

// subShape tells GitHub's two shapes of sub.
var subShape = regexp.MustCompile(`\Arepo:[^/:@*?]+(@[0-9]+)?/[^/:@*?]+(?:@[0-9]+)?(?::|\z)`)

func oneShapeOfSub(w *way) []hit {
	if w.provider.name != "github" || strings.HasSuffix(w.settings.URL, "/_services/token") {
		return nil // an enterprise server has one shape only
	}
	var hits []hit
	for _, c := range w.on("sub") {
		old, immutable := 0, 0
		for _, p := range c.any {
			switch m := subShape.FindStringSubmatch(p.text); {
			case m == nil: // in neither shape
			case m[1] != "":
				immutable++
			default:
				old++
			}
		}
		switch {
		case c.op != isOne || old > 0 && immutable > 0:
		case old > 0:
			hits = append(hits, hitAt(c.node, "sub %s is the old shape: repositories made, renamed or moved since July 2026 send the one with ids", listed(c.any)))
		case immutable > 0:
			hits = append(hits, hitAt(c.node, "sub %s is the shape with ids: repositories that were not moved since July 2026 send the old one", listed(c.any)))
		}
	}
	return hits
}

var hyphenatedIDs = regexp.MustCompile(`\Arepo:[^/:@]*-[0-9*?]+/[^/:@]*-[0-9*?]+(:|\*|\z)`)

func hyphenatedSub(w *way) []hit {
	if w.provider.name != "github" {
		return nil
	}
	var hits []hit
	for _, c := range w.on("sub") {
		for _, p := range c.any {
			if c.op == isOne && hyphenatedIDs.MatchString(p.text) {
				hits = append(hits, hitAt(c.node, "sub %s has ids behind hyphens, as names may have numbers", p.shown()))
			}
		}
	}
	return hits
}

// plainSub is a sub of GitHub as it is without a template.
var plainSub = regexp.MustCompile(`\Arepo:[^:*?]+:(pull_request|ref:[^:*?]+|environment:[^:*?]+)\z`)

func subInParts(w *way) []hit {
	if !w.provider.CompositeSub {
		return nil
	}
	var hits []hit
	for _, c := range w.on("sub") {
		if c.op != isOne {
			continue
		}
		for _, p := range c.any {
			if w.provider.name == "github" && plainSub.MatchString(p.text) && p.call == "" {
				continue // in one of its shapes: DP008
			}
			hits = append(hits, hitAt(c.node, "sub %s relies on how parts are joined in it", p.shown()))
		}
	}
	return hits
}
