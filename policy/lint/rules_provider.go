package lint

import (
	"slices"
	"strings"
)

// providerRules are about one provider each.
func providerRules() []Rule {
	return []Rule{
		{
			ID: "DP022", Name: "semaphore-branch", Severity: Critical, way: semaphoreBranch,
			Attack:  "At Semaphore branch is the target of a pull request, so branch = main is true for code that nobody has read; debug jobs are somebody's shell.",
			Fix:     "match ref: refs/heads/main, ref_type: branch and job_type: pipeline_job",
			Sources: []string{"semaphoreio/semaphore docs/docs/reference/openid.md"},
		},
		{
			ID: "DP023", Name: "circleci-fork-or-ssh", Severity: High, way: circleCI,
			Attack:  "A fork whose builds get secrets, or somebody who reruns a job with a shell in it, has a token with the same org.",
			Fix:     "match oidc.circleci.com/project-id, oidc.circleci.com/vcs-origin and oidc.circleci.com/ssh-rerun: false",
			Sources: []string{"circleci/circleci-docs openid-connect-tokens.adoc", "unit42.paloaltonetworks.com/oidc-misconfigurations-in-ci-cd"},
		},
		{
			ID: "DP024", Name: "buildkite-chosen-branch", Severity: High, way: buildkiteBranch,
			Attack:  "Who creates a build in the browser or through the API types the name of the branch, and of the commit.",
			Fix:     "match build_source: [webhook, schedule, trigger_job] as well",
			Sources: []string{"buildkite/docs pages/agent/cli/reference/oidc.md"},
		},
		{
			ID: "DP025", Name: "plan-or-any-workspace", Severity: Critical, way: planRuns,
			Attack:  "Plan and proposed runs execute the code of pull requests, and a pattern over workspaces or stacks fits one that a stranger to the rule makes.",
			Fix:     "match the workspace or stack by id, terraform_run_phase: apply at HCP Terraform, runType: TRACKED and scope: write at Spacelift",
			Sources: []string{"hashicorp/terraform-docs-common workload-identity-tokens.mdx", "spacelift-io/user-documentation docs/integrations/cloud-providers/oidc"},
		},
		{
			ID: "DP026", Name: "jenkins-claims", Severity: Critical, way: jenkinsClaims, issuer: jenkinsIssuer,
			Attack:  "Jenkins fills its claims from variables that the job itself sets; older plugins do so for every claim.",
			Fix:     "match sub, which is the job's URL, and nothing else; ask for an audience, and run a plugin newer than 96",
			Sources: []string{"jenkinsci/oidc-provider-plugin IdTokenCredentials.java", "plugins.jenkins.io/oidc-provider"},
		},
		{
			ID: "DP027", Name: "chosen-by-requester", Severity: High, way: chosenByRequester,
			Attack:  "Whoever asks for the token fills the claim in, and can fill in what the rule wants.",
			Fix:     "match principal tags at AWS, or ids at Buildkite",
			Sources: []string{"AWS docs: id_roles_providers_outbound_token_claims", "buildkite/docs pages/agent/cli/reference/oidc.md"},
		},
		{
			ID: "DP028", Name: "azure-connection", Severity: Critical, way: azureSubject,
			Attack:  "A service connection, or anything else of an Entra tenant, can be used by pipelines that the rule does not mean.",
			Fix:     "use the issuer https://vstoken.dev.azure.com/<org>, and match sub: p://org/project/pipeline with org_id, prj_id and def_id",
			Sources: []string{"gravitational/teleport lib/azuredevops/token_validator.go", "learn.microsoft.com convert-service-connections"},
		},
	}
}

func semaphoreBranch(w *way) []hit {
	if w.provider.name != "semaphore" {
		return nil
	}
	var hits []hit
	if c := w.says("branch"); c != nil {
		hits = append(hits, hitAt(c.node, "branch %s is relied on, and is the target of pull requests too", listed(c.any)))
	}
	if !w.only("job_type", "pipeline_job") {
		at := w.at()
		if on := w.on("job_type"); len(on) > 0 {
			at = on[0].node
		}
		hits = append(hits, hitAt(at, "job_type may be other than pipeline_job, such as a debug job"))
	}
	return hits
}

func circleCI(w *way) []hit {
	if w.provider.name != "circleci" {
		return nil
	}
	const p = "oidc.circleci.com/"
	var missing []string
	if !w.pins(p + "project-id") {
		missing = append(missing, p+"project-id")
	}
	if w.says(p+"vcs-origin") == nil {
		missing = append(missing, p+"vcs-origin")
	}
	if !w.only(p+"ssh-rerun", "false") {
		missing = append(missing, p+"ssh-rerun: false")
	}
	var hits []hit
	if len(missing) > 0 {
		hits = append(hits, hitAt(w.whom(), "%s not matched", strings.Join(missing, ", ")))
	}
	if c := w.says("sub"); c != nil && w.says(p+"vcs-ref") == nil && !slices.ContainsFunc(c.any, func(x pattern) bool { return strings.Contains(x.text, "/vcs-ref/") }) {
		hits = append(hits, hitAt(c.node, "sub %s says nothing of the branch", listed(c.any)))
	}
	return hits
}

func buildkiteBranch(w *way) []hit {
	if w.provider.name != "buildkite" {
		return nil
	}
	c := w.says("build_branch", "build_tag", "build_commit")
	if c == nil {
		return nil
	}
	var open []string
	for _, source := range []string{"ui", "api"} {
		if w.admits("build_source", source) {
			open = append(open, source)
		}
	}
	if len(open) == 0 {
		return nil
	}
	return []hit{hitAt(c.node, "%s %s is relied on while build_source may be %s", c.claim, listed(c.any), strings.Join(open, " or "))}
}

// runs says, by provider, what a run that may write is like, and which claims
// name the workspace or stack.
var runs = map[string]struct { // never changed
	named []string
	apply [][2]string
}{
	"hcp-terraform": {
		named: []string{"terraform_workspace_id", "terraform_workspace_name", "terraform_full_workspace", "terraform_project_id", "terraform_project_name", "terraform_run_phase", "sub"},
		apply: [][2]string{{"terraform_run_phase", "apply"}},
	},
	"spacelift": {
		named: []string{"spaceId", "callerId", "callerType", "runType", "scope", "sub"},
		apply: [][2]string{{"runType", "TRACKED"}, {"scope", "write"}},
	},
}

func planRuns(w *way) []hit {
	run, ok := runs[w.provider.name]
	if !ok {
		return nil
	}
	var hits []hit
	for _, claim := range run.named {
		for _, c := range w.on(claim) {
			for _, p := range c.any {
				if c.op == isOne && p.wild() {
					hits = append(hits, hitAt(c.node, "%s %s fits more than one workspace, stack or phase", claim, p.shown()))
				}
			}
		}
	}
	grant := w.writes()
	for _, a := range run.apply {
		if grant == "" || w.only(a[0], a[1]) {
			continue
		}
		at := w.at()
		if on := w.on(a[0]); len(on) > 0 {
			at = on[0].node
		}
		hits = append(hits, hitAt(at, "%s may be other than %s, and grant %q can write", a[0], a[1], grant))
	}
	return hits
}

func jenkinsClaims(w *way) []hit {
	if w.provider.name != "jenkins" {
		return nil
	}
	var hits []hit
	for i := range w.conditions {
		c := &w.conditions[i]
		if !c.positive() || slices.Contains(registered, c.claim) || strings.HasPrefix(c.claim, "\x00") {
			continue
		}
		hits = append(hits, hitAt(c.node, "%s is filled in from variables that the job sets", c.claim))
	}
	return hits
}

func jenkinsIssuer(i *issuerView) []hit {
	if i.provider.name != "jenkins" {
		return nil
	}
	var hits []hit
	if len(i.Audiences) == 0 {
		hits = append(hits, hitAt(i.Node, "issuer %q: no audience is asked for, and Jenkins may set none", i.name))
	}
	switch major, _, _ := strings.Cut(i.Version, "."); {
	case i.Version == "":
		hits = append(hits, hitAt(i.Node, "issuer %q: the version of the oidc-provider plugin is not stated", i.name).
			fixing("set version: to that of the plugin, which must be newer than 96"))
	case !newer(major, 96):
		hits = append(hits, hitAt(i.Node.At("version"), "issuer %q: version %s of the oidc-provider plugin lets jobs choose claims", i.name, quote(i.Version)))
	}
	return hits
}

// newer reports whether a whole number is above another; what is no number is
// not.
func newer(text string, than int) bool {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' || n > 1<<30 {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n > than
}

func chosenByRequester(w *way) []hit {
	var hits []hit
	for i := range w.conditions {
		c := &w.conditions[i]
		if c.positive() && slices.ContainsFunc(w.provider.Requester, func(start string) bool { return strings.HasPrefix(c.claim, start) }) {
			hits = append(hits, hitAt(c.node, "%s is filled in by whoever asks for the token", c.claim))
		}
	}
	return hits
}

func azureSubject(w *way) []hit {
	switch w.provider.name {
	case "entra":
		return []hit{hitAt(w.whom(), "issuer %q signs for the whole tenant: a token does not say which pipeline it is of", w.issuer)}
	case "azure-devops":
	default:
		return nil
	}
	var hits []hit
	for _, c := range w.on("sub") {
		for _, p := range c.any {
			if c.op == isOne && !strings.HasPrefix(p.prefix(), "p://") {
				hits = append(hits, hitAt(c.node, "sub %s is not that of a pipeline", p.shown()))
			}
		}
	}
	if w.says("sub") == nil {
		hits = append(hits, hitAt(w.whom(), "sub is not matched, so service connections are let in too"))
	}
	var missing []string
	for _, id := range []string{"org_id", "prj_id", "def_id"} {
		if !w.pins(id) {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		hits = append(hits, hitAt(w.whom(), "%s not pinned", strings.Join(missing, ", ")))
	}
	return hits
}
