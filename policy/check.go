package policy

import (
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// checker turns the files of a folder into a book, or into all their faults.
type checker struct {
	known   Known
	sources map[string][]byte
	faults  strictyaml.Faults

	when     *whenCompiler
	grants   map[string]broker.Grant // that there are, or that rules name
	files    []*File
	repos    map[string]*Repo
	ceilings map[string]*ceiling // by folder
	broken   bool                // a file could not be read, so what is not found may be in it
	globs    map[string][]string // grants by glob
	named    int                 // places of all rules so far
	guesses  int                 // what unknown names may have meant, so far
	rules    []*rule
}

func (c *checker) book() (*Book, error) {
	var err error
	if c.when, err = newWhenCompiler(); err != nil {
		return nil, err
	}
	c.checkKnown()
	c.parse()
	c.collectGrants()
	c.collectRepos()
	c.collectCeilings()
	for _, f := range c.files {
		c.checkFile(f)
	}
	if len(c.rules) == 0 && len(c.faults) == 0 {
		c.faults = append(c.faults, &strictyaml.Fault{File: ".", Msg: "a policy folder without any rule: " +
			"nothing could be given to anyone; write a rule in a file that ends in .yaml, or name another folder"})
	}
	if err := c.faults.Err(); err != nil {
		return nil, err
	}
	return newBook(c), nil
}

// checkKnown refuses grants that no decision could give.
func (c *checker) checkKnown() {
	for _, name := range slices.Sorted(maps.Keys(c.known.Grants)) {
		g := c.known.Grants[name]
		if g.Name != name {
			c.faults = append(c.faults, &strictyaml.Fault{File: "grants", Field: name, Msg: fmt.Sprintf("is called %q in itself", g.Name)})
		}
		if g.MaxTTL < time.Second {
			c.faults = append(c.faults, &strictyaml.Fault{File: "grants", Field: name, Msg: "max_ttl must be a second at least"})
		}
	}
}

// parse reads all files, several at once, and reports what it finds in their
// order.
func (c *checker) parse() {
	names := slices.Sorted(maps.Keys(c.sources))
	read := make([]parsedFile, len(names))
	work := make(chan int)
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(names)) {
		all.Go(func() {
			for i := range work {
				read[i] = parseFile(names[i], c.sources[names[i]])
			}
		})
	}
	for i := range names {
		work <- i
	}
	close(work)
	all.Wait()

	ids := map[string]string{}
	for i, r := range read {
		c.faults = append(c.faults, r.faults...)
		if r.file == nil {
			c.broken = true
			continue
		}
		if other, twice := ids[r.file.id()]; twice {
			c.faults = append(c.faults, r.file.Node.Fault("its rules would have the same ids as those of %s: rename one of the files", other))
		}
		ids[r.file.id()] = names[i]
		c.files = append(c.files, r.file)
	}
}

// parsedFile is what became of one file: nil if it is no mapping.
type parsedFile struct {
	file   *File
	faults strictyaml.Faults
}

func parseFile(name string, data []byte) parsedFile {
	var r parsedFile
	doc, err := strictyaml.Parse(name, data, strictyaml.DefaultLimits())
	if doc == nil {
		r.faults.Add(nil, err)
		return r
	}
	file := &File{Path: name}
	r.faults.Add(doc.Root, err)
	r.faults.Add(doc.Root, doc.Root.Decode(file))
	if file.Node != nil {
		r.file = file
	}
	return r
}

func (c *checker) collectRepos() {
	c.repos = map[string]*Repo{}
	for _, f := range c.files {
		for i := range f.Repos {
			r := &f.Repos[i]
			if first, twice := c.repos[r.ID]; twice {
				c.faults = append(c.faults, r.Node.Fault("repo %q is defined already, in %s:%d", r.ID, first.Node.File(), first.Node.Line))
				continue
			}
			c.repos[r.ID] = r
			c.checkRepo(r)
		}
	}
}

func (c *checker) checkRepo(r *Repo) {
	for i := range r.Match {
		if m := &r.Match[i]; !m.exact() {
			c.faults = append(c.faults, m.Node.Fault("a repo is named by exact values: no glob and no comparison here"))
		}
	}
	issuer, ok := c.known.Issuers[r.Issuer]
	if !ok {
		if n := r.Node.Get("issuer"); n == nil || n.Kind != strictyaml.Text { // reported
			return
		}
		c.faults = append(c.faults, r.Node.At("issuer").Fault("%s", unknown(c, "issuer", r.Issuer, c.known.Issuers)))
		return
	}
	if match := r.Node.Get("match"); match != nil && len(match.Keys) > 0 { // otherwise reported
		c.checkPins(r.Node.At("match"), r.Match, r.Issuer, issuer, fmt.Sprintf("repo %q", r.ID))
	}
}

// checkPins makes sure that ids are matched exactly, and that strangers on a
// shared issuer are kept out by one of them.
func (c *checker) checkPins(at *strictyaml.Node, match Match, name string, issuer Issuer, who string) {
	owners := issuer.OwnerIDs
	if len(owners) == 0 {
		owners = issuer.ImmutableIDs
	}
	pinned := false
	for i := range match {
		m := &match[i]
		if !slices.Contains(issuer.ImmutableIDs, m.Claim) && !slices.Contains(owners, m.Claim) {
			continue
		}
		if !m.exact() {
			c.faults = append(c.faults, m.Node.Fault("%s: an id is matched exactly: no glob and no comparison here", who))
		}
		for _, p := range m.Any {
			if p.Kind == ExactText && p.Text == "" {
				c.faults = append(c.faults, m.Node.Fault("%s: an empty id pins nothing", who))
			}
		}
		pinned = pinned || slices.Contains(owners, m.Claim)
	}
	if !issuer.Shared || pinned {
		return
	}
	if len(owners) == 0 {
		c.faults = append(c.faults, at.Fault("%s: issuer %q is shared with strangers, and has no immutable id that could be pinned", who, name))
		return
	}
	c.faults = append(c.faults, at.Fault("%s: issuer %q is shared with strangers: pin %s", who, name, strings.Join(owners, " or ")))
}

// collectGrants finds the grants that decisions may be about.
func (c *checker) collectGrants() {
	c.globs = map[string][]string{}
	c.grants = map[string]broker.Grant{}
	maps.Copy(c.grants, c.known.Grants)
	if !c.known.AnyGrant {
		return
	}
	named := func(name string) {
		if _, there := c.grants[name]; !there && nameRE.MatchString(name) {
			c.grants[name] = broker.Grant{Name: name, MaxTTL: anyLife}
		}
	}
	for _, f := range c.files {
		for _, r := range f.Rules {
			for _, a := range r.Allow {
				named(a.Grant)
			}
			for _, name := range r.Deny {
				named(name)
			}
		}
	}
}

// matching returns the names of the grants that a glob matches, sorted.
func (c *checker) matching(pattern string, g glob) []string {
	names, ok := c.globs[pattern]
	if !ok {
		for name := range c.grants {
			if g.match(name) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		c.globs[pattern] = names
	}
	return names
}

func (c *checker) checkFile(f *File) {
	first := map[string]int{}
	by := c.above(path.Dir(f.Path))
	for i := range f.Rules {
		r := &f.Rules[i]
		if r.Node == nil { // no mapping; reported
			continue
		}
		name := r.Node.At("name")
		if n := r.Node.Get("name"); n != nil && n.Kind == strictyaml.Text && !nameRE.MatchString(r.Name) {
			c.faults = append(c.faults, name.Fault("is not a name: %s", nameForm))
		}
		if line, twice := first[r.Name]; twice && r.Name != "" {
			c.faults = append(c.faults, name.Fault("rule %q is in this file already, on line %d", r.Name, line))
		} else {
			first[r.Name] = r.Node.Line
		}
		(&ruleChecker{checker: c, file: f, rule: r, ceiling: by}).check()
	}
	if n := f.Node.Get("rules"); n != nil && n.Kind == strictyaml.List && len(n.Items) == 0 {
		c.faults = append(c.faults, n.Fault("is empty: write a rule, or leave rules out"))
	}
}

// short writes a duration as people do: 1h30m, not 1h30m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// maxGuesses is for how many unknown names it is looked for what they may have
// meant: that takes a look at all that there are.
const maxGuesses = 20

// unknown says that nothing is called so, and what is.
func unknown[V any](c *checker, what, name string, known map[string]V) string {
	msg := fmt.Sprintf("no %s is called %q", what, name)
	if len(known) == 0 {
		return msg + "; none is defined"
	}
	if c.guesses++; c.guesses > maxGuesses {
		return msg
	}
	names := slices.Sorted(maps.Keys(known))
	if near := strictyaml.DidYouMean(name, names); near != "" {
		return msg + near
	}
	if len(names) <= 8 {
		return msg + "; there are " + strings.Join(names, ", ")
	}
	return msg
}
