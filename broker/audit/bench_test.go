package audit

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func BenchmarkAppend(b *testing.B) {
	for _, appenders := range []int{1, 64} {
		b.Run(fmt.Sprintf("appenders=%d", appenders), func(b *testing.B) {
			c := config(b.TempDir())
			var syncs atomic.Int64
			c.OnSync = func(time.Duration) { syncs.Add(1) }
			j, err := Open(c)
			if err != nil {
				b.Fatal(err)
			}
			r := broker.Record{Event: broker.EventIntent, At: time.Now(), Request: "req_0123456789abcdef",
				Token: broker.NewTokenID("github", "1"), Claims: broker.Claims{"ref": "refs/heads/main", "repository_id": "1"}}
			work := make(chan struct{}, appenders)
			finished := make(chan struct{})
			for range appenders {
				go func() {
					for range work {
						if err := j.Append(b.Context(), r); err != nil {
							b.Error(err)
						}
					}
					finished <- struct{}{}
				}()
			}
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			for range appenders {
				<-finished
			}
			b.ReportMetric(float64(syncs.Load())/float64(b.N), "fsyncs/op")
			if err := j.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	dir := sample(b, 5000, 1<<20)
	for b.Loop() {
		if _, err := verify(dir); err != nil {
			b.Fatal(err)
		}
	}
}
