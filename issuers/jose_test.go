package issuers

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/npm"
)

// question is what jose is asked: the same bytes that we are shown, and no more
// than what we go by.
type question struct {
	Keys       []byte   `json:"keys"`
	Token      []byte   `json:"token"`
	Issuer     string   `json:"issuer"`
	Audience   string   `json:"audience"`
	Algorithms []string `json:"algorithms"`
	Required   []string `json:"required"`
	At         int64    `json:"at"`
	Leeway     int64    `json:"leeway"`
	Life       int64    `json:"life"`
}

// verdict is what jose says: why it refuses, or what it reads.
type verdict struct {
	Refused string         `json:"refused"`
	Header  map[string]any `json:"header"`
	Claims  map[string]any `json:"claims"`
}

// court has two judges: a set of ours with one issuer, and jose.
type court struct {
	jose *npm.Program
	set  *Set
	ask  question // but for the token
}

func startJose(t testing.TB) *npm.Program {
	t.Helper()
	jose, err := npm.Start(t.Context(), filepath.Join("testdata", "jose"), "judge.mjs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := jose.Close(); err != nil {
			t.Error(err)
		}
	})
	return jose
}

// newCourt asks jose about the issuer of a set by its keys and its URL.
func newCourt(jose *npm.Program, set *Set, jwks []byte, url string) court {
	is := set.byURL[url]
	return court{jose, set, question{Keys: jwks, Issuer: url, Audience: set.audience, Algorithms: is.profile.Algorithms,
		Required: append([]string{"sub", "jti", "iat", "exp"}, is.profile.Required...),
		At:       set.now().Unix(), Leeway: int64(set.leeway.Seconds()), Life: int64(is.life.Seconds())}}
}

// Rulings of both judges.
type ruling string

const (
	bothTake  ruling = "both take it"
	noneTakes ruling = "both refuse it"
	onlyJose  ruling = "jose alone takes it"
)

// hear shows a token to both judges, and returns why we refused it if we did.
// It is an error that jose refuses what we take, or reads something else in it.
func (c court) hear(t testing.TB, raw string) (ruling, string, error) {
	q := c.ask
	q.Token = []byte(raw)
	var v verdict
	if err := c.jose.Ask(q, &v); err != nil {
		t.Fatal(err)
	}
	if (v.Refused == "") == (v.Claims == nil) {
		t.Fatalf("jose neither takes nor refuses: %+v", v)
	}
	id, err := c.set.Verify(t.Context(), broker.NewSecret(raw))
	switch reason := broker.ReasonOf(err); {
	case err == nil && v.Refused != "":
		return "", "", fmt.Errorf("we take what jose refuses (%s): %q", v.Refused, raw)
	case err == nil:
		return bothTake, "", sameReading(raw, id, v)
	case v.Refused != "":
		return noneTakes, reason, nil
	default:
		return onlyJose, reason, nil
	}
}

// sameReading says where two readers of one token saw two tokens.
func sameReading(raw string, id broker.Identity, v verdict) error {
	tok, err := parse(raw)
	if err != nil {
		return err
	}
	if v.Header["alg"] != tok.alg || v.Header["kid"] != tok.kid {
		return fmt.Errorf("we read alg %s and kid %s, jose %v: %q", tok.alg, tok.kid, v.Header, raw)
	}
	if ours := asDoubles(map[string]any(id.Claims)); !reflect.DeepEqual(ours, any(v.Claims)) {
		return fmt.Errorf("we read %v, jose %v: %q", ours, v.Claims, raw)
	}
	return nil
}

// asDoubles turns our numbers, which are texts, into what JavaScript has. One
// that is too large for it is a word.
func asDoubles(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		switch {
		case err == nil:
			return f
		case f > 0:
			return "Infinity"
		}
		return "-Infinity"
	case []any:
		all := make([]any, len(v))
		for i := range v {
			all[i] = asDoubles(v[i])
		}
		return all
	case map[string]any:
		all := make(map[string]any, len(v))
		for name := range v {
			all[name] = asDoubles(v[name])
		}
		return all
	}
	return v
}

// tally is how the rulings fell.
type tally struct {
	count   map[ruling]int
	alone   map[string]int    // of the tokens that jose alone takes, by what they are
	awaited map[string]string // such tokens of which at least one has to be made
}

func newTally(awaited map[string]string) tally {
	return tally{map[ruling]int{}, map[string]int{}, awaited}
}

// hear counts the ruling on one token. A name that ends in a colon stands for
// tokens of many sorts, and our reason tells them apart.
func (y tally) hear(t testing.TB, c court, name, raw string) ruling {
	t.Helper()
	r, reason, err := c.hear(t, raw)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	y.count[r]++
	if r == onlyJose {
		if strings.HasSuffix(name, ":") {
			name += " " + reason
		}
		y.alone[name]++
	}
	return r
}

// awaits reports whether a sort that is awaited under a name has not been seen
// yet. More of what is rare are made until it has.
func (y tally) awaits(name string) bool {
	for listed := range y.awaited {
		if y.alone[listed] == 0 && (listed == name || strings.HasSuffix(name, ":") && strings.HasPrefix(listed, name)) {
			return true
		}
	}
	return false
}

// TestJoseTakesWhatWeTakeAndReadsTheSame shows tokens of every sort to a library
// that shares no code with ours: honest ones, every class of forgery, other bytes
// of honest ones, and mutants. Where it alone takes one, stricter has to say why.
func TestJoseTakesWhatWeTakeAndReadsTheSame(t *testing.T) {
	jose, sum := startJose(t), newTally(stricter)
	hearHonest(t, jose, sum)
	const seed = 5 // fixed, so that each run finds the same
	hearForged(t, jose, sum, seed)
	hearMutants(t, jose, sum, seed, 400)
	for _, name := range slices.Sorted(maps.Keys(sum.alone)) {
		if _, listed := stricter[name]; !listed {
			t.Errorf("jose alone takes %d of %q, and nobody has said why that is", sum.alone[name], name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(stricter)) {
		if sum.alone[name] == 0 {
			t.Errorf("%q is listed (%s), and jose takes none", name, stricter[name])
		}
	}
	t.Logf("%v; of %d sorts jose alone takes some", sum.count, len(sum.alone))
}

// TestJoseTakesWhatWeTakeWhateverTheSeed shows other forgeries and mutants in
// each run. What jose alone takes is left to the fixed seed: some of it is rare.
func TestJoseTakesWhatWeTakeWhateverTheSeed(t *testing.T) {
	rounds, mutants := uint64(1), 50
	if os.Getenv("DAYPASS_SOAK") == "1" {
		rounds, mutants = 3, 2000
	}
	jose, sum, seed := startJose(t), newTally(nil), seedOf(t)
	for round := range rounds {
		hearForged(t, jose, sum, seed+round)
		hearMutants(t, jose, sum, seed+round, mutants)
	}
	t.Logf("%v", sum.count)
}

// hearHonest shows both the token of every fixture, which both must take.
func hearHonest(t *testing.T, jose *npm.Program, sum tally) {
	files, err := filepath.Glob("profiles/*/testdata/*.claims.json")
	if err != nil || len(files) < 20 {
		t.Fatalf("only %d fixtures: %v", len(files), err)
	}
	for _, file := range files {
		claims, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set, jwks := setFor(t, strings.Split(file, string(filepath.Separator))[1], claims)
		if r := sum.hear(t, newCourt(jose, set, jwks, set.all[0].url), "an honest token", signedAsTheyStand(t, claims)); r != bothTake {
			t.Errorf("%s: %s", file, r)
		}
	}
}

// hearForged shows both a dozen of every class of forgery for every profile,
// their honest twins, and other bytes of some of those.
func hearForged(t *testing.T, jose *npm.Program, sum tally, seed uint64) {
	rig, classes := newForgeRig(t), forgeries()
	for i, p := range slices.Sorted(maps.Keys(rig.fakes)) {
		jwks, err := rig.fakes[p].JWKS()
		if err != nil {
			t.Fatal(err)
		}
		c := newCourt(jose, rig.set, jwks, rig.fakes[p].URL(p))
		forger := func(n int) *forger { return newForger(rig, p, seed+uint64(i)<<32, uint64(n)) }
		for _, name := range slices.Sorted(maps.Keys(classes)) {
			for n := 0; n < 12 || n < 1200 && sum.awaits(name); n++ {
				if r := sum.hear(t, c, name, classes[name].forge(forger(n))); r == bothTake {
					t.Errorf("both take %q", name)
				}
			}
		}
		for n := range 12 {
			twin := forger(n).twin()
			if r := sum.hear(t, c, "an honest token", twin); r != bothTake {
				t.Errorf("an honest token: %s", r)
			}
			if n < 2 {
				hearVariants(t, c, sum, twin)
			}
		}
	}
}

// hearVariants shows both an honest token in other bytes.
func hearVariants(t *testing.T, c court, sum tally, honest string) {
	for _, v := range variants(honest) {
		if r := sum.hear(t, c, "other bytes:", v); r == bothTake {
			t.Errorf("both take other bytes of a token: %q", v)
		}
	}
}

// hearMutants shows both so many mutants of each algorithm that we verify.
func hearMutants(t *testing.T, jose *npm.Program, sum tally, seed uint64, each int) {
	before := sum.count[bothTake]
	for i, alg := range allAlgorithms {
		r := newAlgRig(t, alg)
		c := newCourt(jose, r.Set, r.jwks, r.all[0].url)
		for n := 0; n < each || n < 100*each && alg == "EdDSA" && sum.awaits("a mutant:"); n++ {
			sum.hear(t, c, "a mutant:", newMutator(seed+uint64(i)<<32, uint64(n)).token(t, r))
		}
	}
	// Mutants that nobody takes would compare nothing.
	if both := sum.count[bothTake] - before; both < len(allAlgorithms)*each/10 {
		t.Errorf("only %d of %d mutants are still tokens", both, len(allAlgorithms)*each)
	}
}

// FuzzJose lets an issuer sign anything, as FuzzVerify does: whatever we accept,
// jose accepts, and reads the same claims in it.
func FuzzJose(f *testing.F) {
	r := newAlgRig(f, "EdDSA")
	c := newCourt(startJose(f), r.Set, r.jwks, r.all[0].url)
	r.seed(f)
	f.Fuzz(func(t *testing.T, header, payload string) {
		if _, _, err := c.hear(t, r.signed(t, r.headed(header), payload)); err != nil {
			t.Fatal(err)
		}
	})
}

// stricter are the sorts of tokens of which jose takes some that we refuse, and
// why it may and we may not.
var stricter = map[string]string{
	"a claim from elsewhere":     "claims that are kept elsewhere mean nothing to it",
	"a claim in two cases":       "names that differ in case are two to it",
	"a claim twice":              "it takes the last: two readers, two tokens",
	"a claim twice, escaped":     "it takes the last",
	"a foreign character":        "its base64 skips white space in the signature",
	"a header that is no object": "it drops a byte order mark",
	"a header's member twice":    "it takes the last, and KID and ALG for names it does not know",
	"a line break":               "its base64 skips line breaks in the signature",
	"a long token id":            "it remembers no tokens",
	"a long word":                "it takes words of any length",
	"a member twice within":      "it takes the last",
	"a name that folds":          "it takes any name",
	"a required claim less":      "it asks whether a claim is there, be it empty or a number",
	"a subject of a type":        "it takes a subject of any type",
	"a token id of a type":       "it remembers no tokens",
	"a word of another type":     "it does not look at typ and x5t",
	"an odd expiry":              "it takes any number for a time, infinity among them",
	"an odd number":              "it takes numbers of any length",
	"an odd start":               "it takes any number for a time",
	"an unencoded payload":       "it passes over b64 where crit does not name it",
	"an unknown member":          "it passes over members of a header that it does not know",
	"another kind of token":      "it can be told to want a typ, but not to want none or JWT",
	"audiences":                  "it takes a token for us and others",
	"broken JSON":                "it drops a byte order mark",
	"ends before it was":         "it holds exp to the clock, with leeway, and to nothing else",
	"lives too long":             "it knows how old a token may be, not how long it may live",
	"no kid":                     "it takes the only key that fits",
	"no subject":                 "an empty subject is one to it",
	"no token id":                "an empty token id is one to it",
	"odd text":                   "it takes control characters and lone surrogates",
	"odd text in the header":     "the same",
	"other bytes: encoding":      "its base64 skips white space and padding of a signature, and drops unused bits",
	"padding":                    "its base64 takes a signature with padding",
	"too deep":                   "it has no limit",
	"too large":                  "it has no limit, and its base64 skips white space in the signature",
	"unused bits":                "its base64 drops them",
	"what belongs to JWE":        "it passes over members of a header that mean nothing to it",
	"a mutant: aud_not_single":   "as with audiences",
	"a mutant: claim_missing":    "as with a required claim less",
	"a mutant: claims":           "names twice, odd names, odd text and long numbers, as above",
	"a mutant: encoding":         "as with other bytes",
	"a mutant: exp_before_iat":   "as with what ends before it was",
	"a mutant: exp_type":         "as with an odd expiry",
	"a mutant: header":           "a member twice or odd text, as above",
	"a mutant: header_member":    "as with an unknown member",
	"a mutant: jti_missing":      "as with no token id",
	"a mutant: jti_type":         "as with a token id of a type",
	"a mutant: lives_too_long":   "as with what lives too long",
	"a mutant: nbf_type":         "as with an odd start",
	"a mutant: sub_missing":      "as with no subject",
	"a mutant: sub_type":         "as with a subject of a type",
	"a mutant: typ":              "as with another kind of token",
}
