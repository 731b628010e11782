package api

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/daypass-dev/daypass/broker"
)

// MetricsConfig says what the metrics know beforehand.
type MetricsConfig struct {
	Version string // of the binary
	// Outcomes are reasons of refusals beyond the codes and the broker's
	// own, as the parts behind it give them. A reason that nobody named is
	// counted as "other".
	Outcomes []string
}

// Metrics counts what operators watch, in a registry of its own. It is safe
// for concurrent use and does not block. Labels hold configured names and known
// words only, so that nothing a job sends makes a new series.
type Metrics struct {
	registry    *prometheus.Registry
	known       map[string]bool
	exchanges   *prometheus.CounterVec
	mints       *prometheus.HistogramVec
	revocations *prometheus.CounterVec
	live        prometheus.Gauge
	lag         prometheus.Gauge
	lost        *prometheus.GaugeVec
	found       *prometheus.CounterVec
	paused      prometheus.Gauge
	fsync       prometheus.Histogram
	requests    *prometheus.HistogramVec
	reloads     *prometheus.CounterVec
	reported    *reports
}

var _ broker.Meter = (*Metrics)(nil)

// NewMetrics makes the registry and all series.
func NewMetrics(c MetricsConfig) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		known:    knownOutcomes(c.Outcomes),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_exchanges_total",
			Help: "Exchanges and requests on job sessions, by outcome: issued, or why not."}, []string{"outcome", "issuer"}),
		mints: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "daypass_mint_seconds",
			Help:    "How long targets take to make a credential.",
			Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}}, []string{"kind", "outcome"}),
		revocations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_revocations_total",
			Help: "Attempts to take a credential back."}, []string{"kind", "outcome"}),
		live: prometheus.NewGauge(prometheus.GaugeOpts{Name: "daypass_live_leases",
			Help: "Leases on the books, over all brokers."}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{Name: "daypass_sweep_lag_seconds",
			Help: "How long the most overdue credential has been waiting to be taken back."}),
		lost: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_target_lost_seconds",
			Help: "How long a target has not answered; 0: it answers. Nothing is issued there meanwhile."}, []string{"target"}),
		found: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_target_findings_total",
			Help: "What looking at targets brought up: orphan (dropped), vanished (lease closed), target_changed (another server; nothing is done)."}, []string{"target", "finding"}),
		paused: prometheus.NewGauge(prometheus.GaugeOpts{Name: "daypass_revocation_paused",
			Help: "1 while nothing is taken back unless somebody asks for it."}),
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "daypass_journal_fsync_seconds",
			Help:    "How long the journal takes to become durable.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1}}),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "daypass_http_request_seconds",
			Help:    "HTTP requests by route and status.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 20, 60}}, []string{"route", "status"}),
		reloads:  newReloads(),
		reported: newReports(),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "daypass_build_info", Help: "Always 1; the label says what runs.",
		ConstLabels: prometheus.Labels{"version": cmp.Or(c.Version, "unknown")}})
	info.Set(1)
	m.registry.MustRegister(m.exchanges, m.mints, m.revocations, m.live, m.lag, m.lost, m.found, m.paused, m.fsync, m.requests, m.reloads, m.reported, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Exchanged implements [broker.Meter].
func (m *Metrics) Exchanged(issuer, outcome string) {
	m.exchanges.WithLabelValues(m.outcome(outcome), cmp.Or(issuer, "none")).Inc()
}

// Minted implements [broker.Meter].
func (m *Metrics) Minted(kind, outcome string, took time.Duration) {
	m.mints.WithLabelValues(cmp.Or(kind, "none"), m.outcome(outcome)).Observe(took.Seconds())
}

// Revoked implements [broker.Meter]. A credential without a lease has no kind.
func (m *Metrics) Revoked(kind, outcome string) {
	m.revocations.WithLabelValues(cmp.Or(kind, "none"), m.outcome(outcome)).Inc()
}

// Swept implements [broker.Meter].
func (m *Metrics) Swept(live int, lag time.Duration) {
	m.live.Set(float64(live))
	m.lag.Set(lag.Seconds())
}

// Reached implements [broker.Meter]. Targets are configured.
func (m *Metrics) Reached(target string, lost time.Duration) {
	m.lost.WithLabelValues(target).Set(lost.Seconds())
}

// Found implements [broker.Meter].
func (m *Metrics) Found(target, what string) { m.found.WithLabelValues(target, what).Inc() }

// Paused says that nothing is taken back unless somebody asks for it.
func (m *Metrics) Paused() { m.paused.Set(1) }

// Fsynced measures one fsync of the journal.
func (m *Metrics) Fsynced(took time.Duration) { m.fsync.Observe(took.Seconds()) }

// WatchJournal adds daypass_journal_healthy: 1 while healthy returns nil. Call
// it once, with a function that does not block.
func (m *Metrics) WatchJournal(healthy func() error) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "daypass_journal_healthy",
		Help: "1 while the journal can be written. Nothing is issued while it cannot."}, func() float64 {
		if healthy() != nil {
			return 0
		}
		return 1
	}))
}

// WatchForged adds daypass_forged_records_total of a store. Call it once for
// each store, with a function that does not block and whose numbers only grow.
func (m *Metrics) WatchForged(store string, count func() int64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "daypass_forged_records_total",
		Help:        "Records in Redis that were refused because no broker with our keys wrote them there.",
		ConstLabels: prometheus.Labels{"store": store}}, func() float64 { return float64(count()) }))
}

// IssuerKeys is how the keys of one configured issuer are.
type IssuerKeys struct {
	Issuer  string
	Usable  bool      // tokens can be verified
	Fetched time.Time // zero: never
}

// WatchIssuers adds daypass_issuer_keys_usable and
// daypass_issuer_keys_fetched_seconds, by issuer. Call it once, with a function
// that does not block.
func (m *Metrics) WatchIssuers(status func() []IssuerKeys) {
	m.registry.MustRegister(issuerKeys(status))
}

// issuerKeys is a [prometheus.Collector].
type issuerKeys func() []IssuerKeys

var (
	keysUsable = prometheus.NewDesc("daypass_issuer_keys_usable",
		"1 while tokens of the issuer can be verified.", []string{"issuer"}, nil)
	keysFetched = prometheus.NewDesc("daypass_issuer_keys_fetched_seconds",
		"When the issuer's keys in use were fetched, as seconds since 1970; 0: never.", []string{"issuer"}, nil)
)

// Describe implements [prometheus.Collector].
func (issuerKeys) Describe(out chan<- *prometheus.Desc) { out <- keysUsable; out <- keysFetched }

// Collect implements [prometheus.Collector].
func (k issuerKeys) Collect(out chan<- prometheus.Metric) {
	for _, s := range k() {
		usable, fetched := 0.0, 0.0
		if s.Usable {
			usable = 1
		}
		if !s.Fetched.IsZero() {
			fetched = float64(s.Fetched.Unix())
		}
		out <- prometheus.MustNewConstMetric(keysUsable, prometheus.GaugeValue, usable, s.Issuer)
		out <- prometheus.MustNewConstMetric(keysFetched, prometheus.GaugeValue, fetched, s.Issuer)
	}
}

// served measures one request. A nil Metrics measures nothing.
func (m *Metrics) served(route string, status int, took time.Duration) {
	if m != nil {
		m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
	}
}

// expose serves the registry in the text format of Prometheus.
func (m *Metrics) expose(c *call) (reply, error) {
	promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(c.writer, c.http)
	return reply{status: http.StatusOK}, nil
}

// outcome lets known words pass.
func (m *Metrics) outcome(s string) string {
	if m.known[s] {
		return s
	}
	return "other"
}

// knownOutcomes are the codes, the own reasons of the broker and its parts, and
// more. A test reads the parts' sources for words that are missing here.
func knownOutcomes(more []string) map[string]bool {
	known := map[string]bool{}
	for code := range verdicts() {
		known[string(code)] = true
	}
	for _, list := range [][]string{{
		"issued", "redelivered", "ok", "failed",
		"answer_store", "being_answered", "denied_stranger", "idempotency_key_used", "issued_in_future", "journal",
		"journal_intent", "journal_issued", "lease_store", "no_policy", "no_randomness", "not_longer", "other_job",
		"plan", "record_refused", "replay_store", "session_reused", "session_start", "session_unknown", "target_lost", "too_many_live",
	}, {
		"alg_refused", "ambiguous", "aud_not_single", "audience_mismatch", "claim_missing", "claims", "encoding",
		"exp_before_iat", "exp_missing", "exp_type", "expired", "header", "header_member", "iat_in_future", "iat_missing",
		"iat_type", "iss_type", "issuer_unknown", "jti_missing", "jti_too_long", "jti_type", "key_unknown",
		"keys_unavailable", "kid_missing", "lives_too_long", "malformed", "nbf_in_future", "nbf_type", "not_compact",
		"signature", "sub_missing", "sub_type", "too_large", "typ", "unsigned",
	}, more} {
		for _, s := range list {
			known[s] = true
		}
	}
	return known
}
