package main

import (
	"context"
	"fmt"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// aboutTargets is what the broker knows of each target, by its name.
func aboutTargets(c *Config) map[string]broker.TargetInfo {
	about := map[string]broker.TargetInfo{}
	kinds := kinds()
	for name, k := range kinds {
		if !k.Targeted {
			about[name] = broker.TargetInfo{Kind: name, Revokers: k.Revokers}
		}
	}
	for name, t := range c.Targets {
		about[name] = broker.TargetInfo{Kind: t.Kind, Retired: t.Retired, Revokers: kinds[t.Kind].Revokers}
	}
	return about
}

// tellPaused leaves word of a start with --pause-revocation, and what it means.
func (d *daemon) tellPaused(ctx context.Context) error {
	if d.config.revoking != broker.RevokingAsked {
		return nil
	}
	d.metrics.Paused()
	d.log.Warn("revocation is paused: nothing is taken back unless a job or an operator asks for it; daypassd lease list shows what would go")
	err := d.journal.Append(ctx, broker.Record{Event: broker.EventOperator, At: time.Now(), Reason: "pause_revocation", Detail: "started with --pause-revocation"})
	if err != nil {
		return fmt.Errorf("journal that revocation is paused: %w", err)
	}
	return nil
}

// pausedFault is why the broker is not all that it should be.
func (d *daemon) pausedFault() error {
	if d.config.revoking != broker.RevokingAsked {
		return nil
	}
	return &broker.Error{Code: broker.Unavailable, Reason: "revocation_paused",
		Public: "revocation is paused: what expires is not taken back until the broker is started without --pause-revocation"}
}
