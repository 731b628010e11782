package daypass

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/clients/go/daypasstest"
)

// faultyProxy hands requests on, and cuts the connection to the client after
// the broker has answered, each first time.
func faultyProxy(t *testing.T, way *tap) *httptest.Server {
	var mu sync.Mutex
	known := map[string]bool{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		name := r.URL.Path + r.Header.Get("Authorization") + r.Header.Get("Idempotency-Key")
		first := !known[name]
		known[name] = true
		mu.Unlock()
		if !first {
			way.ServeHTTP(w, r)
			return
		}
		way.ServeHTTP(httptest.NewRecorder(), r)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close() // that is the fault
	}))
	t.Cleanup(proxy.Close)
	return proxy
}

func TestAHundredOfAHundredLostAnswersAreFetchedAgainAndNothingIsMadeTwice(t *testing.T) {
	const n = 100
	b := orders()
	way := &tap{Handler: b}
	proxy := faultyProxy(t, way)
	source := numbered()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				token, err := source.Token(t.Context(), "")
				if err != nil {
					t.Error(err)
					return
				}
				c, err := New(Config{URL: proxy.URL, Source: Static(token)})
				if err != nil {
					t.Error(err)
					return
				}
				c.retry.first = time.Millisecond
				if a, err := c.Exchange(t.Context(), want); err != nil || !strings.HasPrefix(a.Credentials[0].Fields["password"].Reveal(), "hunter-") {
					t.Errorf("got %+v, %v", a, err)
				}
			}
		})
	}
	wg.Wait()
	if b.Made() != n || len(b.Tokens()) != n || len(way.heard) != 2*n {
		t.Errorf("%d credentials were made with %d tokens in %d requests", b.Made(), len(b.Tokens()), len(way.heard))
	}
	answers := map[string][]wireSealed{}
	for i, text := range way.heard {
		var got wireAnswer
		if err := json.Unmarshal([]byte(text), &got); err != nil || got.Sealed == nil {
			t.Fatalf("answer %s: %v", text, err)
		}
		token := way.seen[i].Header.Get("Authorization")
		answers[token] = append(answers[token], *got.Sealed)
	}
	for token, two := range answers {
		if len(two) != 2 || two[0] != two[1] {
			t.Errorf("%s was answered %v", token, two)
		}
	}
}

func TestALostAnswerOnASessionIsFetchedAgain(t *testing.T) {
	b := orders()
	way := &tap{Handler: b}
	c, err := New(Config{URL: faultyProxy(t, way).URL, Source: numbered()})
	if err != nil {
		t.Fatal(err)
	}
	c.retry.first = time.Millisecond
	a, err := c.Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := c.Credentials(t.Context(), a.Session, want); err != nil || b.Made() != i+1 {
			t.Errorf("%v, %d credentials were made", err, b.Made())
		}
	}
	var keys []string
	for _, r := range way.seen {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
	}
	if len(keys) != 6 || keys[0]+keys[1] != "" || keys[2] == "" || keys[2] != keys[3] || keys[4] != keys[5] || keys[2] == keys[4] {
		t.Errorf("Idempotency-Keys %q", keys)
	}
	for _, text := range way.heard {
		if strings.Contains(text, "hunter") {
			t.Errorf("in clear: %s", text)
		}
	}
}

func TestACredentialThatTheTargetDidNotGiveIsAskedForUnderAnotherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := orders()
		b.Refuse("POST /v1/credentials", daypasstest.Problem{Status: 502, Code: "mint_failed"}, daypasstest.Problem{Status: 503, Code: "unavailable"},
			daypasstest.Problem{Status: 429, Code: "rate_limited"})
		way := &tap{Handler: b}
		c := clientFor(t, numbered(), inMemory{handler: way})
		a, err := c.Exchange(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Credentials(t.Context(), a.Session, want); err != nil {
			t.Fatal(err)
		}
		keys := map[string]bool{}
		for _, r := range way.seen[1:] {
			keys[r.Header.Get("Idempotency-Key")] = true
		}
		if len(keys) != 4 || keys[""] {
			t.Errorf("Idempotency-Keys %v: the name of a request that has failed does no more good", keys)
		}
	})
}

// atWork is a broker that loses the first answer and is then at work on it
// for a time, and remembers the tokens it was shown.
func atWork(b *daypasstest.Broker, until time.Time) (http.Handler, *[]string) {
	tokens := new([]string)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*tokens = append(*tokens, r.Header.Get("Authorization"))
		switch {
		case len(*tokens) == 1:
			b.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case time.Now().Before(until):
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"code":"unavailable","detail":"this exchange is under way"}`)
		default:
			b.ServeHTTP(w, r)
		}
	}), tokens
}

func TestABrokerThatIsStillAtWorkIsWaitedFor(t *testing.T) {
	for name, source := range map[string]Source{"a fixed token": fixed(), "a fresh source": numbered()} {
		synctest.Test(t, func(t *testing.T) {
			b := orders()
			h, tokens := atWork(b, time.Now().Add(25*time.Second))
			a, err := clientFor(t, source, inMemory{handler: h}).Exchange(t.Context(), want)
			if err != nil || len(a.Credentials) != 1 || b.Made() != 1 {
				t.Errorf("%s: got %+v, %v, made %d", name, a, err, b.Made())
			}
			if used := slices.Compact(slices.Clone(*tokens)); len(used) != 1 || len(*tokens) < 20 {
				t.Errorf("%s: %d requests with %d tokens", name, len(*tokens), len(used))
			}
		})
	}
}

func TestABrokerThatIsAtWorkForEverIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := atWork(orders(), time.Now().Add(time.Hour))
		start := time.Now()
		_, err := clientFor(t, fixed(), inMemory{handler: h}).Exchange(t.Context(), want)
		if !errors.Is(err, ErrOutcomeUnknown) || CodeOf(err) != Unavailable || time.Since(start) > answerLife+10*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestAnAnswerThatIsKeptNoLongerCostsAFreshSourceATokenAndAFixedOneTheJob(t *testing.T) {
	for fresh, source := range map[bool]Source{true: numbered(), false: fixed()} {
		synctest.Test(t, func(t *testing.T) {
			b := orders()
			b.Lose(exchange, 1)
			n := 0
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n++; n == 2 {
					time.Sleep(answerLife + time.Second)
				}
				b.ServeHTTP(w, r)
			})
			_, err := clientFor(t, source, inMemory{handler: h}).Exchange(t.Context(), want)
			if fresh && err != nil || !fresh && (!errors.Is(err, ErrNewJob) || CodeOf(err) != TokenReused) {
				t.Errorf("fresh %v: %v", fresh, err)
			}
		})
	}
}

// The answer to an extension is not kept: only another token can tell.
func TestALostExtensionCostsAFreshSourceATokenAndIsUnknownToAFixedOne(t *testing.T) {
	for fresh, source := range map[bool]Source{true: numbered(), false: fixed()} {
		synctest.Test(t, func(t *testing.T) {
			b, drawn := orders(), new(atomic.Int32)
			c := clientFor(t, counting{source, drawn}, inMemory{handler: b})
			a, err := c.Exchange(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			drawn.Store(0)
			b.Lose("POST /v1/session/extend", 1)
			_, err = c.Extend(t.Context(), a.Session.Token)
			if fresh && (err != nil || drawn.Load() != 2) || !fresh && (!errors.Is(err, ErrOutcomeUnknown) || drawn.Load() != 1) {
				t.Errorf("fresh %v: %v with %d tokens", fresh, err, drawn.Load())
			}
		})
	}
}
