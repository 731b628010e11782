package fromsub

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// provider is how a CI provider writes subjects.
type provider struct {
	name       string
	host       string   // of its issuer, as clouds name it
	repository string   // the claim that names a repository
	keys       []string // claims that a subject can be made of
	whose      []string // claims that say something of whose job it is
	ids        []string // the owner's, then the repository's
	enough     bool     // whether the repository's says whose it is: the profile takes either id
	find       map[string]string
}

// providers are those whose subjects are understood. Never changed.
var providers = []*provider{
	{
		name: "github", host: "token.actions.githubusercontent.com", repository: "repository",
		keys: []string{
			"actor", "actor_id", "base_ref", "enterprise", "environment", "event_name", "head_ref", "job_workflow_ref", "job_workflow_sha",
			"ref", "ref_type", "repository", "repository_id", "repository_owner", "repository_owner_id", "repository_visibility",
			"runner_environment", "workflow", "workflow_ref",
		},
		whose: []string{"enterprise", "job_workflow_ref", "repository", "repository_owner", "workflow_ref"},
		ids:   []string{"repository_owner_id", "repository_id"},
		find: map[string]string{
			"repository_owner_id": "gh api repos/OWNER/REPO --jq .owner.id",
			"repository_id":       "gh api repos/OWNER/REPO --jq .id",
		},
	},
	{
		name: "gitlab", host: "gitlab.com", repository: "project_path",
		keys: []string{
			"project_path", "project_id", "namespace_path", "namespace_id", "ref_type", "ref", "ref_path", "ref_protected", "environment",
			"environment_protected", "pipeline_source", "user_login", "user_id", "project_visibility", "runner_environment",
		},
		whose: []string{"namespace_path", "project_path"},
		ids:   []string{"namespace_id", "project_id"}, enough: true,
		find: map[string]string{
			"namespace_id": "the id of the group that the project is in, on the group's page",
			"project_id":   "the project's page shows it, and so does glab api projects/GROUP%2FPROJECT",
		},
	},
}

// forSubject finds whose subject it is.
func forSubject(name, sub string) (*provider, error) {
	for _, p := range providers {
		first, _, _ := strings.Cut(sub, ":")
		switch {
		case name != "":
			if p.name == name {
				return p, nil
			}
		case p.name == "github" && first == "repo", slices.Contains(p.keys, first):
			return p, nil
		}
	}
	if name != "" {
		return nil, fmt.Errorf("subjects of %s are not known; those of github and gitlab are", visible(name))
	}
	if strings.HasPrefix(sub, "*") || sub == "" {
		return nil, errors.New("it admits every job of every tenant of its provider")
	}
	return nil, errors.New("it begins like no subject that is known: repo: is GitHub's, project_path: is GitLab's")
}

// forHost finds the provider behind an issuer's host or URL.
func forHost(issuer string) string {
	host := strings.TrimPrefix(issuer, "https://")
	host, _, _ = strings.Cut(host, "/")
	for _, p := range providers {
		if host == p.host {
			return p.name
		}
	}
	return ""
}
