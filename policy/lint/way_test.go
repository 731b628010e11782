package lint

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/daypass-dev/daypass/policy"
)

// TestARuleIsComparedWithABoundedNumberOfOthers keeps a policy of rules that are
// all alike from taking time with the square of their number, and shows that
// what is not looked at excuses nothing.
func TestARuleIsComparedWithABoundedNumberOfOthers(t *testing.T) {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range 3 * maxCompared {
		fmt.Fprintf(&b, "  - {name: d%d, match: {event_name: {not: [push]}}, deny: [x%d]}\n", i, i)
	}
	b.WriteString("  - {name: last, match: {event_name: {not: [push]}}, deny: [g]}\n")
	for i := range 3 * maxCompared {
		fmt.Fprintf(&b, "  - {name: r%d, issuer: github, match: {repository_owner_id: \"1\", ref: refs/heads/main, runner_environment: [github-hosted, x%d]}, allow: [{grant: g}]}\n", i, i)
	}
	l := &linter{}
	files := policy.Parse(fstest.MapFS{"p.yaml": {Data: []byte(b.String()), Mode: 0o644}})
	found, err := l.check(files, Config{Issuers: map[string]Issuer{"github": {Profile: "github", Shared: true, OwnerIDs: []string{"repository_owner_id"}}}})
	if err != nil {
		t.Fatal(err)
	}
	rules, alike := l.comparable()
	for _, v := range rules {
		for _, x := range []*wayIndex{alike, l.denies} {
			if n := len(x.about(v.ways[0])); n > maxCompared {
				t.Fatalf("%s is compared with %d others", v.id, n)
			}
		}
	}
	excused := true
	for _, f := range found {
		excused = excused && f.ID != "DP013"
	}
	if excused {
		t.Error("a rule that denies, and was not looked at, excused another")
	}
}
