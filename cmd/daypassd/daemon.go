package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/api"
	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/broker/secretref"
	"github.com/daypass-dev/daypass/broker/signing"
	"github.com/daypass-dev/daypass/issuers"
	"github.com/daypass-dev/daypass/policy"
)

const adminTokenFile = "admin.token"

// daemon is everything that serve runs, wired.
type daemon struct {
	config   *Config
	log      *slog.Logger
	metrics  *api.Metrics
	journal  *audit.Journal
	ring     *signing.Ring
	issuers  *issuers.Set
	policy   *policy.Current
	reloader *reloader
	hangup   <-chan os.Signal
	state    *state
	targets  map[string]broker.Minter
	broker   *broker.Broker
	public   http.Handler

	publicServer, adminServer *api.Server
}

// assemble wires a daemon. It opens the journal and the key ring, loads the
// policy, and looks at Redis once; it contacts nothing else. On error nothing
// stays open.
func assemble(ctx context.Context, c *Config, p process, log *slog.Logger) (*daemon, error) {
	d := &daemon{config: c, log: log, metrics: api.NewMetrics(api.MetricsConfig{Version: version})}
	for _, step := range []func(context.Context, process) error{
		d.openIssuers, d.openJournal, d.openKeys, d.openState, d.openTargets, d.openPolicy, d.openBroker, d.openHandlers,
	} {
		if err := step(ctx, p); err != nil {
			return nil, errors.Join(err, d.close(ctx))
		}
	}
	return d, nil
}

func (d *daemon) openIssuers(context.Context, process) error {
	cache := filepath.Join(d.config.DataDir, "issuers")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return fmt.Errorf("data_dir %s: %w", d.config.DataDir, cannotWrite(existing(d.config.DataDir), err))
	}
	var err error
	d.issuers, err = openIssuers(d.config, cache, d.log)
	if err == nil {
		d.metrics.WatchIssuers(d.issuerKeys)
	}
	return err
}

func (d *daemon) openJournal(context.Context, process) error {
	var err error
	d.journal, err = audit.Open(audit.Config{
		Dir: filepath.Join(d.config.DataDir, "journal"), Deployment: d.config.Deployment, Broker: d.config.Broker,
		Now: time.Now, Log: d.log, OnSync: d.metrics.Fsynced,
	})
	if err != nil {
		return fmt.Errorf("data_dir %s: %w", d.config.DataDir, err)
	}
	d.metrics.WatchJournal(d.journal.Healthy)
	return nil
}

func (d *daemon) openKeys(context.Context, process) error {
	var err error
	d.ring, err = signing.Open(signing.Config{Dir: d.config.Keys, Now: time.Now, Rand: rand.Reader, Log: d.log, LongestToken: maxTTL})
	if err != nil {
		return fmt.Errorf("keys %s: %w", d.config.Keys, err)
	}
	return nil
}

func (d *daemon) openState(ctx context.Context, p process) error {
	var err error
	d.state, err = openState(ctx, d, p)
	return err
}

// openTargets makes a minter for each target, and for each kind that needs
// none.
func (d *daemon) openTargets(_ context.Context, p process) error {
	var err error
	d.targets, err = openTargets(d.config, p, d.ring)
	return err
}

func openTargets(c *Config, p process, signer broker.Signer) (map[string]broker.Minter, error) {
	var faults []error
	targets := map[string]broker.Minter{}
	open := func(name string, k broker.Kind, admin broker.SecretSource) {
		m, err := k.Open(broker.TargetConfig{
			Name: name, Deployment: c.Deployment, URL: c.URL, Admin: admin, Params: c.Targets[name].Params, Signer: signer, Now: time.Now,
		})
		if err != nil {
			faults = append(faults, fmt.Errorf("target %s: %w", name, err))
			return
		}
		targets[name] = m
	}
	kinds := kinds()
	for name, k := range kinds {
		if !k.Targeted {
			open(name, k, nil)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Targets)) {
		admin, err := openSecret(c.Targets[name].Admin, p)
		if err != nil {
			faults = append(faults, fmt.Errorf("target %s: admin: %w", name, err))
			continue
		}
		open(name, kinds[c.Targets[name].Kind], admin)
	}
	return targets, errors.Join(faults...)
}

// openSecret makes the source of a reference; it reads nothing yet.
func openSecret(ref string, p process) (broker.SecretSource, error) {
	parsed, err := secretref.Parse(ref)
	if err != nil {
		return nil, err
	}
	return secretref.Open(parsed, secretref.Config{LookupEnv: p.env})
}

// openPolicy puts a policy in force, be it the last good one.
func (d *daemon) openPolicy(ctx context.Context, _ process) error {
	d.policy = &policy.Current{}
	g, err := newGates(time.Now)
	if err != nil {
		return err
	}
	g.issuers, g.targets = d.issuers.Issuers(), d.targets
	d.reloader = &reloader{
		gates:  g,
		config: d.config, fixed: !isRegular(d.config.Node.File()), current: d.policy,
		keep:    archive{dataDir: d.config.DataDir, journal: d.journal, now: time.Now},
		metrics: d.metrics, log: d.log, each: lookEach, settle: settleFor, watcher: newWatch,
	}
	d.metrics.WatchPolicy(d.reloader.measured)
	return d.reloader.start(ctx)
}

func (d *daemon) openBroker(context.Context, process) error {
	var err error
	d.broker, err = broker.New(d.brokerConfig())
	return err
}

// brokerConfig is what the broker is made of.
func (d *daemon) brokerConfig() broker.Config {
	return broker.Config{
		Verifier: d.issuers, Policy: d.policy, Replay: d.state.replay, Journal: d.journal,
		Leases: d.state.leases, Book: d.state.book, Sessions: d.state.sessions, Alarms: d.state.alarms,
		Answers: d.state.answers, Encode: api.EncodeAnswer, Takeback: takebacks(),
		Targets: d.targets, About: aboutTargets(d.config), Revoking: d.config.revoking, Meter: d.metrics, Log: d.log, Now: time.Now, Rand: rand.Reader,
		Limits: broker.Limits{ExchangesPerMinute: d.config.Limits.ExchangesPerMinute, LivePerPlace: d.config.Limits.LiveLeases},
	}
}

func (d *daemon) openHandlers(context.Context, process) error {
	token, err := api.AdminToken(filepath.Join(d.config.DataDir, adminTokenFile), rand.Reader)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(d.config.Admin.Listen)
	if err != nil {
		return err
	}
	d.public = api.NewPublic(api.Config{
		Exchanger: d.broker, Holder: d.broker, Keys: d.ring, URL: d.config.URL, Ready: d.ready(),
		Metrics: d.metrics, Log: d.log, Rand: rand.Reader, Now: time.Now, BehindProxy: d.config.BehindProxy,
	})
	admin := api.NewAdmin(api.AdminConfig{
		Operator: d.broker, Metrics: d.metrics, Token: token, Log: d.log, Rand: rand.Reader, Now: time.Now,
		Hosts: []string{d.config.Admin.Listen, net.JoinHostPort("localhost", port)},
	})
	var tls *api.TLSFiles
	if t := d.config.TLS; t != nil {
		tls = &api.TLSFiles{Cert: t.Cert, Key: t.Key}
	}
	d.publicServer, err = api.NewServer(api.ServerConfig{Handler: d.public, TLS: tls, Log: d.log, Now: time.Now})
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	d.adminServer, err = api.NewServer(api.ServerConfig{Handler: admin, Log: d.log, Now: time.Now})
	return err
}

// ready are the parts without which the broker is of no use, and each issuer:
// one of several that is down is told, and no reason to send jobs elsewhere.
func (d *daemon) ready() []api.Check {
	checks := append([]api.Check{
		{Name: "journal", Func: func(context.Context) error { return d.journal.Healthy() }},
		{Name: "issuers", Func: d.issuers.Ready},
		{Name: "keys", Func: func(context.Context) error { return d.ring.Healthy() }, Degrades: true},
		{Name: "policy", Func: d.reloader.ready, Degrades: true},
		{Name: "revocation", Func: func(context.Context) error { return d.pausedFault() }, Degrades: true},
	}, d.state.ready...)
	for _, name := range slices.Sorted(maps.Keys(d.issuers.Issuers())) {
		checks = append(checks, api.Check{Name: "issuer " + name, Degrades: true, Func: func(context.Context) error { return d.issuerFault(name) }})
	}
	return checks
}

// issuerFault says why the last fetch of an issuer's keys failed, also while
// the last good ones still serve.
func (d *daemon) issuerFault(name string) error {
	for _, s := range d.issuers.Status() {
		if s.Name == name && s.Err != nil {
			return &broker.Error{Code: broker.Unavailable, Err: s.Err, Public: "its keys could not be fetched; the last good ones serve for at most 24 hours"}
		}
	}
	return nil
}

func (d *daemon) issuerKeys() []api.IssuerKeys {
	var keys []api.IssuerKeys
	for _, s := range d.issuers.Status() {
		keys = append(keys, api.IssuerKeys{Issuer: s.Name, Usable: s.Usable, Fetched: s.Fetched})
	}
	return keys
}

// close gives back what was opened, last first.
func (d *daemon) close(ctx context.Context) error {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer done()
	var faults []error
	for _, m := range d.targets {
		if c, ok := m.(io.Closer); ok { // it keeps connections
			faults = append(faults, c.Close())
		}
	}
	if d.state != nil {
		faults = append(faults, d.state.close())
	}
	if d.journal != nil {
		faults = append(faults, d.journal.Close(ctx))
	}
	return errors.Join(faults...)
}
