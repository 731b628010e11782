package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
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

// TestAnIdempotencyKeyIsUsedUpAcrossARestart: the answer is gone with the memory
// of the broker, that it was given is not.
func TestAnIdempotencyKeyIsUsedUpAcrossARestart(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed %t", kill), func(t *testing.T) {
			r := newRig(t)
			b := r.broker("one", "embedded")
			_, a := b.fresh()
			b.call(http.MethodDelete, "/v1/session", a.session(), nil)
			client, err := daypass.New(daypass.Config{URL: b.url, Audience: b.audience, Source: daypass.Static(daypass.NewSecret(r.token(b, nil)))})
			if err != nil {
				t.Fatal(err)
			}
			got, err := client.Exchange(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ask := func(key string) int {
				t.Helper()
				req, err := http.NewRequest(http.MethodPost, b.url+"/v1/credentials", strings.NewReader(`{"grants":[{"name":"orders-db","ttl":"10m"}]}`))
				if err != nil {
					t.Fatal(err)
				}
				req.Header = http.Header{"Authorization": {"Bearer " + got.Session.Token.Reveal()}, "Content-Type": {"application/json"}, "Idempotency-Key": {key}}
				resp, err := httpClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				return resp.StatusCode
			}
			if first, again := ask("step-1"), ask("step-1"); first != http.StatusOK || again != http.StatusOK || len(r.users()) != 1 {
				t.Fatalf("before the restart: %d, %d and users %v", first, again, r.users())
			}
			if kill {
				b.kill()
			} else {
				b.stop()
			}
			b.start()
			if status := ask("step-1"); status != http.StatusConflict || len(r.users()) != 1 {
				t.Errorf("after the restart: %d and users %v, want 409 and one", status, r.users())
			}
			if status := ask("step-2"); status != http.StatusOK || len(r.users()) != 2 {
				t.Errorf("another key after the restart: %d and users %v", status, r.users())
			}
		})
	}
}

// TestALostMintFailedLeavesAJobWithAFixedTokenItsSession: the target fails, the
// error is lost, and the job has one token only.
func TestALostMintFailedLeavesAJobWithAFixedTokenItsSession(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	_, a := b.fresh()
	b.call(http.MethodDelete, "/v1/session", a.session(), nil)
	c := &cutter{broker: b.url, seen: map[string][]string{}}
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/v1/credentials" {
			r.sql(`ALTER ROLE away RENAME TO orders_rw`)
		}
		c.ServeHTTP(w, req)
	}))
	defer between.Close()
	r.sql(`ALTER ROLE orders_rw RENAME TO away`)
	client, err := daypass.New(daypass.Config{URL: between.URL, Audience: b.audience, Source: daypass.Static(daypass.NewSecret(r.token(b, nil)))})
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Exchange(t.Context(), daypass.Grant{Name: "orders-db"})
	if err != nil || len(got.Credentials) != 1 || got.Session.Key.IsZero() {
		t.Fatalf("%+v %v\n%s", got, err, b.out)
	}
	if users := r.users(); len(users) != 1 {
		t.Errorf("PostgreSQL has %v, want one user", users)
	}
	if _, err := client.GiveBack(t.Context(), got.Session.Token); err != nil || len(r.users()) != 0 {
		t.Errorf("giving back: %v, and PostgreSQL has %v", err, r.users())
	}
	for _, sealed := range c.seen {
		if len(sealed) < 2 || sealed[0] == "." || sealed[1] != sealed[0] {
			t.Errorf("the token was answered with %q", sealed)
		}
	}
}
