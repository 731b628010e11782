package policy_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

func TestARuleSaysWhatItReads(t *testing.T) {
	for name, c := range map[string]struct {
		when   string
		claims []string
		all    bool
		ttl    bool
	}{
		"nothing but the match":             {"issuer == \"github\" && grant != \"x\"", nil, false, false},
		"a claim":                           {"claims.actor == \"a\"", []string{"actor"}, false, false},
		"a claim by its text":               {"claims[\"actor\"] == \"a\"", []string{"actor"}, false, false},
		"whether a claim is there":          {"!has(claims.actor)", []string{"actor"}, false, false},
		"what is within a claim":            {"claims.limits.low[0] > 1", []string{"limits"}, false, false},
		"a claim as an argument":            {"size(claims.actor) > 1 || \"a\" in claims.groups", []string{"actor", "groups"}, false, false},
		"a list of a claim":                 {"claims.groups.exists(g, g == claims.actor)", []string{"actor", "groups"}, false, false},
		"claims in lists, maps and choices": {"(claims.a == \"1\" ? [claims.b] : [{\"k\": claims.c}.k]).size() > 0", []string{"a", "b", "c"}, false, false},
		"claims of any name":                {"claims.exists(c, c == \"actor\")", nil, true, false},
		"all claims":                        {"size(claims) > 3", nil, true, false},
		"a claim that another names":        {"claims[claims.actor] == \"a\"", []string{"actor"}, true, false},
		"the life":                          {"ttl <= duration(\"5m\")", nil, false, true},
		"behind a dot":                      {".claims.actor == \"a\" && .ttl <= duration(\"5m\")", []string{"actor"}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			book := load(t, rule("match: {ref: refs/heads/main, /nested~1one/0: x}", "when: '"+c.when+"'", "allow: [{grant: payments-db}]"))
			for r := range book.Rules() {
				got := r.Reads()
				want := append([]string{"nested/one", "ref", "repository_id", "repository_owner_id"}, c.claims...)
				slices.Sort(want)
				if !slices.Equal(got.Claims, want) || got.All != c.all || got.TTL != c.ttl {
					t.Errorf("%s reads %+v, want %v, %v, %v", c.when, got, want, c.all, c.ttl)
				}
			}
		})
	}
}

// What a rule does not read cannot change what it decides.
func TestWhatARuleDoesNotReadDecidesNothing(t *testing.T) {
	book := load(t, rule("match: {ref: {not: {glob: \"refs/pull/**\"}}}", `when: '!has(claims.environment) || claims.environment.startsWith("p")'`, "allow: [{grant: payments-db}]"))
	var reads policy.Reads
	for r := range book.Rules() {
		reads = r.Reads()
	}
	id := job(nil)
	for _, environment := range []any{nil, "production", "staging"} {
		id.Claims = broker.Claims{"repository_owner_id": "1234", "repository_id": "5678", "ref": "refs/heads/main"}
		if environment != nil {
			id.Claims["environment"] = environment
		}
		bare := allowed(t, book, id)
		for _, name := range []string{"actor", "sha", "environments", "sub"} {
			if slices.Contains(reads.Claims, name) {
				t.Fatalf("the rule reads %s", name)
			}
			id.Claims[name] = "p"
		}
		if more := allowed(t, book, id); more != bare {
			t.Errorf("environment %v: %v, and %v with claims that it does not read", environment, bare, more)
		}
	}
}

func TestAFolderWithAnotherFileLeavesTheFirstAsItIs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(rule(allowDB)), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := policy.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	after := before.With("q.yaml", []byte("rules:\n  - {name: more, for: [api], allow: [{grant: payments-ro}]}\n"))
	replaced := after.With("q.yaml", []byte("rules: 1\n"))
	rules := func(f *policy.Folder) int {
		book, err := f.Book(known())
		if err != nil {
			return -1
		}
		return len(slices.Collect(book.Rules()))
	}
	if a, b, c := rules(before), rules(after), rules(replaced); a != 1 || b != 2 || c != -1 {
		t.Errorf("rules: %d, then %d, then %d", a, b, c)
	}
}
