package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// least is the shortest of several times that f takes: what it costs, when
// nobody else is at work.
func least(f func()) time.Duration {
	best := time.Duration(1<<63 - 1)
	for range 5 {
		began := time.Now()
		f()
		best = min(best, time.Since(began))
	}
	return best
}

// allowedTime is the ten milliseconds that nothing hostile may pass, with room
// for a busy machine.
const allowedTime = 10 * time.Millisecond * slower * 5

// TestHostileFilesAreRefusedWithTheirReason: what one author commits cannot keep
// a broker busy, nor end it.
func TestHostileFilesAreRefusedWithTheirReason(t *testing.T) {
	rule := func(lines string) string {
		return "rules:\n  - name: x\n    issuer: forge\n    allow: [{grant: a}]\n    " + lines + "\n"
	}
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		laughs += fmt.Sprintf("b%d: &b%d [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n", i, i)
	}
	for name, c := range map[string]struct{ text, want string }{
		"a billion laughs":                {laughs, "an anchor (&) is not allowed"},
		"a file of 10 MiB":                {strings.Repeat("# nothing\n", 1<<20), "is larger than 1048576 bytes"},
		"a list of a million items":       {rule("match: {repo: [" + strings.Repeat("a,", 1_000_000) + "a]}"), "is larger than 1048576 bytes"},
		"as many items as a file holds":   {rule("match: {repo: [" + strings.Repeat("1,", 500_000) + "1]}"), "a list has more than 10000 items"},
		"as many keys as a file holds":    {"a: 1\n" + strings.Repeat("b: 1\n", 200_000), "a mapping has more than 10000 keys"},
		"as many rules as a file holds":   {"rules:\n" + strings.Repeat("- a: b\n", 140_000), "a list has more than 10000 items"},
		"brackets in brackets":            {rule("match: {repo: " + strings.Repeat("[", 500_000)), "is nested deeper than 32 levels"},
		"braces in braces":                {rule("match: " + strings.Repeat("{a: ", 200_000)), "is nested deeper than 32 levels"},
		"a long expression":               {rule("match: {repo: a}\n    when: '" + strings.Repeat("claims.a == 1 || ", 5000) + "true'"), "is longer than 2048 bytes"},
		"an expression of parentheses":    {rule("match: {repo: a}\n    when: '" + strings.Repeat("(", 1000) + "true" + strings.Repeat(")", 1000) + "'"), "recursion"},
		"an expression of negations":      {rule("match: {repo: a}\n    when: '" + strings.Repeat("!(", 1000) + "true" + strings.Repeat(")", 1000) + "'"), "when: rule \"x\""},
		"an expression of conditionals":   {rule("match: {repo: a}\n    when: '" + strings.Repeat("true ? ", 250) + "true" + strings.Repeat(" : true", 250) + "'"), "when: rule \"x\""},
		"an expression of lists":          {rule("match: {repo: a}\n    when: '" + strings.Repeat("[", 900) + "1" + strings.Repeat("]", 900) + " == []'"), "when: rule \"x\""},
		"loops in loops":                  {rule("match: {repo: a}\n    when: '[1].all(a, [1].all(b, [1].all(c, [1].all(d, true))))'"), "when: rule \"x\""},
		"a name of a megabyte":            {"rules: [{name: " + strings.Repeat("x", 1_000_000) + "}]", "is not a name"},
		"a claim of a megabyte":           {rule("match: {" + strings.Repeat("x", 1_000_000) + ": a}"), "is not a claim"},
		"a glob of a megabyte":            {rule("match: {repo: {glob: \"" + strings.Repeat("*a", 400_000) + "\"}}"), "is a glob of more than 256 bytes"},
		"a value of a megabyte":           {rule("match: {repo: " + strings.Repeat("x", 1_000_000) + "}"), "is longer than 1024 bytes"},
		"a number of a megabyte":          {rule("match: {repo: a, n: {above: 1e" + strings.Repeat("9", 1_000_000) + "}}"), "is a number too large"},
		"a life of ages":                  {"rules: [{name: x, issuer: forge, match: {repo: a}, allow: [{grant: a, ttl: 9999999999999h}]}]", "must be a duration"},
		"a deny of ten thousand globs":    {"rules: [{name: x, deny: [" + strings.Repeat("\"*x*y*z*\",", 9_999) + "\"*\"]}]", "is in the list already"},
		"a rule for ten thousand nobodys": {"rules: [{name: x, deny: [a], for: [" + strings.Repeat("nobody,", 9_999) + "x]}]", "no repo is called"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := Load(fstest.MapFS{"p.yaml": {Data: []byte(c.text)}}, someKnown())
			took := time.Since(began)
			faults, ok := errors.AsType[strictyaml.Faults](err)
			if !ok || !strings.Contains(faults.Error(), c.want) {
				t.Fatalf("want %q, have %.300v", c.want, err)
			}
			if n := len(err.Error()); n > 64<<10 {
				t.Errorf("the faults have %d bytes", n)
			}
			if took > 10*time.Second*slower {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestHostileClaimsAreDecidedInTime: tokens are bounded, but whoever runs a job
// chooses much of what is in one, and rules are not all well written.
func TestHostileClaimsAreDecidedInTime(t *testing.T) {
	items := make([]any, 2000)
	for i := range items {
		items[i] = fmt.Sprint("item", i)
	}
	deep := any("x")
	for range 500 {
		deep = []any{deep}
	}
	numbers := make([]any, 6000) // as many as a token has room for
	for i := range numbers {
		numbers[i] = json.Number("1")
	}
	claims := broker.Claims{"repo": "1", "many": items, "numbers": numbers, "in one": []any{items}, "long": strings.Repeat("a", 2048), "deep": deep,
		"number": json.Number("1" + strings.Repeat("0", 16<<10)), "huge": json.Number("1e999999999")}
	globs := make([]string, 50)
	for i := range globs {
		globs[i] = `{glob: "` + strings.Repeat("*a", 100) + fmt.Sprint(i) + `*"}`
	}
	values := make([]string, 10_000)
	for i := range values {
		values[i] = fmt.Sprint("v", i)
	}
	for name, lines := range map[string]string{
		"a star glob":                        `match: {repo: "1", long: ` + globs[0] + `}`,
		"a glob against many items":          `match: {repo: "1", many: {glob: "*i*t*e*m*x"}}`,
		"ten thousand values":                `match: {repo: "1", long: [` + strings.Join(values, ", ") + `]}`,
		"a number that is long":              `match: {repo: "1", number: 5}`,
		"a bound for one that is huge":       `match: {repo: "1", huge: {below: 1e-999999999}}`,
		"a few hundred globs":                `match: {repo: "1", many: [` + strings.Repeat(`{glob: "refs/heads/release-*/**"}, `, 100) + `{glob: "refs/heads/main/*"}]}`,
		"a few numbers against many":         `match: {repo: "1", numbers: [5, 6, 7, 8]}`,
		"a list in lists":                    `match: {repo: "1", deep: {not: x}}`,
		"a loop in a loop":                   `when: 'claims.many.all(a, claims.many.all(b, a != b || true))'`,
		"text that doubles":                  `when: 'claims.many.all(a, (claims.long + claims.long + claims.long).contains(a))'`,
		"lists that grow":                    `when: '(claims.many + claims.many + claims.many + claims.many).size() > claims.many.map(a, claims.many + claims.many).size()'`,
		"a loop over characters":             `when: 'claims.many.exists(a, claims.many.exists_one(b, a.endsWith(b)))'`,
		"maps made of maps":                  `when: 'claims.many.map(a, {"x": claims, "y": [claims, claims]}).size() == 1'`,
		"conversions":                        `when: 'claims.many.all(a, string(claims.many.size()) + a != a && bytes(a).size() > 0)'`,
		"an item in a list":                  `when: 'claims.many.all(a, a in claims.many)'`,
		"a list in a list of lists":          `when: 'claims.many.all(a, claims.many in claims["in one"])'`,
		"lists of one list that are equal":   `when: 'claims.many.all(a, claims["in one"] == claims["in one"])'`,
		"all claims that are equal":          `when: 'claims.many.all(a, claims == claims)'`,
		"the size of text":                   `when: 'claims.many.all(a, size(claims.long) > 0)'`,
		"text that is added to itself":       `when: 'claims.many.all(a, size(claims.long` + strings.Repeat(" + claims.long", 20) + `) > 0)'`,
		"what is there in claims of objects": `when: 'has(claims.deep) && claims.deep == claims.deep && claims == claims'`,
	} {
		t.Run(name, func(t *testing.T) {
			claims := maps.Clone(claims)
			if !strings.Contains(lines, "match:") {
				lines += "\n    match: {repo: \"1\"}"
				delete(claims, "huge") // no expression is evaluated beside a number that CEL cannot hold
				delete(claims, "number")
			}
			text := "rules:\n  - name: x\n    issuer: forge\n    allow: [{grant: a}]\n    " + lines + "\n"
			book, err := Load(fstest.MapFS{"p.yaml": {Data: []byte(text)}}, someKnown())
			if err != nil {
				t.Fatal(err)
			}
			took := least(func() {
				if _, err := book.Decide(broker.Identity{Issuer: "forge", Claims: claims}, []broker.Want{{Name: "a"}}, midday); err != nil {
					t.Fatal(err)
				}
			})
			t.Logf("%s", took)
			if took > allowedTime {
				t.Errorf("a decision took %s", took)
			}
		})
	}
}
