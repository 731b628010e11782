package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	daypass "github.com/daypass-dev/daypass/clients/go"
)

// cutter passes requests on to a broker, and loses the answer to each token's
// first exchange: the broker has done its work, and the client hears nothing.
type cutter struct {
	broker string

	mu   sync.Mutex // guards seen
	seen map[string][]string
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, c.broker+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	req.Header = r.Header.Clone()
	resp, err := httpClient.Do(req)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if r.URL.Path == "/v1/exchange" && c.lose(r.Header.Get("Authorization"), answer) {
		panic(http.ErrAbortHandler) // the connection is cut
	}
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer)
}

// lose keeps what was sealed for a token, and says whether it is the first.
func (c *cutter) lose(token string, answer []byte) bool {
	var a struct {
		Sealed struct {
			Enc, Ciphertext string
		} `json:"sealed"`
	}
	_ = json.Unmarshal(answer, &a)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[token] = append(c.seen[token], a.Sealed.Enc+"."+a.Sealed.Ciphertext)
	return len(c.seen[token]) == 1
}

func TestALostAnswerIsFetchedAgainByEveryClient(t *testing.T) {
	const clients = 100
	r := newRig(t)
	r.withRedis()
	b := r.broker("one", "redis")
	_, a := b.fresh()
	b.call(http.MethodDelete, "/v1/session", a.session(), nil)
	c := &cutter{broker: b.url, seen: map[string][]string{}}
	between := httptest.NewServer(c)
	defer between.Close()

	var all sync.WaitGroup
	slots := make(chan struct{}, 16)
	for range clients {
		token := r.token(b, nil)
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			client, err := daypass.New(daypass.Config{URL: between.URL, Audience: b.audience, Source: daypass.Static(daypass.NewSecret(token))})
			if err != nil {
				t.Error(err)
				return
			}
			got, err := client.Exchange(t.Context(), daypass.Grant{Name: "orders-db"})
			if err != nil || len(got.Credentials) != 1 {
				t.Errorf("a client whose answer was lost: %v", err)
			}
		})
	}
	all.Wait()
	if users := r.users(); len(users) != clients {
		t.Errorf("%d users were made for %d clients", len(users), clients)
	}
	for _, sealed := range c.seen {
		for _, again := range sealed[1:] {
			if again != sealed[0] && again != "." { // "." while the first is still being made
				t.Error("a client got another ciphertext the second time")
			}
		}
	}
}
