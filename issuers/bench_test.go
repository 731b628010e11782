package issuers

import (
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

func BenchmarkVerify(b *testing.B) {
	r := newRig(b, fakeissuer.GitHub)
	token := broker.NewSecret(sign(b, r.fake, fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyForged is what a flood of badly signed tokens costs.
func BenchmarkVerifyForged(b *testing.B) {
	r := newRig(b, fakeissuer.GitHub)
	raw := sign(b, r.fake, fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience})
	token := broker.NewSecret(raw[:len(raw)-8] + "AAAAAAAA")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Verify(b.Context(), token); err == nil {
			b.Fatal("a forged token was accepted")
		}
	}
}
