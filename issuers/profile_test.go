package issuers

import (
	"bytes"
	"crypto/rsa"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// verifyClaims signs claims as they stand and verifies them, ten seconds after
// their iat, with the profile they belong to.
func verifyClaims(t *testing.T, profile string, claims []byte) (broker.Identity, error) {
	t.Helper()
	return verifyInstead(t, profile, claims, claims)
}

// verifyInstead configures issuer and clock for some claims, and verifies
// others.
func verifyInstead(t *testing.T, profile string, configured, claims []byte) (broker.Identity, error) {
	t.Helper()
	set, _ := setFor(t, profile, configured)
	return set.Verify(t.Context(), broker.NewSecret(signedAsTheyStand(t, claims)))
}

// setFor makes the set that trusts the issuer of some claims, ten seconds after
// their iat, and returns the issuer's keys as well.
func setFor(t *testing.T, profile string, claims []byte) (set *Set, jwks []byte) {
	t.Helper()
	var said struct {
		Issuer string `json:"iss"`
		Issued int64  `json:"iat"`
	}
	if err := json.Unmarshal(claims, &said); err != nil {
		t.Fatal(err)
	}
	jwks, err := fakeissuer.JWKS(map[string]*rsa.PrivateKey{"k": ciKey()})
	if err != nil {
		t.Fatal(err)
	}
	set, err = New(Options{
		Issuers:  []Config{{Name: "ci", Profile: profile, URL: said.Issuer, JWKSFile: writeFile(t, jwks)}},
		Audience: ourAudience, Now: at(time.Unix(said.Issued+10, 0)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return set, jwks
}

func signedAsTheyStand(t *testing.T, claims []byte) string {
	t.Helper()
	raw, err := fakeissuer.Forge{Header: `{"alg":"RS256","kid":"k","typ":"JWT"}`, Payload: string(claims), Alg: "RS256", Key: ciKey()}.Compact()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestEachFixtureBecomesItsGoldenIdentity(t *testing.T) {
	profiles, err := Profiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, profile := range slices.Sorted(maps.Keys(profiles)) {
		dir := filepath.Join("profiles", profile)
		if _, err := os.Stat(filepath.Join(dir, "README.md")); err != nil {
			t.Errorf("%s has no README.md: %v", profile, err)
		}
		cases, err := filepath.Glob(filepath.Join(dir, "testdata", "*.claims.json"))
		if err != nil || len(cases) == 0 {
			t.Fatalf("%s has no fixtures: %v", profile, err)
		}
		for _, file := range cases {
			t.Run(profile+"/"+strings.TrimSuffix(filepath.Base(file), ".claims.json"), func(t *testing.T) {
				claims, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				id, err := verifyClaims(t, profile, claims)
				if err != nil {
					t.Fatal(err)
				}
				got, err := json.MarshalIndent(id, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				golden(t, strings.TrimSuffix(file, ".claims.json")+".identity.golden", append(got, '\n'))
			})
		}
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the identity changed (-update rewrites it):\n%s", path, got)
	}
}

func fixture(t *testing.T, profile, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("profiles", profile, "testdata", name+".claims.json"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func identityOf(t *testing.T, profile, name string) broker.Identity {
	t.Helper()
	id, err := verifyClaims(t, profile, fixture(t, profile, name))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestANumberStaysANumber(t *testing.T) {
	id := identityOf(t, "gitlab", "self-managed")
	if v, ok := id.Claims["runner_id"].(json.Number); !ok || v != "123456789012345678" {
		t.Errorf("runner_id is %#v", id.Claims["runner_id"])
	}
}

func TestARequiredClaimThatIsMissingRefusesTheToken(t *testing.T) {
	for profile, name := range map[string]string{"github": "branch-immutable-sub", "gitlab": "branch"} {
		profiles, err := Profiles()
		if err != nil {
			t.Fatal(err)
		}
		for _, claim := range append(profiles[profile].Required, "sub", "jti", "iat", "exp", "aud", "iss") {
			var claims map[string]any
			if err := json.Unmarshal(fixture(t, profile, name), &claims); err != nil {
				t.Fatal(err)
			}
			said := mustJSON(t, claims)
			delete(claims, claim)
			if _, err := verifyInstead(t, profile, []byte(said), []byte(mustJSON(t, claims))); broker.CodeOf(err) != broker.TokenInvalid {
				t.Errorf("%s without %s: %v", profile, claim, err)
			}
		}
	}
}

func TestTokensOfOneJobShareItsKeyAndOfOthersDoNot(t *testing.T) {
	job := func(profile, name string, change map[string]any) string {
		var claims map[string]any
		d := json.NewDecoder(bytes.NewReader(fixture(t, profile, name)))
		d.UseNumber()
		if err := d.Decode(&claims); err != nil {
			t.Fatal(err)
		}
		maps.Copy(claims, change)
		maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
		id, err := verifyClaims(t, profile, []byte(mustJSON(t, claims)))
		if err != nil {
			t.Fatal(err)
		}
		return id.Job.Key
	}
	base := job("github", "branch-immutable-sub", nil)
	if base == "" || base != job("github", "branch-immutable-sub", map[string]any{"jti": "another"}) {
		t.Error("two tokens of one GitHub job have two keys")
	}
	for _, change := range []map[string]any{
		{"check_run_id": "1"}, {"run_attempt": "2"}, {"run_id": "7"}, {"repository_id": "9"},
		{"run_id": "24650987001/1", "run_attempt": "1"}, // a slash must not shift what stands where
	} {
		if job("github", "branch-immutable-sub", change) == base {
			t.Errorf("%v has the same key", change)
		}
	}
	if key := job("github", "branch-immutable-sub", map[string]any{"check_run_id": nil}); key != "" {
		t.Errorf("without check_run_id the jobs of a run are not told apart, but the key is %q", key)
	}
	if job("gitlab", "branch", nil) == job("gitlab", "branch", map[string]any{"job_id": "303"}) {
		t.Error("two GitLab jobs have one key")
	}
}

func TestWhatATokenSaysStaysInItsPlaceInAURL(t *testing.T) {
	var claims map[string]any
	if err := json.Unmarshal(fixture(t, "github", "odd-names"), &claims); err != nil {
		t.Fatal(err)
	}
	claims["repository"] = "acme/app?x=1#y@evil.example/\\:"
	claims["run_id"] = "1/../../evil"
	id, err := verifyClaims(t, "github", []byte(mustJSON(t, claims)))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(id.Job.RunURL, "https://github.com/acme/app%3Fx=1%23y@evil.example/") || strings.ContainsAny(id.Job.RunURL, `?#\`) {
		t.Errorf("run url %q", id.Job.RunURL)
	}
}

func TestPersonalDataIsNotListedForTheJournal(t *testing.T) {
	profiles, err := Profiles()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range profiles {
		for _, claim := range []string{"user_email", "user_identities"} {
			if slices.Contains(p.Journal, claim) {
				t.Errorf("%s lists %s", name, claim)
			}
		}
		for _, claim := range append(p.Required, p.ImmutableIDs...) {
			if !slices.Contains(p.Journal, claim) {
				t.Errorf("%s does not list %s", name, claim)
			}
		}
	}
}

func TestAProfileThatCannotWorkIsRefusedWithAllItsFaults(t *testing.T) {
	good, err := profileFiles.ReadFile("profiles/github/profile.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct{ old, new, fault string }{
		"a symmetric algorithm":        {"[RS256]", "[RS256, HS256]", `"HS256" is not an asymmetric`},
		"no algorithm":                 {"[RS256]", "[]", "algorithms: is missing"},
		"alg none":                     {"[RS256]", "[none]", `"none" is not`},
		"no life":                      {"max_token_life: 10m", "max_token_life: 0s", "max_token_life: must be"},
		"a life of a week":             {"max_token_life: 10m", "max_token_life: 168h", "max_token_life: must be"},
		"an unknown replay key":        {"replay_key: jti", "replay_key: sub", "replay_key: must be"},
		"plain http":                   {"url: https://token", "url: http://token", "url: must be an https URL"},
		"an id that may be absent":     {"immutable_ids: [repository_owner_id", "immutable_ids: [enterprise_id, repository_owner_id", "enterprise_id must be among the required"},
		"an owner that can change":     {"owner_ids: [repository_owner_id]", "owner_ids: [repository_owner]", "repository_owner must be among the immutable"},
		"everything in the journal":    {"  - actor\n  - actor_id\n  - aud", `  - "*"`, "a * stands at the end"},
		"a star inside":                {"repo_property_*", "repo_*_x", "a * stands at the end"},
		"a run url elsewhere":          {`"{web}/{repository}/actions`, `"https://{repository}/actions`, "must begin with {web}/"},
		"a run url open to the token":  {`"{web}/{repository}/actions`, `"{web}{repository}/actions`, "must begin with {web}/"},
		"a template that never closes": {`{check_run_id}"`, `{check_run_id"`, "want text with {claim}"},
		"a key that is constant":       {`"{repository_id}/{run_id}/{run_attempt}/{check_run_id}"`, `"same"`, "want text with {claim}"},
		"a template where none may be": {"  ref: ref", `  ref: "{ref}"`, "is not the name of a claim"},
		"an unknown key":               {"shared: true", "sharde: true", "sharde"},
		"a title that is a list":       {"title: GitHub Actions", "title: [a]", "title"},
	} {
		t.Run(name, func(t *testing.T) {
			raw := strings.Replace(string(good), row.old, row.new, 1)
			if raw == string(good) {
				t.Fatal("the row changes nothing")
			}
			if _, err := parseProfile([]byte(raw)); err == nil || !strings.Contains(err.Error(), row.fault) {
				t.Errorf("got %v, want %q", err, row.fault)
			}
		})
	}
}

func TestWithoutAJTITheSignedPartIsWhatIsUsedOnce(t *testing.T) {
	r := newRig(t, fakeissuer.GitHub)
	job := fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience, Unset: []string{"jti"}}
	raw := sign(t, r.fake, job)
	if _, err := r.Verify(t.Context(), broker.NewSecret(raw)); broker.ReasonOf(err) != "jti_missing" {
		t.Fatalf("got %v: a profile with jti has no fallback", err)
	}
	r.all[0].profile.ReplayKey = ReplaySignedPart
	first, err := r.Verify(t.Context(), broker.NewSecret(raw))
	if err != nil {
		t.Fatal(err)
	}
	if want := broker.NewTokenID(r.all[0].url, raw[:strings.LastIndex(raw, ".")]); first.Token != want {
		t.Error("the id is not that of header and payload")
	}
	job.Set = map[string]any{"run_number": "43"}
	second, err := r.Verify(t.Context(), broker.NewSecret(sign(t, r.fake, job)))
	if err != nil || second.Token == first.Token {
		t.Errorf("two tokens have one id (%v)", err)
	}
}

func TestTheTokenIDIsOfTheConfiguredIssuerAndTheJTI(t *testing.T) {
	id := identityOf(t, "github", "branch-name-sub")
	if want := broker.NewTokenID("https://token.actions.githubusercontent.com", "0b8f5f0e-2222-4c2e-9c0a-1d6f3a7b8c9d"); id.Token != want {
		t.Errorf("token id %s, want %s", id.Token, want)
	}
}
