package issuers

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestAnObjectKeepsItsTypes(t *testing.T) {
	got, err := decodeObject([]byte(` {"a":"b\u00e9\ud83d\ude00","n":12,"f":1.50,"t":true,"z":null,"l":[1,"x",{}],"o":{"A":{"A":[]}}} `))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": "bé😀", "n": json.Number("12"), "f": json.Number("1.50"), "t": true, "z": nil,
		"l": []any{json.Number("1"), "x", map[string]any{}}, "o": map[string]any{"A": map[string]any{"A": []any{}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v", got)
	}
}

func TestNoDocumentCostsMuchMoreThanItsSize(t *testing.T) {
	for name, one := range map[string]string{
		"empty objects": "{},", "small objects": `{"a":1},`, "objects with capitals": `{"A":1},`, "empty lists": "[],",
		"numbers": "1,", "empty texts": `"",`, "escaped texts": `"\u0041",`, "words": "null,",
	} {
		document := []byte(`{"x":[` + strings.Repeat(one, maxToken/len(one)) + `0]}`)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decodeObject(document)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if cost := after.TotalAlloc - before.TotalAlloc; cost > 200*maxToken {
			t.Errorf("%s: %d KiB for 16", name, cost>>10)
		}
	}
}

func TestSixteenLevelsAreReadAndSeventeenAreNot(t *testing.T) {
	nested := func(n int) []byte {
		return []byte(`{"x":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`)
	}
	if _, err := decodeObject(nested(16)); err != nil {
		t.Error(err)
	}
	if _, err := decodeObject(nested(17)); err == nil {
		t.Error("17 levels were read")
	}
}

// FuzzObject holds what the strict decoder accepts to what encoding/json makes
// of it: two readers of one token must see one token.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"iss":"a","sub":"b","n":1.5e3,"l":[null,true,{"x":"y"}]}`, `{"iss":"a","ISS":"b"}`, `{"a":1,"a":2}`,
		`{"\u0061":1,"a":2}`, `{"a":"\ud800"}`, `[{}]`, `{"a":{"b":{"c":[[[]]]}}}`, `{"a":1}{}`, "{\"a\":\"\xff\"}", `{"a":"\u0000"}`,
		`{"` + "ſ" + `":1}`, `{"a":1e999}`, `{"a":0001}`, `{"a":-0}`, ` {"a" : "b" } `, `{"a":1,}`, `{"":""}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := decodeObject(raw)
		if errors.Is(err, errNotObject) && utf8.Valid(raw) && json.Valid(raw) && bytes.TrimLeft(raw, " \t\r\n")[0] == '{' {
			t.Fatal("refused the form of what is an object")
		}
		if err != nil {
			return
		}
		var want map[string]any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("read %#v, encoding/json reads %#v", got, want)
		}
		var folded struct {
			Issuer any `json:"iss"`
		}
		if err := json.Unmarshal(raw, &folded); err != nil {
			t.Fatal(err)
		}
		_, exact := got["iss"]
		for name := range got {
			if exact && name != "iss" && strings.EqualFold(name, "iss") {
				t.Fatalf("accepted %q beside iss", name)
			}
		}
	})
}

// FuzzToken holds the compact parser to its promises: no panic, one byte form
// per token, and times and words within their bounds.
func FuzzToken(f *testing.F) {
	const claims = `{"iss":"https://ci.example.com","sub":"repo:a/b","aud":"x","jti":"1","iat":1793707200,"exp":1793707500}`
	f.Add(enc(`{"alg":"RS256","kid":"k","typ":"JWT"}`) + "." + enc(claims) + ".AAAA")
	f.Add(enc(`{"alg":"none"}`) + "." + enc(claims) + ".")
	f.Add(enc(`{"alg":"RS256","kid":"k","crit":[]}`) + "." + enc(claims) + ".AAAA")
	f.Add(enc(`{"alg":"RS256","kid":"k"}`) + "." + enc(`{"aud":["x","y"],"exp":"1"}`) + ".AAAB")
	f.Add(enc(`{"alg":"RS256","kid":"k"}`) + "." + enc(`{"aud":["x"],"exp":1.5,"iat":1e9,"nbf":-1}`) + ".AA")
	f.Add("a.b.c")
	f.Add("....")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := parse(raw)
		if err != nil {
			return
		}
		parts := strings.Split(raw, ".")
		if len(parts) != 3 || len(raw) > maxToken || string(got.signed) != parts[0]+"."+parts[1] {
			t.Fatalf("accepted %q", raw)
		}
		for _, part := range parts {
			b, err := base64.RawURLEncoding.Strict().DecodeString(part)
			if err != nil || base64.RawURLEncoding.EncodeToString(b) != part || len(b) == 0 {
				t.Fatalf("accepted a lax part %q", part)
			}
		}
		if got.kid == "" || len(got.kid) > maxWord {
			t.Fatalf("kid %q", got.kid)
		}
		for _, at := range []time.Time{got.issued, got.expires, got.validAt} {
			if !at.IsZero() && (at.Unix() < 0 || at.Unix() > maxUnix) {
				t.Fatalf("time %s", at)
			}
		}
	})
}

// FuzzKeys holds key sets to theirs: no panic on odd keys, and whatever is kept
// fits an algorithm that was asked for.
func FuzzKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kid":"k","kty":"RSA","n":"` + strings.Repeat("_", 342) + `","e":"AQAB"}]}`))
	f.Add([]byte(`{"keys":[{"kid":"a","kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":[{"kid":"a","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kid":"a","kty":"oct","k":"AAAA"},{"kid":"a"},null,[],1]}`))
	f.Add([]byte(`{"keys":[{"kid":"a","kty":"AKP","alg":"ML-DSA-44","pub":"AAAA"}]}`))
	algs := []string{"RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"}
	f.Fuzz(func(t *testing.T, raw []byte) {
		set, err := parseKeys(raw, algs)
		if err != nil {
			return
		}
		if len(set.byID) == 0 || len(set.byID)+set.skipped > maxKeys {
			t.Fatalf("%d keys, %d skipped", len(set.byID), set.skipped)
		}
		for kid, key := range set.byID {
			fit := 0
			for _, alg := range algs {
				if fits(alg, key) {
					fit++
				}
			}
			if kid == "" || fit == 0 || !key.IsPublic() {
				t.Fatalf("kept %q", kid)
			}
		}
	})
}
