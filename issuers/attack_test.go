package issuers

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// attacker knows everything but the private key, save where a row says that
// the issuer itself signed something odd.
type attacker struct {
	t    *testing.T
	fake *fakeissuer.Fake
}

// header returns the honest header, changed.
func (a attacker) header(change map[string]any) string {
	kid, _ := a.fake.Key()
	h := map[string]any{"alg": "RS256", "kid": kid, "typ": "JWT"}
	maps.Copy(h, change)
	maps.DeleteFunc(h, func(_ string, v any) bool { return v == nil })
	return mustJSON(a.t, h)
}

// claims returns the honest claims, changed; nil removes one.
func (a attacker) claims(change map[string]any) string {
	c, err := a.fake.Claims(fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience})
	if err != nil {
		a.t.Fatal(err)
	}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return mustJSON(a.t, c)
}

// forge signs header and payload as they are.
func (a attacker) forge(alg string, key any, header, payload string) string {
	token, err := fakeissuer.Forge{Header: header, Payload: payload, Alg: alg, Key: key}.Compact()
	if err != nil {
		a.t.Fatal(err)
	}
	return token
}

// genuine is signed by the issuer's own key.
func (a attacker) genuine(header, payload string) string {
	return a.forge("RS256", ciKey(), header, payload)
}

// said is a genuine token with changed claims.
func (a attacker) said(change map[string]any) string {
	return a.genuine(a.header(nil), a.claims(change))
}

// spliced is a genuine token whose claims' JSON was edited as text.
func (a attacker) spliced(add string) string {
	return a.genuine(a.header(nil), "{"+add+","+a.claims(nil)[1:])
}

func (a attacker) honest() string { return a.said(nil) }

// parts splits a genuine token.
func (a attacker) parts() (header, payload, signature string) {
	p := strings.Split(a.honest(), ".")
	return p[0], p[1], p[2]
}

type attack struct {
	forge  func(a attacker) string
	reason string
	code   broker.Code // default: token_invalid
}

func enc(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// publicForms are the encodings of a public key that a confused verifier could
// take for an HMAC secret.
func publicForms(t *testing.T, key *rsa.PublicKey) map[string][]byte {
	pkix, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PublicKey(key)
	spki := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix})
	return map[string][]byte{
		"PEM": spki, "PEM without newline": bytes.TrimSpace(spki), "DER": pkix, "PKCS1 DER": pkcs1,
		"PKCS1 PEM": pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: pkcs1}),
		"modulus":   key.N.Bytes(), "nothing": {}, "kid": []byte("secret"),
	}
}

func TestNoForgedOrOddTokenIsAccepted(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	attacks := attacksOnTheForm()
	maps.Copy(attacks, attacksOnTheHeader(ec))
	maps.Copy(attacks, attacksOnTheClaims())
	maps.Copy(attacks, attacksInTime())
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "", "HS256", "hs256", "RS256 ", "rs256", "RS384", "RS512", "PS256", "ES256", "EdDSA", "ML-DSA-65"} {
		attacks[fmt.Sprintf("a genuine signature under alg %q", alg)] = attack{reason: "alg_refused",
			forge: func(a attacker) string { return a.genuine(a.header(map[string]any{"alg": alg}), a.claims(nil)) }}
	}
	for form, secret := range publicForms(t, &ciKey().PublicKey) {
		attacks["HS256 over the public key as "+form] = attack{reason: "alg_refused",
			forge: func(a attacker) string {
				return a.forge("HS256", secret, a.header(map[string]any{"alg": "HS256"}), a.claims(nil))
			}}
		attacks["an HMAC over the public key as "+form+" that says RS256"] = attack{reason: "signature",
			forge: func(a attacker) string { return a.forge("HS256", secret, a.header(nil), a.claims(nil)) }}
	}
	if len(attacks) < 100 {
		t.Fatalf("only %d attacks: a list went missing", len(attacks))
	}

	r := newRig(t, fakeissuer.GitHub)
	if _, err := r.Verify(t.Context(), broker.NewSecret(attacker{t, r.fake}.honest())); err != nil {
		t.Fatalf("the honest token is refused, so the table proves nothing: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(attacks)) {
		t.Run(name, func(t *testing.T) {
			row := attacks[name]
			raw := row.forge(attacker{t, r.fake})
			id, err := r.Verify(t.Context(), broker.NewSecret(raw))
			if err == nil {
				t.Fatalf("accepted as %+v", id.Subject)
			}
			if row.code == "" {
				row.code = broker.TokenInvalid
			}
			if code, reason := broker.CodeOf(err), broker.ReasonOf(err); code != row.code || reason != row.reason {
				t.Errorf("refused as %s/%s, want %s/%s (%v)", code, reason, row.code, row.reason, err)
			}
			if !id.Token.IsZero() || id.Claims != nil {
				t.Error("a refused token left an identity behind")
			}
		})
	}
}

func attacksOnTheForm() map[string]attack {
	attacks := map[string]attack{
		"nothing":                  {func(attacker) string { return "" }, "not_compact", ""},
		"one part":                 {func(a attacker) string { h, _, _ := a.parts(); return h }, "not_compact", ""},
		"two parts":                {func(a attacker) string { h, p, _ := a.parts(); return h + "." + p }, "not_compact", ""},
		"four parts":               {func(a attacker) string { return a.honest() + ".AAAA" }, "not_compact", ""},
		"five parts, as JWE has":   {func(a attacker) string { return a.honest() + ".AAAA.AAAA" }, "not_compact", ""},
		"a million dots":           {func(attacker) string { return strings.Repeat(".", 1<<20) }, "too_large", ""},
		"16 KiB and one byte":      {func(a attacker) string { return a.honest() + strings.Repeat("A", maxToken) }, "too_large", ""},
		"three empty parts":        {func(attacker) string { return ".." }, "unsigned", ""},
		"an empty payload":         {func(a attacker) string { h, _, s := a.parts(); return h + ".." + s }, "claims", ""},
		"no signature":             {func(a attacker) string { h, p, _ := a.parts(); return h + "." + p + "." }, "unsigned", ""},
		"alg none, no signature":   {func(a attacker) string { return a.forge("none", nil, `{"alg":"none"}`, a.claims(nil)) }, "unsigned", ""},
		"a cut signature":          {func(a attacker) string { h, p, s := a.parts(); return h + "." + p + "." + s[:len(s)-2] }, "signature", ""},
		"a signature of zeroes":    {func(a attacker) string { h, p, s := a.parts(); return h + "." + p + "." + strings.Repeat("A", len(s)) }, "signature", ""},
		"standard base64":          {func(a attacker) string { h, p, s := a.parts(); return h + "." + p + "." + "+" + s[1:] }, "encoding", ""},
		"a padded signature":       {func(a attacker) string { return a.honest() + "==" }, "encoding", ""},
		"a space in front":         {func(a attacker) string { return " " + a.honest() }, "encoding", ""},
		"a space behind":           {func(a attacker) string { return a.honest() + " " }, "encoding", ""},
		"a line break behind":      {func(a attacker) string { return a.honest() + "\n" }, "encoding", ""},
		"a carriage return inside": {func(a attacker) string { r := a.honest(); return r[:40] + "\r" + r[40:] }, "encoding", ""},
		"a line break in the header": {func(a attacker) string {
			return a.honest()[:9] + "\n" + a.honest()[9:]
		}, "encoding", ""},
		"JSON serialisation": {func(a attacker) string {
			h, p, s := a.parts()
			return `{"payload":"` + p + `","signatures":[{"protected":"` + h + `","signature":"` + s + `"}]}`
		}, "not_compact", ""},
		"JSON serialisation with two dots": {func(a attacker) string {
			h, p, s := a.parts()
			return `{"payload":"` + p + `","protected":"` + h + `","signature":"` + s + `","x":".."}`
		}, "encoding", ""},
		"a token within a token": {func(a attacker) string {
			return a.genuine(a.header(map[string]any{"cty": "JWT"}), a.honest())
		}, "header_member", ""},
		"claims of one, signature of another": {func(a attacker) string {
			h, _, s := a.parts()
			return h + "." + enc(a.claims(map[string]any{"repository_owner_id": "1"})) + "." + s
		}, "signature", ""},
		"header of one, signature of another": {func(a attacker) string {
			_, p, s := a.parts()
			return enc(a.header(map[string]any{"x5t": "AAAA"})) + "." + p + "." + s
		}, "signature", ""},
	}
	// RS256 signatures have 256 bytes, so the last character has four unused
	// bits: fifteen more spellings of the same signature.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for bits := 1; bits < 16; bits++ {
		attacks[fmt.Sprintf("unused bits %04b in the signature", bits)] = attack{func(a attacker) string {
			raw := a.honest()
			last := strings.IndexByte(alphabet, raw[len(raw)-1])
			return raw[:len(raw)-1] + string(alphabet[last|bits])
		}, "encoding", ""}
	}
	return attacks
}

func attacksOnTheHeader(ec *ecdsa.PrivateKey) map[string]attack {
	own := otherKey()
	jwk := map[string]any{"kty": "RSA", "n": enc(string(own.N.Bytes())), "e": "AQAB"}
	with := func(change map[string]any, reason string) attack {
		return attack{func(a attacker) string { return a.genuine(a.header(change), a.claims(nil)) }, reason, ""}
	}
	own256 := func(change map[string]any, reason string) attack {
		return attack{func(a attacker) string { return a.forge("RS256", own, a.header(change), a.claims(nil)) }, reason, ""}
	}
	raw := func(header, reason string) attack {
		return attack{func(a attacker) string { return a.genuine(header, a.claims(nil)) }, reason, ""}
	}
	return map[string]attack{
		"another key under the issuer's kid":   own256(nil, "signature"),
		"a key in the header":                  own256(map[string]any{"jwk": jwk}, "header_member"),
		"a key set URL in the header":          own256(map[string]any{"jku": "https://evil.example/jwks"}, "header_member"),
		"a certificate URL in the header":      own256(map[string]any{"x5u": "https://evil.example/cert"}, "header_member"),
		"a certificate in the header":          own256(map[string]any{"x5c": []string{"AAAA"}}, "header_member"),
		"an issuer key URL in the header":      own256(map[string]any{"url": "https://evil.example/"}, "header_member"),
		"a kid nobody has":                     own256(map[string]any{"kid": "nobody"}, "key_unknown"),
		"no kid":                               with(map[string]any{"kid": nil}, "kid_missing"),
		"an empty kid":                         with(map[string]any{"kid": ""}, "kid_missing"),
		"a kid that is a number":               with(map[string]any{"kid": 1}, "header_member"),
		"a kid that is a list":                 with(map[string]any{"kid": []string{"a"}}, "header_member"),
		"a kid that is a path":                 with(map[string]any{"kid": "../../../../dev/null"}, "key_unknown"),
		"a kid that is SQL":                    with(map[string]any{"kid": "x' UNION SELECT 'key';--"}, "key_unknown"),
		"a kid that is a URL":                  with(map[string]any{"kid": "http://169.254.169.254/latest"}, "key_unknown"),
		"a kid that is a command":              with(map[string]any{"kid": "| sleep 10"}, "key_unknown"),
		"a kid of 257 bytes":                   with(map[string]any{"kid": strings.Repeat("k", 257)}, "header_member"),
		"a kid with a NUL":                     with(map[string]any{"kid": "a\x00b"}, "header"),
		"crit":                                 with(map[string]any{"crit": []string{"exp"}}, "header_member"),
		"crit that is empty":                   with(map[string]any{"crit": []string{}}, "header_member"),
		"an unencoded payload":                 with(map[string]any{"b64": false, "crit": []string{"b64"}}, "header_member"),
		"compression":                          with(map[string]any{"zip": "DEF"}, "header_member"),
		"encryption":                           with(map[string]any{"enc": "A256GCM"}, "header_member"),
		"p2c":                                  with(map[string]any{"p2c": 1000000000}, "header_member"),
		"an access token":                      with(map[string]any{"typ": "at+jwt"}, "typ"),
		"a logout token":                       with(map[string]any{"typ": "logout+jwt"}, "typ"),
		"one of our own kind":                  with(map[string]any{"typ": "daypass+jwt"}, "typ"),
		"no alg":                               with(map[string]any{"alg": nil}, "alg_refused"),
		"an alg that is a list":                with(map[string]any{"alg": []string{"RS256"}}, "header_member"),
		"an alg that is true":                  with(map[string]any{"alg": true}, "header_member"),
		"two algs, the first none":             raw(`{"alg":"none","alg":"RS256","kid":"k"}`, "header"),
		"two algs, the last none":              raw(`{"alg":"RS256","alg":"none","kid":"k"}`, "header"),
		"two algs that differ in case":         raw(`{"alg":"RS256","ALG":"none","kid":"k"}`, "header"),
		"an escaped second alg":                raw(`{"alg":"RS256","\u0061lg":"none","kid":"k"}`, "header"),
		"ALG":                                  raw(`{"ALG":"RS256","kid":"k"}`, "header_member"),
		"a header that is a list":              raw(`[]`, "header"),
		"a header that is text":                raw(`"RS256"`, "header"),
		"a header that is null":                raw(`null`, "header"),
		"a header with something behind":       raw(`{"alg":"RS256","kid":"k"}{}`, "header"),
		"a header that is not UTF-8":           raw("{\"alg\":\"RS256\",\"kid\":\"\xff\"}", "header"),
		"a header with a byte order mark":      raw("\ufeff{\"alg\":\"RS256\",\"kid\":\"k\"}", "header"),
		"a header with a comment":              raw(`{"alg":"RS256","kid":"k"/**/}`, "header"),
		"an ECDSA signature that says RS256":   {func(a attacker) string { return a.forge("ES256", ec, a.header(nil), a.claims(nil)) }, "signature", ""},
		"an RSA-PSS signature that says RS256": {func(a attacker) string { return a.forge("PS256", ciKey(), a.header(nil), a.claims(nil)) }, "signature", ""},
		"a SHA-512 signature that says RS256":  {func(a attacker) string { return a.forge("RS512", ciKey(), a.header(nil), a.claims(nil)) }, "signature", ""},
	}
}

func attacksOnTheClaims() map[string]attack {
	said := func(change map[string]any, reason string) attack {
		return attack{func(a attacker) string { return a.said(change) }, reason, ""}
	}
	spliced := func(add, reason string) attack {
		return attack{func(a attacker) string { return a.spliced(add) }, reason, ""}
	}
	attacks := map[string]attack{
		"no iss":                              said(map[string]any{"iss": nil}, "issuer_unknown"),
		"an iss that is a list":               said(map[string]any{"iss": []string{rigBase + "/github"}}, "iss_type"),
		"an iss with a slash behind":          said(map[string]any{"iss": rigBase + "/github/"}, "issuer_unknown"),
		"an iss in capitals":                  said(map[string]any{"iss": strings.ToUpper(rigBase) + "/github"}, "issuer_unknown"),
		"an iss with a port":                  said(map[string]any{"iss": "https://ci.example.com:443/github"}, "issuer_unknown"),
		"an iss over http":                    said(map[string]any{"iss": "http://ci.example.com/github"}, "issuer_unknown"),
		"an iss without a scheme":             said(map[string]any{"iss": "ci.example.com/github"}, "issuer_unknown"),
		"an iss with a dot segment":           said(map[string]any{"iss": rigBase + "/x/../github"}, "issuer_unknown"),
		"an iss with a query":                 said(map[string]any{"iss": rigBase + "/github?"}, "issuer_unknown"),
		"an iss below the issuer":             said(map[string]any{"iss": rigBase + "/github/evil"}, "issuer_unknown"),
		"the other provider of the same host": said(map[string]any{"iss": rigBase + "/gitlab"}, "issuer_unknown"),
		"our own token":                       said(map[string]any{"iss": ourAudience}, "issuer_unknown"),
		"ISS instead of iss": {func(a attacker) string {
			return a.genuine(a.header(nil), strings.Replace(a.claims(nil), `"iss"`, `"ISS"`, 1))
		}, "issuer_unknown", ""},
		"ISS beside iss":                  spliced(`"ISS":"https://evil.example"`, "claims"),
		"two iss, equal":                  spliced(`"iss":"`+rigBase+`/github"`, "claims"),
		"two iss, another first":          spliced(`"iss":"https://evil.example"`, "claims"),
		"two aud":                         spliced(`"aud":"x"`, "claims"),
		"two repository_owner_id":         spliced(`"repository_owner_id":"1"`, "claims"),
		"an escaped second sub":           spliced(`"\u0073ub":"x"`, "claims"),
		"a long s that folds into sub":    spliced(`"ſub":"x"`, "claims"),
		"two members deep inside":         spliced(`"x":[{"a":1,"a":2}]`, "claims"),
		"a name in Cyrillic":              spliced(`"ref\u0435":"x"`, "claims"),
		"17 levels":                       spliced(`"x":`+strings.Repeat("[", 17)+strings.Repeat("]", 17), "claims"),
		"2,000 levels":                    spliced(`"x":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000), "claims"),
		"a NUL in a claim":                spliced(`"x":"a\u0000b"`, "claims"),
		"a line break in a claim":         spliced(`"x":"refs/heads/main\nevil"`, "claims"),
		"an escape sequence in a claim":   spliced(`"x":"\u001b[2J"`, "claims"),
		"a C1 control in a claim":         spliced(`"x":"\u009b"`, "claims"),
		"a lone surrogate":                spliced(`"x":"\ud800"`, "claims"),
		"a number of 100 digits":          spliced(`"x":1`+strings.Repeat("0", 100), "claims"),
		"claims that are not UTF-8":       spliced("\"x\":\"\xc3\x28\"", "claims"),
		"NaN":                             spliced(`"x":NaN`, "claims"),
		"a trailing comma":                {func(a attacker) string { c := a.claims(nil); return a.genuine(a.header(nil), c[:len(c)-1]+",}") }, "claims", ""},
		"something behind the claims":     {func(a attacker) string { return a.genuine(a.header(nil), a.claims(nil)+"{}") }, "claims", ""},
		"claims that are a list":          {func(a attacker) string { return a.genuine(a.header(nil), "["+a.claims(nil)+"]") }, "claims", ""},
		"claims that are null":            {func(a attacker) string { return a.genuine(a.header(nil), "null") }, "claims", ""},
		"no aud":                          said(map[string]any{"aud": nil}, "audience_mismatch"),
		"an empty aud":                    said(map[string]any{"aud": ""}, "aud_not_single"),
		"another aud":                     said(map[string]any{"aud": "sts.amazonaws.com"}, "audience_mismatch"),
		"GitHub's default aud":            said(map[string]any{"aud": "https://github.com/acme"}, "audience_mismatch"),
		"an aud that begins with ours":    said(map[string]any{"aud": ourAudience + ".evil.example"}, "audience_mismatch"),
		"an aud with a slash behind":      said(map[string]any{"aud": ourAudience + "/"}, "audience_mismatch"),
		"an aud in capitals":              said(map[string]any{"aud": strings.ToUpper(ourAudience)}, "audience_mismatch"),
		"ours and another aud":            said(map[string]any{"aud": []string{ourAudience, "https://evil.example"}}, "aud_not_single"),
		"ours twice":                      said(map[string]any{"aud": []string{ourAudience, ourAudience}}, "aud_not_single"),
		"an empty list of aud":            said(map[string]any{"aud": []string{}}, "aud_not_single"),
		"an aud in two lists":             said(map[string]any{"aud": [][]string{{ourAudience}}}, "aud_not_single"),
		"an aud that is an object":        said(map[string]any{"aud": map[string]any{ourAudience: true}}, "aud_not_single"),
		"an aud that is a number":         said(map[string]any{"aud": 1}, "aud_not_single"),
		"no sub":                          said(map[string]any{"sub": nil}, "sub_missing"),
		"an empty sub":                    said(map[string]any{"sub": ""}, "sub_missing"),
		"a sub that is a number":          said(map[string]any{"sub": 1}, "sub_type"),
		"no jti":                          said(map[string]any{"jti": nil}, "jti_missing"),
		"an empty jti":                    said(map[string]any{"jti": ""}, "jti_missing"),
		"a jti that is a number":          said(map[string]any{"jti": 1}, "jti_type"),
		"a jti that is a list":            said(map[string]any{"jti": []string{"a"}}, "jti_type"),
		"a jti of 257 bytes":              said(map[string]any{"jti": strings.Repeat("j", 257)}, "jti_too_long"),
		"no owner id":                     said(map[string]any{"repository_owner_id": nil}, "claim_missing"),
		"an empty owner id":               said(map[string]any{"repository_owner_id": ""}, "claim_missing"),
		"an owner id that is a number":    said(map[string]any{"repository_owner_id": 1234}, "claim_missing"),
		"a repository id in a list":       said(map[string]any{"repository_id": []string{"5678"}}, "claim_missing"),
		"the runtime token that asks":     {runtimeToken(nil), "audience_mismatch", ""},
		"the runtime token, made for us":  {runtimeToken(map[string]any{"aud": ourAudience}), "lives_too_long", ""},
		"a short runtime token for us":    {runtimeToken(map[string]any{"aud": ourAudience, "exp": noon.Add(time.Minute).Unix()}), "sub_missing", ""},
		"a claim name source that is odd": spliced(`"_claim_names":{"x":"src"}`, "malformed"),
	}
	return attacks
}

// runtimeToken is GitHub's other token: same issuer, same key, another use.
func runtimeToken(change map[string]any) func(attacker) string {
	return func(a attacker) string {
		raw, err := a.fake.RequestToken(fakeissuer.Job{Provider: fakeissuer.GitHub})
		if err != nil {
			a.t.Fatal(err)
		}
		if change == nil {
			return raw
		}
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
		if err != nil {
			a.t.Fatal(err)
		}
		var c map[string]any
		if err := json.Unmarshal(payload, &c); err != nil {
			a.t.Fatal(err)
		}
		maps.Copy(c, change)
		return a.genuine(a.header(nil), mustJSON(a.t, c))
	}
}

func attacksInTime() map[string]attack {
	n := noon.Unix()
	said := func(change map[string]any, reason string) attack {
		return attack{func(a attacker) string { return a.said(change) }, reason, ""}
	}
	attacks := map[string]attack{
		"no exp":                        said(map[string]any{"exp": nil}, "exp_missing"),
		"no iat":                        said(map[string]any{"iat": nil}, "iat_missing"),
		"expired, past the leeway":      {func(a attacker) string { return a.said(map[string]any{"iat": n - 360, "exp": n - 60}) }, "expired", broker.TokenExpired},
		"expired a year ago":            {func(a attacker) string { return a.said(map[string]any{"iat": n - 31536300, "exp": n - 31536000}) }, "expired", broker.TokenExpired},
		"issued past the leeway":        said(map[string]any{"iat": n + 61, "exp": n + 300}, "iat_in_future"),
		"nbf past the leeway":           said(map[string]any{"nbf": n + 61}, "nbf_in_future"),
		"nbf in four minutes":           said(map[string]any{"nbf": n + 240}, "nbf_in_future"),
		"a life of ten minutes and one": said(map[string]any{"exp": n + 601}, "lives_too_long"),
		"a life of a year":              said(map[string]any{"exp": n + 31536000}, "lives_too_long"),
		"an old iat, a fresh exp":       said(map[string]any{"iat": n - 86400}, "lives_too_long"),
		"exp before iat":                said(map[string]any{"exp": n - 1, "iat": n}, "exp_before_iat"),
		"exp equal to iat":              said(map[string]any{"exp": n, "iat": n}, "exp_before_iat"),
	}
	for name, v := range map[string]any{
		"text": "1793707500", "true": true, "a list": []int64{n + 300}, "an object": map[string]any{},
		"negative": -1, "zero": 0, "huge": 1 << 40, "1e400": json.Number("1e400"), "1e18": json.Number("1e18"),
		"-0": json.Number("-0"),
	} {
		for _, claim := range []string{"exp", "iat", "nbf"} {
			attacks[claim+" that is "+name] = said(map[string]any{claim: v}, claim+"_type")
		}
	}
	return attacks
}

func TestTimesAtTheEdgeAreAccepted(t *testing.T) {
	n := noon.Unix()
	r := newRig(t, fakeissuer.GitHub)
	a := attacker{t, r.fake}
	for name, change := range map[string]map[string]any{
		"a second before the leeway ends": {"iat": n - 359, "exp": n - 59},
		"issued at the end of the leeway": {"iat": n + 60, "exp": n + 300},
		"nbf at the end of the leeway":    {"nbf": n + 60},
		"a life of ten minutes":           {"exp": n + 600},
		"no nbf":                          {"nbf": nil},
		"times with fractions":            {"iat": json.Number(fmt.Sprintf("%d.25", n)), "exp": json.Number(fmt.Sprintf("%d.5", n+300))},
		"times with an exponent":          {"exp": json.Number("1.7937072e9"), "iat": 1793707100},
		"one audience in a list":          {"aud": []string{ourAudience}},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := r.Verify(t.Context(), broker.NewSecret(a.said(change)))
			if err != nil {
				t.Fatal(err)
			}
			if want := id.Expires.Add(2 * time.Minute); !id.KeepUntil.Equal(want) {
				t.Errorf("kept until %s, want %s: longer than it is accepted", id.KeepUntil, want)
			}
		})
	}
}

func TestRefusalsNeverRepeatTheToken(t *testing.T) {
	const canary = "canary-5f2b"
	r := newRig(t, fakeissuer.GitHub)
	a := attacker{t, r.fake}
	for name, raw := range map[string]string{
		"audience": a.said(map[string]any{"aud": canary}),
		"issuer":   a.said(map[string]any{"iss": "https://" + canary}),
		"kid":      a.genuine(a.header(map[string]any{"kid": canary}), a.claims(nil)),
		"alg":      a.genuine(a.header(map[string]any{"alg": canary}), a.claims(nil)),
		"typ":      a.genuine(a.header(map[string]any{"typ": canary}), a.claims(nil)),
		"member":   a.genuine(a.header(map[string]any{canary: "x"}), a.claims(nil)),
		"claims":   a.spliced(`"` + canary + `":1,"` + canary + `":2`),
		"text":     a.spliced(`"x":"` + canary + `\u0000"`),
		"json":     a.genuine(a.header(nil), canary),
		"sources":  a.spliced(`"_claim_names":{"` + canary + `":"` + canary + `"}`),
		"encoding": canary + "." + canary + "." + canary + "=",
	} {
		_, err := r.Verify(t.Context(), broker.NewSecret(raw))
		if err == nil {
			t.Fatalf("%s: accepted", name)
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error repeats the token: %v", name, err)
		}
	}
}
