package recorded

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// Report is what other policy would have made of recorded requests. Each grant of
// a request is one decision.
type Report struct {
	Version   string    `json:"candidate"` // of the policy that decides
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
	Decisions int       `json:"decisions"`
	Same      int       `json:"same"`
	NotSaid   int       `json:"not_said"`         // of so many too little was journalled
	Refused   int       `json:"refused_besides"`  // requests that failed by limits or otherwise: what they asked for is not journalled
	Changes   Changes   `json:"changes"`          // a decision can change in rule and ttl at once
	Flips     []Flip    `json:"flips"`            // by time
	Unsaid    []Unsaid  `json:"unsaid,omitempty"` // the most frequent first

	Repositories []RepositoryCount `json:"repositories,omitempty"` // of all decisions; those with most flips first
	Rules        []RuleCount       `json:"rules,omitempty"`        // that flips name; those with most first
	Reports      []ReportRule      `json:"report_rules,omitempty"` // by rule
}

// Change is how a decision differs.
type Change string

// The changes.
const (
	AllowToDeny Change = "allow_to_deny"
	DenyToAllow Change = "deny_to_allow"
	RuleChanged Change = "rule_changed" // another rule gives it
	TTLChanged  Change = "ttl_changed"  // for longer or shorter
)

// Changes counts them.
type Changes struct {
	AllowToDeny int `json:"allow_to_deny"`
	DenyToAllow int `json:"deny_to_allow"`
	RuleChanged int `json:"rule_changed"`
	TTLChanged  int `json:"ttl_changed"`
}

func (c *Changes) add(one Change) {
	switch one {
	case AllowToDeny:
		c.AllowToDeny++
	case DenyToAllow:
		c.DenyToAllow++
	case RuleChanged:
		c.RuleChanged++
	case TTLChanged:
		c.TTLChanged++
	}
}

func (c Changes) sum() int { return c.AllowToDeny + c.DenyToAllow + c.RuleChanged + c.TTLChanged }

// Flip is one decision that changes.
type Flip struct {
	Request      string    `json:"request_id"`
	At           time.Time `json:"at"`
	Version      string    `json:"version"` // it was decided under
	Issuer       string    `json:"issuer"`
	Repository   string    `json:"repository,omitempty"` // as the token called it
	RepositoryID string    `json:"repository_id,omitempty"`
	OwnerID      string    `json:"owner_id,omitempty"`
	Grant        string    `json:"grant"`
	Changes      []Change  `json:"changes"`
	Was          Outcome   `json:"was"`
	Now          Outcome   `json:"now"`
}

// Outcome is what was, or would be, decided.
type Outcome struct {
	Allowed  bool       `json:"allowed"`
	Rule     string     `json:"rule,omitempty"`
	TTL      string     `json:"ttl,omitempty"`
	DeniedBy []string   `json:"denied_by,omitempty"` // rules
	Why      policy.Why `json:"why,omitempty"`
}

// Unsaid are decisions of which too little was journalled.
type Unsaid struct {
	Issuer       string   `json:"issuer"`
	Repository   string   `json:"repository,omitempty"`
	RepositoryID string   `json:"repository_id,omitempty"`
	Grant        string   `json:"grant,omitempty"` // empty: not journalled either
	Missing      []string `json:"missing"`         // claims that would have to be known
	Count        int      `json:"count"`
	WasAllowed   int      `json:"was_allowed"`
	Example      string   `json:"example"` // the request of one
}

// RepositoryCount is what becomes of one repository.
type RepositoryCount struct {
	Issuer       string  `json:"issuer"`
	Repository   string  `json:"repository,omitempty"` // its latest name
	RepositoryID string  `json:"repository_id,omitempty"`
	OwnerID      string  `json:"owner_id,omitempty"`
	Decisions    int     `json:"decisions"`
	NotSaid      int     `json:"not_said"`
	Changes      Changes `json:"changes"`

	at time.Time
}

// RuleCount is how many flips name a rule: as the one that gave or denied it, or
// that would.
type RuleCount struct {
	Rule    string  `json:"rule"`
	Changes Changes `json:"changes"`
}

// ReportRule is what a rule that only reports said, as it was journalled.
type ReportRule struct {
	Rule         string        `json:"rule"`
	Effect       broker.Effect `json:"effect"`
	Count        int           `json:"count"`
	Otherwise    int           `json:"otherwise"` // decisions that it alone would have turned
	Grants       []string      `json:"grants"`
	Repositories int           `json:"repositories"`
	First        time.Time     `json:"first"`
	Last         time.Time     `json:"last"`

	repositories map[repoKey]bool
}

// Report sums up what has been added so far.
func (p *Replay) Report() Report {
	r := p.report
	r.Flips = slices.Clone(r.Flips)
	slices.SortStableFunc(r.Flips, func(a, b Flip) int {
		return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Request, b.Request), strings.Compare(a.Grant, b.Grant))
	})
	for _, u := range p.unsaid {
		r.Unsaid = append(r.Unsaid, *u)
	}
	slices.SortFunc(r.Unsaid, func(a, b Unsaid) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(unsaidKey(a), unsaidKey(b)))
	})
	for _, c := range p.repositories {
		r.Repositories = append(r.Repositories, *c)
	}
	slices.SortFunc(r.Repositories, func(a, b RepositoryCount) int {
		return cmp.Or(cmp.Compare(b.Changes.sum(), a.Changes.sum()), cmp.Compare(b.NotSaid, a.NotSaid), strings.Compare(a.Issuer, b.Issuer),
			strings.Compare(a.RepositoryID, b.RepositoryID), strings.Compare(a.Repository, b.Repository))
	})
	for _, c := range p.rules {
		r.Rules = append(r.Rules, *c)
	}
	slices.SortFunc(r.Rules, func(a, b RuleCount) int {
		return cmp.Or(cmp.Compare(b.Changes.sum(), a.Changes.sum()), strings.Compare(a.Rule, b.Rule))
	})
	for _, s := range p.reports {
		one := *s
		one.Grants = slices.Sorted(slices.Values(one.Grants))
		r.Reports = append(r.Reports, one)
	}
	slices.SortFunc(r.Reports, func(a, b ReportRule) int {
		return cmp.Or(strings.Compare(a.Rule, b.Rule), strings.Compare(string(a.Effect), string(b.Effect)))
	})
	return r
}

func unsaidKey(u Unsaid) string {
	return key(u.Issuer, u.RepositoryID, u.Repository, u.Grant, u.Missing)
}

// key tells lists of texts apart.
func key(parts ...any) string { return fmt.Sprintf("%q", parts) }
