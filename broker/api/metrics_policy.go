package api

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass-dev/daypass/broker"
)

// Reload is how one try to replace the policy in force ended.
type Reload string

// How reloads end.
const (
	ReloadLoaded    Reload = "loaded"    // another version is in force
	ReloadUnchanged Reload = "unchanged" // it is what is in force
	ReloadRefused   Reload = "refused"   // what was read has faults
	ReloadFailed    Reload = "failed"    // it could not be read steadily, kept or journalled
)

func newReloads() *prometheus.CounterVec {
	reloads := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_policy_reloads_total",
		Help: "Tries to replace grants and policies, by outcome."}, []string{"outcome"})
	for _, outcome := range []Reload{ReloadLoaded, ReloadUnchanged, ReloadRefused, ReloadFailed} {
		reloads.WithLabelValues(string(outcome))
	}
	return reloads
}

// Reloaded counts one reload.
func (m *Metrics) Reloaded(outcome Reload) { m.reloads.WithLabelValues(string(outcome)).Inc() }

// maxReports is how many rules are counted by their ids: rules come and go with
// reloads, and a series stays.
const maxReports = 1000

// reports count what rules that only report would have done.
type reports struct {
	*prometheus.CounterVec
	mu    sync.Mutex
	named map[string]bool
}

func newReports() *reports {
	return &reports{named: map[string]bool{}, CounterVec: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "daypass_policy_reported_total",
		Help: "What rules with mode: report would have done about grants asked for, by rule and effect: allow or deny. Rules after the first 1000 are counted as other.",
	}, []string{"rule", "effect"})}
}

// name is the rule's id, or other where too many have one. No rule is called so:
// ids have a slash.
func (r *reports) name(rule string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.named[rule] {
		if len(r.named) == maxReports {
			return "other"
		}
		r.named[rule] = true
	}
	return rule
}

// Reported implements [broker.Meter]. Rules' ids come from policy files.
func (m *Metrics) Reported(rule string, effect broker.Effect) {
	m.reported.WithLabelValues(m.reported.name(rule), string(effect)).Inc()
}

// PolicyState is which policy is in force, and what is wrong with the one that
// should be.
type PolicyState struct {
	Version string    // in force; empty: none
	Loaded  time.Time // when it took effect in this broker
	Failed  bool      // what is on disk is not what is in force, for it was refused
	Restart bool      // the configuration differs from the one that runs in what a reload does not take up
	Overdue int       // policy files in force that are past their review_by
}

// WatchPolicy adds daypass_policy_info and what else is in [PolicyState]. Call it
// once, with a function that does not block.
func (m *Metrics) WatchPolicy(state func() PolicyState) { m.registry.MustRegister(policyState(state)) }

// policyState is a [prometheus.Collector].
type policyState func() PolicyState

var (
	policyInfo = prometheus.NewDesc("daypass_policy_info",
		"Always 1; the label says which version decides.", []string{"version"}, nil)
	policyLoaded = prometheus.NewDesc("daypass_policy_loaded_seconds",
		"When the policy in force took effect, as seconds since 1970.", nil, nil)
	policyFailed = prometheus.NewDesc("daypass_policy_reload_failed",
		"1 while grants or policies on disk are refused, and an earlier version decides.", nil, nil)
	policyOverdue = prometheus.NewDesc("daypass_policy_review_overdue",
		"Policy files in force that are past their review_by.", nil, nil)
	configRestart = prometheus.NewDesc("daypass_config_restart_needed",
		"1 while the configuration file holds changes that only a restart takes up.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (policyState) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{policyInfo, policyLoaded, policyFailed, policyOverdue, configRestart} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (state policyState) Collect(out chan<- prometheus.Metric) {
	s := state()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if s.Version != "" {
		gauge(policyInfo, 1, s.Version)
		gauge(policyLoaded, float64(s.Loaded.Unix()))
	}
	gauge(policyFailed, oneIf(s.Failed))
	gauge(policyOverdue, float64(s.Overdue))
	gauge(configRestart, oneIf(s.Restart))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
