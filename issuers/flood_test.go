package issuers

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// flooded is a set with one issuer that listens on loopback, goes by a clock
// that the test moves, and notes when it is asked for its keys.
type flooded struct {
	*Set
	clock *clock
	fake  *fakeissuer.Fake

	mu      sync.Mutex // guards fetches
	fetches []time.Time
}

func newFlooded(t *testing.T) *flooded {
	t.Helper()
	f := &flooded{clock: &clock{t: noon}}
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "jwks") {
			f.mu.Lock()
			f.fetches = append(f.fetches, f.clock.Now())
			f.mu.Unlock()
			time.Sleep(20 * time.Millisecond) // long enough to be seen by whoever waits for it
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	fake, err := fakeissuer.New(server.URL, fakeissuer.Options{Key: ciKey(), Now: f.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	f.fake, handler = fake, fake.Handler()
	if f.Set, err = New(Options{Audience: ourAudience, Now: f.clock.Now,
		Issuers: []Config{{Name: "ci", Profile: "github", URL: fake.URL(fakeissuer.GitHub), Insecure: true}}}); err != nil {
		t.Fatal(err)
	}
	return f
}

// good verifies a fresh token n times and returns how long each took.
func (f *flooded) good(t *testing.T, n int) []time.Duration {
	token := broker.NewSecret(sign(t, f.fake, fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience}))
	took := make([]time.Duration, 0, n)
	for range n {
		start := time.Now()
		if _, err := f.Verify(t.Context(), token); err != nil {
			t.Errorf("a good token: %v", err)
			return took
		}
		took = append(took, time.Since(start))
		time.Sleep(50 * time.Microsecond) // a job that comes now and then, not a flood of its own
	}
	return took
}

func p99(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)*99/100]
}

// TestAHundredThousandBadTokensCostOneFetchIn30Seconds floods a set with
// unknown kids and bad signatures for 200 s of its clock.
func TestAHundredThousandBadTokensCostOneFetchIn30Seconds(t *testing.T) {
	const tokens, steps, step = 100_000, 100, 2 * time.Second
	f := newFlooded(t)
	idle := f.good(t, 1000)

	kid, _ := f.fake.Key()
	payload := enc(fmt.Sprintf(`{"iss":%q}`, f.fake.URL(fakeissuer.GitHub))) // enough to get as far as the keys
	rng := rand.New(rand.NewPCG(1, 2))
	bad := func(i int) (raw, reason string) {
		sig := make([]byte, 256)
		for j := range sig {
			sig[j] = byte(rng.Uint32())
		}
		if i%2 == 0 {
			return enc(fmt.Sprintf(`{"alg":"RS256","kid":"%d"}`, i)) + "." + payload + "." + enc(string(sig)), "key_unknown"
		}
		return enc(fmt.Sprintf(`{"alg":"RS256","kid":%q}`, kid)) + "." + payload + "." + enc(string(sig)), "signature"
	}
	var busy []time.Duration
	for s := range steps {
		var flood sync.WaitGroup
		flood.Go(func() {
			for i := range tokens / steps {
				raw, reason := bad(s*tokens/steps + i)
				if _, err := f.Verify(t.Context(), broker.NewSecret(raw)); err == nil || broker.ReasonOf(err) != reason {
					t.Errorf("a bad token: %v, want %s", err, reason)
					return
				}
				runtime.Gosched() // as a request ends
			}
		})
		busy = append(busy, f.good(t, 20)...)
		flood.Wait()
		f.clock.Advance(step)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := 1; i < len(f.fetches); i++ {
		if apart := f.fetches[i].Sub(f.fetches[i-1]); apart < refreshPause {
			t.Errorf("fetches %d and %d are %s apart", i-1, i, apart)
		}
	}
	if most := int(steps*step/refreshPause) + 1; len(f.fetches) < 2 || len(f.fetches) > most {
		t.Errorf("%d fetches, want at least 2, or nothing was looked for again, and at most %d", len(f.fetches), most)
	}
	calm, storm := p99(idle), p99(busy)
	t.Logf("%d bad tokens, %d fetches; p99 of good ones %s, %.1f times idle (%s)", tokens, len(f.fetches), storm, float64(storm)/float64(calm), calm)
	// A machine that does other things too makes any bound near 2 fail by chance.
	if storm > 50*calm && storm > 200*time.Millisecond {
		t.Errorf("p99 of good tokens is %s under the flood and %s without", storm, calm)
	}
}
