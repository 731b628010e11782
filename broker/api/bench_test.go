package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// fakeExchanger gives the same answer at once, and keeps nothing.
type fakeExchanger struct {
	fakeBroker
	fixed broker.Answer
}

func (f *fakeExchanger) Exchange(context.Context, broker.Secret, broker.Request) (broker.Answer, error) {
	return f.fixed, nil
}

func benchConfig() Config {
	f := &fakeExchanger{fixed: anAnswer()}
	c := publicConfig(&f.fakeBroker, &logBook{})
	c.Exchanger, c.Now = f, time.Now
	c.Log = slog.New(slog.NewJSONHandler(io.Discard, nil))
	return c
}

const benchBody = `{"grants":[{"name":"orders-db","ttl":"15m"}],"dry_run":false}`

// BenchmarkExchangeHandler is what HTTP costs in process: decode, encode, log,
// measure.
func BenchmarkExchangeHandler(b *testing.B) {
	h := NewPublic(benchConfig())
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "/v1/exchange", strings.NewReader(benchBody))
		r.Header.Set("Authorization", "Bearer "+ciToken)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 {
			b.Fatal(w.Code, w.Body)
		}
	}
}

// BenchmarkExchangeOverHTTP is the same through a socket, with the server's
// limits and eight clients that keep their connections.
func BenchmarkExchangeOverHTTP(b *testing.B) {
	s, err := NewServer(ServerConfig{Handler: NewPublic(benchConfig()), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	server.Config = s.http
	server.Start()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	b.ReportAllocs()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, _ := http.NewRequest("POST", server.URL+"/v1/exchange", strings.NewReader(benchBody))
			r.Header.Set("Authorization", "Bearer "+ciToken)
			r.Header.Set("Content-Type", "application/json")
			res, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.StatusCode != 200 {
				b.Error(res.Status)
				return
			}
		}
	})
}
