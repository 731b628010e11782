package recorded

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/lint"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Suggesting is what a rule is suggested from.
type Suggesting struct {
	Record broker.Record // of a request that was denied
	Grants []string      // of those it names; nil: all
	Folder *policy.Folder
	Known  policy.Known
	Claims map[string]Claims // by issuer
	Lint   lint.Config       // its Now is the time for which the rule is tried
}

// Suggestion is a rule that gives a request what it was denied, ready to be
// reviewed.
type Suggestion struct {
	Request  string        `json:"request_id"`
	Rule     string        `json:"rule"` // its id
	Repo     string        `json:"repo"` // whom it is for, by the name under repos
	Grants   []string      `json:"grants"`
	Parts    []Part        `json:"files"`
	Findings lint.Findings `json:"-"` // of lint, that the policy would have and has not
	Notes    []string      `json:"notes,omitempty"`
}

// Part is what goes into one file.
type Part struct {
	File string `json:"file"` // path in the policy folder
	New  bool   `json:"new"`  // there is no such file
	Text string `json:"text"` // YAML with comments; of a file that is there, what to add
}

// suggestedTTL is the life that is suggested: how long a job asked for is not
// journalled of a denial.
const suggestedTTL = 15 * time.Minute

// suggesting is a suggestion under way.
type suggesting struct {
	Suggesting
	id      broker.Identity
	grants  []string
	files   []*policy.File
	repo    policy.Repo
	found   bool // repo is defined already
	rule    policy.Rule
	telling []string
}

// Suggest makes a rule of a denied request. The error says what is in the way: the
// request itself, or claims of it that were not journalled.
func Suggest(s Suggesting) (Suggestion, error) {
	x := &suggesting{Suggesting: s, files: s.Folder.Parsed()}
	book, err := s.Folder.Book(s.Known)
	if err != nil {
		return Suggestion{}, fmt.Errorf("the policy has faults:\n%w", err)
	}
	for _, step := range []func(*policy.Book) error{x.request, x.denied, x.whom, x.conditions} {
		if err := step(book); err != nil {
			return Suggestion{}, err
		}
	}
	for _, name := range x.grants {
		ttl := min(suggestedTTL, x.Known.Grants[name].MaxTTL.Truncate(time.Second))
		x.rule.Allow = append(x.rule.Allow, policy.Allow{Grant: name, TTL: ttl})
	}
	return x.place()
}

// request makes sure that there is something to suggest a rule for.
func (x *suggesting) request(*policy.Book) error {
	r := x.Record
	switch {
	case r.Event == broker.EventIntent:
		return fmt.Errorf("request %q was allowed: there is nothing to suggest", r.Request)
	case r.Event != broker.EventDenied:
		return fmt.Errorf("request %q was refused before or beside policy (%s): no rule would have helped", r.Request, plain(r.Reason))
	case len(r.Claims) == 0:
		return fmt.Errorf("no claims of request %q were journalled, as of every job that no rule's pinned ids match; "+
			"name its repository in a rule first%s, and the next denial is journalled with them", r.Request, idsOf(r.Job))
	}
	x.id = identity(r)
	x.grants = x.Grants
	if x.grants == nil {
		x.grants = slices.Clone(r.Grants)
	}
	slices.Sort(x.grants)
	x.grants = slices.Compact(x.grants)
	for _, name := range x.grants {
		_, there := x.Known.Grants[name]
		switch {
		case name == broker.UnknownGrant:
			return fmt.Errorf("request %q asked for a grant that there was not, and its name is not journalled; define the grant, or choose one of the others with --grant", r.Request)
		case !slices.Contains(r.Grants, name):
			return fmt.Errorf("request %q was not denied grant %q; it was denied %s", r.Request, name, strings.Join(r.Grants, ", "))
		case !there:
			return fmt.Errorf("no grant is called %q now: define it first", name)
		}
	}
	if len(x.grants) == 0 {
		return fmt.Errorf("the journal names no grant of request %q", r.Request)
	}
	return nil
}

// idsOf says what is known of a stranger.
func idsOf(job *broker.Job) string {
	if job == nil || job.RepositoryID == "" {
		return ""
	}
	return fmt.Sprintf(" (id %s, of owner %s; the job called it %s)", plain(job.RepositoryID), plain(job.OwnerID), plain(job.Repository))
}

// denied makes sure that a rule is missing, and nothing else.
func (x *suggesting) denied(book *policy.Book) error {
	j := newJudge(book, x.Claims)
	var given []string
	for _, name := range x.grants {
		q := question{id: x.id, grant: name, at: x.Lint.Now}
		if by := j.surelyDenied(q); len(by) > 0 {
			return fmt.Errorf("grant %q is denied by rule %s, which no rule that allows can change", name, strings.Join(by, " and "))
		}
		if a := j.ask(q); a.allowed {
			given = append(given, fmt.Sprintf("%s (rule %s)", name, a.rule))
		}
	}
	if len(given) == len(x.grants) {
		return fmt.Errorf("the policy as it is now gives it already: %s", strings.Join(given, ", "))
	}
	return nil
}

// whom finds the repository under repos, or makes an entry that pins its ids.
func (x *suggesting) whom(*policy.Book) error {
	issuer, ok := x.Known.Issuers[x.id.Issuer]
	if !ok {
		return fmt.Errorf("no issuer is called %q now", x.id.Issuer)
	}
	match, missing, pinned := policy.Match{}, []string{}, false
	for _, name := range issuer.ImmutableIDs {
		p, err := exactly(x.id.Claims[name])
		if _, there := x.id.Claims[name]; !there {
			missing = append(missing, name)
			continue
		}
		if err != nil || p.Text == "" {
			return fmt.Errorf("%s cannot be pinned: %w", name, cmp.Or(err, errors.New("it is empty")))
		}
		pinned = pinned || slices.Contains(issuer.OwnerIDs, name)
		match = append(match, policy.Condition{Claim: name, Any: []policy.Pattern{p}})
	}
	if len(missing) > 0 {
		return fmt.Errorf("ids that a rule has to pin were not journalled: %s", strings.Join(missing, ", "))
	}
	if len(match) == 0 || len(issuer.OwnerIDs) > 0 && !pinned {
		return fmt.Errorf("issuer %q has no id that could be pinned", x.id.Issuer)
	}
	for _, f := range x.files {
		for _, r := range f.Repos {
			if r.Issuer == x.id.Issuer && sameIDs(r.Match, match) {
				x.repo, x.found = r, true
				return nil
			}
		}
	}
	x.repo = policy.Repo{ID: x.repoID(), Issuer: x.id.Issuer, Name: peopleName(x.id.Job.Repository), Match: match}
	return nil
}

// sameIDs reports whether a repo pins just these ids.
func sameIDs(m, ids policy.Match) bool {
	if len(m) != len(ids) {
		return false
	}
	return !slices.ContainsFunc(ids, func(id policy.Condition) bool {
		return !slices.ContainsFunc(m, func(c policy.Condition) bool {
			return c.Claim == id.Claim && c.Op == policy.OneOf && len(c.Any) == 1 && c.Any[0].Kind == id.Any[0].Kind && c.Any[0].Text == id.Any[0].Text
		})
	})
}

// conditions are the claims that tell the job, as the token had them. Those that
// it did not have are not asked about.
func (x *suggesting) conditions(*policy.Book) error {
	issuer := x.Lint.Issuers[x.id.Issuer]
	var err error
	if x.telling, err = lint.Telling(issuer.Profile, issuer.URL); err != nil {
		return err
	}
	if len(x.telling) == 0 {
		return fmt.Errorf("it is not known which claims of issuer %q tell its jobs apart", x.id.Issuer)
	}
	var missing []string
	for _, name := range x.telling {
		v, there := x.id.Claims[name]
		switch {
		case !there && !x.Claims[x.id.Issuer].keeps(name):
			missing = append(missing, name)
		case there:
			p, err := exactly(v)
			if err != nil {
				return fmt.Errorf("no rule can ask for what the token has in %s: %w", name, err)
			}
			x.rule.Match = append(x.rule.Match, policy.Condition{Claim: name, Any: []policy.Pattern{p}})
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("claims that tell such jobs apart were not journalled: %s", strings.Join(missing, ", "))
	}
	return nil
}

// exactly is the pattern that a claim, and nothing else, matches.
func exactly(claim any) (policy.Pattern, error) {
	switch claim := claim.(type) {
	case string:
		switch {
		case len(claim) > maxExact:
			return policy.Pattern{}, fmt.Errorf("it is longer than %d bytes", maxExact)
		case !utf8.ValidString(claim) || strings.ContainsFunc(claim, func(r rune) bool { return r < 0x20 || r == 0x7F }):
			return policy.Pattern{}, errors.New("it holds a control character")
		}
		return policy.Pattern{Kind: policy.ExactText, Text: claim}, nil
	case json.Number:
		return policy.Pattern{Kind: policy.ExactNum, Text: claim.String()}, nil
	case bool:
		return policy.Pattern{Kind: policy.ExactBool, Text: fmt.Sprint(claim)}, nil
	case nil:
		return policy.Pattern{}, errors.New("it is null")
	}
	return policy.Pattern{}, errors.New("it is a list or an object")
}

// maxExact is the longest text that a rule can ask for.
const maxExact = 1024

// peopleName is a repository's name, for people: never compared, and shown where it
// is safe to show it.
func peopleName(name string) string {
	if name == "" {
		return "(no name)"
	}
	text, _ := policy.Shown(name).(string)
	return text
}

// Names of repos and files. Compiled once, never changed.
var (
	noName  = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
	goodEnd = regexp.MustCompile(`\A[^A-Za-z0-9]+|[^A-Za-z0-9]+\z`)
)

// nameOf makes a name of a token's text.
func nameOf(text string) string {
	name := goodEnd.ReplaceAllString(noName.ReplaceAllString(text, "-"), "")
	return goodEnd.ReplaceAllString(name[:min(len(name), 48)], "")
}

// repoID is a name that no repo has: the last part of the repository's, or all of
// it.
func (x *suggesting) repoID() string {
	taken := func(id string) bool {
		return id == "" || slices.ContainsFunc(x.files, func(f *policy.File) bool {
			return slices.ContainsFunc(f.Repos, func(r policy.Repo) bool { return r.ID == id })
		})
	}
	whole := x.id.Job.Repository
	for _, id := range []string{nameOf(path.Base(whole)), nameOf(whole)} {
		if !taken(id) {
			return id
		}
	}
	return unused(cmp.Or(nameOf(whole), "repository"), taken)
}

// unused appends a number to a name until it is not taken.
func unused(name string, taken func(string) bool) string {
	for n := 1; ; n++ {
		with := name
		if n > 1 {
			with = fmt.Sprintf("%s-%d", name, n)
		}
		if !taken(with) {
			return with
		}
	}
}

// faultsOf is the first few lines of what is wrong.
func faultsOf(err error) string {
	var faults strictyaml.Faults
	if errors.As(err, &faults) && len(faults) > 3 {
		return fmt.Sprintf("%v\nand %d more", faults[:3].Err(), len(faults)-3)
	}
	return err.Error()
}
