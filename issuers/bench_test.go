package issuers

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"slices"
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
	maps.DeleteFunc(claims, func(name string, _ any) bool {
		return slices.Contains([]string{"iss", "aud", "iat", "nbf", "exp", "jti"}, name) // the toy provider's own
	})
	claims["environment"], claims["environment_node_id"] = "production", "EN_kwDOAbCdEf8AAAABDq2n0Q"
	return sign(tb, fake, fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience, Set: claims})
}

// BenchmarkVerify is the whole path, and says how many bare RSA verifications it
// takes. One of them is the signature. Of the rest, go-oidc has three quarters:
// it copies the token without white space, decodes it again, and reads header
// and claims once more with encoding/json. Our own strict reading, the map of
// claims and the job's neutral fields have the last one.
func BenchmarkVerify(b *testing.B) {
	r := newRig(b, fakeissuer.GitHub)
	raw := githubToken(b, r.fake)
	token, bare := broker.NewSecret(raw), bareVerify(b, raw)
	b.ReportAllocs()
	verify := func() error { _, err := r.Verify(b.Context(), token); return err }
	ratio := timesAsLong(b, verify, bare)
	for b.Loop() {
		if err := verify(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(ratio, "x-bare-RSA")
}

// timesAsLong runs two functions by turns, so that what else the machine does
// slows both, and returns the median of how much longer the first takes.
func timesAsLong(b *testing.B, one, other func() error) float64 {
	b.Helper()
	const rounds, calls = 31, 100
	takes := func(f func() error) float64 {
		start := time.Now()
		for range calls {
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
		return float64(time.Since(start))
	}
	ratios := make([]float64, rounds)
	for i := range ratios {
		ratios[i] = takes(one) / takes(other)
	}
	slices.Sort(ratios)
	return ratios[rounds/2]
}

// TestAVerificationAllocatesLittle keeps what was won from being lost unseen.
func TestAVerificationAllocatesLittle(t *testing.T) {
	r := newRig(t, fakeissuer.GitHub)
	token := broker.NewSecret(githubToken(t, r.fake))
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := r.Verify(t.Context(), token); err != nil {
			t.Error(err)
		}
	})
	if allocs > 150 {
		t.Errorf("%.0f allocations, want at most 150", allocs)
	}
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
