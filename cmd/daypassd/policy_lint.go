package main

import (
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/issuers"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/lint"
)

func policyLintCommand(p process) *cobra.Command {
	var o lintOptions
	cmd := &cobra.Command{
		Use:   "lint [DIR…]",
		Short: "Find what policies admit beyond what their authors meant",
		Long: `Find what policies admit beyond what their authors meant: the published attacks on
trust in CI tokens, each with its line and what to write instead. It fails on any
finding that is critical or high and not waived; a broker does not load a policy
with a critical one.

With --config, issuers and grants are those of the configuration, and its policies
are looked at if no folder is named. Without, a rule's issuer is read as the name of
a profile, and grants are not checked. docs/policy-lint.md lists the rules.`,
		Example: `  daypassd policy lint policies/
  daypassd policy lint --config daypass.yaml
  daypassd policy lint --config daypass.yaml --journal data/journal policies/
  daypassd policy lint --output github policies/
  daypassd policy lint --output sarif policies/ > policy.sarif`,
		RunE: func(_ *cobra.Command, dirs []string) error {
			write, ok := lintOutputs[o.output]
			if !ok {
				return usageError{fmt.Errorf("--output is %q; it must be text, json, sarif or github", o.output)}
			}
			found, err := o.lint(dirs, time.Now())
			if err != nil {
				return err
			}
			if err := write(found, p.stdout); err != nil {
				return err
			}
			if n := len(found.Failing()); n > 0 {
				return fmt.Errorf("%d of the findings must be corrected, or waived where that is allowed", n)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.config, "config", "", "the server's configuration file; its issuers and grants are those that policies name")
	cmd.Flags().StringVar(&o.journal, "journal", "", "a journal's folder; names are compared with those of earlier tokens")
	cmd.Flags().StringVar(&o.output, "output", "text", "text, json, sarif or github")
	return cmd
}

// lintOutputs are the ways to write findings. Never changed.
var lintOutputs = map[string]func(lint.Findings, io.Writer) error{
	"text":   lint.Findings.WriteText,
	"json":   lint.Findings.WriteJSON,
	"github": lint.Findings.WriteGitHub,
	"sarif":  func(f lint.Findings, w io.Writer) error { return f.WriteSARIF(w, version) },
}

// lintOptions are the flags of policy lint.
type lintOptions struct{ config, journal, output string }

// lint looks at each folder by itself.
func (o *lintOptions) lint(dirs []string, now time.Time) (lint.Findings, error) {
	source, err := openPolicySource(o.config, dirs)
	if err != nil {
		return nil, err
	}
	config, err := source.lintConfig(now)
	if err != nil {
		return nil, err
	}
	if o.journal != "" {
		if config.Earlier, err = earlierTokens(o.journal); err != nil {
			return nil, err
		}
	}
	var all lint.Findings
	for _, folder := range source.folders {
		found, err := lintFolder(folder, source.known, config)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// lintFolder looks at one folder, whether or not it can be loaded; what keeps it
// from being loaded is a finding too.
func lintFolder(folder *policy.Folder, known policy.Known, config lint.Config) (lint.Findings, error) {
	found, err := lint.Check(folder.Parsed(), config)
	if err != nil {
		return nil, err
	}
	found = found.Renamed(folder.Name)
	_, err = folder.Book(known)
	return found.With(lint.Faults(err, found)), nil
}

// lintConfig is what lint looks at beside the policies. Without a configuration
// issuers are called as profiles, those included that lint alone knows.
func (s *policySource) lintConfig(now time.Time) (lint.Config, error) {
	if s.config != nil {
		profiles, err := issuers.Profiles()
		if err != nil {
			return lint.Config{}, err
		}
		return s.config.lintConfig(s.set.Issuers(), profiles, now), nil
	}
	more, err := lint.Profiles()
	if err != nil {
		return lint.Config{}, err
	}
	maps.Copy(more, s.known.Issuers)
	s.known.Issuers = more
	config := lint.Config{Issuers: map[string]lint.Issuer{}, Now: now}
	for name, i := range more {
		config.Issuers[name] = lint.Issuer{Profile: name, Shared: i.Shared, ImmutableIDs: i.ImmutableIDs, OwnerIDs: i.OwnerIDs}
	}
	return config, nil
}

// lintConfig is what lint looks at beside the policies of a configuration.
func (c *Config) lintConfig(set map[string]issuers.Info, profiles map[string]issuers.Profile, now time.Time) lint.Config {
	l := lint.Config{Issuers: map[string]lint.Issuer{}, Grants: map[string]lint.Grant{}, Now: now}
	for name, i := range set {
		mine := c.Issuers[name]
		l.Issuers[name] = lint.Issuer{
			Profile: i.Profile, URL: i.URL,
			Audiences: []string{c.Audience}, OneAudience: true, // which the verifier makes sure of
			MaxTokenLife: i.MaxTokenLife, ReplayKey: string(profiles[i.Profile].ReplayKey), Version: mine.Version,
			Insecure: mine.Insecure, Shared: i.Shared, ImmutableIDs: i.ImmutableIDs, OwnerIDs: i.OwnerIDs,
			Waive: mine.Waive, Node: mine.Node,
		}
	}
	for name, g := range c.Grants.Named {
		l.Grants[name] = lint.Grant{Access: c.brokerGrant(name, g).Access, Labels: g.Labels, Node: g.Node}
	}
	return l
}

// earlierTokens reads from a journal which names went with which ids: of each
// pair the latest.
func earlierTokens(dir string) ([]lint.Earlier, error) {
	type pair struct{ issuer, id, name string }
	latest := map[pair]lint.Earlier{}
	for entry, err := range audit.Read(dir) {
		if err != nil {
			return nil, err
		}
		r := entry.Record
		if r.Job == nil || len(r.Claims) == 0 {
			continue
		}
		key := pair{r.Issuer, r.Job.RepositoryID, strings.ToLower(r.Job.Repository)}
		if old, ok := latest[key]; !ok || r.At.After(old.At) {
			latest[key] = lint.Earlier{Issuer: r.Issuer, Claims: r.Claims, At: r.At}
		}
	}
	all := make([]lint.Earlier, 0, len(latest))
	for _, e := range latest {
		all = append(all, e)
	}
	return all, nil
}
