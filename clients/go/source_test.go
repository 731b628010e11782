package daypass

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

func TestTheSourceIsDetected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("from.a.file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	github := map[string]string{"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_URL": "https://x.example/t?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "req"}
	for name, tc := range map[string]struct {
		env   map[string]string
		token string // "" where it is not asked for
		fresh bool
		fault string
	}{
		"a variable, as GitLab sets it":              {env: map[string]string{"GITLAB_CI": "true", "DAYPASS_ID_TOKEN": "from.a.variable\n"}, token: "from.a.variable"},
		"a file":                                     {env: map[string]string{"DAYPASS_ID_TOKEN_FILE": path}, token: "from.a.file"},
		"a variable wins over GitHub":                {env: map[string]string{"GITHUB_ACTIONS": "true", "DAYPASS_ID_TOKEN": "mine", "ACTIONS_ID_TOKEN_REQUEST_URL": "https://x", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "y"}, token: "mine"},
		"GitHub":                                     {env: github, fresh: true},
		"a variable and a file are one too many":     {env: map[string]string{"DAYPASS_ID_TOKEN": "a", "DAYPASS_ID_TOKEN_FILE": path}, fault: "both"},
		"GitHub without permission names the remedy": {env: map[string]string{"GITHUB_ACTIONS": "true"}, fault: "permissions: id-token: write"},
		"GitLab without a token names the remedy":    {env: map[string]string{"GITLAB_CI": "true"}, fault: "id_tokens"},
		"half of GitHub's pair is none":              {env: map[string]string{"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_URL": "https://x"}, fault: "permissions"},
		"nothing at all":                             {env: map[string]string{}, fault: "no CI token"},
		"GitHub's URL in clear is refused":           {env: map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": "http://x.example", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "y"}, fault: "https"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Detect(env(tc.env))
			if tc.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fault) {
					t.Errorf("got %v, want words about %q", err, tc.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.Fresh() != tc.fresh {
				t.Errorf("fresh is %v", s.Fresh())
			}
			if tc.token == "" {
				return
			}
			if got, err := s.Token(t.Context(), "aud"); err != nil || got.Reveal() != tc.token {
				t.Errorf("got %q, %v", got.Reveal(), err)
			}
		})
	}
}

func TestATokenThatNoneCanBeIsRefused(t *testing.T) {
	for name, token := range map[string]string{"empty": " \n", "two lines": "a\nb", "a zero byte": "a\x00", "not ASCII": "tökn", "endless": strings.Repeat("x", maxToken+1)} {
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, s := range []Source{Static(NewSecret(token)), File(path)} {
			if _, err := s.Token(t.Context(), ""); err == nil || strings.Contains(err.Error(), "tökn") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := File("/nonexistent/token").Token(t.Context(), ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestGitHubIsAskedForATokenOfOurAudience(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			http.Error(w, "try later", http.StatusServiceUnavailable)
			return
		}
		if r.URL.Query().Get("api-version") != "2.0" || r.URL.Query().Get("audience") != "https://d.example/?a=b&c#d e" || len(r.URL.Query()) != 2 {
			t.Errorf("query %q", r.URL.RawQuery)
		}
		if r.Header.Get("Authorization") != "Bearer request-token" || r.Method != http.MethodGet {
			t.Error("wrong bearer or method")
		}
		_, _ = w.Write([]byte(`{"count":1,"value":"ci.from.github"}`))
	}))
	defer srv.Close()
	s, err := GitHub(srv.URL+"/token?api-version=2.0", NewSecret("request-token"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Token(t.Context(), "https://d.example/?a=b&c#d e")
	if err != nil || got.Reveal() != "ci.from.github" || asked.Load() != 2 {
		t.Errorf("got %q, %v after %d requests", got.Reveal(), err, asked.Load())
	}
}

func TestAProviderThatGivesNoTokenIsNotAskedForEver(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer srv.Close()
	s, err := GitHub(srv.URL, NewSecret("request-token"))
	if err != nil {
		t.Fatal(err)
	}
	s.(*github).policy.first = time.Millisecond
	b := orders()
	_, err = clientFor(t, s, inMemory{handler: b}).Exchange(t.Context(), want)
	if CodeOf(err) != NoToken || asked.Load() != int32(defaultRetry.attempts) || len(b.Asked()) != 0 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
}

func TestGitHubsRequestTokenGoesNowhereElse(t *testing.T) {
	var stolen atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen.Store(true) }))
	defer thief.Close()
	srv := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	s, err := GitHub(srv.URL+"/secret-path", NewSecret("request-token"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Token(t.Context(), "aud")
	if err == nil || stolen.Load() {
		t.Errorf("the redirect was followed: %v", err)
	}
	srv.Close()
	_, err2 := s.Token(canceled(), "aud")
	for _, err := range []error{err, err2} {
		if err == nil || strings.Contains(err.Error(), "secret-path") || strings.Contains(err.Error(), "request-token") {
			t.Errorf("the error tells too much: %v", err)
		}
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestWhatGitHubAnswersIsNotRepeated(t *testing.T) {
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"a refusal":          {403, "PLANTED"},
		"no JSON":            {200, "PLANTED"},
		"no token":           {200, `{"message":"PLANTED"}`},
		"a token of two":     {200, `{"value":"PLANTED PLANTED"}`},
		"an endless answer":  {200, `{"value":"` + strings.Repeat("PLANTED", 1<<18) + `"}`},
		"a token that is 64": {200, `{"value":64}`},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(answer.status)
			_, _ = w.Write([]byte(answer.body))
		}))
		s, err := GitHub(srv.URL, NewSecret("request-token"))
		if err != nil {
			t.Fatal(err)
		}
		if token, err := s.Token(t.Context(), "aud"); err == nil || strings.Contains(err.Error(), "PLANTED") {
			t.Errorf("%s: token %v, error %v", name, token, err)
		}
		srv.Close()
	}
}
