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
	Rules       []Rule          `yaml:"rules"`

	Ceilings strictyaml.Unsupported `yaml:"ceilings"`
	Deny     strictyaml.Unsupported `yaml:"deny"`
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

// Rule is one line of trust: which identities may have which grants.
type Rule struct {
	Node    *strictyaml.Node `yaml:",node"`
	Name    string           `yaml:"name,required"`
	For     []string         `yaml:"for"`    // repositories by the names given under repos; one must match
	Issuer  string           `yaml:"issuer"` // or an issuer, with the pinned ids under match
	Mode    string           `yaml:"mode"`   // enforce, the default
	Until   strictyaml.Date  `yaml:"until"`  // the last day on which it allows anything
	Match   Match            `yaml:"match"`
	When    string           `yaml:"when"` // a CEL expression that must hold as well
	Allow   []Allow          `yaml:"allow,required"`
	Explain string           `yaml:"explain"` // full: denials say what was wanted
	Replay  string           `yaml:"replay"`  // once, the default

	Deny strictyaml.Unsupported `yaml:"deny"`
}

// Allow is one grant that a rule gives.
type Allow struct {
	Node  *strictyaml.Node `yaml:",node"`
	Grant string           `yaml:"grant,required"`
	TTL   time.Duration    `yaml:"ttl"` // the longest life; default: the grant's
}
