package policy

import (
	"path"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// File is one policy file as it was written. Nodes keep the places, for what
// is found later.
type File struct {
	Path string           // within the folder, with slashes
	Node *strictyaml.Node `yaml:",node"`

	Description string          `yaml:"description"` // for people
	Owner       string          `yaml:"owner"`       // the team that answers for the rules
	ReviewBy    strictyaml.Date `yaml:"review_by"`   // when they are to be looked at again
	Repos       Repos           `yaml:"repos"`
	Ceilings    []Ceiling       `yaml:"ceilings"`
	Rules       []Rule          `yaml:"rules"`
}

// id returns the file's part of its rules' ids: its path without the ending.
func (f *File) id() string { return strings.TrimSuffix(f.Path, path.Ext(f.Path)) }

// Repos are names for immutable ids, in the order of the file.
type Repos []Repo

// Repo is a name for the immutable ids of one repository, so that rules can be
// reviewed. It can be used in the rules of all files.
type Repo struct {
	Node   *strictyaml.Node `yaml:",node"`
	ID     string           // what rules call it
	Issuer string           `yaml:"issuer,required"`
	Name   string           `yaml:"name,required"` // what the provider calls it: for people, never compared
	Match  Match            `yaml:"match,required"`
}

// DecodeYAML implements [strictyaml.Decoder].
func (r *Repos) DecodeYAML(n *strictyaml.Node) error {
	if n.Kind != strictyaml.Map {
		return n.Fault("must be a mapping of names to repositories, not %s", n.Kind)
	}
	var faults strictyaml.Faults
	for _, k := range n.Keys {
		repo := Repo{ID: k.Name}
		if !nameRE.MatchString(k.Name) {
			faults = append(faults, n.KeyFault(k, "is not a name: %s", nameForm))
		}
		faults.Add(k.Value, k.Value.Decode(&repo))
		if repo.Node != nil { // it is a mapping
			*r = append(*r, repo)
		}
	}
	return faults.Err()
}

// Ceiling bounds what the files of a folder, and of folders within it, may
// give. Once there is one, files in folders that none lists give nothing.
type Ceiling struct {
	Node   *strictyaml.Node `yaml:",node"`
	Folder string           `yaml:"folder,required"` // teams/payments
	Repos  []string         `yaml:"repos"`           // names or globs of repositories under repos
	Grants []string         `yaml:"grants"`          // names or globs of grants
	MaxTTL time.Duration    `yaml:"max_ttl"`         // the longest life; 0: the grant's
}

// Rule is one line of trust: which identities may have which grants, or may
// not, whatever other rules say.
type Rule struct {
	Node        *strictyaml.Node `yaml:",node"`
	Name        string           `yaml:"name,required"`
	Description string           `yaml:"description"` // for people
	For         []string         `yaml:"for"`         // repositories by the names given under repos; one must match
	Issuer      string           `yaml:"issuer"`      // or an issuer, with the pinned ids under match
	Mode        string           `yaml:"mode"`        // enforce, the default, or report
	Until       strictyaml.Date  `yaml:"until"`       // the last day on which it counts
	MaxLive     int              `yaml:"max_live"`    // live leases that it gave, over all jobs and grants; 0: no cap
	Match       Match            `yaml:"match"`
	When        string           `yaml:"when"`    // a CEL expression that must hold as well
	Allow       []Allow          `yaml:"allow"`   // the grants it gives
	Deny        []string         `yaml:"deny"`    // or the grants it denies, by name or glob
	Explain     string           `yaml:"explain"` // full: denials say what was wanted
	Replay      string           `yaml:"replay"`  // once, the default
	Waive       []Waiver         `yaml:"waive"`   // findings of lint that are meant
}

// Denies reports whether it is a rule that takes away.
func (r *Rule) Denies() bool { return len(r.Deny) > 0 || r.Node.Get("deny") != nil }

// Reports reports whether what the rule decides is only written down.
func (r *Rule) Reports() bool { return r.Mode == modeReport }

// Allow is one grant that a rule gives.
type Allow struct {
	Node  *strictyaml.Node `yaml:",node"`
	Grant string           `yaml:"grant,required"`
	TTL   time.Duration    `yaml:"ttl"` // the longest life; default: the grant's
}

// Waiver says that a finding of lint about its rule is meant, by whom reads it
// and until when. It changes no decision.
type Waiver struct {
	Node   *strictyaml.Node `yaml:",node"`
	ID     string           `yaml:"id,required"`
	Reason string           `yaml:"reason,required"`
	Until  strictyaml.Date  `yaml:"until,required"`
}

// Values of a rule's mode, explain and replay.
const (
	modeEnforce = "enforce"
	modeReport  = "report"
	explainFull = "full"
	replayOnce  = "once"
	replayJob   = "job"
)
