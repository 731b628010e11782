package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/issuers"
	"github.com/daypass-dev/daypass/policy"
)

// policySource is the policy that a command is about: folders, and what their
// rules may refer to.
type policySource struct {
	config  *Config      // nil without --config
	set     *issuers.Set // nil without --config
	known   policy.Known
	folders []*policy.Folder
}

// openPolicySource reads the folders named, or those of the configuration.
// Without a configuration issuers are called as their profiles, and any grant
// may be named.
func openPolicySource(config string, dirs []string) (*policySource, error) {
	s := &policySource{}
	if config == "" && len(dirs) == 0 {
		return nil, usageError{errors.New("name a policy folder, or --config, which names one")}
	}
	if err := s.readKnown(config); err != nil {
		return nil, err
	}
	if len(dirs) == 0 {
		dirs = []string{s.config.Policies}
	}
	for _, dir := range dirs {
		f, err := policy.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		s.folders = append(s.folders, f)
	}
	return s, nil
}

func (s *policySource) readKnown(config string) error {
	if config == "" {
		known, err := knownProfiles()
		s.known = known
		return err
	}
	var err error
	if s.config, err = loadConfig(config); err == nil {
		s.config, err = s.config.withGrants()
	}
	if err != nil {
		return configError(err)
	}
	if s.set, err = openIssuers(s.config, "", slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	s.known = knownUnder(s.config, s.set.Issuers())
	return nil
}

// knownUnder is what rules may refer to under a configuration.
func knownUnder(c *Config, set map[string]issuers.Info) policy.Known {
	known := policy.Known{Issuers: map[string]policy.Issuer{}, Grants: map[string]broker.Grant{}}
	for name, i := range set {
		known.Issuers[name] = policy.Issuer{Shared: i.Shared, ImmutableIDs: i.ImmutableIDs, OwnerIDs: i.OwnerIDs}
	}
	for name, g := range c.Grants.Named {
		known.Grants[name] = c.brokerGrant(name, g)
	}
	return known
}

// knownProfiles takes each profile for an issuer of its name, and any grant for
// one that there is.
func knownProfiles() (policy.Known, error) {
	known := policy.Known{Issuers: map[string]policy.Issuer{}, AnyGrant: true}
	profiles, err := issuers.Profiles()
	if err != nil {
		return known, err
	}
	for name, p := range profiles {
		known.Issuers[name] = policy.Issuer{Shared: p.Shared, ImmutableIDs: p.ImmutableIDs, OwnerIDs: p.OwnerIDs}
	}
	return known, nil
}

// book is the policy of the one folder.
func (s *policySource) book() (*policy.Book, error) {
	if len(s.folders) != 1 {
		return nil, usageError{fmt.Errorf("name one policy folder, not %d", len(s.folders))}
	}
	return s.folders[0].Book(s.known)
}
