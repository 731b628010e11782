package lint

import (
	"slices"
	"strings"
)

// refRules are about branches, tags, events and environments.
func refRules() []Rule {
	return []Rule{
		{
			ID: "DP012", Name: "branch-or-tag", Severity: High, way: branchOrTag,
			Attack:  "Whoever may push tags makes one that is called like the trusted branch, on a commit of their own.",
			Fix:     "match the full form, refs/heads/main, or the type of the ref as well",
			Sources: []string{"gitlabhq/gitlabhq lib/gitlab/ci/jwt.rb"},
		},
		{
			ID: "DP013", Name: "borrowed-default-branch", Severity: High, way: borrowedBranch,
			Attack:  "pull_request_target, issue_comment and workflow_run run on the default branch when a stranger acts: their ref is that of trusted runs.",
			Fix:     "match event_name: [push, workflow_dispatch], or whatever is meant",
			Sources: []string{"GitHub changelog 2025-11-07 on pull_request_target", "unit42.paloaltonetworks.com/oidc-misconfigurations-in-ci-cd"},
		},
		{
			ID: "DP014", Name: "pull-request-writes", Severity: Critical, way: pullRequestWrites,
			Attack:  "The author of a pull or merge request runs code that nobody has read, and gets a grant that can write.",
			Fix:     "match the events or refs that are meant, without those of pull and merge requests; or give a grant with access: read",
			Sources: []string{"GitHub docs: actions/reference/security/oidc", "gitlab.com/gitlab-org/gitlab/-/issues/563038"},
		},
		{
			ID: "DP015", Name: "any-branch", Severity: High, way: anyBranch,
			Attack:  "Whoever may push can make a branch or tag that fits, with code of their own on it.",
			Fix:     "list the branches, or match the claim that says the ref is protected as well",
			Sources: []string{"GitLab docs: ci/secrets/id_token_authentication"},
		},
		{
			ID: "DP016", Name: "environment-alone", Severity: High, way: environmentAlone,
			Attack:  "The environment is a line of the workflow: without protection rules, which the token does not show, any branch may name it.",
			Fix:     "match the ref or the workflow as well; at GitLab also environment_protected: \"true\"",
			Sources: []string{"GitHub docs: actions/reference/security/oidc", "GitLab docs: ci/secrets/id_token_authentication"},
		},
	}
}

func branchOrTag(w *way) []hit {
	var hits []hit
	typed := false
	for _, r := range w.provider.Refs {
		typed = typed || r.Type != "" && (w.only(r.Type, "branch") || w.only(r.Type, "tag"))
		typed = typed || r.Full && w.refIsFull(r.Claim)
	}
	for _, r := range w.provider.Refs {
		if r.Type == "" {
			continue // the provider does not tell
		}
		for _, c := range w.on(r.Claim) {
			switch {
			case c.op != isOne:
			case r.Full && !fullRefs(c) && (!typed || !bareRefs(c)):
				hits = append(hits, hitAt(c.node, "%s %s does not say whether a branch or a tag is meant: %s sends refs/heads/… and refs/tags/…", r.Claim, listed(c.any), w.provider.Title))
			case !r.Full && !typed:
				hits = append(hits, hitAt(c.node, "%s %s may be a branch or a tag", r.Claim, listed(c.any)).fixing("match %s: branch as well", r.Type))
			}
		}
	}
	return hits
}

// refIsFull reports whether one condition on a claim begins with the kind of
// ref.
func (w *way) refIsFull(claim string) bool {
	return slices.ContainsFunc(w.on(claim), func(c *condition) bool { return c.op == isOne && fullRefs(c) })
}

func fullRefs(c *condition) bool {
	return !slices.ContainsFunc(c.any, func(p pattern) bool {
		parts := strings.SplitN(p.prefix(), "/", 3)
		return p.text != "" && (len(parts) < 3 || parts[0] != "refs")
	})
}

// bareRefs reports patterns that name no branch at all, such as refs/**.
func bareRefs(c *condition) bool {
	return !slices.ContainsFunc(c.any, func(p pattern) bool { return !p.wild() })
}

func borrowedBranch(w *way) []hit {
	e := w.provider.Events
	environmental := w.says(w.provider.Environment.Claim)
	if len(e.Borrowed) == 0 || !w.onRef() && environmental == nil {
		return nil
	}
	if !w.admitsDefaultBranch() {
		return nil
	}
	var open []string
	for _, name := range e.Borrowed {
		if w.admits(e.Claim, name) && !w.lists(e.Claim, name) {
			open = append(open, name)
		}
	}
	if len(open) == 0 {
		return nil
	}
	at := w.at("match")
	if on := w.on(e.Claim); len(on) > 0 {
		at = on[0].node
	}
	return []hit{hitAt(at, "%s may be %s, which run on the default branch", e.Claim, strings.Join(open, ", "))}
}

// admitsDefaultBranch reports false where the refs can only be tags or pull
// requests.
func (w *way) admitsDefaultBranch() bool {
	for _, r := range w.provider.Refs {
		if r.Type != "" && w.only(r.Type, "tag") {
			return false
		}
		for _, c := range w.on(r.Claim) {
			if r.Full && c.op == isOne && !slices.ContainsFunc(c.any, func(p pattern) bool { return !beginsOther(p.prefix()) }) {
				return false
			}
		}
	}
	return true
}

func beginsOther(ref string) bool {
	return strings.HasPrefix(ref, "refs/tags/") || strings.HasPrefix(ref, "refs/pull/")
}

func pullRequestWrites(w *way) []hit {
	e := w.provider.Events
	grant := w.writes()
	if grant == "" || e.Claim == "" {
		return nil
	}
	for _, name := range e.Pull {
		if !w.admits(e.Claim, name) {
			continue
		}
		for _, c := range w.on(e.Claim) {
			if c.op == isOne {
				return []hit{hitAt(c.node, "%s %s lets a %s have grant %q, which can write", e.Claim, listed(c.any), name, grant)}
			}
		}
		if h, ok := w.pullBySub(grant); ok {
			return []hit{h}
		}
		if c := w.pullByRef(); c != nil {
			return []hit{hitAt(c.node, "%s %s and any %s lets a %s have grant %q, which can write", c.claim, listed(c.any), e.Claim, name, grant)}
		}
		if !w.gated() && !w.refKeepsPullsOut() {
			return []hit{hitAt(w.at(), "no event, branch, environment or workflow is asked for: a %s gets grant %q, which can write", name, grant)}
		}
	}
	return nil
}

// refKeepsPullsOut reports whether what is said of the ref, if only what it must
// not be, excludes the refs of pull requests.
func (w *way) refKeepsPullsOut() bool {
	pull := w.provider.Events.PullRef
	return pull != "" && slices.ContainsFunc(w.provider.Refs, func(r refClaim) bool { return r.Full && !w.admits(r.Claim, pull) })
}

// pullBySub finds a sub that fits pull requests too.
func (w *way) pullBySub(grant string) (hit, bool) {
	if w.provider.name != "github" {
		return hit{}, false
	}
	for _, c := range w.on("sub") {
		for _, p := range c.any {
			if c.op == isOne && p.matches(pullSub(p.text)) {
				return hitAt(c.node, "sub %s lets a pull_request have grant %q, which can write", p.shown(), grant), true
			}
		}
	}
	return hit{}, false
}

// pullSub is the sub of a pull request to a repository that a pattern means.
func pullSub(text string) string {
	parts := strings.SplitN(text, ":", 3)
	if len(parts) < 2 {
		return "repo:x/x:pull_request"
	}
	return "repo:" + strings.NewReplacer("*", "x", "?", "x").Replace(parts[1]) + ":pull_request"
}

// pullByRef finds a condition on the ref that the refs of pull requests
// satisfy.
func (w *way) pullByRef() *condition {
	for _, r := range w.provider.Refs {
		c := w.says(r.Claim)
		if c != nil && r.Full && w.admits(r.Claim, "refs/pull/7/merge") && !w.protected() {
			return c
		}
	}
	return nil
}

func anyBranch(w *way) []hit {
	p := w.provider
	if len(p.Refs) == 0 || w.protected() {
		return nil
	}
	fix := "list the branches or tags"
	if p.Protected != "" {
		fix += ", or match " + p.Protected + ": \"true\" as well"
	}
	named := false
	var open *condition
	for _, r := range p.Refs {
		for _, c := range w.on(r.Claim) {
			named = named || c.exact() || c.op == isOne && noBranches(c)
			if c.op == isNone || c.op == isOne && !c.exact() {
				open = c
			}
		}
	}
	switch {
	case named:
		return nil
	case open != nil && open.op == isNone:
		return []hit{hitAt(open.node, "%s is any but %s", open.claim, listed(open.any)).fixing("%s", fix)}
	case open != nil:
		return []hit{hitAt(open.node, "%s %s fits branches or tags that anybody who may push can make", open.claim, listed(open.any)).fixing("%s", fix)}
	case w.writes() != "" && w.says(p.Environment.Claim) == nil && w.workflow() == nil && w.says("sub") == nil && w.closedToPulls():
		return []hit{hitAt(w.at(), "no branch or tag is asked for, and grant %q can write", w.writes()).fixing("%s", fix)}
	}
	return nil
}

// closedToPulls reports whether [pullRequestWrites] has nothing to say.
func (w *way) closedToPulls() bool { return len(pullRequestWrites(w)) == 0 }

// noBranches reports refs of pull requests only, which no push can make.
func noBranches(c *condition) bool {
	return !slices.ContainsFunc(c.any, func(p pattern) bool { return p.wild() && !strings.HasPrefix(p.prefix(), "refs/pull/") })
}

func environmentAlone(w *way) []hit {
	e := w.provider.Environment
	c := w.says(e.Claim)
	if c == nil || w.onRef() || w.workflow() != nil || e.Protected != "" && w.only(e.Protected, "true") {
		return nil
	}
	return []hit{hitAt(c.node, "%s %s is all that is asked for beside whose job it is", c.claim, listed(c.any))}
}
