package issuers

import (
	"cmp"
	"encoding/json"
	"strings"

	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// Everything here is signed by the issuer's own key: it is refused for what it
// says, by the rung that the class names, and by no luck of an earlier one.

func forgedHeaders() map[string]forgery {
	own := func(f *forger, name string, v any) string {
		_, key := f.other()
		return f.signed("RS256", key, f.header(map[string]any{name: v}), f.claims(nil))
	}
	return map[string]forgery{
		"an alg of whim": {"alg_refused", false, func(f *forger) string {
			return f.headed("alg", f.pick("none", "None", "nOnE", "HS256", "hs256", "rs256", "RS256 ", "Rs256", "RS1", "ES256", "EdDSA", "ML-DSA-44", "dir", f.word()))
		}},
		"no alg": {"alg_refused", false, func(f *forger) string { return f.headed("alg", pickOf[any](f, nil, "")) }},
		"a key in the header": {"header_member", false, func(f *forger) string {
			return own(f, "jwk", map[string]any{"kty": "RSA", "n": enc(string(otherKey().N.Bytes())), "e": "AQAB"})
		}},
		"a place of keys": {"header_member", false, func(f *forger) string {
			return own(f, f.pick("jku", "x5u", "url", "iss"), "https://evil.example/"+f.word())
		}},
		"a certificate": {"header_member", false, func(f *forger) string { return own(f, "x5c", []string{enc(string(f.noise(64)))}) }},
		"a critical extension": {"header_member", false, func(f *forger) string {
			return f.headed("crit", pickOf(f, []string{"exp"}, []string{"b64"}, []string{}, []string{f.word()}))
		}},
		"an unencoded payload": {"header_member", false, func(f *forger) string { return f.headed("b64", f.IntN(2) == 0) }},
		"a token within": {"header_member", false, func(f *forger) string {
			return f.genuine(f.header(map[string]any{"cty": f.pick("JWT", "jwt")}), strings.Join(f.cut(), "."))
		}},
		"what belongs to JWE": {"header_member", false, func(f *forger) string {
			return f.headed(f.pick("zip", "enc", "epk", "p2s", "p2c", "apu", "tag", "iv"), pickOf[any](f, "DEF", 1<<30, f.word()))
		}},
		"an unknown member": {"header_member", false, func(f *forger) string { return f.headed("x"+f.word(), f.word()) }},
		"a member of another case": {"header_member", false, func(f *forger) string {
			return f.genuine(strings.Replace(f.header(nil), `"alg"`, f.pick(`"ALG"`, `"Alg"`, `"aLg"`), 1), f.claims(nil))
		}},
		"a word of another type": {"header_member", false, func(f *forger) string {
			return f.headed(f.pick("alg", "kid", "typ", "x5t"), pickOf[any](f, 1, true, []string{"RS256"}, map[string]any{}, json.Number("1e3")))
		}},
		"a long word": {"header_member", false, func(f *forger) string {
			return f.headed(f.pick("kid", "typ", "x5t"), strings.Repeat("k", maxWord+1+f.IntN(100)))
		}},
		"a kid nobody has": {"key_unknown", false, func(f *forger) string {
			return f.headed("kid", f.pick("../../../../dev/null", "x' UNION SELECT 'key';--", "http://169.254.169.254/latest", "| sleep 10", "0", "*", "null", strings.ToUpper("fake-"), f.word()))
		}},
		"no kid": {"kid_missing", false, func(f *forger) string { return f.headed("kid", pickOf[any](f, nil, "")) }},
		"another kind of token": {"typ", false, func(f *forger) string {
			return f.headed("typ", f.pick("at+jwt", "logout+jwt", "daypass+jwt", "JWS", "secevent+jwt", "JWT ", f.word()))
		}},
		"a header's member twice": {"header", false, func(f *forger) string {
			h := strings.TrimSpace(f.header(nil))
			twice := f.pick(`"alg":"none"`, `"alg":"RS256"`, `"ALG":"none"`, `"\u0061lg":"none"`, `"kid":"x"`, `"KID":"x"`, `"typ":"JWT"`)
			if f.IntN(2) == 0 {
				return f.genuine("{"+twice+","+h[1:], f.claims(nil))
			}
			return f.genuine(h[:len(h)-1]+","+twice+"}", f.claims(nil))
		}},
		"a header that is no object": {"header", false, func(f *forger) string {
			h := f.header(nil)
			return f.genuine(f.pick("", "[]", `"RS256"`, "null", "1", "{", h+h, "\ufeff"+h, h+"/**/", "["+h+"]", h+",", "\x00"+h, strings.ReplaceAll(h, `"`, "'")), f.claims(nil))
		}},
		"odd text in the header": {"header", false, func(f *forger) string {
			h := strings.TrimSpace(f.header(nil))
			return f.genuine(h[:len(h)-1]+`,"x5t":"`+f.pick(`\u0000`, `\n`, "\x01", `\ud800`, "\xff", "\x7f", `\u009b`, "\xc0\xaf")+`"}`, f.claims(nil))
		}},
	}
}

func forgedClaims() map[string]forgery {
	return map[string]forgery{
		"an issuer that is not trusted": {"issuer_unknown", false, func(f *forger) string {
			iss := f.fake.URL(f.p)
			return f.said("iss", f.pick(iss+"/", strings.ToUpper(iss), strings.Replace(iss, ".com", ".com:443", 1), strings.Replace(iss, "https", "http", 1),
				iss+"?", iss+"#", iss+"/x/..", " "+iss, iss+"."+f.word(), strings.Replace(iss, "ci.", "xn--ci-.", 1), strings.Replace(iss, "c", "с", 1), ourAudience, "https://"+f.word()+".example", ""))
		}},
		"no issuer": {"issuer_unknown", false, func(f *forger) string { return f.said("iss", nil) }},
		"an issuer of many": {"iss_type", false, func(f *forger) string {
			return f.said("iss", pickOf[any](f, []string{f.fake.URL(f.p)}, 1, true, map[string]any{}))
		}},
		"another audience": {"audience_mismatch", false, func(f *forger) string {
			return f.said("aud", f.pick("sts.amazonaws.com", "https://github.com/acme", ourAudience+"/", ourAudience+".evil.example", ourAudience[:len(ourAudience)-1], strings.ToUpper(ourAudience), " "+ourAudience, strings.Replace(ourAudience, "a", "а", 1), f.word()))
		}},
		"no audience": {"audience_mismatch", false, func(f *forger) string { return f.said("aud", nil) }},
		"audiences": {"aud_not_single", false, func(f *forger) string {
			return f.said("aud", pickOf[any](f, []string{ourAudience, f.word()}, []string{f.word(), ourAudience}, []string{ourAudience, ourAudience}, []string{}, ""))
		}},
		"an audience of a type": {"aud_not_single", false, func(f *forger) string {
			return f.said("aud", pickOf[any](f, 1, true, [][]string{{ourAudience}}, map[string]any{ourAudience: true}, []any{1}))
		}},
		"a claim twice": {"claims", false, func(f *forger) string {
			return f.spliced(f.pick(`"iss":"https://evil.example"`, `"sub":"x"`, `"aud":"x"`, `"exp":1`, `"jti":"x"`, `"ref":"x"`))
		}},
		"a claim in two cases": {"claims", false, func(f *forger) string {
			return f.spliced(f.pick(`"ISS":"x"`, `"Sub":"x"`, `"aUd":"x"`, `"EXP":1`, `"Jti":"x"`, `"REF":"x"`))
		}},
		"a claim twice, escaped": {"claims", false, func(f *forger) string {
			return f.spliced(f.pick(`"\u0069ss":"x"`, `"s\u0075b":"x"`, `"au\u0064":"x"`, `"\u0045xp":1`))
		}},
		"a member twice within": {"claims", false, func(f *forger) string {
			return f.spliced(f.pick(`"x":{"a":1,"a":2}`, `"x":[[{"a":1,"A":2}]]`, `"x":{"y":{"\u0061":1,"a":2}}`))
		}},
		"a name that folds": {"claims", false, func(f *forger) string {
			return f.spliced(f.pick(`"ſub":"x"`, `"i\u017f\u017f":"x"`, `"\u212a":1`, `"rеf":"x"`, `"é":1`, `"a\u200b":1`))
		}},
		"too deep": {"claims", false, func(f *forger) string {
			n := 16 + f.IntN(1000)
			return f.spliced(`"x":` + f.pick(strings.Repeat("[", n)+strings.Repeat("]", n), strings.Repeat(`{"a":`, n)+"1"+strings.Repeat("}", n)))
		}},
		"odd text": {"claims", false, func(f *forger) string {
			return f.spliced(f.pick(`"x":"a\u0000b"`, `"x":"\n"`, `"x":"\u001b[2J"`, `"x":"\u009b"`, `"x":"\ud800"`, `"x":"\udc00\ud800"`, "\"x\":\"\xc3\x28\"", "\"x\":\"\xed\xa0\x80\"", "\"x\":\"\x00\"", `"x\u0000":1`, "\"x\":\"\uFFFD\""))
		}},
		"an odd number": {"claims", false, func(f *forger) string {
			return f.spliced(`"x":` + f.pick("1"+strings.Repeat("0", maxNumber), "0."+strings.Repeat("1", maxNumber), "NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x10", "1e", "--1", "１"))
		}},
		"broken JSON": {"claims", false, func(f *forger) string {
			c := strings.TrimSpace(f.claims(nil))
			return f.genuine(f.header(nil), f.pick(c[:f.IntN(len(c)-1)], c+"{}", c[:len(c)-1]+",}", "{,"+c[1:], c+"\x00", "\ufeff"+c, c+"//", strings.Replace(c, ":", "=", 1), strings.Replace(c, ",", "", 1)))
		}},
		"claims that are no object": {"claims", false, func(f *forger) string {
			return f.genuine(f.header(nil), f.pick("["+f.claims(nil)+"]", "null", `"x"`, "1", "true", " "))
		}},
		"no subject":           {"sub_missing", false, func(f *forger) string { return f.said("sub", pickOf[any](f, nil, "")) }},
		"a subject of a type":  {"sub_type", false, func(f *forger) string { return f.said("sub", pickOf[any](f, 1, true, []string{"a"}, map[string]any{})) }},
		"no token id":          {"jti_missing", false, func(f *forger) string { return f.said("jti", pickOf[any](f, nil, "")) }},
		"a token id of a type": {"jti_type", false, func(f *forger) string { return f.said("jti", pickOf[any](f, 1, true, []string{"a"}, map[string]any{})) }},
		"a long token id":      {"jti_too_long", false, func(f *forger) string { return f.said("jti", strings.Repeat("j", maxWord+1+f.IntN(100))) }},
		"a required claim less": {"claim_missing", false, func(f *forger) string {
			return f.said(f.pick(f.rig.of[f.p].Required...), pickOf[any](f, nil, "", 1, 1234, true, []string{"5678"}, map[string]any{}))
		}},
		"another token of the same key": {"claim_missing", false, func(f *forger) string {
			login := map[string]any{"sub": "1", "sub_legacy": f.word(), "auth_time": noon.Unix(), "name": "Sidney", "email": "sidney@example.com"}
			for _, name := range []string{"iss", "aud", "iat", "exp", "jti"} {
				login[name] = f.honest[name]
			}
			return f.genuine(f.header(nil), f.text(login))
		}},
		"the token that asks for tokens": {"sub_missing", false, func(f *forger) string {
			extra, err := json.Marshal(fakeissuer.Job{Provider: f.p})
			f.must(err)
			return f.genuine(f.header(nil), f.text(map[string]any{"iss": f.honest["iss"], "aud": ourAudience, "iat": f.honest["iat"],
				"exp": f.honest["exp"], "oidc_sub": "repo", "oidc_extra": string(extra)}))
		}},
		"a claim from elsewhere": {"malformed", false, func(f *forger) string { return f.spliced(`"_claim_names":{"x":"` + f.word() + `"}`) }},
	}
}

func forgedTimes() map[string]forgery {
	n := noon.Unix()
	said := func(f *forger, change map[string]any) string { return f.genuine(f.header(nil), f.claims(change)) }
	odd := func(f *forger) any {
		return pickOf[any](f, "1793707500", true, []int64{n + 300}, map[string]any{}, -1, 0, 1<<40, json.Number("1e400"), json.Number("-0"), json.Number("1e18"))
	}
	return map[string]forgery{
		"no expiry":        {"exp_missing", false, func(f *forger) string { return f.said("exp", nil) }},
		"no time of issue": {"iat_missing", false, func(f *forger) string { return f.said("iat", nil) }},
		"an odd expiry":    {"exp_type", false, func(f *forger) string { return f.said("exp", odd(f)) }},
		"an odd issue":     {"iat_type", false, func(f *forger) string { return f.said("iat", odd(f)) }},
		"an odd start":     {"nbf_type", false, func(f *forger) string { return f.said("nbf", odd(f)) }},
		"expired": {"expired", false, func(f *forger) string {
			past := n - 60 - f.Int64N(1<<30)
			return said(f, map[string]any{"iat": past - 300, "exp": past, "nbf": nil})
		}},
		"issued later": {"iat_in_future", false, func(f *forger) string {
			at := n + 61 + f.Int64N(1<<30)
			return said(f, map[string]any{"iat": at, "exp": at + 300, "nbf": nil})
		}},
		"begins later": {"nbf_in_future", false, func(f *forger) string { return f.said("nbf", n+61+f.Int64N(1<<30)) }},
		"lives too long": {"lives_too_long", false, func(f *forger) string {
			return f.said("exp", n+int64(f.rig.of[f.p].MaxTokenLife.Seconds())+1+f.Int64N(1<<30))
		}},
		"ends before it was": {"exp_before_iat", false, func(f *forger) string { return f.said("exp", n-cmp.Or(f.Int64N(3), f.Int64N(1<<30))) }},
	}
}
