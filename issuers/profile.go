package issuers

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Profile is what a CI provider's tokens are like: a provider is this data, and
// no code. Each lives in profiles/<provider>/profile.yaml.
type Profile struct {
	// Title is the provider's own name, for people.
	Title string `yaml:"title"`
	// URL is the issuer URL where the operator configures none.
	URL string `yaml:"url"`
	// WebURL is where people look at jobs whose issuer is URL; for other
	// issuer URLs it is that URL without URLSuffix.
	WebURL    string `yaml:"web_url"`
	URLSuffix string `yaml:"url_suffix"`
	// Shared says that everybody in the world can get a token of URL, so
	// that a rule which pins no owner admits everybody.
	Shared bool `yaml:"shared"`
	// Algorithms are the JWS algorithms (RFC 7518) its tokens may use;
	// asymmetric ones only.
	Algorithms []string `yaml:"algorithms"`
	// MaxTokenLife is the longest exp-iat accepted.
	MaxTokenLife time.Duration `yaml:"max_token_life"`
	// ReplayKey is what tells one token from another.
	ReplayKey ReplayKey `yaml:"replay_key"`
	// Required claims must be there as non-empty text. They tell a job's ID
	// token from other tokens of the same key; sub always is one of them.
	Required []string `yaml:"required"`
	// ImmutableIDs are claims whose value is never given to another: neither
	// by renaming nor by deleting and making anew.
	ImmutableIDs []string `yaml:"immutable_ids"`
	// OwnerIDs are those of the ImmutableIDs of which one pins whose the
	// token is, by itself and for good.
	OwnerIDs []string `yaml:"owner_ids"`
	// Influenced are the claims that somebody can choose who may only push a
	// branch or open a pull request.
	Influenced []string `yaml:"influenced"`
	// Journal are the claims that the journal keeps. A name that ends in *
	// lists all claims that begin so. Personal data that no rule should
	// need, such as an address, is left out.
	Journal []string `yaml:"journal"`
	// Fixture names the one of testdata/*.claims.json that stands for the
	// provider in tests of policy.
	Fixture string `yaml:"fixture"`
	// Job maps claims to the neutral fields of [broker.Job].
	Job JobFields `yaml:"job"`
}

// ReplayKey is what tells one token from another, for replay protection.
type ReplayKey string

// The replay keys.
const (
	ReplayJTI        ReplayKey = "jti"         // the jti claim, which must be there
	ReplaySignedPart ReplayKey = "signed_part" // header.payload, for providers that give no jti
)

//go:embed profiles/*/profile.yaml
var profileFiles embed.FS

// Profiles returns the providers we know, by folder name.
func Profiles() (map[string]Profile, error) {
	files, err := fs.Glob(profileFiles, "profiles/*/profile.yaml")
	if err != nil {
		return nil, fmt.Errorf("issuers: list profiles: %w", err)
	}
	profiles := make(map[string]Profile, len(files))
	for _, file := range files {
		raw, err := profileFiles.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("issuers: read profile: %w", err)
		}
		p, err := parseProfile(raw)
		if err != nil {
			return nil, fmt.Errorf("issuers: %s: %w", file, err)
		}
		profiles[path.Base(path.Dir(file))] = p
	}
	return profiles, nil
}

// parseProfile reads one profile and reports all its faults at once.
func parseProfile(raw []byte) (Profile, error) {
	var p Profile
	if err := yaml.UnmarshalWithOptions(raw, &p, yaml.Strict()); err != nil {
		return Profile{}, err
	}
	return p, p.faults()
}

func (p Profile) faults() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if p.Title == "" {
		fault("title: is missing")
	}
	if u, err := url.Parse(p.URL); err != nil || u.Scheme != "https" || u.Host == "" {
		fault("url: must be an https URL")
	}
	if len(p.Algorithms) == 0 {
		fault("algorithms: is missing")
	}
	for _, alg := range p.Algorithms {
		if !asymmetric(alg) {
			fault("algorithms: %q is not an asymmetric signature algorithm that we verify", alg)
		}
	}
	if p.MaxTokenLife <= 0 || p.MaxTokenLife > maxLife {
		fault("max_token_life: must be above 0 and at most %s", maxLife)
	}
	if p.ReplayKey != ReplayJTI && p.ReplayKey != ReplaySignedPart {
		fault("replay_key: must be %s or %s", ReplayJTI, ReplaySignedPart)
	}
	if len(p.ImmutableIDs) == 0 || len(p.OwnerIDs) == 0 {
		fault("immutable_ids, owner_ids: at least one claim each")
	}
	for _, id := range p.ImmutableIDs {
		if !slices.Contains(p.Required, id) {
			fault("immutable_ids: %s must be among the required claims", id)
		}
	}
	for _, id := range p.OwnerIDs {
		if !slices.Contains(p.ImmutableIDs, id) {
			fault("owner_ids: %s must be among the immutable ids", id)
		}
	}
	for _, name := range p.Journal {
		if name == "*" || strings.Contains(strings.TrimSuffix(name, "*"), "*") {
			fault("journal: %q: a * stands at the end of a name", name)
		}
	}
	return errors.Join(append(faults, p.Job.faults()...)...)
}

// checkClaims holds a token to what makes it the ID token of a job.
func (p Profile) checkClaims(t *token) error {
	if t.subject == "" {
		return refuseSaying("sub_missing", publicNotJob)
	}
	if p.ReplayKey == ReplayJTI && t.id == "" {
		return refuseSaying("jti_missing", publicNotJob)
	}
	if len(t.id) > maxWord {
		return refuse("jti_too_long")
	}
	for _, name := range p.Required {
		if text, _ := t.claims[name].(string); text == "" {
			return refuseSaying("claim_missing", publicNotJob)
		}
	}
	return nil
}
