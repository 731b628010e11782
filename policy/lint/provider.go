package lint

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// provider is what lint knows of a CI provider; see providers.yaml.
type provider struct {
	name string

	Title            string        `yaml:"title,required"`
	URLs             []string      `yaml:"urls,required"` // the first is the default; * is any text
	Shared           bool          `yaml:"shared"`        // the first URL signs for everybody
	IDs              []string      `yaml:"ids,required"`
	OwnerIDs         []string      `yaml:"owner_ids,required"`
	Life             time.Duration `yaml:"life,required"` // the longest token life that is needed
	JTI              bool          `yaml:"jti"`
	SeveralAudiences bool          `yaml:"several_audiences"` // one token may name many
	FixedAudience    string        `yaml:"fixed_audience"`    // jobs cannot choose one
	CompositeSub     bool          `yaml:"composite_sub"`     // sub is claims joined to a text
	Owners           []ownerPart   `yaml:"owners"`
	Names            []nameClaim   `yaml:"names"`
	Refs             []refClaim    `yaml:"refs"`
	Protected        string        `yaml:"protected"` // the claim that is "true" for a protected branch or tag
	Events           events        `yaml:"events"`
	Environment      environment   `yaml:"environment"`
	Workflows        []workflow    `yaml:"workflows"`
	Runner           string        `yaml:"runner"`
	Hosted           string        `yaml:"hosted"`    // what that claim is on the provider's own
	Requester        []string      `yaml:"requester"` // beginnings of claims that whoever asks for the token fills in
	Weak             []weakClaim   `yaml:"weak"`
	Numbers          []string      `yaml:"numbers"` // claims that are no text
	Booleans         []string      `yaml:"booleans"`
	Lists            []string      `yaml:"lists"`
	Claims           []string      `yaml:"claims"` // all there are, beside the registered ones; a * ends a name; empty: not known
}

type ownerPart struct {
	Claim  string `yaml:"claim,required"`
	Prefix string `yaml:"prefix"`
	End    string `yaml:"end"`
	Parts  int    `yaml:"parts"`
}

type nameClaim struct {
	Claim   string `yaml:"claim,required"`
	ID      string `yaml:"id,required"`
	OwnerID string `yaml:"owner_id"` // pins the owner part of the name
}

type refClaim struct {
	Claim string `yaml:"claim,required"`
	Full  bool   `yaml:"full"`
	Type  string `yaml:"type"`
}

type events struct {
	Claim    string   `yaml:"claim"`
	Pull     []string `yaml:"pull"`
	Borrowed []string `yaml:"borrowed"`
	PullRef  string   `yaml:"pull_ref"` // such as the ref of a pull request is, where it surely is no branch
}

type environment struct {
	Claim     string `yaml:"claim"`
	Protected string `yaml:"protected"`
}

type workflow struct {
	Claim string `yaml:"claim,required"`
	Own   bool   `yaml:"own"`
}

type weakClaim struct {
	Claim string `yaml:"claim,required"`
	Why   string `yaml:"why,required"`
}

//go:embed providers.yaml
var providersFile []byte

// readProviders returns what lint knows, by profile name. Read once, never
// changed.
var readProviders = sync.OnceValues(parseProviders)

func parseProviders() (map[string]*provider, error) {
	all := map[string]*provider{}
	if err := strictyaml.Decode("providers.yaml", providersFile, &all); err != nil {
		return nil, fmt.Errorf("policy/lint: %w", err)
	}
	for name, p := range all {
		p.name = name
	}
	return all, nil
}

// Profiles returns the issuers that lint knows by the names of their profiles:
// what policy needs in order to be looked at without a configuration.
func Profiles() (map[string]policy.Issuer, error) {
	known, err := readProviders()
	if err != nil {
		return nil, err
	}
	all := make(map[string]policy.Issuer, len(known))
	for name, p := range known {
		all[name] = policy.Issuer{Shared: p.Shared, ImmutableIDs: slices.Clone(p.IDs), OwnerIDs: slices.Clone(p.OwnerIDs)}
	}
	return all, nil
}

// providerOf finds a provider by the name of a profile, or else by the URL of
// an issuer.
func providerOf(known map[string]*provider, profile, issuer string) *provider {
	if p, ok := known[profile]; ok {
		return p
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		for _, u := range known[name].URLs {
			if issuer != "" && matchURL(u, issuer) {
				return known[name]
			}
		}
	}
	return &provider{name: profile, Title: profile}
}

// matchURL compares with a * that is any text.
func matchURL(pattern, text string) bool {
	return globOf(strings.ReplaceAll(pattern, "*", "**")).matches(text)
}

// decisive reports claims that a critical finding may be about: what is said of
// them must be understood.
func (p *provider) decisive(claim string) bool {
	switch {
	case slices.Contains([]string{"iss", "aud", p.Events.Claim, theIssuer}, claim), slices.Contains(p.IDs, claim), p.structured(claim):
		return true
	case p.name == "semaphore":
		return claim == "branch" || claim == "job_type"
	case p.name == "hcp-terraform":
		return strings.HasPrefix(claim, "terraform_")
	case p.name == "spacelift", p.name == "jenkins":
		return true
	}
	return false
}

// single reports claims that are surely no list. It says no where it is not
// known.
func (p *provider) single(claim string) bool {
	return claim == theGrant || claim == theIssuer || claim == "sub" || claim == "iss" ||
		slices.Contains(p.Claims, claim) && !slices.Contains(p.Lists, claim)
}

// knows reports whether a token of the provider can have a claim.
func (p *provider) knows(claim string) bool {
	if step, ok := strings.CutPrefix(claim, "/"); ok {
		first, _, _ := strings.Cut(step, "/")
		claim = strings.NewReplacer("~1", "/", "~0", "~").Replace(first)
	}
	return len(p.Claims) == 0 || slices.ContainsFunc(slices.Concat(p.Claims, registered), func(known string) bool {
		start, open := strings.CutSuffix(known, "*")
		return claim == known || open && strings.HasPrefix(claim, start)
	})
}

// registered claims of RFC 7519. Never changed.
var registered = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}
