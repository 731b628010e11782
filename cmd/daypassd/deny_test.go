package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRulesThatDenyWinAndThoseThatReportAreWrittenDown runs a broker under
// both: what a rule denies is not given, and the job learns nothing of the
// rule; what one would have done is in the journal and in the metrics.
func TestRulesThatDenyWinAndThoseThatReportAreWrittenDown(t *testing.T) {
	r := newRig(t)
	r.write("policies/guard.yaml", `owner: team-security
rules:
  - {name: no-night-shift, match: {actor: night-shift}, deny: ["*"]}
  - {name: only-hosted, mode: report, match: {runner_environment: {not: github-hosted}}, deny: [orders-db]}
`)
	b := r.broker("one", "embedded")
	b.fresh()

	status, a := b.exchange(r.token(b, map[string]any{"actor": "night-shift"}))
	if status != http.StatusForbidden || a.code() != "denied" || a.body["denials"] != nil {
		t.Errorf("whom a rule denies: %d %v", status, a.body)
	}
	status, a = b.exchange(r.token(b, map[string]any{"actor": "day-shift", "runner_environment": "self-hosted"}))
	if status != http.StatusOK {
		t.Errorf("whom a rule would deny: %d %v", status, a.body)
	}

	_, body := b.call(http.MethodGet, "/metrics", strings.TrimSpace(readAll(t, b.data+"/admin.token")), nil)
	const counted = `daypass_policy_reported_total{effect="deny",rule="guard/only-hosted"}`
	if text, _ := body["text"].(string); !strings.Contains(text, counted) || strings.Contains(text, "no-night-shift") {
		t.Errorf("no %s, or too much, in\n%s", counted, text)
	}
	r.eventually(10*time.Second, func() error {
		return r.journalled(b, `"denied_by":[{"grant":"orders-db","rule":"guard/no-night-shift","effect":"deny"}]`)
	})
	r.eventually(10*time.Second, func() error {
		return r.journalled(b, `"reported":[{"grant":"orders-db","rule":"guard/only-hosted","effect":"deny"}]`)
	})
	if out := b.out.String(); strings.Contains(out, "panic") {
		t.Error(out)
	}
}

// journalled looks for a text in a broker's journal.
func (r *rig) journalled(b *broker1, want string) error {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.data, "journal", "*.jsonl"))
	if err != nil {
		return err
	}
	for _, name := range files {
		if strings.Contains(readAll(r.t, name), want) {
			return nil
		}
	}
	return fmt.Errorf("not in the journal: %s", want)
}
