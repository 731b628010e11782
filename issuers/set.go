package issuers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/daypass-dev/daypass/broker"
)

// Set verifies the tokens of the configured issuers. Safe for concurrent use.
type Set struct {
	audience       string
	publicAudience string // what a caller with another audience is told
	leeway         time.Duration
	now            func() time.Time
	byURL          map[string]*issuer
	all            []*issuer // by name
}

var _ broker.Verifier = (*Set)(nil)

// issuer is one configured issuer.
type issuer struct {
	name, url, web string
	profileName    string
	profile        Profile
	shared         bool
	life           time.Duration // the longest exp-iat accepted
	oidc           *oidc.Config  // not changed once made
	keys           *keySet
}

// New makes the set that o describes, and reports every fault of o at once, by
// field. It reads files and contacts nobody: see [Set.Run].
func New(o Options) (*Set, error) {
	profiles, err := Profiles()
	if err != nil {
		return nil, err
	}
	if err := o.faults(profiles); err != nil {
		return nil, err
	}
	s := &Set{
		audience:       o.Audience,
		publicAudience: fmt.Sprintf("the CI token is made for another audience; ask your CI provider for one whose only audience is %q", o.Audience),
		leeway:         cmp.Or(o.Leeway, defaultLeeway),
		now:            o.Now,
		byURL:          make(map[string]*issuer, len(o.Issuers)),
	}
	if s.now == nil {
		s.now = time.Now
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var faults []error
	for _, c := range o.Issuers {
		is, err := s.newIssuer(c, profiles[c.Profile], o.CacheDir, log.With("issuer", c.Name))
		if err != nil {
			faults = append(faults, err)
			continue
		}
		s.byURL[is.url] = is
		s.all = append(s.all, is)
	}
	slices.SortFunc(s.all, func(a, b *issuer) int { return strings.Compare(a.name, b.name) })
	return s, errors.Join(faults...)
}

// newIssuer wires one issuer to where its keys come from.
func (s *Set) newIssuer(c Config, p Profile, cacheDir string, log *slog.Logger) (*issuer, error) {
	c.URL = cmp.Or(c.URL, p.URL)
	is := &issuer{
		name: c.Name, url: c.URL, web: c.web(p), profileName: c.Profile, profile: p,
		shared: p.Shared && sameHost(c.URL, p.URL),
		life:   cmp.Or(c.MaxTokenLife, p.MaxTokenLife),
		oidc:   &oidc.Config{SupportedSigningAlgs: p.Algorithms, SkipClientIDCheck: true, SkipExpiryCheck: true, Now: s.now},
		keys:   &keySet{algs: p.Algorithms, every: refreshEvery, pause: refreshPause, now: s.now, log: log},
	}
	if c.JWKSFile != "" {
		is.keys.load, is.keys.every, is.keys.pause = loadFile(c.JWKSFile), fileEvery, filePause
		is.keys.refresh(context.Background(), nil)
		if err := is.keys.failure(); err != nil {
			return nil, fmt.Errorf("issuers.%s.jwks_file: %w", c.Name, err)
		}
		return is, nil
	}
	roots, err := loadRoots(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("issuers.%s.ca_file: %w", c.Name, err)
	}
	is.keys.load = newRemote(c, roots).load
	if cacheDir != "" {
		is.keys.cacheIn(newCacheFile(cacheDir, is.url))
	}
	return is, nil
}

// cacheIn begins with the keys of a file, if it has good ones, and keeps it up
// to date. What is wrong with the file costs a warning: it is only a help.
func (k *keySet) cacheIn(file cacheFile) {
	held, err := file.restore(k.algs, k.now())
	if err != nil {
		k.log.Warn("kept keys are not used", "err", err)
	} else {
		k.held = held
	}
	k.keep = func(raw []byte, at time.Time) {
		if err := file.store(raw, at); err != nil {
			k.log.Warn("keys are not kept for a restart", "err", err)
		}
	}
}

// Run fetches all keys at once and then refreshes them until ctx ends. An
// issuer that cannot be reached is tried again every 30 s and stops nothing.
func (s *Set) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, is := range s.all {
		wg.Go(func() { is.keys.run(ctx) })
	}
	wg.Wait()
	return nil
}

// Fetch fetches the keys of all issuers once, unless that was just done: see
// [Set.Status] for what came of it.
func (s *Set) Fetch(ctx context.Context) {
	var wg sync.WaitGroup
	for _, is := range s.all {
		wg.Go(func() { is.keys.refresh(ctx, nil) })
	}
	wg.Wait()
}

// Info is what policy and operators need to know of a configured issuer.
type Info struct {
	Name    string
	Profile string
	URL     string
	// Shared says that everybody can get a token of this issuer, so that a
	// rule has to pin an owner.
	Shared bool
	// ImmutableIDs are the claims whose values are never given to another;
	// any one of OwnerIDs, which are among them, pins the owner for good.
	ImmutableIDs, OwnerIDs []string
	// Influenced are claims that whoever can push a branch or open a pull
	// request chooses.
	Influenced []string
	// MaxTokenLife is the longest exp-iat accepted.
	MaxTokenLife time.Duration
}

// Issuers describes the configured issuers by name.
func (s *Set) Issuers() map[string]Info {
	infos := make(map[string]Info, len(s.all))
	for _, is := range s.all {
		infos[is.name] = Info{
			Name: is.name, Profile: is.profileName, URL: is.url, Shared: is.shared,
			ImmutableIDs: slices.Clone(is.profile.ImmutableIDs), OwnerIDs: slices.Clone(is.profile.OwnerIDs),
			Influenced: slices.Clone(is.profile.Influenced), MaxTokenLife: is.life,
		}
	}
	return infos
}

// LongestTokenLife is the longest time for which any token can be valid, the
// leeway included: replay protection has to vouch for so much.
func (s *Set) LongestTokenLife() time.Duration {
	longest := slices.MaxFunc(s.all, func(a, b *issuer) int { return cmp.Compare(a.life, b.life) })
	return longest.life + s.leeway
}

// Status is how an issuer's keys are.
type Status struct {
	Name    string
	URL     string
	Usable  bool      // tokens of this issuer can be verified
	Keys    int       // in use
	Skipped int       // published, and of no use to us
	Fetched time.Time // when the keys in use were read; zero if never
	Err     error     // why the last fetch failed; nil if it did not
}

// Status tells how the keys of each issuer are, by name.
func (s *Set) Status() []Status {
	all := make([]Status, 0, len(s.all))
	for _, is := range s.all {
		held := is.keys.current()
		all = append(all, Status{Name: is.name, URL: is.url, Usable: is.keys.fresh(held),
			Keys: len(held.byID), Skipped: held.skipped, Fetched: held.at, Err: is.keys.failure()})
	}
	return all
}

// Ready says why no token can be verified, or nil. One issuer that is down does
// not make a broker unready that serves others: see [Set.Status].
func (s *Set) Ready(context.Context) error {
	causes := make(map[string]error)
	for _, st := range s.Status() {
		if st.Usable {
			return nil
		}
		causes[st.Name] = cmp.Or(st.Err, errors.New("its keys have not been fetched yet"))
	}
	faults := []error{errors.New("no issuer has usable keys")}
	for _, name := range slices.Sorted(maps.Keys(causes)) {
		faults = append(faults, fmt.Errorf("issuers.%s: %w", name, causes[name]))
	}
	return errors.Join(faults...)
}
