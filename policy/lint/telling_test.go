package lint

import (
	"slices"
	"testing"
)

func TestTheClaimsThatTellAJobAreThoseThatRulesAreHeldTo(t *testing.T) {
	for name, c := range map[string]struct {
		profile, url string
		want         []string
	}{
		"github": {"github", "", []string{"enterprise_id", "ref", "environment", "event_name", "job_workflow_ref", "runner_environment"}},
		"gitlab": {"gitlab", "", []string{"job_project_id", "job_namespace_id", "ref", "ref_type", "ref_path", "environment", "pipeline_source",
			"ci_config_ref_uri", "runner_environment"}},
		"by url":    {"", "https://agent.buildkite.com", []string{"queue_id", "build_branch", "runner_environment"}},
		"not known": {"", "https://ci.example.com", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Telling(c.profile, c.url)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}
