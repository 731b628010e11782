package issuers

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// githubToken is a token as long as GitHub's are, with all its claims.
func githubToken(tb testing.TB, fake *fakeissuer.Fake) string {
	tb.Helper()
	raw, err := os.ReadFile("profiles/github/testdata/branch-immutable-sub.claims.json")
	if err != nil {
		tb.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		tb.Fatal(err)
	}
	token := sign(tb, fake, fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience, Set: map[string]any{
		"enterprise": "acme-enterprise", "enterprise_id": "4711", "environment": "production", "environment_node_id": "EN_kwDOAbCdEf8AAAABDq2n0Q"}})
	return token
}

// BenchmarkVerify is the whole path. What it takes more than BenchmarkBareRSAVerify
// goes, in halves, to go-oidc, which reads header and claims once more with
// encoding/json, and to our own strict reading and the maps of claims.
func BenchmarkVerify(b *testing.B) {
	r := newRig(b, fakeissuer.GitHub)
	raw := githubToken(b, r.fake)
	token, bare := broker.NewSecret(raw), bareVerify(b, raw)
	b.ReportAllocs()
	var whole, part time.Duration
	for b.Loop() { // by turns, so that what else the machine does slows both
		start := time.Now()
		if _, err := r.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
		whole += time.Since(start)
		b.StopTimer()
		start = time.Now()
		if err := bare(); err != nil {
			b.Fatal(err)
		}
		part += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(whole)/float64(part), "x-bare-RSA")
}

// BenchmarkBareRSAVerify is the part of BenchmarkVerify that nobody can save:
// one hash and one RSA-2048 verification over the same token.
func BenchmarkBareRSAVerify(b *testing.B) {
	r := newRig(b, fakeissuer.GitHub)
	verify := bareVerify(b, githubToken(b, r.fake))
	b.ReportAllocs()
	for b.Loop() {
		if err := verify(); err != nil {
			b.Fatal(err)
		}
	}
}

// bareVerify checks the RS256 signature of a token, decoded beforehand.
func bareVerify(tb testing.TB, token string) func() error {
	tb.Helper()
	dot := strings.LastIndexByte(token, '.')
	signed, key := []byte(token[:dot]), &ciKey().PublicKey
	signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil {
		tb.Fatal(err)
	}
	return func() error {
		digest := sha256.Sum256(signed)
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature)
	}
}

// BenchmarkVerifyForged is what a flood of badly signed tokens costs.
func BenchmarkVerifyForged(b *testing.B) {
	r := newRig(b, fakeissuer.GitHub)
	raw := githubToken(b, r.fake)
	token := broker.NewSecret(raw[:len(raw)-8] + "AAAAAAAA")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Verify(b.Context(), token); err == nil {
			b.Fatal("a forged token was accepted")
		}
	}
}
