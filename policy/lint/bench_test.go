package lint_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/lint"
)

// large is a folder of rules, five for each repository, in files of a team's
// size.
func large(repos int) fstest.MapFS {
	fsys := fstest.MapFS{}
	for team := 0; team*100 < repos; team++ {
		var b strings.Builder
		b.WriteString("owner: team\nreview_by: 2027-03-01\nrepos:\n")
		for i := team * 100; i < min(repos, team*100+100); i++ {
			fmt.Fprintf(&b, "  repo-%d: {issuer: github, name: acme/repo-%d, match: {repository_owner_id: \"1\", repository_id: \"%d\"}}\n", i, i, i+1000)
		}
		b.WriteString("rules:\n")
		for i := team * 100; i < min(repos, team*100+100); i++ {
			for j, env := range []string{"dev", "test", "stage", "prod", "audit"} {
				fmt.Fprintf(&b, "  - name: r%d-%d\n    for: [repo-%d]\n    match: {ref: refs/heads/main, environment: %s, event_name: [push, workflow_dispatch]}\n", i, j, i, env)
				b.WriteString("    when: 'claims.runner_environment == \"github-hosted\"'\n")
				fmt.Fprintf(&b, "    allow: [{grant: db-%s, ttl: 10m}]\n", env)
			}
		}
		fsys[fmt.Sprintf("team%d.yaml", team)] = &fstest.MapFile{Data: []byte(b.String()), Mode: 0o644}
	}
	return fsys
}

// BenchmarkLint looks at a hundred thousand rules over twenty thousand
// repositories, which are read once.
func BenchmarkLint(b *testing.B) {
	files := policy.Parse(large(20_000))
	config := byProfile(b)
	for b.Loop() {
		found, err := lint.Check(files, config)
		if err != nil || len(found) > 0 {
			b.Fatal(err, listed(found[:min(len(found), 5)]))
		}
	}
	b.ReportMetric(100_000, "rules")
}
