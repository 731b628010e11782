package issuers

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

func TestEveryProfileHasFixturesForPolicyTests(t *testing.T) {
	profiles, err := Profiles()
	if err != nil {
		t.Fatal(err)
	}
	all, err := Fixtures()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range profiles {
		claims, ok := all[name]
		if !ok || p.Fixture == "" {
			t.Errorf("%s: no fixture is called %q", name, p.Fixture)
			continue
		}
		for _, id := range p.ImmutableIDs {
			if text, _ := claims[id].(string); text == "" {
				t.Errorf("%s: its fixture has no %s, which rules pin", name, id)
			}
		}
	}
	if _, ok := all["github/pull-request-target-from-fork"]; !ok || len(all) < 20 {
		t.Errorf("%d fixtures, and not the one of a fork", len(all))
	}
	if n, ok := all["github"]["exp"].(json.Number); !ok || n == "" {
		t.Errorf("exp is %T, want a number that keeps its type", all["github"]["exp"])
	}
}

func TestClaimsThatNobodySignedAreReadAsStrictlyAsATokens(t *testing.T) {
	for sentence, text := range map[string]string{
		"a name twice":                 `{"ref":"a","ref":"b"}`,
		"names that differ by case":    `{"ref":"a","REF":"b"}`,
		"a list":                       `[]`,
		"two objects":                  `{}{}`,
		"a lone surrogate":             `{"ref":"\ud800"}`,
		"a token in place of its body": "e30.e30.c2ln",
	} {
		if claims, err := ReadClaims([]byte(text)); err == nil {
			t.Errorf("%s is read as %v", sentence, claims)
		}
	}
	claims, err := ReadClaims([]byte(` {"ref":"refs/heads/main","run_id":42} `))
	if err != nil || claims["ref"] != "refs/heads/main" || claims["run_id"] != json.Number("42") {
		t.Errorf("read %v, %v", claims, err)
	}
}

func TestATokenIsReadUnverifiedOnlyWhereAsked(t *testing.T) {
	r := newRig(t, fakeissuer.GitHub)
	raw := githubToken(t, r.fake)
	forged := raw[:len(raw)-8] + "AAAAAAAA"
	if _, err := r.Verify(t.Context(), broker.NewSecret(forged)); err == nil {
		t.Fatal("a forged token verifies")
	}
	claims, err := ReadUnverified(broker.NewSecret(forged))
	if err != nil || claims["repository_id"] == nil {
		t.Errorf("read %v, %v", claims, err)
	}
	for _, bad := range []string{"", "planted", "planted.planted.planted", "e30." + strings.Repeat("A", 20<<10) + ".c2ln", forged + "="} {
		claims, err := ReadUnverified(broker.NewSecret(bad))
		if err == nil || claims != nil {
			t.Errorf("%.20q is read as %v", bad, claims)
		} else if slices.Contains(strings.Fields(err.Error()), "planted") {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}
