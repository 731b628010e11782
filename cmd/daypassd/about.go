package main

import "github.com/daypass-dev/daypass/broker"

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
