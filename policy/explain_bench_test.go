package policy

import (
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// BenchmarkExplain among 100,000 rules: a trace costs as little as a decision,
// and looking for the nearest rule of others looks at them all.
func BenchmarkExplain(b *testing.B) {
	book := bigBook(b, 20_000)
	at := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	known, stranger := oneOfMany(), oneOfMany()
	stranger.Claims = broker.Claims{"owner": "x", "repo": "x"}
	b.Run("trace", func(b *testing.B) {
		for b.Loop() {
			book.Trace(known, broker.Want{Name: "a"}, at)
		}
	})
	b.Run("explain/stranger", func(b *testing.B) {
		for b.Loop() {
			if e := book.Explain(stranger, broker.Want{Name: "a"}, at); e.Allowed || len(e.Rules) == 0 {
				b.Fatal(e)
			}
		}
	})
}
