package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

func TestARuleAllowsWhatItsConditionsSay(t *testing.T) {
	for sentence, c := range map[string]struct {
		lines  []string
		claims broker.Claims
		want   bool
	}{
		"a rule without conditions allows every job of its repo": {nil, broker.Claims{"ref": "refs/heads/x"}, true},
		"an exact value matches":                                 {[]string{"match: {ref: refs/heads/main}"}, nil, true},
		"an exact value matches in full":                         {[]string{"match: {ref: refs/heads/main}"}, broker.Claims{"ref": "refs/heads/main2"}, false},
		"an exact value matches from the start":                  {[]string{"match: {ref: heads/main}"}, nil, false},
		"an exact value knows case":                              {[]string{"match: {environment: Production}"}, nil, false},
		"an asterisk is itself where no glob is said":            {[]string{`match: {ref: "refs/heads/*"}`}, nil, false},
		"one of a list is enough":                                {[]string{"match: {event_name: [workflow_dispatch, push]}"}, nil, true},
		"none of a list is not":                                  {[]string{"match: {event_name: [workflow_dispatch, schedule]}"}, nil, false},
		"all keys have to match":                                 {[]string{"match: {ref: refs/heads/main, environment: staging}"}, nil, false},
		"a glob matches":                                         {[]string{`match: {ref: {glob: "refs/heads/*"}}`}, nil, true},
		"a glob stops at a slash":                                {[]string{`match: {ref: {glob: "refs/*"}}`}, nil, false},
		"a double star does not":                                 {[]string{`match: {ref: {glob: "refs/**"}}`}, nil, true},
		"a glob stops at a colon":                                {[]string{`match: {sub: {glob: "repo:acme/*"}}`}, nil, false},
		"globs and values mix in a list":                         {[]string{`match: {ref: [refs/heads/dev, {glob: "refs/heads/ma??"}]}`}, nil, true},
		"a list claim matches if an item does":                   {[]string{"match: {groups: [ops]}"}, broker.Claims{"groups": []any{"dev", "ops"}}, true},
		"a list claim does not match if none does":               {[]string{"match: {groups: [ops]}"}, broker.Claims{"groups": []any{"dev", []any{"ops"}}}, false},
		"an empty list claim matches nothing":                    {[]string{`match: {groups: {glob: "**"}}`}, broker.Claims{"groups": []any{}}, false},
		"a missing claim is not the empty text":                  {[]string{`match: {head_ref: ""}`}, nil, false},
		"the empty text is":                                      {[]string{`match: {base_ref: ""}`}, nil, true},
		"null is not the empty text":                             {[]string{`match: {x: ""}`}, broker.Claims{"x": nil}, false},
		"a number matches a number":                              {[]string{"match: {runner_id: 42}"}, broker.Claims{"runner_id": json.Number("42")}, true},
		"a number matches its other writing":                     {[]string{"match: {runner_id: 42}"}, broker.Claims{"runner_id": json.Number("4.20e1")}, true},
		"a large number is not rounded":                          {[]string{"match: {runner_id: 9007199254740993}"}, broker.Claims{"runner_id": json.Number("9007199254740992")}, false},
		"a number does not match text":                           {[]string{"match: {runner_id: 42}"}, broker.Claims{"runner_id": "42"}, false},
		"text does not match a number":                           {[]string{`match: {runner_id: "42"}`}, broker.Claims{"runner_id": json.Number("42")}, false},
		"a glob does not match a number":                         {[]string{`match: {runner_id: {glob: "4*"}}`}, broker.Claims{"runner_id": json.Number("42")}, false},
		"true matches true":                                      {[]string{"match: {ssh: true}"}, broker.Claims{"ssh": true}, true},
		"true does not match the text":                           {[]string{"match: {ref_protected: true}"}, nil, false},
		"false is not a missing claim":                           {[]string{"match: {ssh: false}"}, nil, false},
		"a float that was not kept as text matches nothing":      {[]string{"match: {runner_id: 42}"}, broker.Claims{"runner_id": 42.0}, false},
		"a JSON Pointer reaches into objects":                    {[]string{"match: {/k8s.io~1pod/name: api}"}, broker.Claims{"k8s.io/pod": map[string]any{"name": "api"}}, true},
		"a JSON Pointer reaches into lists":                      {[]string{"match: {/groups/1: ops}"}, broker.Claims{"groups": []any{"dev", "ops"}}, true},
		"a JSON Pointer to nothing matches nothing":              {[]string{"match: {/groups/2: ops}"}, broker.Claims{"groups": []any{"dev", "ops"}}, false},
		"a name with slashes inside is a name":                   {[]string{"match: {https://x.example/a: b}"}, broker.Claims{"https://x.example/a": "b"}, true},
		"an object matches nothing":                              {[]string{`match: {o: {glob: "**"}}`}, broker.Claims{"o": map[string]any{"a": "b"}}, false},
		"an expression that holds allows":                        {[]string{`when: 'claims.runner_environment == "github-hosted"'`}, nil, true},
		"an expression that does not denies":                     {[]string{`when: 'claims.runner_environment == "self-hosted"'`}, nil, false},
		"match and when have to hold both":                       {[]string{"match: {ref: refs/heads/dev}", `when: "true"`}, nil, false},
		"until is the last day":                                  {[]string{"until: 2027-03-01"}, nil, true},
		"the day after is too late":                              {[]string{"until: 2027-02-28"}, nil, false},
		"mode enforce is the default":                            {[]string{"mode: enforce", "replay: once"}, nil, true},
	} {
		b := load(t, rule(append(c.lines, allowDB)...))
		if got := allowed(t, b, job(c.claims)); got != c.want {
			t.Errorf("%s: allowed is %v", sentence, got)
		}
	}
}

func TestDefaultIsDeny(t *testing.T) {
	b := load(t, rule(allowDB))
	other := job(nil)
	other.Issuer = "gitlab"
	nobody := broker.Identity{}
	for sentence, c := range map[string]struct {
		id     broker.Identity
		grants []string
		denied string
		known  bool
	}{
		"a grant the rule does not give":            {job(nil), []string{"payments-ro"}, "payments-ro", true},
		"a grant that does not exist: not by name":  {job(nil), []string{"nothing"}, broker.UnknownGrant, true},
		"a grant without a name":                    {job(nil), []string{""}, broker.UnknownGrant, true},
		"one good and one bad: none":                {job(nil), []string{"payments-db", "payments-ro"}, "payments-ro", true},
		"another repository":                        {job(broker.Claims{"repository_id": "5679"}), []string{"payments-db"}, "payments-db", false},
		"a repository that was given away":          {job(broker.Claims{"repository_owner_id": "1"}), []string{"payments-db"}, "payments-db", false},
		"the same ids at another issuer":            {other, []string{"payments-db"}, "payments-db", false},
		"an identity without issuer or claims":      {nobody, []string{"payments-db"}, "payments-db", false},
		"the same grant twice, refused, named once": {job(nil), []string{"payments-ro", "payments-ro"}, "payments-ro", true},
	} {
		d := decide(t, b, c.id, c.grants...)
		if d.Allowed || d.Permits != nil || strings.Join(d.Denied, ",") != c.denied || len(d.Denied) != 1 || d.Known != c.known {
			t.Errorf("%s: %+v", sentence, d)
		}
	}
}

func TestWithoutWantsItAllowsWhomItKnows(t *testing.T) {
	b := load(t, rule("match: {ref: refs/heads/release}", allowDB))
	for sentence, c := range map[string]struct {
		id   broker.Identity
		want bool
	}{
		"pinned ids are enough": {job(nil), true},
		"a stranger is not":     {job(broker.Claims{"repository_owner_id": "9"}), false},
	} {
		if d := decide(t, b, c.id); d.Allowed != c.want || d.Known != c.want || len(d.Permits)+len(d.Denied)+len(d.Denials) != 0 {
			t.Errorf("%s: %+v", sentence, d)
		}
	}
}

func TestTheLifeIsTheLeastOfAskedRuleAndGrant(t *testing.T) {
	b := load(t, rule("allow: [{grant: payments-db, ttl: 15m}, {grant: payments-ro}]"))
	for ask, want := range map[string]time.Duration{
		"payments-db": 15 * time.Minute, "payments-db=5m": 5 * time.Minute, "payments-db=3h": 15 * time.Minute,
		"payments-ro": 2 * time.Hour, "payments-ro=1h": time.Hour, "payments-ro=99h": 2 * time.Hour,
		"payments-db=1s": time.Second, "payments-db=1999ms": time.Second,
	} {
		d := decide(t, b, job(nil), ask)
		if len(d.Permits) != 1 || d.Permits[0].TTL != want || d.Permits[0].Rule != "p/deploy" {
			t.Errorf("%s: %+v, want %s", ask, d.Permits, want)
		}
	}
	for _, ask := range []string{"payments-db=-1s", "payments-db=999ms"} {
		d, err := b.Decide(job(nil), want(t, ask), noon)
		if broker.CodeOf(err) != broker.BadRequest || d.Allowed {
			t.Errorf("%s: %v %+v", ask, err, d)
		}
	}
	d := decide(t, b, job(nil), "payments-db", "payments-ro=1m", "payments-db=2m")
	if len(d.Permits) != 3 || d.Permits[0].Grant.Name != "payments-db" || d.Permits[1].TTL != time.Minute || d.Permits[2].TTL != 2*time.Minute {
		t.Errorf("permits are not those of the wants, in order: %+v", d.Permits)
	}
}

const severalRules = `
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
  all: {issuer: github, name: acme, match: {repository_owner_id: "1234"}}
rules:
  - {name: short, for: [api], allow: [{grant: payments-db, ttl: 5m}]}
  - {name: d-long, for: [all], match: {ref: refs/heads/main}, allow: [{grant: payments-db, ttl: 20m}]}
  - {name: c-long, for: [api, all], match: {ref: refs/heads/main}, allow: [{grant: payments-db, ttl: 20m}]}
  - {name: longest, for: [api], match: {ref: refs/heads/never}, allow: [{grant: payments-db, ttl: 40m}]}
  - {name: ended, for: [api], until: 2027-02-28, allow: [{grant: payments-db, ttl: 50m}]}
`

func TestOfSeveralRulesTheLongestLifeWins(t *testing.T) {
	b := load(t, severalRules)
	for _, c := range []struct {
		ask, ref, rule string
		ttl            time.Duration
	}{
		{"payments-db", "refs/heads/main", "p/c-long", 20 * time.Minute},
		{"payments-db=10m", "refs/heads/main", "p/c-long", 10 * time.Minute},
		{"payments-db=1m", "refs/heads/main", "p/c-long", time.Minute},
		{"payments-db", "refs/heads/dev", "p/short", 5 * time.Minute},
		{"payments-db", "refs/heads/never", "p/longest", 40 * time.Minute},
	} {
		d := decide(t, b, job(broker.Claims{"ref": c.ref}), c.ask)
		if len(d.Permits) != 1 || d.Permits[0].Rule != c.rule || d.Permits[0].TTL != c.ttl {
			t.Errorf("%+v: %+v", c, d)
		}
	}
}

func TestDenialsTellOnlyThoseWhosePinnedIdsMatch(t *testing.T) {
	const text = `
repos:
  api: {issuer: github, name: acme/api, match: {repository_owner_id: "1234", repository_id: "5678"}}
  web: {issuer: github, name: acme/web, match: {repository_owner_id: "1234", repository_id: "9999"}}
rules:
  - name: far
    for: [api]
    match: {ref: refs/heads/main, environment: staging, event_name: schedule}
    allow: [{grant: payments-db}]
  - name: near
    for: [api]
    match: {ref: refs/heads/main, environment: [staging, {glob: "prod-*"}]}
    allow: [{grant: payments-db}]
  - name: near-and-open
    for: [api]
    explain: full
    match: {environment: [staging, 5, true, {glob: "prod-*"}]}
    allow: [{grant: payments-db}]
  - name: others
    for: [web]
    explain: full
    match: {environment: secret-name-of-another-team}
    allow: [{grant: payments-db}]
  - name: past
    for: [api]
    until: 2027-02-28
    allow: [{grant: payments-db}]
  - name: says-when
    for: [api]
    when: 'claims.environment == "secret expression"'
    explain: full
    allow: [{grant: payments-ro}]
`
	b := load(t, text)
	for sentence, c := range map[string]struct {
		id   broker.Identity
		ask  []string
		want string
	}{
		"the nearest rules, with what the token has": {job(nil), []string{"payments-db"},
			`[{"grant":"payments-db","rule":"p/near","failed":[{"claim":"environment","saw":"production"}]},` +
				`{"grant":"payments-db","rule":"p/near-and-open","failed":[{"claim":"environment","saw":"production","wanted":["staging",5,true,{"glob":"prod-*"}]}]}]`},
		"a missing claim is shown as null": {job(broker.Claims{"environment": gone{}}), []string{"payments-db"},
			`[{"grant":"payments-db","rule":"p/near","failed":[{"claim":"environment","saw":null}]},` +
				`{"grant":"payments-db","rule":"p/near-and-open","failed":[{"claim":"environment","saw":null,"wanted":["staging",5,true,{"glob":"prod-*"}]}]}]`},
		"nothing of an expression but that it failed": {job(nil), []string{"payments-ro"},
			`[{"grant":"payments-ro","rule":"p/says-when","failed":[{"claim":"when","saw":null}]}]`},
		"every grant that was refused, and none that was not": {job(broker.Claims{"environment": "staging"}), []string{"payments-db", "payments-ro", "nothing"},
			`[{"grant":"payments-ro","rule":"p/says-when","failed":[{"claim":"when","saw":null}]}]`},
		"a stranger learns nothing":             {job(broker.Claims{"repository_id": "1"}), []string{"payments-db"}, `null`},
		"a grant no rule gives has no denial":   {job(nil), []string{"web-identity"}, `null`},
		"a grant that is not has no denial too": {job(nil), []string{"nothing"}, `null`},
	} {
		d := decide(t, b, c.id, c.ask...)
		if got := asJSON(t, d.Denials); got != c.want {
			t.Errorf("%s: have\n%s\nwant\n%s", sentence, got, c.want)
		}
	}
}

func TestWhatADenialShowsOfATokenIsShortAndPlain(t *testing.T) {
	b := load(t, rule("match: {x: never}", allowDB))
	long := strings.Repeat("é", 1000)
	many := make([]any, 100)
	for i := range many {
		many[i] = json.Number("1")
	}
	for sentence, c := range map[string]struct {
		claim any
		want  string
	}{
		"text":                       {"a\\b \"c\"", `"a\\b \"c\""`},
		"a number, as it is":         {json.Number("1e3"), `1e3`},
		"a boolean":                  {true, `true`},
		"control characters escaped": {"a\r\n\x1b[2K\x00\x7f", `"a\\u000d\\u000a\\u001b[2K\\u0000\\u007f"`},
		"look-alikes escaped":        {"m\u0430in\u202e\U0001F600", `"m\\u0430in\\u202e\\U0001f600"`},
		"invalid UTF-8":              {"\xff", `"\\ufffd"`},
		"a long text, cut":           {strings.Repeat("x", 257), `"` + strings.Repeat("x", 256) + `..."`},
		"cut between characters":     {"a" + long, `"a` + strings.Repeat(`\\u00e9`, 127) + `..."`},
		"a list":                     {[]any{"a\n", json.Number("2"), []any{"b"}, map[string]any{"c": "d"}}, `["a\\u000a",2,"(a list)","(an object)"]`},
		"a long list, cut":           {many, `[` + strings.Repeat("1,", 16) + `"(and 84 more)"]`},
		"an object":                  {map[string]any{"a": "b"}, `"(an object)"`},
		"a number too long to show":  {json.Number(strings.Repeat("1", 300)), `"` + strings.Repeat("1", 256) + `..."`},
		"a value of no JSON type":    {struct{}{}, `null`},
	} {
		d := decide(t, b, job(broker.Claims{"x": c.claim}), "payments-db")
		if len(d.Denials) != 1 {
			t.Fatalf("%s: %+v", sentence, d)
		}
		if got := asJSON(t, d.Denials[0].Failed[0].Saw); got != c.want {
			t.Errorf("%s: have %s, want %s", sentence, got, c.want)
		}
	}
}

func TestDenialsAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString(rule(allowDB)[:strings.Index(rule(allowDB), "  - name")])
	for i := range 20 {
		fmt.Fprintf(&text, "  - {name: r%02d, for: [api], match: {ref: never}, allow: [{grant: payments-db}]}\n", i)
	}
	d := decide(t, load(t, text.String()), job(nil), "payments-db")
	if len(d.Denials) != 3 || d.Denials[0].Rule != "p/r00" || d.Denials[2].Rule != "p/r02" {
		t.Errorf("have %+v, want the first three of twenty", d.Denials)
	}
}

// TestADenialFitsIntoItsRecordWhateverTheRuleAndTheToken: a denial is answered
// and journalled as often as a job asks, and a rule can be as long as a file.
func TestADenialFitsIntoItsRecordWhateverTheRuleAndTheToken(t *testing.T) {
	var match, text strings.Builder
	claims := broker.Claims{}
	for i := range 100 {
		fmt.Fprintf(&match, "c%d: [never%s], ", i, strings.Repeat(", "+strings.Repeat("x", 200), 9))
		claims[fmt.Sprintf("c%d", i)] = []any{strings.Repeat("\x00", 20), strings.Repeat("é", 20)}
	}
	text.WriteString(rule(allowDB)[:strings.Index(rule(allowDB), "  - name")])
	for i := range 3 {
		fmt.Fprintf(&text, "  - {name: r%d, for: [api], explain: full, match: {%s}, allow: [{grant: payments-db}, {grant: payments-ro}, {grant: web-identity}]}\n", i, match.String()[:match.Len()-2])
	}
	d := decide(t, load(t, text.String()), job(claims), "payments-db", "payments-ro", "web-identity")
	told := asJSON(t, d.Denials)
	if len(d.Denials) != 9 || len(told) > 48<<10 {
		t.Errorf("%d denials are told in %d bytes", len(d.Denials), len(told))
	}
	first, last := d.Denials[0].Failed, d.Denials[8].Failed
	if len(first) != 16 || first[0].Saw == "(left out)" || len(last) != 16 || last[15].Saw != "(left out)" || last[15].Wanted != "(left out)" {
		t.Errorf("the first denial tells %s", asJSON(t, first))
	}
	d = decide(t, load(t, rule("explain: full", "match: {ref: {not: [refs/heads/main"+strings.Repeat(", x", 20)+"]}}", allowDB)), job(nil), "payments-db")
	if want := `{"not":["refs/heads/main"` + strings.Repeat(`,"x"`, 15) + `,"(and 5 more)"]}`; asJSON(t, d.Denials[0].Failed[0].Wanted) != want {
		t.Errorf("told %s", asJSON(t, d.Denials))
	}
}

func TestAnIssuerOfOurOwnNeedsNoPins(t *testing.T) {
	b := load(t, `
rules:
  - {name: named, issuer: forge, match: {project_path: ops/api}, allow: [{grant: payments-db}]}
  - {name: pinned, issuer: forge, match: {project_id: [7, "8"], ref: main}, allow: [{grant: payments-ro}]}
`)
	for sentence, c := range map[string]struct {
		claims         broker.Claims
		grant          string
		allowed, known bool
		denials        int
	}{
		"by name":                       {broker.Claims{"project_path": "ops/api"}, "payments-db", true, true, 0},
		"another name":                  {broker.Claims{"project_path": "ops/web"}, "payments-db", false, true, 1},
		"by a number":                   {broker.Claims{"project_id": json.Number("7"), "ref": "main"}, "payments-ro", true, true, 0},
		"by text":                       {broker.Claims{"project_id": "8", "ref": "main"}, "payments-ro", true, true, 0},
		"by text that should be number": {broker.Claims{"project_id": "7", "ref": "main"}, "payments-ro", false, true, 0},
		"pinned, but another ref":       {broker.Claims{"project_id": "8", "ref": "dev"}, "payments-ro", false, true, 1},
		"an id among others in a list":  {broker.Claims{"project_id": []any{"x", "8"}, "ref": "main"}, "payments-ro", true, true, 0},
	} {
		d := decide(t, b, broker.Identity{Issuer: "forge", Claims: c.claims}, c.grant)
		if d.Allowed != c.allowed || d.Known != c.known || len(d.Denials) != c.denials {
			t.Errorf("%s: %+v", sentence, d)
		}
	}
}

func TestADecisionChangesNothingAndRepeats(t *testing.T) {
	b := load(t, severalRules)
	id := job(nil)
	before := asJSON(t, id)
	first := asJSON(t, decide(t, b, id, "payments-db", "payments-ro"))
	for range 50 {
		if again := asJSON(t, decide(t, b, id, "payments-db", "payments-ro")); again != first {
			t.Fatalf("have %s, had %s", again, first)
		}
	}
	if asJSON(t, id) != before {
		t.Error("the identity was changed")
	}
}

func TestWithoutABookEverythingIsRefused(t *testing.T) {
	var c policy.Current
	if _, err := c.Decide(job(nil), nil, noon); broker.CodeOf(err) != broker.Unavailable || c.Version() != "" || c.Book() != nil {
		t.Errorf("an empty Current decides: %v", err)
	}
}

func TestAReloadIsAtomic(t *testing.T) {
	yes, no := load(t, rule(allowDB)), load(t, rule("match: {ref: never}", allowDB))
	var c policy.Current
	if c.Swap(yes) != nil || c.Swap(no) != yes || c.Book() != no || c.Version() != no.Version() {
		t.Fatal("Swap does not return the book before")
	}
	stop := make(chan struct{})
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		for {
			select {
			case <-stop:
				return
			default:
				c.Swap(yes)
				c.Swap(no)
			}
		}
	}()
	for range 2000 {
		d, err := c.Decide(job(nil), want(t, "payments-db"), noon)
		if err != nil || d.Allowed != (d.Version == yes.Version()) {
			t.Fatalf("%+v %v: the version is not the one decided under", d, err)
		}
	}
	close(stop)
	<-swapped
}
