package issuers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// variants are other bytes that a lenient reader takes for the same token: the
// signature covers what they decode to, or is the same number written anew.
func variants(raw string) []string {
	parts := strings.Split(raw, ".")
	var all []string
	with := func(i int, part string) {
		p := append([]string(nil), parts...)
		p[i] = part
		all = append(all, strings.Join(p, "."))
	}
	for i, part := range parts {
		for _, loose := range looseBits(part) {
			with(i, loose)
		}
		for _, at := range []int{0, 1, len(part) / 2, len(part) - 1, len(part)} {
			for _, skipped := range []string{"\n", "\r", "\r\n", " ", "\t", "="} {
				with(i, part[:at]+skipped+part[at:])
			}
		}
		with(i, part+strings.Repeat("=", (4-len(part)%4)%4)+"=")
		with(i, strings.NewReplacer("-", "+", "_", "/").Replace(part)+"=")
	}
	if standard := strings.NewReplacer("-", "+", "_", "/").Replace(raw); standard != raw {
		all = append(all, standard)
	}
	for _, around := range []string{" %s", "%s ", "\n%s", "%s\n", "\ufeff%s", "%s\x00", "%s.", ".%s", "\"%s\"", "Bearer %s", "%s,%[1]s"} {
		all = append(all, fmt.Sprintf(around, raw))
	}
	return all
}

func TestATokenHasOneByteForm(t *testing.T) {
	taken, offered := 0, 0
	for _, provider := range fakeissuer.Providers() {
		r := newRig(t, provider)
		for range 25 {
			raw := sign(t, r.fake, fakeissuer.Job{Provider: provider, Audience: ourAudience})
			if _, err := r.Verify(t.Context(), broker.NewSecret(raw)); err != nil {
				t.Fatalf("the token itself: %v", err)
			}
			for _, v := range variants(raw) {
				offered++
				if _, err := r.Verify(t.Context(), broker.NewSecret(v)); err == nil {
					t.Fatalf("accepted in other bytes: %q", v)
				}
				if jws, err := jose.ParseSignedCompact(v, []jose.SignatureAlgorithm{jose.RS256}); err == nil {
					if _, err := jws.Verify(&ciKey().PublicKey); err == nil {
						taken++
					}
				}
			}
		}
	}
	// What the libraries do shows that the variants are ones.
	if perToken := taken / 50; perToken < 19 {
		t.Errorf("a JWS library takes only %d variants of a token: the test offers too little", perToken)
	}
	t.Logf("0 of %d variants accepted; a JWS library alone takes %d of them", offered, taken)
}

// TestAnECDSATwinIsTheSameToken covers the one variant that no verifier can
// refuse: with (r, s), (r, n-s) is a signature too, and half of all honest ones
// have the larger s. Nothing may be remembered by a token's bytes.
func TestAnECDSATwinIsTheSameToken(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	set, err := parseKeys([]byte(`{"keys":[{"kid":"k","kty":"EC","crv":"P-256",`+b64("x", point[1:33])+`,`+b64("y", point[33:])+`}]}`), allAlgorithms)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := fakeissuer.Forge{Header: `{"alg":"ES256","kid":"k"}`, Payload: `{"jti":"1"}`, Alg: "ES256", Key: key}.Compact()
	if err != nil {
		t.Fatal(err)
	}
	dot := strings.LastIndexByte(raw, '.')
	sig, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(sig[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(sig[32:])
	var ids []broker.TokenID
	for _, bytes := range []string{raw, raw[:dot+1] + enc(string(sig))} {
		tok, err := parse(bytes)
		if err != nil {
			t.Fatal(err)
		}
		if err := set.verify(tok); err != nil {
			t.Errorf("%v: half of all honest tokens are refused", err)
		}
		for _, by := range []ReplayKey{ReplayJTI, ReplaySignedPart} {
			id := (&Set{}).identity(&issuer{profile: Profile{ReplayKey: by}}, tok)
			ids = append(ids, id.Token)
		}
	}
	if ids[0] != ids[2] || ids[1] != ids[3] || ids[0] == ids[1] {
		t.Errorf("the twins are two tokens to whoever remembers them: %v", ids)
	}
	for _, v := range variants(raw) {
		if tok, err := parseSigned(v); err == nil && set.verify(tok) == nil {
			t.Errorf("accepted in other bytes: %q", v)
		}
	}
}
