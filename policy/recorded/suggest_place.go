package recorded

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/lint"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// spot is where a suggestion may go: the rule, and the repo that it needs.
type spot struct{ rule, repo string }

// maxSpots bounds how many places are tried: each is a load of the policy.
const maxSpots = 16

// place finds the first place where the rule does what it is for.
func (x *suggesting) place() (Suggestion, error) {
	var first error
	spots := x.spots()
	for _, s := range spots[:min(len(spots), maxSpots)] {
		made, err := x.try(s)
		if err == nil {
			return made, nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		return Suggestion{}, fmt.Errorf("no ceiling lets a folder give %s to repo %q: widen one first", strings.Join(x.grants, " and "), x.repo.ID)
	}
	return Suggestion{}, first
}

// spots are places for the rule, the best first: beside the rules that the
// repository has, beside its ids, or in a file of its own.
func (x *suggesting) spots() []spot {
	var beside, ids, own []spot
	for _, f := range x.files {
		if slices.ContainsFunc(f.Rules, func(r policy.Rule) bool { return !r.Denies() && slices.Contains(r.For, x.repo.ID) }) {
			beside = append(beside, spot{f.Path, ""})
		}
		if x.found && slices.ContainsFunc(f.Repos, func(r policy.Repo) bool { return r.ID == x.repo.ID }) {
			ids = append(ids, spot{f.Path, ""})
		}
	}
	repoFile := x.repoFile()
	folders, bounded := x.folders()
	for _, folder := range folders {
		s := spot{x.newFile(folder), ""}
		if !x.found {
			s.repo = s.rule
			if bounded {
				s.repo = repoFile
			}
		}
		own = append(own, s)
	}
	return slices.Concat(beside, ids, own)
}

// folders are those that may hold the rule in a new file, and whether ceilings
// bind them.
func (x *suggesting) folders() (folders []string, bounded bool) {
	for _, f := range x.files {
		for _, c := range f.Ceilings {
			bounded = true
			lets := func(names []string, name string) bool {
				return len(names) == 0 || slices.ContainsFunc(names, func(glob string) bool {
					fits, err := path.Match(glob, name)
					return err == nil && fits
				})
			}
			if lets(c.Repos, x.repo.ID) && !slices.ContainsFunc(x.grants, func(g string) bool { return !lets(c.Grants, g) }) {
				folders = append(folders, c.Folder)
			}
		}
	}
	if !bounded {
		return []string{"."}, false
	}
	slices.Sort(folders)
	return folders, true
}

// newFile is a file of a folder that is not there.
func (x *suggesting) newFile(folder string) string {
	name := x.repo.ID
	if strings.HasSuffix(strings.ToLower(name), "_test") {
		name += "-rules" // it would be taken for test cases
	}
	return path.Join(folder, unused(name, func(name string) bool { return x.has(path.Join(folder, name)) })) + ".yaml"
}

// has reports whether a file, without its ending, is there.
func (x *suggesting) has(id string) bool {
	return slices.ContainsFunc(x.files, func(f *policy.File) bool { return strings.TrimSuffix(f.Path, path.Ext(f.Path)) == id })
}

// repoFile is where repos are defined, where ceilings keep them from standing
// beside the rule.
func (x *suggesting) repoFile() string {
	for _, f := range x.files {
		if len(f.Repos) > 0 {
			return f.Path
		}
	}
	return unused("repos", x.has) + ".yaml"
}

// try makes the suggestion at one place, loads it, and decides.
func (x *suggesting) try(s spot) (Suggestion, error) {
	rule := x.rule
	rule.For = []string{x.repo.ID}
	there := x.file(s.rule)
	rule.Name = unused(nameOf("suggested-"+x.grants[0]), func(name string) bool {
		return slices.ContainsFunc(there.Rules, func(r policy.Rule) bool { return r.Name == name })
	})
	adds := map[string]*policy.File{s.rule: {Path: s.rule, Rules: []policy.Rule{rule}}}
	if !x.found {
		if s.repo == "" { // beside rules, without ids: cannot be
			return Suggestion{}, errors.New("the repository's ids have no place")
		}
		if adds[s.repo] == nil {
			adds[s.repo] = &policy.File{Path: s.repo}
		}
		adds[s.repo].Repos = policy.Repos{x.repo}
	}
	folder := x.Folder
	for _, name := range sortedKeys(adds) {
		whole := *x.file(name)
		whole.Repos = slices.Concat(whole.Repos, adds[name].Repos)
		whole.Rules = slices.Concat(whole.Rules, adds[name].Rules)
		folder = folder.With(name, whole.YAML())
	}
	made := Suggestion{
		Request: x.Record.Request, Repo: x.repo.ID, Grants: x.grants,
		Rule: strings.TrimSuffix(s.rule, path.Ext(s.rule)) + "/" + rule.Name,
	}
	if err := x.prove(folder, &made); err != nil {
		return Suggestion{}, err
	}
	for _, name := range sortedKeys(adds) {
		part, err := x.part(adds[name])
		if err != nil {
			return Suggestion{}, err
		}
		made.Parts = append(made.Parts, part)
	}
	return made, nil
}

// file is a file of the folder, or an empty one.
func (x *suggesting) file(name string) *policy.File {
	for _, f := range x.files {
		if f.Path == name {
			return f
		}
	}
	return &policy.File{Path: name}
}

// prove decides the request under the policy with the suggestion, and asks lint
// what it makes of it.
func (x *suggesting) prove(folder *policy.Folder, made *Suggestion) error {
	book, err := folder.Book(x.Known)
	if err != nil {
		return fmt.Errorf("the rule would not load: %s", faultsOf(err))
	}
	j := newJudge(book, x.Claims)
	for _, name := range x.grants {
		a := j.ask(question{id: x.id, grant: name, at: x.Lint.Now})
		switch {
		case len(a.missing) > 0 && !a.allowed:
			made.Notes = append(made.Notes, fmt.Sprintf("whether a rule denies grant %q all the same depends on what was not journalled: %s", name, strings.Join(a.missing, ", ")))
		case !a.allowed:
			return fmt.Errorf("the rule would not give grant %q to this request", name)
		}
	}
	before, err := lint.Check(x.files, x.Lint)
	if err != nil {
		return err
	}
	after, err := lint.Check(folder.Parsed(), x.Lint)
	if err != nil {
		return err
	}
	said := map[string]int{}
	for _, f := range before {
		said[key(f.ID, f.File, f.Rule, f.Message)]++
	}
	for _, f := range after {
		k := key(f.ID, f.File, f.Rule, f.Message)
		if said[k]--; said[k] < 0 && f.Waived == nil {
			made.Findings = append(made.Findings, f)
		}
	}
	return nil
}

// What stands beside what a reviewer should look at. Never changed, and never of a
// token's text.
const (
	noteInfluenced = "chosen by whoever may push a branch or open a pull request"
	noteRepo       = "look the ids up at the provider: the name is what the job called itself"
	noteLife       = "how long the job asked for is not journalled"
	noteOwner      = "owner: FILL-IN          # the team that answers for the rules"
	noteReview     = "review_by: FILL-IN      # the day by which they are to be looked at again, such as %s"
)

// part writes what goes into one file, with comments.
func (x *suggesting) part(f *policy.File) (Part, error) {
	there := slices.ContainsFunc(x.files, func(other *policy.File) bool { return other.Path == f.Path })
	text := f.YAML()
	doc, err := strictyaml.Parse(f.Path, text, strictyaml.DefaultLimits())
	if err != nil {
		return Part{}, fmt.Errorf("the rule cannot be written: %w", err)
	}
	notes := map[int][]string{} // by line
	for _, k := range doc.Root.At("repos").Keys {
		if len(f.Repos) > 0 {
			notes[k.Line] = append(notes[k.Line], noteRepo)
		}
	}
	if len(f.Rules) > 0 {
		rule := doc.Root.At("rules", 0)
		for _, k := range rule.At("match").Keys {
			if slices.Contains(x.Claims[x.id.Issuer].Influenced, k.Name) {
				notes[k.Line] = append(notes[k.Line], noteInfluenced)
			}
		}
		line := rule.At("allow", 0).Line
		notes[line] = append(notes[line], noteLife)
	}
	var b strings.Builder
	whole := x.file(f.Path)
	if !there || len(f.Rules) > 0 && whole.Owner == "" {
		b.WriteString("# " + noteOwner + "\n")
	}
	if !there || len(f.Rules) > 0 && whole.ReviewBy.IsZero() {
		fmt.Fprintf(&b, "# "+noteReview+"\n", strictyaml.DayOf(x.Lint.Now.AddDate(0, 6, 0)))
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		for _, note := range notes[n] {
			b.WriteString(line[:len(line)-len(strings.TrimLeft(line, " "))] + "# " + note + "\n")
		}
		b.WriteString(line)
	}
	return Part{File: f.Path, New: !there, Text: b.String()}, nil
}

func sortedKeys(m map[string]*policy.File) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
