package api

import (
	"strings"
	"testing"
	"time"
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
