package lint

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// read returns the alternatives of an expression.
func read(t testing.TB, expression string) formula {
	t.Helper()
	e, err := newExpressions()
	if err != nil {
		t.Fatal(err)
	}
	return e.read(&strictyaml.Node{Kind: strictyaml.Text, Text: expression})
}

func (c condition) String() string {
	name := shownClaim(c.claim)
	switch c.op {
	case isOne:
		return name + " is " + listed(c.any)
	case isNone:
		return name + " is not " + listed(c.any)
	case isThere:
		return name + " is there"
	case isAbsent:
		return name + " is absent"
	case isNumber:
		return name + " is a number"
	case isSame:
		return name + " is " + c.other
	}
	return fmt.Sprintf("not read(%s; %s; %v)", c.excerpt, strings.Join(c.reads, " "), c.dynamic)
}

func TestAnExpressionIsReadAsItsAlternatives(t *testing.T) {
	for expression, want := range map[string]string{
		`claims.ref == "a"`:                              `ref is "a"`,
		`"a" == claims.ref`:                              `ref is "a"`,
		`claims["ref"] == "a"`:                           `ref is "a"`,
		`claims.ref != "a"`:                              `ref is not "a"`,
		`!(claims.ref != "a")`:                           `ref is "a"`,
		`claims.ref in ["a", "b"]`:                       `ref is "a", "b"`,
		`!(claims.ref in ["a", "b"])`:                    `ref is not "a", "b"`,
		`claims.ref == "a" || claims.ref == "b"`:         `ref is "a", "b"`,
		`claims.ref.startsWith("a/")`:                    `ref is startsWith("a/")`,
		`!claims.ref.contains("a")`:                      `ref is not contains("a")`,
		`"a" in claims.groups`:                           `groups is in("a")`,
		`has(claims.environment)`:                        `environment is there`,
		`!has(claims.environment)`:                       `environment is absent`,
		`claims.flag`:                                    `flag is true`,
		`!claims.flag`:                                   `flag is false`,
		`claims.a == claims.b`:                           `a is b`,
		`claims.n > 5`:                                   `n is a number`,
		`claims["kubernetes.io"].namespace == "x"`:       `/kubernetes.io/namespace is "x"`,
		`claims["https://a/"].tags["x~y"] == "x"`:        `/https:~1~1a~1/tags/x~0y is "x"`,
		`grant == "g"`:                                   `grant is "g"`,
		`claims.a == "1" && claims.b == "2"`:             `a is "1" & b is "2"`,
		`claims.a == "1" || claims.b == "2"`:             `a is "1" | b is "2"`,
		`!(claims.a == "1" && claims.b == "2")`:          `a is not "1" | b is not "2"`,
		`!(claims.a == "1" || claims.b == "2")`:          `a is not "1" & b is not "2"`,
		`claims.a == "1" ? claims.b == "2" : claims.c`:   `a is "1" & b is "2" | a is not "1" & c is true`,
		`claims.event_name >= "p"`:                       `not read(; event_name; false)`,
		`claims.sub == "a" + "b"`:                        `not read(; sub; false)`,
		`claims["s" + "ub"] == "a"`:                      `not read(; ; true)`,
		`claims.exists(c, c == "sub")`:                   `not read(exists; ; true)`,
		`[claims].exists(c, c["sub"] == "x")`:            `not read(exists; ; true)`,
		`claims.groups.exists(g, g == "x")`:              `not read(exists; groups; false)`,
		`size(claims.sub) > 3`:                           `not read(size; sub; false)`,
		`true`:                                           `not read(; ; false)`,
		`claims.sub.matches("a|b")`:                      `not read(matches; sub; false)`,
		`ttl <= duration("5m") || claims.ref == "a"`:     `not read(duration; ; false) | ref is "a"`,
		`claims.a == "1" && (claims.b == "2" || true)`:   `a is "1" & b is "2" | a is "1" & not read(; ; false)`,
		`claims.ref.startsWith("a") || claims.ref == ""`: `ref is startsWith("a"), ""`,
		`claims.ref ==`:                                  `not read(it is not CEL; ; true)`,
	} {
		var alternatives []string
		for _, conditions := range read(t, expression) {
			var all []string
			for _, c := range conditions {
				all = append(all, c.String())
			}
			alternatives = append(alternatives, strings.Join(all, " & "))
		}
		if got := strings.Join(alternatives, " | "); got != want {
			t.Errorf("%s\n got %s\nwant %s", expression, got, want)
		}
	}
}

func TestAnExpressionOfTooManyAlternativesVouchesForNothing(t *testing.T) {
	var parts []string
	for i := range 8 {
		parts = append(parts, fmt.Sprintf(`(claims.a%d == "1" || claims.b%d == "2")`, i, i))
	}
	f := read(t, strings.Join(parts, " && ")) // 256
	if len(f) != 1 || len(f[0]) != 1 || f[0][0].op != notRead || !f[0][0].dynamic {
		t.Errorf("read as %d alternatives", len(f))
	}
	long := `claims.a == "1"` + strings.Repeat(` && (claims.b == "x" || claims.c == "y")`, 40)
	began := time.Now()
	read(t, long)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a bomb of alternatives took %v", took)
	}
}

// expressionOf draws an expression over few claims and values, so that many
// hold.
func expressionOf(depth int) *rapid.Generator[string] {
	claim := rapid.SampledFrom([]string{"claims.a", `claims["b"]`, "claims.c"})
	value := rapid.SampledFrom([]string{`"x"`, `"xy"`, `"y"`, `""`})
	return rapid.Custom(func(t *rapid.T) string {
		atom := func() string {
			c, d, v, w := claim.Draw(t, "claim"), claim.Draw(t, "other"), value.Draw(t, "value"), value.Draw(t, "second")
			return rapid.SampledFrom([]string{
				c + " == " + v, c + " != " + v, v + " == " + c, c + " in [" + v + ", " + w + "]", c + ".startsWith(" + v + ")",
				c + ".endsWith(" + v + ")", c + ".contains(" + v + ")", c + " == " + d, c + " != " + d, "has(claims.a)", "claims.flag",
				v + " in claims.list", "size(" + c + ") > 1", c + " < " + v, "claims.n >= 5", "claims.n == 5", "true",
				"claims.list.exists(i, i == " + v + ")", `claims["a" + ""] == ` + v, "grant == " + `"g"`, `issuer.startsWith("f")`,
			}).Draw(t, "atom")
		}
		if depth == 0 {
			return atom()
		}
		left, right := expressionOf(depth-1).Draw(t, "left"), expressionOf(depth-1).Draw(t, "right")
		switch rapid.IntRange(0, 4).Draw(t, "form") {
		case 0:
			return "(" + left + " && " + right + ")"
		case 1:
			return "(" + left + " || " + right + ")"
		case 2:
			return "!(" + left + ")"
		case 3:
			return "(" + left + " ? " + right + " : " + atom() + ")"
		}
		return left
	})
}

// TestWhatAnExpressionAdmitsItsReadingAdmitsToo is what makes lint safe to rely
// on: whatever an expression is, a token that it lets pass comes by one of the
// alternatives that lint looks at.
func TestWhatAnExpressionAdmitsItsReadingAdmitsToo(t *testing.T) {
	word := rapid.SampledFrom([]string{"x", "y", "xy", "xyx", ""})
	admitted := 0
	rapid.Check(t, func(t *rapid.T) {
		expression := expressionOf(3).Draw(t, "expression")
		if len(expression) > 2000 {
			t.Skip("longer than an expression may be")
		}
		claims := broker.Claims{"b": word.Draw(t, "b"), "c": word.Draw(t, "c"), "flag": rapid.Bool().Draw(t, "flag"), "list": []any{word.Draw(t, "item"), "z"}}
		if rapid.Bool().Draw(t, "a is there") {
			claims["a"] = word.Draw(t, "a")
		}
		if !holds(t, expression, claims) {
			return
		}
		admitted++
		e, err := newExpressions()
		if err != nil {
			t.Fatal(err)
		}
		f := e.read(&strictyaml.Node{Kind: strictyaml.Text, Text: expression})
		if !slices.ContainsFunc(f, func(conditions []condition) bool {
			return !slices.ContainsFunc(conditions, func(c condition) bool { return !satisfied(&c, claims) })
		}) {
			t.Fatalf("%s\nlets %v pass, and is read as %v", expression, claims, f)
		}
	})
	if admitted < 10 {
		t.Errorf("only %d expressions let anything pass", admitted)
	}
}

// holds asks the policy itself.
func holds(t *rapid.T, expression string, claims broker.Claims) bool {
	text := "rules:\n  - name: r\n    issuer: forge\n    match: {id: \"1\"}\n    when: |\n      " + expression + "\n    allow: [{grant: g}]\n"
	book, err := policy.Load(fstest.MapFS{"p.yaml": {Data: []byte(text), Mode: 0o644}}, policy.Known{
		Issuers: map[string]policy.Issuer{"forge": {ImmutableIDs: []string{"id"}}},
		Grants:  map[string]broker.Grant{"g": {Name: "g", MaxTTL: time.Hour}},
	})
	if err != nil {
		t.Skipf("not an expression of the language: %v", err)
	}
	claims["id"] = "1"
	d, err := book.Decide(broker.Identity{Issuer: "forge", Claims: claims}, []broker.Want{{Name: "g"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return d.Allowed
}

// satisfied is the plain reading of a condition.
func satisfied(c *condition, claims broker.Claims) bool {
	claim, there := claims[c.claim]
	switch c.claim {
	case theGrant:
		claim, there = "g", true
	case theIssuer:
		claim, there = "forge", true
	}
	switch c.op {
	case notRead:
		return true
	case isThere:
		return there
	case isAbsent:
		return !there
	case isSame:
		return there && claim == claims[c.other]
	}
	text, isText := claim.(string)
	matches := func(p pattern) bool {
		switch v := claim.(type) {
		case string:
			return p.matches(v)
		case bool:
			return p.kind == policy.ExactBool && p.text == fmt.Sprint(v)
		case []any:
			return slices.ContainsFunc(v, func(item any) bool { return p.matches(fmt.Sprint(item)) })
		}
		return false
	}
	switch c.op {
	case isOne:
		return there && slices.ContainsFunc(c.any, matches)
	case isNone:
		return there && !slices.ContainsFunc(c.any, matches)
	}
	return there && !isText && text == ""
}
