package broker_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/daypass-dev/daypass"

// An arrow says what of ours one part of the tree may import. Names are
// folders of the module: "x/*" is each folder right below x, "x/..." is x and
// all below it. The first arrow that fits a package holds for it.
type arrow struct {
	from  string
	to    []string
	tests []string // what its tests may import beside, and beside broker/brokertest/...
	why   string
}

var arrows = []arrow{
	{from: "broker", tests: []string{"broker/replay", "broker/lease"},
		why: "the nouns and the order of one exchange depend on nobody, so that they can be read and trusted alone; its tests run on the real in-memory stores"},
	{from: "broker/brokertest/...", to: []string{"broker", "broker/brokertest/..."},
		why: "the conformance suites know the interfaces and none of what they judge"},
	{from: "broker/mint", to: []string{"broker", "broker/mint/*"},
		why: "the list of kinds is the one place that knows them all"},
	{from: "broker/internal/adminpool", to: []string{"broker"},
		why: "who lends admin connections knows no driver"},
	{from: "broker/mint/*", to: []string{"broker", "broker/internal/adminpool"},
		why: "a kind can be added or removed without touching another; those that log in to a server keep their connections in one way"},
	{from: "broker/internal/redisconn", to: []string{"broker"},
		why: "the way to Redis knows nothing of what is kept there"},
	{from: "broker/replay", to: []string{"broker", "broker/internal/redisconn"},
		why: "used tokens and leases lie in one Redis, reached and authenticated in one way; the stores share that and nothing else"},
	{from: "broker/lease", to: []string{"broker", "broker/internal/redisconn"},
		why: "as for used tokens"},
	{from: "broker/*", to: []string{"broker"},
		why: "a store, the journal and the API can be exchanged one by one"},
	{from: "issuers/...", to: []string{"broker"},
		why: "who a job is does not depend on what it may have"},
	{from: "policy/strictyaml",
		why: "a parser of operators' files knows no credentials"},
	{from: "policy", to: []string{"broker", "policy/strictyaml"},
		why: "policy decides on identities and grants, whoever made them"},
	{from: "policy/...", to: []string{"broker", "policy", "policy/..."},
		why: "what is said about policy (lint, cases, history) is built on what decides, and decides nothing itself"},
	{from: "clients/go/...", to: []string{"clients/go/..."},
		why: "whoever imports the SDK gets no broker with it, and the wire is held by vectors, not by shared code"},
	{from: "cmd/daypass/...", to: []string{"clients/go", "cmd/daypass/..."}, tests: []string{"..."},
		why: "what runs inside every job is small"},
	{from: "cmd/fakeci", to: []string{"broker/brokertest/fakeissuer"}, tests: []string{"..."},
		why: "the toy provider is the fake issuer with flags"},
	{from: "cmd/daypassd/...", to: []string{"broker", "broker/*", "broker/mint/*", "issuers/...", "policy", "policy/...", "cmd/daypassd/..."}, tests: []string{"..."},
		why: "only here are the parts wired together, and no test helper is among them"},
	{from: "deploy/...", to: []string{"broker/brokertest/servers"}, tests: []string{"..."},
		why: "a demonstration starts servers and runs our programs; it is not built from their insides"},
}

// A dependency says who may import a module of others. One that is not listed
// may be imported by nobody: a new one is a decision, and its row says why.
type dependency struct {
	module string
	in     []string
	tests  []string // whose tests may, too
	why    string
}

var dependencies = []dependency{
	{module: "github.com/coreos/go-oidc/v3", in: []string{"issuers", "broker/signing", "broker/brokertest/..."},
		why: "tokens are verified in one place"},
	{module: "github.com/go-jose/go-jose/v4", in: []string{"issuers", "broker/signing", "broker/brokertest/..."},
		why: "whoever parses a token makes a security decision"},
	{module: "github.com/redis/go-redis/v9", in: []string{"broker/replay", "broker/lease", "broker/internal/redisconn"},
		why: "what is asked of Redis is scripts of ours, with their errors read one by one"},
	{module: "github.com/labstack/echo/v4", in: []string{"broker/api"},
		why: "HTTP stays at the edge"},
	{module: "github.com/prometheus/client_golang", in: []string{"broker/api"},
		why: "the parts count through broker.Meter, and the numbers are served with the rest of HTTP"},
	{module: "github.com/jackc/pgx/v5", in: []string{"broker/mint/postgres"}, tests: []string{"broker/brokertest/...", "cmd/..."},
		why: "a kind brings its one driver, and tests log in with what was made"},
	{module: "github.com/go-sql-driver/mysql", in: []string{"broker/mint/mysql"}, tests: []string{"cmd/..."},
		why: "likewise, for MySQL and MariaDB"},
	{module: "cel.dev/cel-go", in: []string{"policy", "policy/lint"},
		why: "expressions are evaluated where their cost is limited; lint parses them and evaluates none"},
	{module: "github.com/goccy/go-yaml", in: []string{"policy/strictyaml", "issuers"}, tests: []string{"broker/api", "cmd/..."},
		why: "the two that read YAML read it strictly, and tests read what we publish"},
	{module: "github.com/spf13/cobra", in: []string{"cmd/..."},
		why: "flags are for commands"},
	{module: "github.com/fsnotify/fsnotify", in: []string{"cmd/daypassd"},
		why: "a changed policy takes effect at once; what is read does not depend on it"},
	{module: "github.com/mattn/go-isatty", in: []string{"cmd/daypass/..."},
		why: "secrets are not printed onto a screen unasked"},
	{module: "github.com/gofrs/flock", in: []string{"broker/audit", "broker/signing"},
		why: "one writer per folder"},
	{module: "github.com/google/renameio/v2", in: []string{"broker/audit", "broker/signing", "issuers", "cmd/..."},
		why: "a file is there whole or not at all"},
	{module: "golang.org/x/sync", in: []string{"issuers", "broker/*", "cmd/..."},
		why: "waiting for each other, by the makers of the language"},
	{module: "golang.org/x/sys", in: []string{"cmd/daypass/...", "broker/brokertest/servers"},
		why: "what systems do each in their own way, by the makers of the language"},
}

// testDependencies are for tests alone.
var testDependencies = []string{"pgregory.net/rapid", "go.uber.org/goleak", "github.com/rogpeppe/go-internal",
	"github.com/santhosh-tekuri/jsonschema/v6",
	"github.com/c2sp/wycheproof", "github.com/anishathalye/porcupine"}

// A folder is one package as the source tells, whatever its build constraints.
type folder struct {
	path    string   // in the module; "" is its root
	imports []string // of its code
	tests   []string // of its tests
	inits   []string // where its code has a func init
}

func TestTheArrowsGoOneWay(t *testing.T) {
	tree := readTree(t)
	if len(tree) < 10 {
		t.Fatalf("only %d packages were found: this test looks in the wrong place", len(tree))
	}
	for _, fault := range archFaults(tree, arrows, dependencies) {
		t.Error(fault)
	}
}

func TestNoRuleNamesWhatIsGone(t *testing.T) {
	for _, fault := range staleRules(readTree(t), arrows, dependencies) {
		t.Error(fault)
	}
}

func TestEveryRuleHasItsReason(t *testing.T) {
	for _, a := range arrows {
		if a.why == "" {
			t.Errorf("the arrow from %s has no reason", a.from)
		}
	}
	for _, d := range dependencies {
		if d.why == "" {
			t.Errorf("%s has no reason", d.module)
		}
	}
}

// TestTheArrowsFindWhatTheyForbid shows the rules trees that break them.
func TestTheArrowsFindWhatTheyForbid(t *testing.T) {
	ours := func(names ...string) []string {
		for i := range names {
			names[i] = module + "/" + names[i]
		}
		return names
	}
	for name, c := range map[string]struct {
		in   folder
		want string // a part of the one fault; none if empty
	}{
		"broker may import the standard library":      {folder{path: "broker", imports: []string{"crypto/sha256"}}, ""},
		"broker imports none of ours":                 {folder{path: "broker", imports: ours("policy")}, "broker imports policy"},
		"broker imports none of others'":              {folder{path: "broker", imports: []string{"golang.org/x/sync/errgroup"}}, "broker imports golang.org/x/sync"},
		"broker's tests may use the memory stores":    {folder{path: "broker", tests: ours("broker/replay", "broker/brokertest")}, ""},
		"broker's tests do not use the API":           {folder{path: "broker", tests: ours("broker/api")}, "tests of broker import broker/api"},
		"broker's code does not use test libraries":   {folder{path: "broker", imports: []string{"pgregory.net/rapid"}}, "pgregory.net/rapid"},
		"a store may import broker":                   {folder{path: "broker/lease", imports: ours("broker")}, ""},
		"stores do not know each other":               {folder{path: "broker/lease", imports: ours("broker/replay")}, "broker/lease imports broker/replay"},
		"they share the way to Redis":                 {folder{path: "broker/lease", imports: ours("broker/internal/redisconn")}, ""},
		"nobody else takes it":                        {folder{path: "broker/api", imports: ours("broker/internal/redisconn")}, "broker/api imports broker/internal/redisconn"},
		"code does not import test helpers":           {folder{path: "broker/lease", imports: ours("broker/brokertest")}, "broker/lease imports broker/brokertest"},
		"a kind does not know another":                {folder{path: "broker/mint/jwt", imports: ours("broker/mint/postgres")}, "broker/mint/jwt imports broker/mint/postgres"},
		"the list of kinds knows them":                {folder{path: "broker/mint", imports: ours("broker/mint/jwt")}, ""},
		"a kind brings no second driver":              {folder{path: "broker/mint/jwt", imports: []string{"github.com/jackc/pgx/v5/pgxpool"}}, "github.com/jackc/pgx/v5"},
		"issuers do not know policy":                  {folder{path: "issuers", imports: ours("policy")}, "issuers imports policy"},
		"policy does not know issuers":                {folder{path: "policy", imports: ours("issuers")}, "policy imports issuers"},
		"policy reads strict YAML":                    {folder{path: "policy", imports: ours("policy/strictyaml")}, ""},
		"policy parses no YAML by itself":             {folder{path: "policy", imports: []string{"github.com/goccy/go-yaml/parser"}}, "github.com/goccy/go-yaml"},
		"the SDK imports none of the broker":          {folder{path: "clients/go", imports: ours("broker")}, "clients/go imports broker"},
		"the CLI imports the SDK alone":               {folder{path: "cmd/daypass", imports: ours("broker")}, "cmd/daypass imports broker"},
		"the broker's program wires":                  {folder{path: "cmd/daypassd", imports: ours("broker/api", "issuers", "broker/mint/jwt")}, ""},
		"the broker's program carries no test helper": {folder{path: "cmd/daypassd", imports: ours("broker/brokertest")}, "cmd/daypassd imports broker/brokertest"},
		"nor one of the helpers below":                {folder{path: "cmd/daypassd", imports: ours("broker/brokertest/servers")}, "cmd/daypassd imports broker/brokertest/servers"},
		"tests of programs may use them all":          {folder{path: "cmd/daypassd", tests: ours("broker/brokertest/servers", "clients/go")}, ""},
		"echo stays in the API":                       {folder{path: "broker/audit", imports: []string{"github.com/labstack/echo/v4/middleware"}}, "github.com/labstack/echo/v4"},
		"Redis stays in the stores":                   {folder{path: "broker/api", imports: []string{"github.com/redis/go-redis/v9"}}, "github.com/redis/go-redis/v9"},
		"tests do not go round that":                  {folder{path: "broker/api", tests: []string{"github.com/redis/go-redis/v9"}}, "github.com/redis/go-redis/v9"},
		"a name that begins alike is another":         {folder{path: "broker/replay", imports: []string{"github.com/redis/go-redis/v90"}}, "nobody may import"},
		"tests read what we publish":                  {folder{path: "broker/api", tests: []string{"github.com/goccy/go-yaml"}}, ""},
		"code does not do so with them":               {folder{path: "broker/api", imports: []string{"github.com/goccy/go-yaml"}}, "github.com/goccy/go-yaml"},
		"a new dependency is a decision":              {folder{path: "broker/api", imports: []string{"github.com/stretchr/testify/assert"}}, "nobody may import"},
		"a new package needs an arrow":                {folder{path: "util", imports: ours("broker")}, "no arrow"},
		"nothing registers itself":                    {folder{path: "broker/mint/jwt", inits: []string{"jwt.go:7"}}, "func init"},
	} {
		t.Run(name, func(t *testing.T) {
			faults := archFaults([]folder{c.in}, arrows, dependencies)
			switch {
			case c.want == "" && len(faults) != 0:
				t.Errorf("it is forbidden: %s", faults)
			case c.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], c.want)):
				t.Errorf("want one fault with %q, have %q", c.want, faults)
			}
		})
	}
}

func TestRulesThatNameWhatIsGoneAreFound(t *testing.T) {
	tree := []folder{{path: "broker", imports: []string{"example.com/x/y"}}}
	for name, c := range map[string]struct {
		arrows []arrow
		deps   []dependency
		want   int
	}{
		"all is there":                {[]arrow{{from: "broker"}}, []dependency{{module: "example.com/x", in: []string{"broker"}}}, 0},
		"an arrow from nothing":       {[]arrow{{from: "gone"}}, nil, 1},
		"an arrow to nothing":         {[]arrow{{from: "broker", to: []string{"gone/..."}}}, nil, 1},
		"a module nobody imports":     {nil, []dependency{{module: "example.com/z", in: []string{"broker"}}}, 1},
		"a module for a vanished one": {nil, []dependency{{module: "example.com/x", in: []string{"broker", "gone/*"}}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := staleRules(tree, c.arrows, c.deps); len(got) != c.want {
				t.Errorf("want %d faults, have %q", c.want, got)
			}
		})
	}
}

// archFaults says what in the tree breaks which rule.
func archFaults(tree []folder, arrows []arrow, deps []dependency) []string {
	var faults []string
	for _, f := range tree {
		i := slices.IndexFunc(arrows, func(a arrow) bool { return fits(a.from, f.path) })
		if i < 0 {
			faults = append(faults, fmt.Sprintf("%s: no arrow says what it may import; add one, with its reason", f.path))
			continue
		}
		a := arrows[i]
		for _, at := range f.inits {
			faults = append(faults, fmt.Sprintf("%s: %s has a func init: nothing registers itself, cmd/ wires", f.path, at))
		}
		for _, imp := range f.imports {
			if to, ok := inModule(imp); ok {
				if !fitsAny(a.to, to) {
					faults = append(faults, fmt.Sprintf("%s imports %s: %s", f.path, to, a.why))
				}
			} else if why := foreign(f.path, imp, deps, inCode); why != "" {
				faults = append(faults, fmt.Sprintf("%s imports %s: %s", f.path, imp, why))
			}
		}
		faults = append(faults, testFaults(f, a, deps)...)
	}
	return faults
}

// testFaults holds tests to the arrows of their package, with what tests need.
func testFaults(f folder, a arrow, deps []dependency) []string {
	var faults []string
	for _, imp := range f.tests {
		to, ours := inModule(imp)
		switch {
		case ours && (to == f.path || fitsAny(a.to, to) || fitsAny(a.tests, to) || fits("broker/brokertest/...", to)):
		case ours:
			faults = append(faults, fmt.Sprintf("tests of %s import %s: %s", f.path, to, a.why))
		case slices.ContainsFunc(testDependencies, func(m string) bool { return within(m, imp) }):
		default:
			if why := foreign(f.path, imp, deps, inTests); why != "" {
				faults = append(faults, fmt.Sprintf("tests of %s import %s: %s", f.path, imp, why))
			}
		}
	}
	return faults
}

// Whom a dependency is for, in code and in tests.
func inCode(d dependency) []string  { return d.in }
func inTests(d dependency) []string { return slices.Concat(d.in, d.tests) }

// foreign says why a package may not import what is neither ours nor the
// standard library's, or nothing.
func foreign(from, imp string, deps []dependency, whom func(dependency) []string) string {
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	i := slices.IndexFunc(deps, func(d dependency) bool { return within(d.module, imp) })
	switch {
	case i < 0:
		return "nobody may import it until a row of dependencies says who and why"
	case !fitsAny(whom(deps[i]), from):
		return "that is for " + strings.Join(deps[i].in, ", ") + ": " + deps[i].why
	}
	return ""
}

// staleRules says which rules speak of what is no longer there.
func staleRules(tree []folder, arrows []arrow, deps []dependency) []string {
	var faults []string
	named := func(rule string, patterns ...string) {
		for _, p := range patterns {
			if !slices.ContainsFunc(tree, func(f folder) bool { return fits(p, f.path) }) {
				faults = append(faults, fmt.Sprintf("%s names %s, and there is no such package", rule, p))
			}
		}
	}
	for _, a := range arrows {
		named("the arrow from "+a.from, append(append([]string{a.from}, a.to...), a.tests...)...)
	}
	for _, d := range deps {
		named("the rule of "+d.module, inTests(d)...)
		if !slices.ContainsFunc(tree, func(f folder) bool {
			return slices.ContainsFunc(f.imports, func(imp string) bool { return within(d.module, imp) })
		}) {
			faults = append(faults, fmt.Sprintf("%s has a rule, and nobody imports it", d.module))
		}
	}
	return faults
}

// fits reports whether a folder is what a pattern means.
func fits(pattern, folder string) bool {
	if pattern == "..." {
		return true
	}
	if root, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(root, folder)
	}
	if root, ok := strings.CutSuffix(pattern, "/*"); ok {
		// What broker/brokertest holds is for tests, wherever it is named.
		return path.Dir(folder) == root && folder != "broker/brokertest"
	}
	return pattern == folder
}

func fitsAny(patterns []string, folder string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, folder) })
}

func within(root, p string) bool { return p == root || strings.HasPrefix(p, root+"/") }

func inModule(imp string) (string, bool) {
	return strings.TrimPrefix(strings.TrimPrefix(imp, module), "/"), within(module, imp)
}

// readTree reads every Go file of the module: what is built on other systems
// and what does not compile at the moment, too.
func readTree(t *testing.T) []folder {
	t.Helper()
	const root = ".."
	found := make(map[string]*folder)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != root && isForeign(name, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go":
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			return err
		}
		at := filepath.ToSlash(rel)
		if found[at] == nil {
			found[at] = &folder{path: at}
		}
		return found[at].read(name)
	})
	if err != nil {
		t.Fatal(err)
	}
	var tree []folder
	for _, at := range slices.Sorted(maps.Keys(found)) {
		tree = append(tree, *found[at])
	}
	return tree
}

// isForeign reports whether a folder holds no package of this module.
func isForeign(name, base string) bool {
	_, err := os.Stat(filepath.Join(name, "go.mod"))
	return err == nil || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") ||
		base == "testdata" || base == "vendor" || base == "node_modules"
}

// read adds one file to what is known of its folder.
func (f *folder) read(name string) error {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	into := &f.imports
	if strings.HasSuffix(name, "_test.go") {
		into = &f.tests
	}
	for _, spec := range file.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if !slices.Contains(*into, imp) {
			*into = append(*into, imp)
		}
	}
	for _, decl := range file.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" && into == &f.imports {
			f.inits = append(f.inits, fmt.Sprintf("%s:%d", filepath.Base(name), files.Position(fn.Pos()).Line))
		}
	}
	return nil
}
