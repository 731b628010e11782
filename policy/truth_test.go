package policy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// What follows from a condition: a rule that allows needs a yes, and one that
// denies needs anything but a no.
const (
	holds     = "holds"
	fails     = "fails"
	undecided = "is undecided"
)

// asked says what a condition is worth for a claim x, by a rule of each sort.
func asked(t *testing.T, condition string, id broker.Identity) string {
	t.Helper()
	allowing := load(t, rule("match: {x: "+condition+"}", allowDB))
	denying := load(t, rule(allowDB)+"  - {name: not-so, deny: [payments-db], match: {x: "+condition+"}}\n")
	switch gives, keeps := allowed(t, allowing, id), allowed(t, denying, id); {
	case gives && !keeps:
		return holds
	case !gives && keeps:
		return fails
	case !gives:
		return undecided
	}
	return "is both given and not denied"
}

func TestWhatAConditionIsWorth(t *testing.T) {
	number := func(text string) any { return json.Number(text) }
	list := func(items ...any) any { return items }
	for name, c := range map[string]struct {
		condition string
		claim     any
		want      string
	}{
		"not another value":                     {`{not: a}`, "b", holds},
		"not the value":                         {`{not: a}`, "a", fails},
		"not one of several":                    {`{not: [a, b]}`, "b", fails},
		"none of several":                       {`{not: [a, b]}`, "c", holds},
		"not what a glob matches":               {`{not: {glob: "refs/heads/*"}}`, "refs/heads/x", fails},
		"not, where a glob does not match":      {`{not: {glob: "refs/heads/*"}}`, "refs/heads/x/y", holds},
		"not, with globs in a list":             {`{not: [{glob: "a*"}, b]}`, "abc", fails},
		"not, without the claim":                {`{not: a}`, gone{}, undecided},
		"not, of null":                          {`{not: a}`, nil, undecided},
		"not a text, of a number":               {`{not: "1"}`, number("1"), undecided},
		"not a number, of a text":               {`{not: 1}`, "1", undecided},
		"not a number, of the same one":         {`{not: 10}`, number("1.0e1"), fails},
		"not a number, of one that is near":     {`{not: 9007199254740993}`, number("9007199254740992"), holds},
		"not, of what may look the same":        {`{not: main}`, "mаin", undecided}, // a Cyrillic а
		"not, of the very text beyond ASCII":    {`{not: größe}`, "größe", fails},
		"not an empty text":                     {`{not: ""}`, "x", holds},
		"not, where an item is it":              {`{not: a}`, list("b", "a"), fails},
		"not, where no item is it":              {`{not: a}`, list("b", "c"), holds},
		"not, where an item cannot be compared": {`{not: a}`, list("b", number("1")), undecided},
		"not, of a list without items":          {`{not: a}`, list(), holds},
		"not, of an object":                     {`{not: a}`, map[string]any{"a": "a"}, undecided},
		"not, of a list in a list":              {`{not: a}`, list(list("a")), undecided},
		"not, of a text too long for a glob":    {`{not: {glob: "a*"}}`, "a" + strings.Repeat("b", 2048), undecided},
		"there":                                 {`{exists: true}`, "", holds},
		"there, and not wanted":                 {`{exists: false}`, false, fails},
		"not there":                             {`{exists: true}`, gone{}, fails},
		"not there, as wanted":                  {`{exists: false}`, gone{}, holds},
		"null is neither there":                 {`{exists: true}`, nil, undecided},
		"nor not there":                         {`{exists: false}`, nil, undecided},
		"above":                                 {`{above: 3}`, number("3.0000000000000000000000000001"), holds},
		"above is not at":                       {`{above: 3}`, number("3.00"), fails},
		"at least":                              {`{at_least: 3}`, number("3.00"), holds},
		"below":                                 {`{below: -1}`, number("-1.5"), holds},
		"below is not at":                       {`{below: -1}`, number("-1"), fails},
		"at most":                               {`{at_most: 1e3}`, number("1000"), holds},
		"more than at most":                     {`{at_most: 1e3}`, number("1000.5"), fails},
		"between":                               {`{at_least: 1, below: 2}`, number("1"), holds},
		"above both":                            {`{at_least: 1, below: 2}`, number("2"), fails},
		"below both":                            {`{at_least: 1, below: 2}`, number("0"), fails},
		"beyond what a double holds":            {`{below: 9007199254740993}`, number("9007199254740992"), holds},
		"of the same double":                    {`{below: 9007199254740992}`, number("9007199254740993"), fails},
		"a bound and huge numbers":              {`{below: 1e999999999}`, number("9e999999998"), holds},
		"a bound and tiny numbers":              {`{above: 0}`, number("1e-999999999"), holds},
		"a bound and a number out of reach":     {`{below: 5}`, number("1e9999999999"), undecided},
		"a bound and a text":                    {`{below: 5}`, "1", undecided},
		"a bound and nothing":                   {`{below: 5}`, gone{}, undecided},
		"a bound and null":                      {`{below: 5}`, nil, undecided},
		"a bound and an item":                   {`{below: 5}`, list(number("7"), number("4")), holds},
		"a bound, and no item within":           {`{below: 5}`, list(number("7")), fails},
		"a value that is missing":               {`a`, gone{}, fails},
		"a value of another type":               {`"1"`, number("1"), undecided},
		"values of both types":                  {`["1", 1]`, number("2"), fails},
		"a value beyond ASCII":                  {`main`, "mаin", fails},
		"a glob and a text beyond ASCII":        {`{glob: "ma*"}`, "mаin", undecided},
		"a value and an object":                 {`a`, map[string]any{}, undecided},
		"a value, and an item beyond comparing": {`a`, list(true, "b"), undecided},
		"a value, an item is it all the same":   {`a`, list(true, "a"), holds},
	} {
		t.Run(name, func(t *testing.T) {
			if got := asked(t, c.condition, job(broker.Claims{"x": c.claim})); got != c.want {
				t.Errorf("%s of %v %s, want that it %s", c.condition, c.claim, got, c.want)
			}
		})
	}
}

func TestWhatATrimmedTokenLacksIsUndecided(t *testing.T) {
	for _, condition := range []string{`a`, `{not: a}`, `{exists: true}`, `{exists: false}`, `{below: 5}`, `{glob: "a*"}`} {
		id := job(nil)
		id.Trimmed = true
		if got := asked(t, condition, id); got != undecided {
			t.Errorf("%s %s", condition, got)
		}
		id.Claims["x"] = "b"
		if got := asked(t, "a", id); got != fails {
			t.Errorf("a claim that is there %s", got)
		}
	}
}

func TestConditionsThatSayNothingClearAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ condition, want string }{
		"nothing":                  {`{}`, "is empty: say glob, not, exists, or a bound"},
		"a slip":                   {`{exist: true}`, `x.exist: unknown key; did you mean "exists"?`},
		"two at once":              {`{not: a, exists: true}`, "glob, not and exists stand alone"},
		"a glob and a bound":       {`{glob: "a*", above: 1}`, "glob, not and exists stand alone"},
		"exists, as text":          {`{exists: "true"}`, "x.exists: must be true or false, not text"},
		"not nothing":              {`{not: []}`, "x.not: is an empty list"},
		"not, of a comparison":     {`{not: {above: 1}}`, "x.not.above: unknown key"},
		"not not":                  {`{not: {not: a}}`, "x.not.not: unknown key"},
		"a comparison in a list":   {`[{above: 1}]`, "x[0].above: unknown key"},
		"a bound, as text":         {`{above: "1"}`, "x.above: must be a number, not text"},
		"a bound out of reach":     {`{above: 1e9999999999}`, "x.above: is a number too large"},
		"two bounds of one side":   {`{above: 1, at_least: 2}`, "x.at_least: bounds the same side as above"},
		"two of the other":         {`{at_most: 1, below: 2}`, "x.below: bounds the same side as at_most"},
		"bounds with nothing left": {`{above: 1, at_most: 1}`, "no number lies between its bounds"},
		"bounds the wrong way":     {`{at_least: 2, at_most: 1}`, "no number lies between its bounds"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policy.Load(folder(map[string]string{"p.yaml": rule("match: {x: "+c.condition+"}", allowDB)}), known())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("want one fault with %q, have\n%v", c.want, err)
			}
		})
	}
	load(t, rule(`match: {x: {at_least: 1, at_most: 1}}`, allowDB))
}

func TestADenialShowsWhatAConditionWanted(t *testing.T) {
	for condition, want := range map[string]string{
		`{not: [a, {glob: "b*"}]}`:  `{"not":["a",{"glob":"b*"}]}`,
		`{exists: false}`:           `{"exists":false}`,
		`{above: 1.50, below: 9e9}`: `{"above":1.50,"below":9e9}`,
	} {
		d := decide(t, load(t, rule("match: {x: "+condition+"}", "explain: full", allowDB)), job(broker.Claims{"x": "a"}), "payments-db")
		if len(d.Denials) != 1 || len(d.Denials[0].Failed) != 1 {
			t.Fatalf("%s: %+v", condition, d)
		}
		if got := asJSON(t, d.Denials[0].Failed[0]); got != `{"claim":"x","saw":"a","wanted":`+want+`}` {
			t.Errorf("%s: %s", condition, got)
		}
	}
}
