package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/issuers"
)

// openIssuers makes the verifier of a configuration. cacheDir is where last
// good key sets survive a restart, or empty.
func openIssuers(c *Config, cacheDir string, log *slog.Logger) (*issuers.Set, error) {
	var configs []issuers.Config
	for _, name := range slices.Sorted(maps.Keys(c.Issuers)) {
		i := c.Issuers[name]
		configs = append(configs, issuers.Config{
			Name: name, Profile: i.Profile, URL: i.URL, JWKSFile: i.JWKSFile, JWKSHosts: i.JWKSHosts, WebURL: i.WebURL, CAFile: i.CAFile,
			MaxTokenLife: i.MaxTokenLife, AllowPrivate: i.AllowPrivate, Insecure: i.Insecure,
		})
	}
	return issuers.New(issuers.Options{Issuers: configs, Audience: c.Audience, URL: c.URL, CacheDir: cacheDir, Now: time.Now, Log: log})
}

// brokerTarget is where a grant's credentials are made: its target, or its
// kind where that needs none.
func (g Grant) brokerTarget() string { return cmp.Or(g.Target, g.Kind) }

// brokerGrant is a grant of the configuration as the broker knows it.
func (c *Config) brokerGrant(name string, g Grant) broker.Grant {
	kind := g.Kind
	if t, ok := c.Targets[g.Target]; ok {
		kind = t.Kind
	}
	return broker.Grant{
		Name: name, Kind: kind, Target: g.brokerTarget(), MaxTTL: g.MaxTTL, MaxLive: g.MaxLive,
		Access: cmp.Or(broker.Access(g.Access), broker.Write), Labels: g.Labels, Params: g.Params, OnReuse: broker.OnReuse(g.OnReuse),
	}
}

// unknownTargets names the leases whose target is not configured any more:
// nobody can take those credentials back.
func unknownTargets(ctx context.Context, book broker.LeaseBook, targets map[string]broker.Minter) (map[string]int, error) {
	leases, err := book.List(ctx, broker.LeaseFilter{})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	lost := map[string]int{}
	for _, l := range leases {
		if _, ok := targets[l.Grant.Target]; !ok {
			lost[l.Grant.Target]++
		}
	}
	return lost, nil
}
