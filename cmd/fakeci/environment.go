package main

import (
	"path"
	"strings"

	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// environment is what a runner of the provider would set for a job.
func environment(fake *fakeissuer.Fake, job fakeissuer.Job) (map[string]string, error) {
	claims, err := fake.Claims(job)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{"CI": "true"}
	if job.Provider == fakeissuer.GitLab {
		return vars, gitlabEnv(fake, job, claims, vars)
	}
	return vars, githubEnv(fake, job, claims, vars)
}

func githubEnv(fake *fakeissuer.Fake, job fakeissuer.Job, claims map[string]any, vars map[string]string) error {
	request, err := fake.RequestToken(job)
	if err != nil {
		return err
	}
	vars["GITHUB_ACTIONS"] = "true"
	vars["ACTIONS_ID_TOKEN_REQUEST_URL"] = fake.RequestURL()
	vars["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = request
	vars["GITHUB_SERVER_URL"] = "https://github.com"
	fromClaims(vars, claims, map[string]string{
		"GITHUB_ACTOR": "actor", "GITHUB_ACTOR_ID": "actor_id", "GITHUB_BASE_REF": "base_ref", "GITHUB_EVENT_NAME": "event_name",
		"GITHUB_HEAD_REF": "head_ref", "GITHUB_REF": "ref", "GITHUB_REF_PROTECTED": "ref_protected", "GITHUB_REF_TYPE": "ref_type",
		"GITHUB_REPOSITORY": "repository", "GITHUB_REPOSITORY_ID": "repository_id", "GITHUB_REPOSITORY_OWNER": "repository_owner",
		"GITHUB_REPOSITORY_OWNER_ID": "repository_owner_id", "GITHUB_RUN_ATTEMPT": "run_attempt", "GITHUB_RUN_ID": "run_id",
		"GITHUB_RUN_NUMBER": "run_number", "GITHUB_SHA": "sha", "GITHUB_WORKFLOW": "workflow", "GITHUB_WORKFLOW_REF": "workflow_ref",
		"GITHUB_WORKFLOW_SHA": "workflow_sha", "RUNNER_ENVIRONMENT": "runner_environment",
	})
	name := strings.TrimPrefix(strings.TrimPrefix(vars["GITHUB_REF"], "refs/heads/"), "refs/tags/")
	vars["GITHUB_REF_NAME"] = strings.TrimPrefix(name, "refs/pull/")
	return nil
}

func gitlabEnv(fake *fakeissuer.Fake, job fakeissuer.Job, claims map[string]any, vars map[string]string) error {
	token, err := fake.Token(job)
	if err != nil {
		return err
	}
	vars["GITLAB_CI"] = "true"
	vars["DAYPASS_ID_TOKEN"] = token
	vars["CI_SERVER_URL"] = fake.URL(fakeissuer.GitLab)
	fromClaims(vars, claims, map[string]string{
		"CI_COMMIT_REF_NAME": "ref", "CI_COMMIT_REF_PROTECTED": "ref_protected", "CI_COMMIT_SHA": "sha",
		"CI_ENVIRONMENT_NAME": "environment", "CI_JOB_ID": "job_id", "CI_PIPELINE_ID": "pipeline_id", "CI_PIPELINE_SOURCE": "pipeline_source",
		"CI_PROJECT_ID": "job_project_id", "CI_PROJECT_NAMESPACE": "job_namespace_path", "CI_PROJECT_NAMESPACE_ID": "job_namespace_id",
		"CI_PROJECT_PATH": "job_project_path", "CI_PROJECT_VISIBILITY": "project_visibility",
		"GITLAB_USER_EMAIL": "user_email", "GITLAB_USER_ID": "user_id", "GITLAB_USER_LOGIN": "user_login",
	})
	vars["CI_PROJECT_NAME"] = path.Base(vars["CI_PROJECT_PATH"])
	vars["CI_JOB_URL"] = vars["CI_SERVER_URL"] + "/" + vars["CI_PROJECT_PATH"] + "/-/jobs/" + vars["CI_JOB_ID"]
	if vars["CI_ENVIRONMENT_NAME"] == "" {
		delete(vars, "CI_ENVIRONMENT_NAME")
	}
	return nil
}

// fromClaims copies claims that are text; others have no variable.
func fromClaims(vars map[string]string, claims map[string]any, names map[string]string) {
	for name, claim := range names {
		vars[name], _ = claims[claim].(string)
	}
}
