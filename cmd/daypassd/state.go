package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/api"
	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/broker/lease"
	"github.com/daypass-dev/daypass/broker/replay"
)

// state is where used tokens, leases and job sessions are kept.
type state struct {
	replay   broker.Replay
	answers  broker.Answers
	leases   broker.Leases
	book     broker.LeaseBook
	sessions broker.Sessions
	alarms   broker.Alarms
	run      func(context.Context) // what it does in the background until ctx ends
	ready    []api.Check
	close    func() error
}

func openState(ctx context.Context, d *daemon, p process) (*state, error) {
	if d.config.State.Embedded {
		return openEmbedded(d)
	}
	return openRedis(ctx, d, p)
}

// openEmbedded rebuilds memory from the journal. Where the journal does not
// reach back over the longest life of a token, tokens from before it are
// refused: nobody knows whether they were used.
func openEmbedded(d *daemon) (*state, error) {
	dir := filepath.Join(d.config.DataDir, "journal")
	leases, err := lease.NewMemory(lease.MemoryConfig{Now: time.Now})
	if err != nil {
		return nil, err
	}
	if err := leases.Restore(records(dir)); err != nil {
		return nil, fmt.Errorf("rebuild leases from the journal: %w", err)
	}
	var fence time.Time
	if !d.journal.Spans(time.Now().Add(-d.issuers.LongestTokenLife())) {
		fence = d.journal.History().Began
		d.log.Info("the journal is younger than the longest life of a token; tokens from before it are refused", "since", fence)
	}
	var unread error
	once, err := replay.NewMemory(replay.MemoryConfig{Now: time.Now, Used: usedTokens(dir, &unread), FencedSince: fence})
	if err := errors.Join(unread, err); err != nil {
		return nil, fmt.Errorf("rebuild used tokens from the journal: %w", err)
	}
	return &state{
		replay: once, answers: once, leases: leases, book: leases, sessions: leases, alarms: leases,
		run:   func(context.Context) {},
		ready: []api.Check{{Name: "replay", Func: once.Ready}},
		close: func() error { return nil },
	}, nil
}

// records are a journal's records without their place in it.
func records(dir string) iter.Seq2[broker.Record, error] {
	return func(yield func(broker.Record, error) bool) {
		for e, err := range audit.Read(dir) {
			if !yield(e.Record, err) {
				return
			}
		}
	}
}

// usedTokens are the tokens, and Idempotency-Keys of job sessions, that a journal
// says were claimed. *failed is set where it cannot be read to its end.
func usedTokens(dir string, failed *error) iter.Seq[broker.Claim] {
	return func(yield func(broker.Claim) bool) {
		for r, err := range records(dir) {
			if err != nil {
				*failed = err
				return
			}
			for _, c := range r.Claimed() {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// openRedis looks at Redis once: one that is set up so that it can never serve is
// a fault of the configuration. One that is down, or unfit in a way that may
// heal, makes the broker not ready, and it recovers by itself.
func openRedis(ctx context.Context, d *daemon, p process) (*state, error) {
	r := d.config.State.Redis
	secrets, err := r.secrets(p)
	if err != nil {
		return nil, err
	}
	// A key for each, so that neither's records are ever taken for the other's.
	onceKey, onceErr := d.ring.DeriveKey("redis used tokens")
	leaseKey, leaseErr := d.ring.DeriveKey("redis records")
	if err := errors.Join(onceErr, leaseErr); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	once, err := openReplay(d.config, secrets, onceKey, d.log)
	if err != nil {
		return nil, err
	}
	if err := once.Startable(ctx); err != nil {
		return nil, fmt.Errorf("state: %w", errors.Join(err, once.Close()))
	}
	leases, err := lease.NewRedis(lease.RedisConfig{
		URL: r.URL, Password: secrets.server, Mode: r.Mode,
		Sentinel:   lease.SentinelConfig{Master: r.Master, Sentinels: r.Sentinels, Password: secrets.sentinels},
		Deployment: d.config.Deployment, Key: leaseKey, Now: time.Now, Log: d.log,
	})
	if err != nil {
		return nil, fmt.Errorf("state: %w", errors.Join(err, once.Close()))
	}
	d.metrics.WatchForged("replay", once.Forged)
	d.metrics.WatchForged("leases", leases.Forged)
	return &state{
		replay: once, answers: once, leases: leases, book: leases, sessions: leases, alarms: leases,
		run:   once.Run,
		ready: []api.Check{{Name: "replay", Func: once.Ready}, {Name: "leases", Func: leases.Ready}},
		close: func() error { return errors.Join(once.Close(), leases.Disconnect()) },
	}, nil
}

// redisSecrets are the passwords of a Redis and of its Sentinels; nil where none
// is configured.
type redisSecrets struct{ server, sentinels broker.SecretSource }

func (r RedisConfig) secrets(p process) (redisSecrets, error) {
	server, serverErr := optionalSecret("password", r.Password, p)
	sentinels, sentinelsErr := optionalSecret("sentinel_password", r.SentinelPassword, p)
	return redisSecrets{server, sentinels}, errors.Join(serverErr, sentinelsErr)
}

// openReplay makes what remembers used tokens in Redis. It contacts nothing.
func openReplay(c *Config, secrets redisSecrets, key [32]byte, log *slog.Logger) (*replay.Redis, error) {
	r := c.State.Redis
	once, err := replay.NewRedis(replay.RedisConfig{
		URL: r.URL, Password: secrets.server, Mode: r.Mode,
		Sentinel:   replay.SentinelConfig{Master: r.Master, Sentinels: r.Sentinels, Password: secrets.sentinels},
		Deployment: c.Deployment, Key: key, Replicas: r.Replicas, UnsafeNoPersistence: r.UnsafeNoPersistence,
		Now: time.Now, Rand: rand.Reader, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return once, nil
}

// optionalSecret is nil where none is configured.
func optionalSecret(name, ref string, p process) (broker.SecretSource, error) {
	if ref == "" {
		return nil, nil
	}
	source, err := openSecret(ref, p)
	if err != nil {
		return nil, fmt.Errorf("state.%s: %w", name, err)
	}
	return source, nil
}
