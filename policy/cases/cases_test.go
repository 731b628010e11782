package cases_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/cases"
)

var update = flag.Bool("update", false, "write the golden files anew")

func known() policy.Known {
	return policy.Known{
		Issuers: map[string]policy.Issuer{
			"github": {Shared: true, ImmutableIDs: []string{"repository_owner_id", "repository_id"}, OwnerIDs: []string{"repository_owner_id"}},
		},
		Grants: map[string]broker.Grant{
			"payments-db": {Name: "payments-db", Kind: "postgres", Target: "pg", MaxTTL: time.Hour},
			"payments-ro": {Name: "payments-ro", Kind: "postgres", Target: "pg", MaxTTL: 2 * time.Hour},
		},
	}
}

func fixtures() cases.Fixtures {
	push := broker.Claims{"repository_owner_id": "1234", "repository_id": "5678", "ref": "refs/heads/main", "event_name": "push",
		"job_workflow_ref": "acme/ci/deploy.yml@refs/heads/main", "run": json.Number("7")}
	return cases.Fixtures{"github": push, "github/push": push}
}

const rules = `
owner: team-payments
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: deploy-from-main
    for: [api]
    match: {ref: refs/heads/main, environment: production}
    when: 'claims.event_name == "push"'
    allow: [{grant: payments-db, ttl: 15m}]
  - {name: read, for: [api], until: 2027-01-31, allow: [{grant: payments-ro}]}
  - {name: frozen, deny: ["*"], match: {environment: frozen}}
  - {name: tryout, mode: report, for: [api], match: {event_name: schedule}, allow: [{grant: payments-db}]}
`

func book(t *testing.T, k policy.Known, text string) *policy.Book {
	t.Helper()
	b, err := policy.Load(fstest.MapFS{"teams/pay.yaml": {Data: []byte(text)}}, k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func run(t *testing.T, text string, o cases.Options) cases.Report {
	t.Helper()
	if o.Fixtures == nil {
		o.Fixtures = fixtures()
	}
	return cases.Run(book(t, known(), rules), map[string][]byte{"teams/pay_test.yaml": []byte(text)}, o)
}

// one makes a file of one case from further keys of it.
func one(keys string) string {
	return "cases:\n  - {name: the case, issuer: github, fixture: github, " + keys + "}\n"
}

func TestACasePassesIfTheDecisionIsTheOneItExpects(t *testing.T) {
	for sentence, c := range map[string]struct {
		keys string
		want string // a part of the failure; empty: it passes
	}{
		"allow that is given":                      {"claims: {environment: production}, grant: payments-db, expect: allow", ""},
		"allow by the rule named, for as long":     {"claims: {environment: production}, grant: payments-db, expect: allow, rule: teams/pay/deploy-from-main, ttl: 15m", ""},
		"allow of a shorter life that is asked":    {"claims: {environment: production}, grant: payments-db?ttl=5m, expect: allow, ttl: 5m", ""},
		"deny that is denied":                      {"grant: payments-db, expect: deny", ""},
		"deny by the rule named":                   {"claims: {environment: frozen}, grant: payments-db, expect: deny, rule: teams/pay/frozen", ""},
		"a rule counts as long as no time is said": {"grant: payments-ro, expect: allow", ""},
		"a rule ends at the time said":             {"at: 2027-02-01T00:00:00Z, grant: payments-ro, expect: deny", ""},
		"a rule is in force at the time said":      {"at: 2027-01-31T23:59:59+00:00, grant: payments-ro, expect: allow", ""},
		"a number keeps its type":                  {"claims: {repository_id: 5678}, grant: payments-ro, expect: deny", ""},
		"a claim that is removed is not there":     {"remove: [ref], claims: {environment: production}, grant: payments-db, expect: deny", ""},
		"allow that is denied": {"claims: {ref: refs/heads/x, environment: production}, grant: payments-db, expect: allow",
			`expected allow, and it is denied: of the nearest rule teams/pay/deploy-from-main, ref is "refs/heads/x", wanted "refs/heads/main"`},
		"allow for want of a claim":        {"grant: payments-db, expect: allow", `environment is not there, wanted "production"`},
		"allow for want of the expression": {"claims: {environment: production, event_name: x}, grant: payments-db, expect: allow", "its expression does not hold"},
		"allow to another repository":      {`claims: {repository_id: "9"}, grant: payments-ro, expect: allow`, `repository_id is "9", wanted "5678"`},
		"allow against a rule that denies": {"claims: {environment: frozen}, grant: payments-ro, expect: allow", "rule teams/pay/frozen denies it"},
		"allow after the last day":         {"at: 2028-01-01T00:00:00Z, grant: payments-ro, expect: allow", "rule teams/pay/read ended with 2027-01-31"},
		"deny that is given":               {"grant: payments-ro, expect: deny", "expected deny, and rule teams/pay/read allows it"},
		"another rule than is expected":    {"grant: payments-ro, expect: allow, rule: teams/pay/deploy-from-main", "expected rule teams/pay/deploy-from-main, and rule teams/pay/read gives it"},
		"a deny of another rule":           {"grant: payments-db, expect: deny, rule: teams/pay/frozen", "expected rule teams/pay/frozen to deny it, and that does not"},
		"another life than is expected":    {"grant: payments-ro, expect: allow, ttl: 1h", "expected a ttl of 1h0m0s, and it is 2h"},
	} {
		t.Run(sentence, func(t *testing.T) {
			r := run(t, one(c.keys), cases.Options{})
			if len(r.Faults) != 0 || len(r.Results) != 1 {
				t.Fatalf("%+v", r)
			}
			got := r.Results[0]
			if got.Passed() != (c.want == "") || !strings.Contains(got.Failure, c.want) || (r.Err() == nil) != got.Passed() {
				t.Errorf("failure %q, want %q; error %v", got.Failure, c.want, r.Err())
			}
			if (got.Explanation == nil) != got.Passed() || strings.Contains(got.Failure, "\n") {
				t.Errorf("a case that failed is explained, in one line at first: %+v", got)
			}
		})
	}
}

// A case that cannot fail says nothing, and would be believed.
func TestACaseThatCouldNotFailIsAFault(t *testing.T) {
	for sentence, c := range map[string]struct{ text, want string }{
		"an issuer that there is not":       {"cases:\n  - {name: a, issuer: gihtub, claims: {x: y}, grant: payments-db, expect: deny}\n", `no issuer is called "gihtub"`},
		"a grant that there is not":         {one("grant: payments-bd, expect: deny"), `no grant is called "payments-bd"`},
		"a rule that there is not":          {one("grant: payments-ro, expect: allow, rule: teams/pay/raed"), `no rule is called "teams/pay/raed"; did you mean`},
		"a fixture that there is not":       {"cases:\n  - {name: a, issuer: github, fixture: github/pusch, grant: payments-db, expect: deny}\n", "no fixture is called \"github/pusch\"; did you mean"},
		"a claim removed that is not there": {one("remove: [job_workflow_reff], grant: payments-ro, expect: allow"), `the fixture has no claim "job_workflow_reff"`},
		"a claim removed and given":         {one("remove: [ref], claims: {ref: x}, grant: payments-ro, expect: allow"), `claim "ref" is under claims as well`},
		"claims removed from nothing":       {"cases:\n  - {name: a, issuer: github, claims: {x: y}, remove: [x], grant: payments-db, expect: deny}\n", "takes claims of a fixture away"},
		"nothing of the job":                {"cases:\n  - {name: a, issuer: github, grant: payments-db, expect: deny}\n", "says nothing of the job"},
		"nothing expected":                  {one("grant: payments-db"), "expect is missing"},
		"an odd expectation":                {one("grant: payments-db, expect: maybe"), "must be allow or deny"},
		"a life of what is denied":          {one("grant: payments-db, expect: deny, ttl: 5m"), "what is denied has none"},
		"an odd time":                       {one("at: 2027-01-31, grant: payments-db, expect: deny"), "must be a time such as"},
		"an odd grant":                      {one(`grant: "payments-db?life=5m", expect: deny`), "after ? comes ttl"},
		"an unknown key":                    {one("grant: payments-db, expect: deny, expects: deny"), "unknown key"},
		"a key twice":                       {one("grant: payments-db, expect: deny, expect: allow"), "is here twice"},
		"the same name twice":               {one("grant: payments-db, expect: deny") + "  - {name: the case, issuer: github, fixture: github, grant: payments-ro, expect: allow}\n", `case "the case" is in this file already`},
		"no name":                           {"cases:\n  - {issuer: github, fixture: github, grant: payments-db, expect: deny}\n", "name is missing"},
		"an empty list":                     {"cases: []\n", "is empty: write a case"},
		"an anchor":                         {"cases: &a\n  - {name: a}\n", "anchor"},
		"no YAML":                           {"cases: [", ""},
		"rules among the cases":             {"rules: []\n", "unknown key"},
	} {
		t.Run(sentence, func(t *testing.T) {
			r := run(t, c.text, cases.Options{})
			if len(r.Faults) == 0 || r.Err() == nil || !strings.Contains(r.Err().Error(), c.want) {
				t.Errorf("want a fault with %q, have %v", c.want, r.Err())
			}
			for _, f := range r.Faults {
				if f.File != "teams/pay_test.yaml" {
					t.Errorf("the fault is of file %q", f.File)
				}
			}
			for _, one := range r.Results {
				if one.Name == "a" {
					t.Errorf("it was tried all the same: %+v", one)
				}
			}
		})
	}
}

const many = `
cases:
  - {name: main may deploy, issuer: github, fixture: github, claims: {environment: production}, grant: payments-db, expect: allow}
  - {name: others may not, issuer: github, fixture: github, claims: {ref: refs/heads/x, environment: production}, grant: payments-db, expect: deny}
  - {name: nothing while frozen, issuer: github, fixture: github, claims: {environment: frozen}, grant: payments-db, expect: deny}
  - {name: wrong, issuer: github, fixture: github, claims: {ref: "a<b>&\"c\"", environment: production}, grant: payments-db, expect: allow}
`

func TestCoverageNamesWhatNoCaseHasShown(t *testing.T) {
	got := run(t, many, cases.Options{}).Coverage
	var gaps []string
	for _, g := range got.Gaps {
		gaps = append(gaps, g.String())
	}
	want := []string{
		"teams/pay.yaml:9: rule teams/pay/deploy-from-main: no case made when fail",
		"teams/pay.yaml:11: rule teams/pay/read: no case was decided by it",
		"teams/pay.yaml:13: rule teams/pay/tryout: no case was decided by it",
		"teams/pay.yaml:13: rule teams/pay/tryout: no case made event_name hold",
	}
	if !slices.Equal(gaps, want) {
		t.Errorf("gaps\n%s\nwant\n%s", strings.Join(gaps, "\n"), strings.Join(want, "\n"))
	}
	if got.Rules != 4 || got.Conditions != 5 || got.Percent != 100*(14-4)/14 {
		t.Errorf("%+v", got)
	}
	full := many + `
  - {name: reads, issuer: github, fixture: github, grant: payments-ro, expect: allow}
  - {name: no expression, issuer: github, fixture: github, claims: {environment: production, event_name: schedule}, grant: payments-db, expect: deny}
`
	if got := run(t, full, cases.Options{}).Coverage; got.Percent != 100 || len(got.Gaps) != 0 {
		t.Errorf("%+v", got)
	}
	// What strangers are refused says nothing of a rule's conditions.
	stranger := one(`claims: {repository_id: "9", ref: refs/heads/x, environment: staging}, grant: payments-db, expect: deny`)
	if got := run(t, stranger, cases.Options{}).Coverage; len(got.Gaps) != 14-1 { // the deny of all jobs was made to fail
		t.Errorf("%d gaps: %+v", len(got.Gaps), got.Gaps)
	}
}

func TestReportsAreAsTheirGoldens(t *testing.T) {
	r := run(t, many+"  - {name: faulty, issuer: nowhere, fixture: github, grant: payments-db, expect: deny}\n", cases.Options{})
	var text, junit bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.Coverage.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteJUnit(&junit); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.golden", strings.ReplaceAll(text.String(), r.Version, "sha256:…"))
	golden(t, "junit.golden", strings.ReplaceAll(junit.String(), r.Version, "sha256:…"))
	var read struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
	}
	if err := xml.Unmarshal(junit.Bytes(), &read); err != nil || read.Tests != 5 || read.Failures != 1 || read.Errors != 1 {
		t.Errorf("%+v, %v", read, err)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if got != string(want) {
		t.Errorf("%s has changed (-update rewrites it):\n%s", path, got)
	}
}

func TestOnlySomeCasesCanBeTried(t *testing.T) {
	for only, want := range map[string]int{"": 4, "may": 2, "pay_test.yaml/main": 1, "nothing of this": 0} {
		if r := run(t, many, cases.Options{Only: only}); len(r.Results) != want {
			t.Errorf("%q: %d cases, want %d", only, len(r.Results), want)
		}
	}
}

// TestManyBadCasesAreNotEachHeldAgainstAllRules: a reload waits for them, and one
// file holds thousands.
func TestManyBadCasesAreNotEachHeldAgainstAllRules(t *testing.T) {
	var unknown, failing strings.Builder
	unknown.WriteString("cases:\n")
	failing.WriteString("cases:\n")
	for i := range 300 {
		fmt.Fprintf(&unknown, "  - {name: c%d, issuer: github, fixture: github, grant: payments-ro, expect: allow, rule: teams/pay/raed}\n", i)
		fmt.Fprintf(&failing, "  - {name: c%d, issuer: github, fixture: github, claims: {repository_id: \"%d\"}, grant: payments-ro, expect: allow}\n", i, i)
	}
	r := run(t, unknown.String(), cases.Options{})
	if n := strings.Count(r.Faults.Err().Error(), "did you mean"); len(r.Faults) != 300 || n != 20 {
		t.Errorf("%d faults, and %d guesses", len(r.Faults), n)
	}
	r = run(t, failing.String(), cases.Options{})
	near := 0
	for _, one := range r.Results {
		if one.Passed() || one.Explanation == nil {
			t.Fatalf("%+v", one)
		}
		if strings.Contains(one.Failure, "of the nearest rule teams/pay/read") {
			near++
		}
	}
	if len(r.Results) != 300 || near != 100 {
		t.Errorf("%d failures, and %d nearest rules", len(r.Results), near)
	}
	var xml bytes.Buffer
	if err := r.WriteJUnit(&xml); err != nil || strings.Count(xml.String(), "<failure") != 300 {
		t.Error(err)
	}
}

func TestWithoutGrantsCasesAreTriedAllTheSame(t *testing.T) {
	k := known()
	k.Grants, k.AnyGrant = nil, true
	b := book(t, k, strings.ReplaceAll(rules, `["*"]`, "[payments-db]"))
	r := cases.Run(b, map[string][]byte{"a_test.yaml": []byte(one("claims: {environment: production}, grant: payments-db, expect: allow, ttl: 15m"))}, cases.Options{Fixtures: fixtures()})
	if err := r.Err(); err != nil || len(r.Results) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestFilesWithoutFaultAreTriedBesideFaultyOnes(t *testing.T) {
	r := cases.Run(book(t, known(), rules), map[string][]byte{
		"a_test.yaml": []byte("cases: ["), "b_test.yaml": []byte(one("grant: payments-ro, expect: allow")),
		"c_test.yaml": []byte(one("grant: payments-ro, expect: perhaps") + "  - {name: whole, issuer: github, fixture: github, grant: payments-ro, expect: allow}\n"),
	}, cases.Options{Fixtures: fixtures()})
	var tried []string
	for _, one := range r.Results {
		tried = append(tried, one.File+" "+one.Name)
	}
	if !slices.Equal(tried, []string{"b_test.yaml the case", "c_test.yaml whole"}) || r.Err() == nil {
		t.Errorf("tried %v, error %v", tried, r.Err())
	}
	if r := cases.Run(book(t, known(), rules), nil, cases.Options{}); r.Err() != nil || len(r.Results) != 0 {
		t.Errorf("no case is no failure for those who must load: %v", r.Err())
	}
}

func TestAWantIsReadAsEverywhere(t *testing.T) {
	for text, want := range map[string]broker.Want{
		"a": {Name: "a"}, "a?ttl=30m": {Name: "a", TTL: 30 * time.Minute}, "A.b_c?ttl=1s": {Name: "A.b_c", TTL: time.Second},
	} {
		if got, err := cases.ParseWant(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "?ttl=1m", "a?", "a?ttl", "a?ttl=x", "a?ttl=0s", "a?ttl=10ms", "a?ttl=-1m", "a?ttl=1m&x=y", "a?ttl=1m&ttl=2m", "a?%zz"} {
		if got, err := cases.ParseWant(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func FuzzCasesAreReadOrRefused(f *testing.F) {
	f.Add(many)
	f.Add(one("grant: payments-db, expect: deny"))
	f.Add("cases:\n  - {name: a, issuer: github, claims: {x: {y: [1, true, \"z\"]}}, grant: a?ttl=1m, at: 2027-01-01T00:00:00Z, expect: allow}\n")
	b, err := policy.Load(fstest.MapFS{"teams/pay.yaml": {Data: []byte(rules)}}, known())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := cases.Run(b, map[string][]byte{"f_test.yaml": []byte(text)}, cases.Options{Fixtures: fixtures()})
		var out bytes.Buffer
		if r.WriteText(&out) != nil || r.WriteJUnit(&out) != nil {
			t.Error("the report cannot be written")
		}
		if len(r.Results) == 0 && len(r.Faults) == 0 {
			t.Error("a file without cases is no fault")
		}
		if xml.Unmarshal(out.Bytes()[bytes.Index(out.Bytes(), []byte("<?xml")):], new(struct{})) != nil {
			t.Errorf("no XML:\n%s", out.Bytes())
		}
	})
}
