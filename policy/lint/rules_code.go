package lint

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// codeRules are about whose code runs, and where.
func codeRules() []Rule {
	return []Rule{
		{
			ID: "DP017", Name: "weak-claim", Severity: Warning, way: weakClaims,
			Attack:  "Who can edit the job's file or rename an account chooses the value, so it proves nothing about the job.",
			Fix:     "do not rely on it: match ids, the ref and protected environments",
			Sources: []string{"gitlabhq/gitlabhq lib/gitlab/ci/jwt.rb"},
		},
		{
			ID: "DP018", Name: "fork-merge-request", Severity: High, way: forkMergeRequest,
			Attack:  "In the merge request of a fork the project that the token names need not be the one the job runs in: on older servers a fork's code passes for the parent's.",
			Fix:     "match job_project_id with the same id as project_id, under repos, or add when: claims.job_project_id == claims.project_id",
			Sources: []string{"gitlab.com/gitlab-org/gitlab/-/issues/563038", "gitlabhq/gitlabhq lib/gitlab/ci/jwt.rb"},
		},
		{
			ID: "DP019", Name: "workflow-of-anyone", Severity: High, way: workflowOfAnyone,
			Attack:  "Any repository may call a public reusable workflow: job_workflow_ref says which workflow runs, and not for whom.",
			Fix:     "match the caller's repository_owner_id as well, best with repository_id",
			Sources: []string{"GitHub docs: actions/reference/security/oidc"},
		},
		{
			ID: "DP020", Name: "workflow-not-pinned", Severity: High, way: workflowNotPinned,
			Attack:  "Whoever can push to the workflow's repository changes what runs under the trusted name.",
			Fix:     "name the workflow with @refs/tags/… of a protected tag or with @ and the full commit hash",
			Sources: []string{"pypi/warehouse warehouse/oidc/models/github.py", "CVE-2025-30066"},
		},
		{
			ID: "DP021", Name: "any-runner", Severity: High, way: anyRunner,
			Attack:  "A self-hosted runner is used by many jobs: what an earlier one left behind reads this one's token and credentials.",
			Fix:     "match runner_environment, and name self-hosted only where it is meant",
			Sources: []string{"GitHub docs: actions/reference/security/oidc", "Buildkite agent OIDC reference", "CVE-2025-30066"},
		},
	}
}

func weakClaims(w *way) []hit {
	var hits []hit
	for _, k := range w.provider.Weak {
		if c := w.says(k.Claim); c != nil {
			hits = append(hits, hitAt(c.node, "%s is relied on, and %s", k.Claim, k.Why))
		}
	}
	return hits
}

func forkMergeRequest(w *way) []hit {
	if w.provider.name != "gitlab" || w.pins("job_project_id") {
		return nil
	}
	equal := func(c condition) bool {
		return c.op == isSame && (c.claim == "job_project_id" && c.other == "project_id" || c.claim == "project_id" && c.other == "job_project_id")
	}
	if slices.ContainsFunc(w.conditions, equal) {
		return nil
	}
	return []hit{hitAt(w.whom(), "nothing says that the job runs in the project it is for: job_project_id is not matched")}
}

func workflowOfAnyone(w *way) []hit {
	c := w.says("job_workflow_ref")
	if c == nil || w.pins("repository_owner_id") || w.pins("repository_id") || w.pins("enterprise_id") {
		return nil
	}
	return []hit{hitAt(c.node, "job_workflow_ref %s says nothing of who called it", listed(c.any))}
}

func workflowNotPinned(w *way) []hit {
	var hits []hit
	for _, f := range w.provider.Workflows {
		for _, c := range w.on(f.Claim) {
			for _, p := range c.any {
				if c.op != isOne {
					continue
				}
				if why := w.loose(f, p); why != "" {
					hits = append(hits, hitAt(c.node, "%s %s %s", f.Claim, p.shown(), why))
				}
			}
		}
	}
	return hits
}

var commitHash = regexp.MustCompile(`@[0-9a-f]{40}\z`)

// loose says why a pattern of a workflow does not fix what runs.
func (w *way) loose(f workflow, p pattern) string {
	if !p.wild() && commitHash.MatchString(p.text) || p.call == "endsWith" || p.call == "contains" {
		return "" // fixed, or DP011
	}
	// File names may contain @: the ref begins at the last @refs/.
	i := strings.LastIndex(p.text, "@refs/")
	if i < 0 {
		return "names no ref"
	}
	ref := p.text[i+1:]
	branch, isBranch := strings.CutPrefix(ref, "refs/heads/")
	switch {
	case strings.ContainsAny(ref, "*?") && p.wild(), p.call != "":
		return "leaves the ref open"
	case !isBranch || w.writes() == "":
		return ""
	case f.Own || w.ownWorkflow(p.text):
		for _, r := range w.provider.Refs {
			if w.only(r.Claim, "refs/heads/"+branch) || !r.Full && w.only(r.Claim, branch) {
				return "" // the same branch that is trusted anyway
			}
		}
	}
	return "is what stands on a branch, which changes, and grant " + quote(w.writes()) + " can write"
}

// ownWorkflow reports whether a workflow is of the repository itself, as its
// name is known.
func (w *way) ownWorkflow(text string) bool {
	return w.repo != nil && w.repo.Name != "" && strings.HasPrefix(text, w.repo.Name+"/")
}

func anyRunner(w *way) []hit {
	if w.provider.Runner == "" || len(w.on(w.provider.Runner)) > 0 {
		return nil
	}
	return []hit{hitAt(w.at(), "%s is not matched: self-hosted runners get the grant too", w.provider.Runner).
		fixing("match %s: %s, or self-hosted where that is meant", w.provider.Runner, cmp.Or(w.provider.Hosted, "the provider's own"))}
}
