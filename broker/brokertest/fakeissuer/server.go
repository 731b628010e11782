package fakeissuer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Server is a [Fake] that listens.
type Server struct {
	*Fake
	http *http.Server
	done chan error // Serve's result; closed after it
}

// Start listens on a free loopback port and serves until [Server.Close].
func Start(o Options) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("fake issuer: %w", err)
	}
	s, err := Serve(l, o)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return s, nil
}

// Serve serves on a listener, which it closes, until [Server.Close].
func Serve(l net.Listener, o Options) (*Server, error) {
	fake, err := New("http://"+l.Addr().String(), o)
	if err != nil {
		return nil, err
	}
	s := &Server{Fake: fake, done: make(chan error, 1), http: &http.Server{
		Handler: fake.Handler(), ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute,
	}}
	go func() {
		s.done <- s.http.Serve(l)
		close(s.done)
	}()
	return s, nil
}

// Done delivers why serving ended, if it ended by itself.
func (s *Server) Done() <-chan error { return s.done }

// Close lets requests that are under way finish, for two seconds, and stops.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	for range s.done { // the listener's goroutine has ended
	}
	return err
}

// Handler serves discovery, key sets, and the endpoint at which a GitHub job
// asks for ID tokens.
func (f *Fake) Handler() http.Handler {
	keys := map[Provider]string{GitHub: "/.well-known/jwks", GitLab: "/oauth/discovery/keys"}
	mux := http.NewServeMux()
	for p, path := range keys {
		mux.HandleFunc("GET /"+string(p)+"/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, map[string]any{
				"issuer": f.URL(p), "jwks_uri": f.URL(p) + path,
				"id_token_signing_alg_values_supported": []string{"RS256"},
				"response_types_supported":              []string{"id_token"},
				"subject_types_supported":               []string{"public"},
			})
		})
		mux.HandleFunc("GET /"+string(p)+path, func(w http.ResponseWriter, _ *http.Request) {
			set, err := f.JWKS()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			writeJSON(w, json.RawMessage(set))
		})
	}
	mux.HandleFunc("GET /github/_apis/id-token", f.idToken)
	return mux
}

// idToken answers a job that asks for an ID token as GitHub does.
func (f *Fake) idToken(w http.ResponseWriter, r *http.Request) {
	request, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		http.Error(w, "Authorization: Bearer is missing", http.StatusUnauthorized)
		return
	}
	j, err := f.job(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	if r.URL.Query().Get("api-version") != "2.0" {
		http.Error(w, "api-version must be 2.0", http.StatusBadRequest)
		return
	}
	if audience := r.URL.Query().Get("audience"); audience != "" {
		j.Audience = audience
	}
	token, err := f.Token(j)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, map[string]any{"count": len(token), "value": token})
}

// writeJSON has nobody to tell if the client has gone.
func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
