package lint

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Config is what lint looks at beside the policy.
type Config struct {
	Issuers map[string]Issuer // by the names that the policy uses
	Grants  map[string]Grant  // nil: not known, and each taken to be able to write
	Earlier []Earlier         // what earlier tokens said; may be empty
	Now     time.Time         // which days have passed
}

// Issuer is what lint has to know of one.
type Issuer struct {
	Profile      string // tells the provider, or else URL does
	URL          string
	Audiences    []string      // what tokens must name
	OneAudience  bool          // and they may name nothing else
	MaxTokenLife time.Duration // the longest exp-iat that is accepted
	ReplayKey    string        // jti or signed_part
	Version      string        // of the provider's own software, where a rule asks for it
	Insecure     bool          // plain http is meant: development and tests
	Shared       bool          // it signs for everybody
	ImmutableIDs []string
	OwnerIDs     []string
	Influenced   []string // claims that whoever can push a branch chooses

	Waive []policy.Waiver // for all findings at this issuer
	// Node is where it is configured. Without, it stands for any issuer of
	// its profile, and what depends on a configuration is not looked at.
	Node *strictyaml.Node
}

// Grant is what lint has to know of one.
type Grant struct {
	Access broker.Access     // empty: write
	Labels map[string]string // for messages
	Node   *strictyaml.Node  // where it is defined; may be nil
}

// Earlier is what a token said that was seen before.
type Earlier struct {
	Issuer string // its name in the policy
	Claims broker.Claims
	At     time.Time
}

// Check looks at the files of one policy folder. The error is for what lint
// itself cannot do, and never about the policy.
func Check(files []*policy.File, c Config) (Findings, error) {
	return (&linter{}).check(files, c)
}

// linter looks at one folder.
type linter struct {
	config      Config
	known       map[string]*provider
	providers   map[string]*provider // by the issuer's name
	issuers     map[string]*Issuer
	expressions *expressions
	files       []*policy.File

	repos  map[string]*repo
	rules  []*ruleView // in the order of the files
	denies *wayIndex

	compared bool // needless is filled in
	needless []needless

	table    table
	findings Findings
	seen     map[string]int // key of a finding → its place in findings
	used     map[*policy.Waiver]bool
}

// repo is a name for ids, and how often it is used.
type repo struct {
	*policy.Repo
	file *policy.File
	used bool
}

// ruleView is one rule, with every way through it.
type ruleView struct {
	file *policy.File
	rule *policy.Rule
	id   string
	ways []*way
	dead []*way // ways that no token can take
}

// way is one way through a rule: one of the identities it is for, and one
// alternative of its expression.
type way struct {
	*linter
	*ruleView
	issuer     string // its name
	settings   *Issuer
	provider   *provider
	repo       *repo // nil where the rule names an issuer
	conditions []condition
	grants     []string // that it gives, or denies: then they may be globs
}

func (l *linter) check(files []*policy.File, c Config) (Findings, error) {
	known, err := readProviders()
	if err != nil {
		return nil, err
	}
	expressions, err := newExpressions()
	if err != nil {
		return nil, err
	}
	*l = linter{
		config: c, known: known, expressions: expressions, files: files, table: newTable(),
		repos: map[string]*repo{}, providers: map[string]*provider{}, issuers: map[string]*Issuer{},
		seen: map[string]int{}, used: map[*policy.Waiver]bool{},
	}
	l.collect()
	l.run()
	l.judgeWaivers()
	l.findings.sort()
	return l.findings, nil
}

func (l *linter) collect() {
	for _, f := range l.files {
		for i := range f.Repos {
			r := &f.Repos[i]
			if _, twice := l.repos[r.ID]; !twice && r.Node != nil {
				l.repos[r.ID] = &repo{Repo: r, file: f}
			}
		}
	}
	for _, f := range l.files {
		for i := range f.Rules {
			if r := &f.Rules[i]; r.Node != nil {
				l.rules = append(l.rules, l.view(f, r))
			}
		}
	}
	l.denies = newWayIndex()
	for _, v := range l.rules {
		if !v.rule.Denies() || v.rule.Reports() || v.rule.Until.Over(l.config.Now) {
			continue
		}
		for _, w := range v.ways {
			l.denies.add(w)
		}
	}
}

func (l *linter) view(f *policy.File, r *policy.Rule) *ruleView {
	v := &ruleView{file: f, rule: r, id: strings.TrimSuffix(f.Path, path.Ext(f.Path)) + "/" + r.Name}
	alternatives := l.expressions.read(r.Node.Get("when"))
	match := fromMatch(r.Match)
	places := l.places(r)
	if len(places)*len(alternatives) > maxWays {
		alternatives = tooMany(r.Node.Get("when"))
	}
	for _, p := range places {
		for _, alternative := range alternatives {
			w := &way{
				linter: l, ruleView: v, issuer: p.issuer, settings: l.issuer(p.issuer), provider: l.provider(p.issuer),
				repo: p.repo, conditions: slices.Concat(p.pins, match, alternative),
			}
			for i := range w.conditions {
				w.conditions[i].many = !w.provider.single(w.conditions[i].claim)
			}
			if w.open() {
				v.ways = append(v.ways, w)
			} else {
				v.dead = append(v.dead, w)
			}
		}
	}
	return v
}

// maxWays bounds the ways through one rule that an expression may make.
const maxWays = 4096

// place is one of the identities a rule is for.
type place struct {
	issuer string
	repo   *repo
	pins   []condition
}

func (l *linter) places(r *policy.Rule) []place {
	var all []place
	for _, name := range r.For {
		if repo, ok := l.repos[name]; ok {
			repo.used = true
			all = append(all, place{issuer: repo.Issuer, repo: repo, pins: fromMatch(repo.Match)})
		}
	}
	if len(r.For) == 0 && (r.Issuer != "" || r.Denies()) {
		all = append(all, place{issuer: r.Issuer}) // a rule that denies may name no issuer: then all
	}
	return all
}

func (l *linter) provider(issuer string) *provider {
	p, ok := l.providers[issuer]
	if !ok {
		i := l.config.Issuers[issuer]
		p = providerOf(l.known, i.Profile, i.URL)
		l.providers[issuer] = p
	}
	return p
}

// issuer is what is known of an issuer of the policy; nothing is known of one
// that is not configured.
func (l *linter) issuer(name string) *Issuer {
	i, ok := l.issuers[name]
	if !ok {
		settings := l.config.Issuers[name]
		i = &settings
		l.issuers[name] = i
	}
	return i
}

// open reports whether any token can take this way, as far as lint can tell.
func (w *way) open() bool {
	for i := range w.conditions {
		a := &w.conditions[i]
		if a.claim == theIssuer && w.issuer != "" && !a.admits(w.issuer) {
			return false
		}
		if a.op == isOne && len(a.any) == 0 {
			return false
		}
		for j := range w.conditions {
			if i != j && a.contradicts(&w.conditions[j]) {
				return false
			}
		}
	}
	return w.leads()
}

// leads finds out which grants the way leads to, and reports whether to any.
func (w *way) leads() bool {
	named := w.rule.Deny
	if !w.rule.Denies() {
		for _, a := range w.rule.Allow {
			named = append(named, a.Grant)
		}
	}
	asks := w.on(theGrant)
	some := false
	for _, g := range named {
		switch {
		case w.rule.Denies() && strings.ContainsAny(g, "*?") && len(asks) > 0:
			some = true // of which grants it denies a few: that is not counted on
		case !slices.ContainsFunc(asks, func(c *condition) bool { return !c.admits(g) }):
			w.grants = append(w.grants, g)
			some = true
		}
	}
	return some
}
