package access

import (
	"cmp"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// Row is one permission: a grant that a rule gives to one repository, or to whoever
// has the ids that the rule pins.
type Row struct {
	Grant      string            `json:"grant"`
	Access     broker.Access     `json:"access,omitempty"` // empty: grants are not known
	Labels     map[string]string `json:"labels,omitempty"`
	Issuer     string            `json:"issuer"`
	Repo       string            `json:"repo,omitempty"`       // its name under repos
	Repository string            `json:"repository,omitempty"` // what the provider called it, as the policy says
	Pins       []Condition       `json:"pins,omitempty"`
	Conditions []Condition       `json:"conditions,omitempty"`
	When       string            `json:"when,omitempty"`
	TTL        string            `json:"ttl,omitempty"`     // the longest life; empty: grants are not known
	Ceiling    string            `json:"ceiling,omitempty"` // the folder whose ceiling binds the rule
	Rule       string            `json:"rule"`
	File       string            `json:"file"`
	Line       int               `json:"line"`
	Owner      string            `json:"owner,omitempty"`
	ReviewBy   string            `json:"review_by,omitempty"`
	Until      string            `json:"until,omitempty"`  // the last day of the rule
	Except     []Except          `json:"except,omitempty"` // rules that deny it, to some or to all of them
	Gives      bool              `json:"gives"`
	Nothing    string            `json:"gives_nothing,omitempty"` // why it does not
	Periods    []Period          `json:"periods,omitempty"`       // when it could be had, of a span
	LastUsed   *time.Time        `json:"last_used,omitempty"`
	New        bool              `json:"new,omitempty"` // it came within the time in which uses are looked for

	ended time.Time // when its rule counts no more; zero: never
}

// Condition is what one claim must be.
type Condition struct {
	Claim  string `json:"claim"`
	Wanted any    `json:"wanted"`
}

// Except is a rule that denies a permission to those who meet its conditions, or may.
type Except struct {
	Rule       string      `json:"rule"`
	Repos      []string    `json:"repos,omitempty"`      // to jobs of these alone, by name
	Conditions []Condition `json:"conditions,omitempty"` // neither these nor an expression: to all
	When       string      `json:"when,omitempty"`
	Until      string      `json:"until,omitempty"` // its last day

	all   bool // it surely denies it to all
	until time.Time
}

// Filter picks permissions; zero fields pick all.
type Filter struct {
	Grant  string            // name, or a glob of names
	Access broker.Access     // read or write
	Labels map[string]string // all of which the grant must have
	Repo   string            // a name under repos, what the provider calls it there, or a pinned id
	Issuer string
}

func (f Filter) picks(r Row) bool {
	if f.Grant != "" {
		if fits, err := path.Match(f.Grant, r.Grant); f.Grant != r.Grant && (err != nil || !fits) {
			return false
		}
	}
	for name, value := range f.Labels {
		if have, there := r.Labels[name]; !there || have != value {
			return false
		}
	}
	return (f.Access == "" || f.Access == r.Access) && (f.Issuer == "" || f.Issuer == r.Issuer)
}

// calls reports whether a repo is the one that a filter asks for.
func (f Filter) calls(r *policy.Repo) bool {
	return f.Repo == r.ID || strings.EqualFold(f.Repo, r.Name) || f.pinned(r.Match)
}

// pinned reports whether the filter asks for one of some pinned ids.
func (f Filter) pinned(pins []policy.Condition) bool {
	return slices.ContainsFunc(pins, func(c policy.Condition) bool {
		return slices.ContainsFunc(c.Any, func(p policy.Pattern) bool { return p.Text == f.Repo })
	})
}

// List returns the permissions of a policy at a time, by grant, issuer and
// repository.
func List(book *policy.Book, f Filter, at time.Time) []Row {
	return list(book, f, at, at)
}

// list returns those that a policy gives at any time of a span, both ends of which
// belong to it.
func list(book *policy.Book, f Filter, from, to time.Time) []Row {
	l := lister{filter: f, grants: book.Grants(), repos: book.Repos(), ceilings: ceilingsOf(book)}
	var allows []policy.RuleInfo
	for r := range book.Rules() {
		switch {
		case r.Rule.Denies() && !r.Rule.Reports():
			l.denies = append(l.denies, r)
		case !r.Rule.Denies():
			allows = append(allows, r)
		}
	}
	l.index()
	for _, r := range l.repos {
		if f.Repo != "" && f.calls(r) {
			l.asked = append(l.asked, r)
		}
	}
	var rows []Row
	for _, r := range allows {
		for _, row := range l.rows(r) {
			if f.picks(row) {
				judge(&row, r, from, to)
				rows = append(rows, row)
			}
		}
	}
	slices.SortStableFunc(rows, compare)
	return rows
}

func compare(a, b Row) int {
	return cmp.Or(strings.Compare(a.Grant, b.Grant), strings.Compare(a.Issuer, b.Issuer), strings.Compare(a.Repo, b.Repo), strings.Compare(a.Rule, b.Rule))
}

// lister lists one policy.
type lister struct {
	filter   Filter
	grants   map[string]broker.Grant
	repos    map[string]*policy.Repo
	asked    []*policy.Repo // that the filter means
	ceilings []string       // folders, the deepest first
	denies   []policy.RuleInfo
	byGrant  map[string][]int // of denies
}

func (l *lister) index() {
	l.byGrant = map[string][]int{}
	for i, r := range l.denies {
		for _, g := range r.Grants {
			l.byGrant[g] = append(l.byGrant[g], i)
		}
	}
}

// ceilingsOf are the folders that have a ceiling, the deepest first.
func ceilingsOf(book *policy.Book) []string {
	var folders []string
	for _, f := range book.Files() {
		for _, c := range f.Ceilings {
			folders = append(folders, c.Folder)
		}
	}
	slices.SortFunc(folders, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")), strings.Compare(a, b))
	})
	return folders
}

// rows are the permissions of one rule: each grant for each place.
func (l *lister) rows(r policy.RuleInfo) []Row {
	var rows []Row
	for _, p := range r.Places {
		if !l.means(p) {
			continue
		}
		for i, grant := range r.Grants {
			g := l.grants[grant]
			row := Row{
				Grant: grant, Access: g.Access, Labels: g.Labels, Issuer: p.Issuer, Repo: p.Repo, Pins: shown(p.Pins), Conditions: shown(r.Conditions),
				When: r.Rule.When, TTL: policy.Short(r.TTLs[i]), Rule: r.ID, File: r.File, Line: r.Line,
				Owner: r.Owner, ReviewBy: r.ReviewBy.String(), Until: r.Until.String(), Gives: true,
			}
			if repo := l.repos[p.Repo]; repo != nil {
				row.Repository = repo.Name
			}
			for _, folder := range l.ceilings {
				if row.Ceiling == "" && strings.HasPrefix(r.File, folder+"/") {
					row.Ceiling = folder
				}
			}
			for _, d := range l.byGrant[grant] {
				if e, meant := exception(l.denies[d], r, p); meant {
					row.Except = append(row.Except, e)
				}
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// means reports whether a place may be of the repository that is asked for: it pins
// its ids, or none that it does not have.
func (l *lister) means(p policy.Place) bool {
	if l.filter.Repo == "" || l.filter.Repo == p.Repo || l.filter.pinned(p.Pins) {
		return true
	}
	return slices.ContainsFunc(l.asked, func(r *policy.Repo) bool { return r.Issuer == p.Issuer && !apart(r.Match, p.Pins) })
}

func shown(conditions []policy.Condition) []Condition {
	var all []Condition
	for i := range conditions {
		all = append(all, Condition{conditions[i].Claim, conditions[i].Wanted()})
	}
	return all
}

// judge finds out whether the permission can be had in the span at all, and leaves
// out rules that deny and have ended before it.
func judge(row *Row, r policy.RuleInfo, from, to time.Time) {
	row.ended = endOf(r)
	row.Except = slices.DeleteFunc(row.Except, func(e Except) bool { return !e.until.IsZero() && !e.until.After(from) })
	whole := slices.IndexFunc(row.Except, func(e Except) bool { return e.all && (e.until.IsZero() || e.until.After(to)) })
	switch {
	case r.Rule.Reports():
		row.Nothing = "the rule only reports"
	case !row.ended.IsZero() && !row.ended.After(from):
		row.Nothing = "the rule ended on " + row.Until
	case whole >= 0:
		row.Nothing = "rule " + row.Except[whole].Rule + " denies it to all of them"
	}
	row.Gives = row.Nothing == ""
}

// endOf is the first moment at which a rule counts no more, or zero.
func endOf(r policy.RuleInfo) time.Time {
	if r.Until.IsZero() {
		return time.Time{}
	}
	day, err := time.Parse(time.DateOnly, r.Until.String())
	if err != nil {
		return time.Time{}
	}
	return day.AddDate(0, 0, 1)
}
