package issuers

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// mutator changes honest tokens a little, so that many of the changed ones lie
// close to what is still a token. All that it chooses follows from its seed.
type mutator struct{ *rand.Rand }

func newMutator(seed, n uint64) mutator { return mutator{rand.New(rand.NewPCG(seed, n))} }

func (m mutator) pick(of []string) string { return of[m.IntN(len(of))] }

// Words that readers of JSON, of base64 and of claims disagree about.
var (
	mutantWords = []string{`null`, `true`, `0`, `-`, `e`, `1e3`, `.5`, `[]`, `{}`, `"`, `\`, `,`, `:`, `}`, `{`, `\u0061`, `\ud83d\ude00`,
		`\ud800`, `\/`, ` `, "\n", "\t", "\r", "\x00", "\x7f", "é", "\u2028", "\ufeff", "\xff", `/**/`, `A`, `_`, `=`}
	mutantMembers = []string{`"x":1.50`, `"x":1E+2`, `"x":-0.0`, `"x":1e400`, `"x":-1e400`, `"x":12345678901234567890`, `"x":5e-324`,
		`"x":"\ud83d\ude00"`, `"x":"\u00e9"`, `"x":"é"`, `"x":"\/"`, `"x":"\u2028"`, `"x":[1,[2,{"y":null}]]`, `"x" : [ ]`, "\n\t\"x\":{}\r\n",
		`"__proto__":{"sub":"x"}`, `"constructor":"x"`, `"toString":null`, `"":1`, `"a b":true`, `"iss ":"x"`, `"aud2":"x"`, `"SUB":"x"`,
		`"sub":"x"`, `"aud":"x"`, `"exp":1`, `"nonce":"n"`, `"b64":false`, `"crit":["exp"]`, `"kid":"x"`, `"typ":"jwt"`, `"x5t":"AAAA"`,
		`"cty":"JWT"`, `"_claim_names":{}`, `"_claim_sources":{"a":{}}`}
	mutantValues = []any{nil, "", "x", true, 0, -1, 1.5, []string{}, map[string]any{}, ourAudience, []string{ourAudience}, []string{ourAudience, "x"},
		[]any{ourAudience, 1}, ourAudience + "/", rigBase + "/github", json.Number("1e9"), json.Number("1.7937072e9"), json.Number("1e400"),
		"\u212a", "refs/heads/é", "😀"}
	mutantNames = []string{"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "ref", "repository_id", "repository_owner_id", "event_name", "x"}
)

// token returns one changed token: in its claims, in the text of its header or
// claims before they are signed, or in its own text afterwards.
func (m mutator) token(t *testing.T, r algRig) string {
	claims := r.honest
	for range m.IntN(3) {
		claims = changed(claims, map[string]any{m.pick(mutantNames): m.value()})
	}
	header, payload := r.headed(`"typ":"JWT"`), mustJSON(t, claims)
	switch m.IntN(6) {
	case 0:
		header = m.text(header)
	case 1, 2:
		payload = m.text(payload)
	case 3:
		return m.text(r.signed(t, header, payload))
	}
	return r.signed(t, header, payload)
}

// value is a time in half of all cases, often one about which leeway decides.
func (m mutator) value() any {
	switch m.IntN(4) {
	case 0:
		return noon.Unix() + pickInt(m, -3600, -61, -60, -59, 59, 60, 61, 600, 601, 3600)
	case 1:
		return float64(noon.Unix()) + float64(pickInt(m, -61, -60, -59, 59, 60, 61)) + float64(m.IntN(4))/4
	}
	return mutantValues[m.IntN(len(mutantValues))]
}

func pickInt(m mutator, of ...int64) int64 { return of[m.IntN(len(of))] }

// text changes a text in one to three places.
func (m mutator) text(s string) string {
	b := []byte(s)
	for range 1 + m.IntN(3) {
		at := m.IntN(len(b) + 1)
		end := min(len(b), at+1+m.IntN(8))
		switch m.IntN(6) {
		case 0:
			b = slices.Insert(b, at, []byte(m.pick(mutantWords))...)
		case 1:
			b = slices.Replace(b, at, min(at+1, len(b)), []byte(m.pick(mutantWords))...)
		case 2:
			b = slices.Delete(b, at, end)
		case 3:
			b = slices.Insert(b, at, slices.Clone(b[at:end])...)
		default:
			if open := strings.LastIndexByte(string(b), '}'); open >= 0 {
				b = slices.Insert(b, open, []byte(","+m.pick(mutantMembers))...)
			}
		}
	}
	return string(b)
}
