package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func TestMetricsSayWhichPolicyDecidesAndWhetherItShould(t *testing.T) {
	m := NewMetrics(MetricsConfig{})
	var state PolicyState
	m.WatchPolicy(func() PolicyState { return state })
	lines := func(want ...string) {
		t.Helper()
		got := scrape(t, m)
		for _, line := range want {
			if absent, ok := strings.CutPrefix(line, "!"); ok == strings.Contains(got, "\n"+strings.TrimPrefix(line, "!")) {
				t.Errorf("%s: want it absent: %v", absent, ok)
			}
		}
	}
	lines("!daypass_policy_info", "!daypass_policy_loaded_seconds", "daypass_policy_reload_failed 0", "daypass_policy_review_overdue 0",
		"daypass_config_restart_needed 0",
		`daypass_policy_reloads_total{outcome="loaded"} 0`, `daypass_policy_reloads_total{outcome="refused"} 0`)
	state = PolicyState{Version: "sha256:1", Loaded: time.Unix(1700000000, 0), Failed: true, Restart: true, Overdue: 3}
	m.Reloaded(ReloadRefused)
	m.Reloaded(ReloadFailed)
	m.Reloaded(ReloadRefused)
	lines(`daypass_policy_info{version="sha256:1"} 1`, "daypass_policy_loaded_seconds 1.7e+09", "daypass_policy_reload_failed 1",
		"daypass_policy_review_overdue 3", "daypass_config_restart_needed 1",
		`daypass_policy_reloads_total{outcome="refused"} 2`, `daypass_policy_reloads_total{outcome="failed"} 1`,
		`daypass_policy_reloads_total{outcome="unchanged"} 0`)
	state.Version = "sha256:2"
	lines(`daypass_policy_info{version="sha256:2"} 1`, "!"+`daypass_policy_info{version="sha256:1"}`)
}

// TestRulesThatOnlyReportFillNoMetrics: their ids change with each reload.
func TestRulesThatOnlyReportFillNoMetrics(t *testing.T) {
	m := NewMetrics(MetricsConfig{})
	for range 2 {
		for i := range 1500 {
			m.Reported(fmt.Sprintf("trial/r%d", i), broker.EffectDeny)
		}
	}
	got := scrape(t, m)
	if n := strings.Count(got, "daypass_policy_reported_total{"); n != 1001 {
		t.Errorf("%d series", n)
	}
	for _, line := range []string{`{effect="deny",rule="trial/r999"} 2`, `{effect="deny",rule="other"} 1000`} {
		if !strings.Contains(got, "daypass_policy_reported_total"+line) {
			t.Errorf("no %s", line)
		}
	}
}
