package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Book is one version of the policy, ready to decide. It is immutable and safe
// for concurrent use.
type Book struct {
	version string
	sources map[string][]byte
	grants  map[string]broker.Grant
	madeFor Known // what the version was made under
	files   []*File
	repos   map[string]*Repo
	rules   []*rule // by id
	index   index
}

// place is one of the identities a rule is for: an issuer and the pinned ids
// there.
type place struct {
	repo   string // its name under repos, if the rule uses it
	issuer string // anyIssuer, in rules that deny
	pins   []Condition
}

// anyIssuer stands for every issuer. It is nothing that one could be called, so
// that an issuer that was left out somewhere is not all of them.
const anyIssuer = "\x00"

// shownIssuer is the issuer for people: nothing where all are meant.
func (p *place) shownIssuer() string {
	if p.issuer == anyIssuer {
		return ""
	}
	return p.issuer
}

// rule is a [Rule], compiled.
type rule struct {
	id      string
	file    *File
	ast     *Rule
	places  []place     // one must match
	among   index       // finds places, where there are many; nil otherwise
	others  []Condition // all must hold
	when    cel.Program // nil, or must hold
	allow   []allowance // what it gives
	deny    []string    // or the grants it denies, sorted
	denies  bool
	reports bool // what it decides is written down and does not bind
}

// allowance is one grant a rule gives.
type allowance struct {
	grant string
	ttl   time.Duration // whole seconds, at most the grant's and those of ceilings
}

func newBook(c *checker) *Book {
	slices.SortFunc(c.rules, func(a, b *rule) int { return strings.Compare(a.id, b.id) })
	return &Book{
		version: versionOf(c.sources, c.known), sources: c.sources, grants: c.grants,
		files: c.files, repos: c.repos, rules: c.rules, index: indexRules(c.rules),
		madeFor: Known{Issuers: maps.Clone(c.known.Issuers), Grants: maps.Clone(c.known.Grants)},
	}
}

// versionOf hashes all that decisions depend on.
func versionOf(sources map[string][]byte, known Known) string {
	h := sha256.New()
	add(h, []byte("daypass policy 2"))
	add(h, binary.BigEndian.AppendUint64(nil, uint64(len(sources))))
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		add(h, []byte(name))
		add(h, sources[name])
	}
	add(h, binary.BigEndian.AppendUint64(nil, uint64(len(known.Grants))))
	for _, name := range slices.Sorted(maps.Keys(known.Grants)) {
		add(h, asJSON(known.Grants[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(known.Issuers)) {
		add(h, []byte(name))
		add(h, asJSON(known.Issuers[name]))
	}
	if known.AnyGrant {
		add(h, []byte("any grant"))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// add hashes a part with its length before it, so that no two lists of parts
// give the same text.
func add(h hash.Hash, part []byte) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
	h.Write(part)
}

// asJSON writes v with sorted keys. Params that are no JSON cannot be written,
// and are hashed as they are.
func asJSON(v any) []byte {
	b, err := json.Marshal(v)
	if g, ok := v.(broker.Grant); ok && err != nil {
		params := g.Params
		g.Params = nil
		return append(asJSON(g), params...)
	}
	return b
}

// Version names the book: "sha256:" and the hash over the files' names and
// contents, the grants' definitions and what is known of the issuers.
func (b *Book) Version() string { return b.version }

// Sources returns copies of the files the book was made of, by their path in
// the folder.
func (b *Book) Sources() map[string][]byte {
	all := make(map[string][]byte, len(b.sources))
	for name, data := range b.sources {
		all[name] = slices.Clone(data)
	}
	return all
}

// Grants returns the grants that the book may give, by name.
func (b *Book) Grants() map[string]broker.Grant { return maps.Clone(b.grants) }

// Files returns the files as they were written, by path. They are shared: do not
// change them.
func (b *Book) Files() []*File { return slices.Clone(b.files) }

// Repos returns what is defined under repos in all files, by name. They are
// shared: do not change them.
func (b *Book) Repos() map[string]*Repo { return maps.Clone(b.repos) }

// RuleInfo says what a rule is, where it stands and who answers for it. What it
// points to is shared: do not change it.
type RuleInfo struct {
	ID       string // file, without its ending, and name
	File     string // path in the folder
	Line     int
	Name     string
	Owner    string
	ReviewBy strictyaml.Date
	Until    strictyaml.Date
	Grants   []string // that it gives or denies; those it gives in the order of the rule

	Source     *File           // the file as it was written
	Rule       *Rule           // the rule as it was written
	Places     []Place         // whom it is for: one must match
	Conditions []Condition     // beyond the places' pins; all must hold
	TTLs       []time.Duration // for each of Grants, the longest life it gives; empty for a rule that denies
}

// Place is one of the identities that a rule is for.
type Place struct {
	Repo   string      // its name under repos; empty where the rule names an issuer
	Issuer string      // empty: every issuer
	Pins   []Condition // the claims that say whose jobs are meant; all must hold
}

// Rules returns the rules, by id.
func (b *Book) Rules() iter.Seq[RuleInfo] {
	return func(yield func(RuleInfo) bool) {
		for _, r := range b.rules {
			if !yield(r.info()) {
				return
			}
		}
	}
}

func (r *rule) info() RuleInfo {
	info := RuleInfo{
		ID: r.id, File: r.file.Path, Line: r.ast.Node.Line, Name: r.ast.Name,
		Owner: r.file.Owner, ReviewBy: r.file.ReviewBy, Until: r.ast.Until,
		Source: r.file, Rule: r.ast, Conditions: r.others,
	}
	for _, p := range r.places {
		info.Places = append(info.Places, Place{Repo: p.repo, Issuer: p.shownIssuer(), Pins: p.pins})
	}
	info.Grants = slices.Clone(r.deny)
	for _, a := range r.allow {
		info.Grants = append(info.Grants, a.grant)
		info.TTLs = append(info.TTLs, a.ttl)
	}
	return info
}
