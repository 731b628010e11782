package brokertest

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// AtOnce does n things, so many workers at a time, and returns how many it did
// a second. A worker stops at its first error, which fails the benchmark.
func AtOnce(b *testing.B, workers, n int, do func(worker, i int) error) float64 {
	b.Helper()
	var all sync.WaitGroup
	began := time.Now()
	for w := range workers {
		all.Go(func() {
			for i := w; i < n; i += workers {
				if err := do(w, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return float64(n) / time.Since(began).Seconds()
}

// Compare measures two rates by turns for as long as the benchmark loops, and
// reports the medians of both and of their ratio: what a machine is busy with
// beside it is in both.
func Compare(b *testing.B, bare, ours func() float64) {
	b.Helper()
	var theirs, mine, ratios []float64
	for b.Loop() {
		t, m := bare(), ours()
		theirs, mine, ratios = append(theirs, t), append(mine, m), append(ratios, m/t)
	}
	b.ReportMetric(Quantile(theirs, 0.5), "bare/s")
	b.ReportMetric(Quantile(mine, 0.5), "ours/s")
	b.ReportMetric(Quantile(ratios, 0.5), "ratio")
	b.ReportMetric(0, "ns/op")
}

// Quantile returns the value below which a share q of the values lies, 0 to 1.
// There has to be one value at least.
func Quantile(values []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}
