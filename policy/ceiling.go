package policy

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// ceiling is a [Ceiling] with those of the folders above it: all of them bind.
type ceiling struct {
	ast    *Ceiling
	file   *File
	outer  *ceiling  // of the nearest folder above that has one
	repos  *patterns // nil: as outer has it
	grants *patterns

	listed bool    // places and among are made
	places []place // of all repositories that the ceiling lets be named
	among  index
}

// patterns are names and globs of names.
type patterns struct {
	names map[string]bool
	globs []glob
}

func (p *patterns) has(name string) bool {
	return p == nil || p.names[name] || slices.ContainsFunc(p.globs, func(g glob) bool { return g.match(name) })
}

// isGlob tells a glob of names from a name, which has none of its characters.
func isGlob(name string) bool { return strings.ContainsAny(name, "*?") }

// repo and grant report whether the ceiling, and all above it, let a folder
// name one. A nil ceiling lets everything.
func (c *ceiling) repo(name string) bool {
	return c == nil || c.repos.has(name) && c.outer.repo(name)
}

func (c *ceiling) grant(name string) bool {
	return c == nil || c.grants.has(name) && c.outer.grant(name)
}

// ttl is the longest life that the ceiling, and all above it, let be given.
func (c *ceiling) ttl(life time.Duration) time.Duration {
	for ; c != nil; c = c.outer {
		if c.ast.MaxTTL > 0 {
			life = min(life, c.ast.MaxTTL)
		}
	}
	return life
}

// String says where to find it.
func (c *ceiling) String() string {
	return fmt.Sprintf("the ceiling of %s (%s:%d)", c.ast.Folder, c.file.Path, c.ast.Node.Line)
}

// above returns the ceiling of a folder or of the nearest one above it that has
// one, or nil.
func (c *checker) above(folder string) *ceiling {
	for ; folder != "."; folder = path.Dir(folder) {
		if found := c.ceilings[folder]; found != nil {
			return found
		}
	}
	return nil
}

// collectCeilings reads the ceilings of all files. What bounds a folder stands
// outside of it, and of every other that is bounded.
func (c *checker) collectCeilings() {
	c.ceilings = map[string]*ceiling{}
	for _, f := range c.files {
		for i := range f.Ceilings {
			if a := &f.Ceilings[i]; a.Node != nil { // otherwise no mapping; reported
				c.addCeiling(f, a)
			}
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(c.ceilings)) {
		one := c.ceilings[folder]
		one.outer = c.above(path.Dir(folder))
		c.checkCeiling(one)
	}
	if len(c.ceilings) == 0 {
		return
	}
	for _, f := range c.files {
		by := c.above(path.Dir(f.Path))
		for _, key := range []string{"ceilings", "repos"} {
			if n := f.Node.Get(key); n != nil && by != nil {
				c.faults = append(c.faults, n.Fault("%s binds this folder: %s are defined outside of it", by, key))
			}
		}
	}
}

func (c *checker) addCeiling(f *File, a *Ceiling) {
	folder := a.Node.At("folder")
	switch {
	case a.Folder == "": // missing, empty or not text
		if folder.Kind == strictyaml.Text {
			c.faults = append(c.faults, folder.Fault("is empty: name a folder, such as teams/payments"))
		}
		return
	case !pathRE.MatchString(a.Folder):
		c.faults = append(c.faults, folder.Fault("is no folder within the policy folder: write it as teams/payments"))
		return
	case c.ceilings[a.Folder] != nil:
		c.faults = append(c.faults, folder.Fault("has a ceiling already, in %s:%d", c.ceilings[a.Folder].file.Path, c.ceilings[a.Folder].ast.Node.Line))
		return
	}
	c.ceilings[a.Folder] = &ceiling{ast: a, file: f}
}

func (c *checker) checkCeiling(one *ceiling) {
	one.repos = c.readPatterns(one, "repos", one.ast.Repos, func(name string) string {
		if _, ok := c.repos[name]; ok || c.broken {
			return ""
		}
		return unknown(c, "repo", name, c.repos)
	})
	one.grants = c.readPatterns(one, "grants", one.ast.Grants, func(name string) string {
		if _, ok := c.grants[name]; ok || c.known.AnyGrant && nameRE.MatchString(name) {
			return ""
		}
		return unknown(c, "grant", name, c.grants)
	})
	c.checkLife(one.ast.Node.Get("max_ttl"), one.ast.MaxTTL)
}

// readPatterns reads what a ceiling lists. A name that the ceiling above does
// not have is a fault: it would say what does not hold. unknown says why a name
// is none, or nothing.
func (c *checker) readPatterns(one *ceiling, key string, list []string, unknown func(string) string) *patterns {
	n := one.ast.Node.Get(key)
	switch {
	case n == nil && one.outer == nil:
		c.faults = append(c.faults, one.ast.Node.Fault(`%s is missing: list what the folder may name; ["*"] is everything`, key))
		return nil
	case n == nil:
		return nil
	case n.Kind == strictyaml.List && len(n.Items) == 0:
		c.faults = append(c.faults, n.Fault("is empty: list what the folder may name"))
	}
	outer := map[string]func(string) bool{"repos": one.outer.repo, "grants": one.outer.grant}[key]
	p := &patterns{names: map[string]bool{}}
	for i, name := range list {
		at := n.At(i)
		if at.Kind != strictyaml.Text { // reported
			continue
		}
		if isGlob(name) {
			g, err := compileGlob(name)
			if err != nil {
				c.faults = append(c.faults, at.Fault("%s", err))
				continue
			}
			p.globs = append(p.globs, g)
			continue
		}
		if why := unknown(name); why != "" {
			c.faults = append(c.faults, at.Fault("%s", why))
		} else if !outer(name) {
			c.faults = append(c.faults, at.Fault("%s does not have %q", one.outer, name))
		}
		p.names[name] = true
	}
	return p
}

// checkLife makes sure that a duration that was given is whole seconds.
func (c *checker) checkLife(n *strictyaml.Node, life time.Duration) bool {
	if n == nil {
		return true
	}
	if _, err := time.ParseDuration(n.Text); n.Kind != strictyaml.Text || err != nil { // reported
		return false
	}
	if life < time.Second || life%time.Second != 0 {
		c.faults = append(c.faults, n.Fault("must be whole seconds, one at least"))
		return false
	}
	return true
}
