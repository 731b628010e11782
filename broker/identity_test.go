package broker_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"pgregory.net/rapid"
)

func TestATokenIDIsTheHashOfItsLengthPrefixedParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		issuer, id := rapid.String().Draw(t, "issuer"), rapid.String().Draw(t, "id")
		var in []byte
		for _, part := range []string{issuer, id} {
			in = binary.BigEndian.AppendUint64(in, uint64(len(part)))
			in = append(in, part...)
		}
		if want := sha256.Sum256(in); broker.NewTokenID(issuer, id) != want {
			t.Fatalf("token id %v, want %x", broker.NewTokenID(issuer, id), want)
		}
	})
}

func TestNoTwoTokensShareAnID(t *testing.T) {
	eight := "\x00\x00\x00\x00\x00\x00\x00\x01"
	for name, c := range map[string]struct{ issuer1, id1, issuer2, id2 string }{
		"a character moved from issuer to id": {"https://ci", "1a", "https://ci1", "a"},
		"all in the issuer, all in the id":    {"ab", "", "", "ab"},
		"issuer and id exchanged":             {"a", "b", "b", "a"},
		"a length prefix inside the id":       {"a", "b" + eight + "c", "a" + eight + "b", "c"},
		"a NUL at the seam":                   {"a\x00", "b", "a", "\x00b"},
		"another case":                        {"a", "b", "a", "B"},
		"a trailing slash":                    {"https://ci/", "1", "https://ci", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			if broker.NewTokenID(c.issuer1, c.id1) == broker.NewTokenID(c.issuer2, c.id2) {
				t.Error("they do")
			}
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.String().Draw(t, "issuer and id together")
		i, j := rapid.IntRange(0, len(whole)).Draw(t, "one seam"), rapid.IntRange(0, len(whole)).Draw(t, "another seam")
		if i != j && broker.NewTokenID(whole[:i], whole[i:]) == broker.NewTokenID(whole[:j], whole[j:]) {
			t.Fatalf("%q cut at %d and at %d", whole, i, j)
		}
	})
}

func TestATokenIDIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := broker.NewTokenID(rapid.String().Draw(t, "issuer"), rapid.String().Draw(t, "id"))
		var again broker.TokenID
		if err := again.UnmarshalText([]byte(id.String())); err != nil || again != id || again.IsZero() {
			t.Fatalf("%v is read as %v, %v", id, again, err)
		}
		rec := broker.Record{Token: id}
		b, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		var back broker.Record
		if err := json.Unmarshal(b, &back); err != nil || back.Token != id {
			t.Fatalf("%s is read as %v, %v", b, back.Token, err)
		}
	})
}

func TestNoTokenIDIsLeftOut(t *testing.T) {
	b, err := json.Marshal(broker.Record{Event: broker.EventStarted})
	if err != nil || strings.Contains(string(b), "token") {
		t.Errorf("%s, %v", b, err)
	}
	id := broker.NewTokenID("a", "b")
	if err := id.UnmarshalText(nil); err != nil || !id.IsZero() {
		t.Errorf("no text is read as %v, %v", id, err)
	}
}

func TestATokenIDIsNotReadFromAnythingElse(t *testing.T) {
	for name, text := range map[string]string{
		"too short":       strings.Repeat("a", 62),
		"too long":        strings.Repeat("a", 66),
		"not hexadecimal": strings.Repeat("g", 64),
		"an odd length":   strings.Repeat("a", 63),
		"a line break":    strings.Repeat("a", 63) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			var id broker.TokenID
			if err := id.UnmarshalText([]byte(text)); err == nil {
				t.Errorf("it is read as %v", id)
			}
		})
	}
}

// rfc6901 is the document of RFC 6901, section 5.
const rfc6901 = `{
	"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8
}`

func TestAPointerFindsWhatTheRFCSays(t *testing.T) {
	claims := parseClaims(t, rfc6901)
	for pointer, want := range map[string]any{
		"/foo":   []any{"bar", "baz"},
		"/foo/0": "bar",
		"/foo/1": "baz",
		"/":      json.Number("0"),
		"/a~1b":  json.Number("1"),
		"/c%d":   json.Number("2"),
		"/e^f":   json.Number("3"),
		"/g|h":   json.Number("4"),
		`/i\j`:   json.Number("5"),
		`/k"l`:   json.Number("6"),
		"/ ":     json.Number("7"),
		"/m~0n":  json.Number("8"),
	} {
		t.Run(pointer, func(t *testing.T) {
			if got, ok := claims.Lookup(pointer); !ok || !reflect.DeepEqual(got, want) {
				t.Errorf("it finds %#v, %v; want %#v", got, ok, want)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	claims := parseClaims(t, `{
		"sub": "s", "null": null, "no": false, "empty": "", "a.b": "dotted", "list": ["x", {"k": [10, 20]}, null],
		"deep": {"~1": "tilde one", "a/b": {"c": "slash"}, "": {"": "nothing twice"}, "0": "a digit"}, "~": "tilde", "big": 9007199254740993
	}`)
	for name, c := range map[string]struct {
		key  string
		want any
		ok   bool
	}{
		"a name":                                 {"sub", "s", true},
		"a name with a dot is one name":          {"a.b", "dotted", true},
		"a claim that is null is there":          {"null", nil, true},
		"a claim that is false is there":         {"no", false, true},
		"a claim that is empty is there":         {"empty", "", true},
		"a claim that is absent":                 {"nobody", nil, false},
		"another case is another name":           {"Sub", nil, false},
		"a pointer into an object in a list":     {"/list/1/k/0", json.Number("10"), true},
		"a pointer to null in a list":            {"/list/2", nil, true},
		"a pointer past the end":                 {"/list/3", nil, false},
		"the element after the last":             {"/list/-", nil, false},
		"a negative index":                       {"/list/-1", nil, false},
		"an index with a sign":                   {"/list/+1", nil, false},
		"an index with a leading zero":           {"/list/01", nil, false},
		"an index with a fraction":               {"/list/1.0", nil, false},
		"an index that overflows":                {"/list/18446744073709551617", nil, false},
		"an index in Arabic digits":              {"/list/١", nil, false},
		"an index of nothing":                    {"/list/", nil, false},
		"a digit is a name in an object":         {"/deep/0", "a digit", true},
		"an escaped slash":                       {"/deep/a~1b/c", "slash", true},
		"an escaped tilde before a one":          {"/deep/~01", "tilde one", true},
		"names that are empty":                   {"/deep//", "nothing twice", true},
		"a pointer into a string":                {"/sub/0", nil, false},
		"a pointer into null":                    {"/null/x", nil, false},
		"a pointer into a number":                {"/big/0", nil, false},
		"a number is kept to the last digit":     {"big", json.Number("9007199254740993"), true},
		"an escape that the RFC does not have":   {"/~", nil, false},
		"an escape with a digit it has not":      {"/~2", nil, false},
		"percent signs are not decoded":          {"/s%75b", nil, false},
		"a pointer as a fragment is but a name":  {"#/sub", nil, false},
		"the empty key is a name, not the whole": {"", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := claims.Lookup(c.key)
			if ok != c.ok || !reflect.DeepEqual(got, c.want) {
				t.Errorf("Lookup(%q) = %#v, %v; want %#v, %v", c.key, got, ok, c.want, c.ok)
			}
		})
	}
	if v, ok := broker.Claims(nil).Lookup("/sub"); ok || v != nil {
		t.Errorf("no claims have %v", v)
	}
}

func TestEveryClaimIsFoundByItsPointer(t *testing.T) {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.SliceOfN(rapid.StringOf(rapid.RuneFrom([]rune("ab~/01 é\x00"))), 1, 5).Draw(t, "path")
		var doc any = "found"
		pointer := ""
		for i := len(path) - 1; i >= 0; i-- {
			doc, pointer = map[string]any{path[i]: doc}, "/"+escape.Replace(path[i])+pointer
		}
		if got, ok := broker.Claims(doc.(map[string]any)).Lookup(pointer); !ok || got != "found" {
			t.Fatalf("%q finds %v, %v in %v", pointer, got, ok, doc)
		}
	})
}

func FuzzLookupFindsOnlyWhatIsThere(f *testing.F) {
	for _, pointer := range []string{"/foo/0", "/foo/-", "/m~0n", "/~01", "//", "/foo/00", "foo", "/foo/1e0"} {
		f.Add(pointer)
	}
	claims := parseClaims(f, rfc6901)
	f.Fuzz(func(t *testing.T, pointer string) {
		v, ok := claims.Lookup(pointer)
		if !ok && v != nil {
			t.Errorf("%q finds nothing, and that is %v", pointer, v)
		}
		if s, text := v.(string); text && s != "bar" && s != "baz" {
			t.Errorf("%q finds %q", pointer, s)
		}
	})
}

func TestClaimsAreReadAsTheyWereStored(t *testing.T) {
	const in = `{"a":"1","b":1,"c":1.0,"d":1e2,"e":123456789012345678901234567890,"f":true,"g":null,"h":[1,"1",{"i":0.1}],"j":{"k":-0}}`
	var first, second broker.Claims
	if err := json.Unmarshal([]byte(in), &first); err != nil {
		t.Fatal(err)
	}
	stored, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if string(stored) != in {
		t.Errorf("stored as %s\n    want  %s", stored, in)
	}
	if err := json.Unmarshal(stored, &second); err != nil || !reflect.DeepEqual(first, second) {
		t.Errorf("read again as %#v, %v", second, err)
	}
}

func TestClaimsInsideAnIdentityKeepTheirNumbers(t *testing.T) {
	id := broker.Identity{Issuer: "ci", Token: broker.NewTokenID("ci", "1"), Claims: broker.Claims{"run_id": json.Number("9007199254740993")}}
	stored, err := json.Marshal(broker.Session{ID: "s", For: id})
	if err != nil {
		t.Fatal(err)
	}
	var s broker.Session
	if err := json.Unmarshal(stored, &s); err != nil || !reflect.DeepEqual(s.For, id) {
		t.Errorf("read again as %#v, %v", s.For, err)
	}
	if v, _ := s.For.Claims.Lookup("run_id"); v == "9007199254740993" || v != json.Number("9007199254740993") {
		t.Errorf("the number became %#v", v)
	}
}

func TestClaimsRoundTrip(t *testing.T) {
	leaf := rapid.OneOf(
		rapid.Just[any](nil), rapid.Map(rapid.Bool(), toAny), rapid.Map(rapid.String(), toAny),
		rapid.Map(rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?`),
			func(s string) any { return json.Number(s) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.MapOf(rapid.String(), rapid.OneOf(leaf,
			rapid.Map(rapid.SliceOf(leaf), toAny), rapid.Map(rapid.MapOf(rapid.String(), leaf), toAny))).Draw(t, "claims")
		b, err := json.Marshal(broker.Claims(in))
		if err != nil {
			t.Fatal(err)
		}
		var out broker.Claims
		if err := json.Unmarshal(b, &out); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(out)
		if err != nil || string(again) != string(b) {
			t.Fatalf("%s became %s, %v", b, again, err)
		}
		for name, v := range in {
			if reflect.TypeOf(out[name]) != reflect.TypeOf(v) {
				t.Fatalf("%q was %T and became %T", name, v, out[name])
			}
		}
	})
}

func TestWhatIsNoObjectIsNoClaims(t *testing.T) {
	for _, in := range []string{`[]`, `"s"`, `1`, `true`, `{`, ``} {
		var c broker.Claims
		if err := json.Unmarshal([]byte(in), &c); err == nil {
			t.Errorf("%q was read as %v", in, c)
		}
	}
}

func TestThePlaceOfAJobIsItsImmutableID(t *testing.T) {
	for name, c := range map[string]struct {
		job  broker.Job
		want string
	}{
		"where there is an id":     {broker.Job{Repository: "acme/api", RepositoryID: "42"}, "github/42"},
		"where there is a name":    {broker.Job{Repository: "acme/api"}, "github/acme/api"},
		"where there is no job":    {broker.Job{}, "github/"},
		"whatever else is there":   {broker.Job{RepositoryID: "42", Environment: "prod", Run: "7", Key: "k"}, "github/42"},
		"after the rename of that": {broker.Job{Repository: "acme/renamed", RepositoryID: "42"}, "github/42"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (broker.Identity{Issuer: "github", Job: c.job}).Place(); got != c.want {
				t.Errorf("it is %q, want %q", got, c.want)
			}
		})
	}
}

func TestTwoTokensAreOfTheSameJob(t *testing.T) {
	job := broker.Identity{Issuer: "gitlab", URL: "https://gitlab.example.com", Job: broker.Job{Key: "job-1", Run: "7"}}
	with := func(edit func(*broker.Identity)) broker.Identity {
		other := job
		edit(&other)
		return other
	}
	for name, c := range map[string]struct {
		a, b broker.Identity
		want bool
	}{
		"only if all is the same":     {job, job, true},
		"whatever else they say":      {job, with(func(i *broker.Identity) { i.Subject, i.Job.Environment = "x", "prod" }), true},
		"not with another job's key":  {job, with(func(i *broker.Identity) { i.Job.Key = "job-2" }), false},
		"not with another issuer":     {job, with(func(i *broker.Identity) { i.Issuer = "github" }), false},
		"not with another issuer URL": {job, with(func(i *broker.Identity) { i.URL = "https://gitlab.example.com/" }), false},
		"not where there is no key":   {with(func(i *broker.Identity) { i.Job.Key = "" }), with(func(i *broker.Identity) { i.Job.Key = "" }), false},
		"not if they only share runs": {job, with(func(i *broker.Identity) { i.Job.Key = "" }), false},
	} {
		t.Run(name, func(t *testing.T) {
			if c.a.SameJob(c.b) != c.want || c.b.SameJob(c.a) != c.want {
				t.Errorf("one way %v, the other way %v, want %v", c.a.SameJob(c.b), c.b.SameJob(c.a), c.want)
			}
		})
	}
}

func TestATokenIDPrintsAsHex(t *testing.T) {
	id := broker.NewTokenID("ci", "1")
	if id.String() != hex.EncodeToString(id[:]) {
		t.Errorf("%s", id)
	}
}

func toAny[T any](v T) any { return v }

func parseClaims(t testing.TB, doc string) broker.Claims {
	t.Helper()
	var c broker.Claims
	if err := json.Unmarshal([]byte(doc), &c); err != nil {
		t.Fatal(err)
	}
	return c
}
