package lint

import (
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// TestAGlobFitsWhatThePolicySaysItFits holds lint's own matcher to the one that
// decides.
func TestAGlobFitsWhatThePolicySaysItFits(t *testing.T) {
	fitted := 0
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringMatching(`(a|b|/|:|\*|\?|\*\*){1,8}`).Draw(t, "glob")
		text := rapid.StringMatching(`(a|b|/|:){0,8}`).Draw(t, "text")
		book, err := policy.Load(fstest.MapFS{"p.yaml": {Mode: 0o644, Data: []byte(
			"rules:\n  - {name: r, issuer: forge, match: {id: \"1\", ref: {glob: \"" + glob + "\"}}, allow: [{grant: g}]}\n")}}, policy.Known{
			Issuers: map[string]policy.Issuer{"forge": {ImmutableIDs: []string{"id"}}},
			Grants:  map[string]broker.Grant{"g": {Name: "g", MaxTTL: time.Hour}},
		})
		if err != nil {
			t.Skipf("not a glob of the language: %v", err)
		}
		d, err := book.Decide(broker.Identity{Issuer: "forge", Claims: broker.Claims{"id": "1", "ref": text}}, []broker.Want{{Name: "g"}}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got := globOf(glob).matches(text); got != d.Allowed {
			t.Fatalf("%q fits %q: %v, and policy says %v", glob, text, got, d.Allowed)
		}
		if d.Allowed {
			fitted++
		}
	})
	if fitted == 0 {
		t.Error("no glob fitted anything")
	}
}

func TestOfTwoPatternsTheNarrowerIsWithinTheWider(t *testing.T) {
	for _, c := range []struct {
		narrow, wide pattern
		want         bool
	}{
		{exactly("a"), exactly("a"), true},
		{exactly("a"), exactly("b"), false},
		{exactly("a/b"), globOf("a/*"), true},
		{exactly("a/b/c"), globOf("a/*"), false},
		{globOf("a/*"), globOf("a/*"), true},
		{globOf("a/*"), globOf("**"), false}, // it cannot tell
		{globOf("a/*"), exactly("a/b"), false},
		{called("startsWith", "a"), called("endsWith", "a"), false},
		{exactly("1"), pattern{kind: policy.ExactNum, text: "1"}, false},
	} {
		if got := c.narrow.within(c.wide); got != c.want {
			t.Errorf("%s within %s is %v", c.narrow.shown(), c.wide.shown(), got)
		}
	}
}
