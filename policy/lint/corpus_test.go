package lint_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/lint"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// today is the day of all tests.
var today = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// caseConfig is config.yaml beside a case: what a server's configuration would
// say.
type caseConfig struct {
	Issuers map[string]struct {
		Node         *strictyaml.Node `yaml:",node"`
		Profile      string           `yaml:"profile,required"`
		URL          string           `yaml:"url"`
		Audiences    []string         `yaml:"audiences"`
		OneAudience  bool             `yaml:"one_audience"`
		MaxTokenLife time.Duration    `yaml:"max_token_life"`
		ReplayKey    string           `yaml:"replay_key"`
		Version      string           `yaml:"version"`
		Shared       bool             `yaml:"shared"`
		Waive        []policy.Waiver  `yaml:"waive"`
	} `yaml:"issuers"`
	Grants map[string]struct {
		Node   *strictyaml.Node  `yaml:",node"`
		Access broker.Access     `yaml:"access"`
		Labels map[string]string `yaml:"labels"`
	} `yaml:"grants"`
	Earlier []struct {
		Issuer string            `yaml:"issuer"`
		At     string            `yaml:"at"`
		Claims map[string]string `yaml:"claims"`
	} `yaml:"earlier"`
}

// config turns config.yaml into what lint is given.
func (c *caseConfig) config(t testing.TB) lint.Config {
	t.Helper()
	known := profiles(t)
	l := lint.Config{Issuers: map[string]lint.Issuer{}, Now: today}
	for name, i := range c.Issuers {
		l.Issuers[name] = lint.Issuer{
			Profile: i.Profile, URL: i.URL, Audiences: i.Audiences, OneAudience: i.OneAudience, MaxTokenLife: i.MaxTokenLife,
			ReplayKey: i.ReplayKey, Version: i.Version, Shared: i.Shared, Waive: i.Waive, Node: i.Node,
			ImmutableIDs: known[i.Profile].ImmutableIDs, OwnerIDs: known[i.Profile].OwnerIDs,
		}
	}
	if c.Grants != nil {
		l.Grants = map[string]lint.Grant{}
	}
	for name, g := range c.Grants {
		l.Grants[name] = lint.Grant{Access: g.Access, Labels: g.Labels, Node: g.Node}
	}
	for _, e := range c.Earlier {
		at, err := time.Parse(time.DateOnly, e.At)
		if err != nil {
			t.Fatal(err)
		}
		claims := broker.Claims{}
		for k, v := range e.Claims {
			claims[k] = v
		}
		l.Earlier = append(l.Earlier, lint.Earlier{Issuer: e.Issuer, Claims: claims, At: at})
	}
	return l
}

func profiles(t testing.TB) map[string]policy.Issuer {
	t.Helper()
	known, err := lint.Profiles()
	if err != nil {
		t.Fatal(err)
	}
	return known
}

// byProfile is how policy is looked at without a configuration.
func byProfile(t testing.TB) lint.Config {
	t.Helper()
	c := lint.Config{Issuers: map[string]lint.Issuer{}, Now: today}
	for name, i := range profiles(t) {
		c.Issuers[name] = lint.Issuer{Profile: name, Shared: i.Shared, ImmutableIDs: i.ImmutableIDs, OwnerIDs: i.OwnerIDs}
	}
	return c
}

// testCase is one file or folder of a corpus.
type testCase struct {
	name   string
	files  map[string]string
	config lint.Config
	text   string // of all files
}

// corpus reads a folder of cases.
func corpus(t testing.TB, dir string) []testCase {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []testCase
	for _, e := range entries {
		c := testCase{name: strings.TrimSuffix(e.Name(), ".yaml"), files: map[string]string{}, config: byProfile(t)}
		err := filepath.WalkDir(filepath.Join(dir, e.Name()), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			c.text += string(text)
			name := e.Name()
			if e.IsDir() {
				name, err = filepath.Rel(filepath.Join(dir, e.Name()), path)
			}
			if err == nil && name == "config.yaml" {
				var parsed caseConfig
				if err = strictyaml.Decode(name, text, &parsed); err == nil {
					c.config = parsed.config(t)
				}
			}
			c.files[filepath.ToSlash(name)] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// folder is the policy of a case, without its configuration.
func (c testCase) folder() fs.FS {
	fsys := fstest.MapFS{}
	for name, text := range c.files {
		if name != "config.yaml" {
			fsys[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
		}
	}
	return fsys
}

// check lints a case.
func (c testCase) check(t testing.TB) lint.Findings {
	t.Helper()
	found, err := lint.Check(policy.Parse(c.folder()), c.config)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (c testCase) known() policy.Known {
	k := policy.Known{Issuers: map[string]policy.Issuer{}, AnyGrant: c.config.Grants == nil, Grants: map[string]broker.Grant{}}
	for name, i := range c.config.Issuers {
		k.Issuers[name] = policy.Issuer{Shared: i.Shared, ImmutableIDs: i.ImmutableIDs, OwnerIDs: i.OwnerIDs}
	}
	for name, g := range c.config.Grants {
		k.Grants[name] = broker.Grant{Name: name, MaxTTL: time.Hour, Access: g.Access}
	}
	return k
}

var marker = regexp.MustCompile(`# <- (DP[0-9]{3})$`)

// TestEachMisconfiguredPolicyIsFoundByTheRuleItWasWrittenFor reads the id from
// the name of the case, and the line from the mark on it.
func TestEachMisconfiguredPolicyIsFoundByTheRuleItWasWrittenFor(t *testing.T) {
	cases := corpus(t, "testdata/misconfigured")
	if len(cases) < 60 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(c.text, "# Attack: ") || !strings.Contains(c.text, "# Source: ") {
				t.Error("the case does not say which attack it is, and from where")
			}
			found := c.check(t)
			marks := 0
			for name, text := range c.files {
				for i, line := range strings.Split(text, "\n") {
					m := marker.FindStringSubmatch(line)
					if m == nil {
						continue
					}
					marks++
					if m[1] != c.name[:5] {
						t.Errorf("the mark says %s", m[1])
					}
					if !slices.ContainsFunc(found, func(f lint.Finding) bool { return f.ID == m[1] && f.File == name && f.Line == i+1 }) {
						t.Errorf("%s is not found on line %d of %s:\n%s", m[1], i+1, name, listed(found))
					}
				}
			}
			if marks == 0 {
				t.Error("no line is marked")
			}
			for _, f := range found {
				if f.Message == "" || f.Fix == "" || f.Name == "" || f.Severity == "" {
					t.Errorf("a finding says too little: %+v", f)
				}
			}
		})
	}
}

func listed(found lint.Findings) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%s\n", f.String())
	}
	return b.String()
}

func TestEveryRuleHasAMisconfiguredPolicy(t *testing.T) {
	have := map[string]bool{"DP000": true} // see TestAFolderThatIsNotLoadedIsAFinding
	for _, c := range corpus(t, "testdata/misconfigured") {
		have[c.name[:5]] = true
	}
	for _, r := range lint.Rules() {
		if !have[r.ID] {
			t.Errorf("no case is for %s %s", r.ID, r.Name)
		}
		delete(have, r.ID)
	}
	if len(have) > 0 {
		t.Errorf("cases for rules that are not there: %v", slices.Sorted(maps.Keys(have)))
	}
}

func TestNoSoundPolicyHasAFindingAboveAWarning(t *testing.T) {
	cases := corpus(t, "testdata/sound")
	if len(cases) < 30 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := policy.Load(c.folder(), c.known()); err != nil {
				t.Fatalf("it is not loaded: %v", err)
			}
			if failing := c.check(t).Failing(); len(failing) > 0 {
				t.Errorf("found:\n%s", listed(failing))
			}
		})
	}
}
