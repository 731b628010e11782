package recorded

import (
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// Replaying says what recorded requests are decided by.
type Replaying struct {
	Candidate *policy.Book
	Claims    map[string]Claims // by issuer

	// Version returns the book that a version of the past was, or nil where it
	// cannot be had. With it more can be said of lives: whether a job got as
	// long as it asked for, or as long as policy gave. Nil: none can be had.
	Version func(version string) *policy.Book

	Since, Until time.Time // of what was recorded; zero: no bound. Until itself is left out
}

// Replay decides recorded requests by other policy. It is not safe for concurrent
// use.
type Replay struct {
	Replaying
	judge  *judge
	was    map[string]*judge
	report Report

	repositories map[repoKey]*RepositoryCount
	rules        map[string]*RuleCount
	unsaid       map[string]*Unsaid
	reports      map[reportKey]*ReportRule
}

// repoKey names a repository as limits do: by id, where there is one.
type repoKey struct{ issuer, id string }

// NewReplay makes a replay that has seen no record.
func NewReplay(r Replaying) *Replay {
	return &Replay{
		Replaying: r, judge: newJudge(r.Candidate, r.Claims), was: map[string]*judge{},
		report:       Report{Version: r.Candidate.Version(), Flips: []Flip{}},
		repositories: map[repoKey]*RepositoryCount{}, rules: map[string]*RuleCount{},
		unsaid: map[string]*Unsaid{}, reports: map[reportKey]*ReportRule{},
	}
}

// Add looks at one record. Records may come in any order; what is no decision is
// passed over.
func (p *Replay) Add(r broker.Record) {
	if r.At.Before(p.Since) || !p.Until.IsZero() && !r.At.Before(p.Until) {
		return
	}
	switch r.Event {
	case broker.EventIntent:
		p.seen(r.At)
		for i := range r.Grants {
			p.gave(r, i)
		}
	case broker.EventDenied:
		p.seen(r.At)
		p.denied(r)
	case broker.EventRefused, broker.EventReused:
		if r.Policy != "" {
			p.report.Refused += max(r.Count, 1)
		}
	default:
		return
	}
	p.reported(r)
}

func (p *Replay) seen(at time.Time) {
	if p.report.First.IsZero() || at.Before(p.report.First) {
		p.report.First = at.UTC()
	}
	if at.After(p.report.Last) {
		p.report.Last = at.UTC()
	}
}

// gave decides again what a record says was given: its i-th grant.
func (p *Replay) gave(r broker.Record, i int) {
	was := Outcome{Allowed: true}
	if i < len(r.Rules) {
		was.Rule = r.Rules[i]
	}
	q := question{id: identity(r), grant: r.Grants[i], at: r.At}
	if i < len(r.Leases) {
		q.ttl = Life(r.Leases[i])
		was.TTL = policy.Short(q.ttl)
	}
	given := q.ttl
	q.ttlKnown = p.askedLess(r.Policy, &q, was)
	now := p.judge.ask(q)
	row := p.row(r, q.grant, was)
	switch {
	case len(now.missing) > 0 && !(now.allowed && now.rule == was.Rule && now.ttl == given):
		p.cannotSay(row, now.missing, 1)
	case !now.allowed:
		p.flip(row, now, AllowToDeny)
	default:
		var changes []Change
		if now.rule != was.Rule {
			changes = append(changes, RuleChanged)
		}
		if now.ttl != given && given > 0 {
			changes = append(changes, TTLChanged)
		}
		p.flip(row, now, changes...)
	}
}

// askedLess finds out what was asked for. Where the policy of the time gave no
// more than was given, as long or longer was asked for: then the question is how
// long policy gives now.
func (p *Replay) askedLess(version string, q *question, was Outcome) bool {
	j := p.under(version)
	if j == nil {
		return false
	}
	whole := *q
	whole.ttl, whole.ttlKnown = 0, true
	most := j.ask(whole)
	if most.allowed && most.ttl > q.ttl {
		return true
	}
	if len(most.missing) == 0 && most.rule == was.Rule && most.ttl == q.ttl {
		q.ttl = 0
	}
	return false
}

// under is the policy that a version of the past was, or nil.
func (p *Replay) under(version string) *judge {
	if p.Version == nil || version == "" {
		return nil
	}
	j, known := p.was[version]
	if !known {
		if book := p.Version(version); book != nil {
			j = newJudge(book, p.Claims)
		}
		p.was[version] = j
	}
	return j
}

// Life is how long a lease was given for. Its end was cut to whole seconds.
func Life(l broker.Lease) time.Duration {
	life := l.NotAfter.Sub(l.Opened)
	if rest := life % time.Second; rest > 0 {
		life += time.Second - rest
	}
	return life
}

// denied decides again what a record says was refused.
func (p *Replay) denied(r broker.Record) {
	more := max(r.Count, 1)
	if len(r.Claims) == 0 || len(r.Grants) == 0 {
		p.cannotSay(p.row(r, "", Outcome{}), []string{"(all claims)"}, more)
		return
	}
	for _, grant := range r.Grants {
		was := Outcome{}
		for _, by := range r.DeniedBy {
			if by.Grant == grant {
				was.DeniedBy = append(was.DeniedBy, by.Rule)
			}
		}
		row := p.row(r, grant, was)
		if grant == broker.UnknownGrant {
			p.cannotSay(row, []string{"(the grant's name)"}, more)
			continue
		}
		now := p.judge.ask(question{id: identity(r), grant: grant, at: r.At})
		switch {
		case now.allowed:
			p.flip(row, now, DenyToAllow)
		case len(now.missing) > 0:
			p.cannotSay(row, now.missing, 1)
		default:
			p.flip(row, now)
		}
		if more > 1 {
			p.cannotSay(row, []string{"(all claims)"}, more-1)
		}
	}
}

// row is what a record tells of one decision.
func (p *Replay) row(r broker.Record, grant string, was Outcome) Flip {
	f := Flip{Request: r.Request, At: r.At.UTC(), Version: r.Policy, Issuer: r.Issuer, Grant: grant, Was: was}
	if r.Job != nil {
		f.Repository, f.RepositoryID, f.OwnerID = r.Job.Repository, r.Job.RepositoryID, r.Job.OwnerID
	}
	return f
}

// flip counts a decision, and lists it if anything about it changes.
func (p *Replay) flip(f Flip, now answer, changes ...Change) {
	repo := p.repository(f)
	p.report.Decisions++
	repo.Decisions++
	if len(changes) == 0 {
		p.report.Same++
		return
	}
	f.Changes = changes
	f.Now = Outcome{Allowed: now.allowed, Rule: now.rule, DeniedBy: now.denied, Why: now.why}
	if now.allowed {
		f.Now.TTL = policy.Short(now.ttl)
	}
	p.report.Flips = append(p.report.Flips, f)
	for _, c := range changes {
		p.report.Changes.add(c)
		repo.Changes.add(c)
	}
	rules := append(slices.Clone(f.Was.DeniedBy), f.Now.DeniedBy...)
	rules = append(rules, f.Was.Rule, f.Now.Rule)
	slices.Sort(rules)
	for _, rule := range slices.Compact(rules) {
		if rule == "" {
			continue
		}
		if p.rules[rule] == nil {
			p.rules[rule] = &RuleCount{Rule: rule}
		}
		for _, c := range changes {
			p.rules[rule].Changes.add(c)
		}
	}
}

// cannotSay counts decisions of which too little was journalled.
func (p *Replay) cannotSay(f Flip, missing []string, count int) {
	p.report.Decisions += count
	p.report.NotSaid += count
	repo := p.repository(f)
	repo.Decisions += count
	repo.NotSaid += count
	key := key(f.Issuer, f.RepositoryID, f.Repository, f.Grant, missing)
	u := p.unsaid[key]
	if u == nil {
		u = &Unsaid{Issuer: f.Issuer, Repository: f.Repository, RepositoryID: f.RepositoryID, Grant: f.Grant, Missing: missing, Example: f.Request}
		p.unsaid[key] = u
	}
	u.Count += count
	if f.Was.Allowed {
		u.WasAllowed += count
	}
}

func (p *Replay) repository(f Flip) *RepositoryCount {
	key := repoKey{f.Issuer, f.RepositoryID}
	if f.RepositoryID == "" {
		key.id = "\x00" + f.Repository
	}
	repo := p.repositories[key]
	if repo == nil {
		repo = &RepositoryCount{Issuer: f.Issuer, RepositoryID: f.RepositoryID}
		p.repositories[key] = repo
	}
	if !f.At.Before(repo.at) {
		repo.at, repo.Repository, repo.OwnerID = f.At, f.Repository, f.OwnerID
	}
	return repo
}

type reportKey struct {
	rule   string
	effect broker.Effect
}

// reported counts what rules that only report said at the time.
func (p *Replay) reported(r broker.Record) {
	count := max(r.Count, 1)
	for _, one := range r.Reported {
		key := reportKey{one.Rule, one.Effect}
		s := p.reports[key]
		if s == nil {
			s = &ReportRule{Rule: one.Rule, Effect: one.Effect, First: r.At.UTC(), repositories: map[repoKey]bool{}}
			p.reports[key] = s
		}
		s.Count += count
		if r.Event == broker.EventIntent && one.Effect == broker.EffectDeny ||
			r.Event == broker.EventDenied && one.Effect == broker.EffectAllow && mayFollow(r, one.Grant) {
			s.Otherwise += count
		}
		if !slices.Contains(s.Grants, one.Grant) {
			s.Grants = append(s.Grants, one.Grant)
		}
		if r.At.Before(s.First) {
			s.First = r.At.UTC()
		}
		if r.At.After(s.Last) {
			s.Last = r.At.UTC()
		}
		repo := repoKey{r.Issuer, ""}
		if r.Job != nil {
			repo.id = r.Job.RepositoryID + "\x00" + r.Job.Repository
		}
		s.repositories[repo] = true
		s.Repositories = len(s.repositories)
	}
}

// mayFollow reports whether a grant that was denied would have been given if a
// rule that only reports had been in force: no rule denied it. Of a stranger's
// denial the grants are not journalled.
func mayFollow(r broker.Record, grant string) bool {
	if len(r.Grants) > 0 && !slices.Contains(r.Grants, grant) {
		return false
	}
	return !slices.ContainsFunc(r.DeniedBy, func(by broker.Reported) bool { return by.Grant == grant })
}
