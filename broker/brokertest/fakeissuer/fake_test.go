package fakeissuer

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// open verifies a token with the published key set, by another library than
// the one that signed it, and returns its claims.
func open(t *testing.T, f *Fake, token string) map[string]any {
	t.Helper()
	raw, err := f.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatalf("%v: %s", err, token)
	}
	keys := set.Key(jws.Signatures[0].Header.KeyID)
	if len(keys) != 1 {
		t.Fatalf("%d keys of that kid", len(keys))
	}
	payload, err := jws.Verify(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func get(t *testing.T, url, bearer string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func TestSubjectsFollowFromTheClaims(t *testing.T) {
	f, err := New("https://ci.example.com", Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		job  Job
		want string
	}{
		"a branch":               {Job{Provider: GitHub}, "repo:acme@1234/payments-api@5678:ref:refs/heads/main"},
		"a branch, old shape":    {Job{Provider: GitHub, Subject: SubjectByName}, "repo:acme/payments-api:ref:refs/heads/main"},
		"another repository":     {Job{Provider: GitHub, Set: map[string]any{"repository": "evil/x", "repository_id": "9"}}, "repo:evil@1234/x@9:ref:refs/heads/main"},
		"an environment":         {Job{Provider: GitHub, Set: map[string]any{"environment": "prod:eu"}}, "repo:acme@1234/payments-api@5678:environment:prod%3Aeu"},
		"a pull request":         {Job{Provider: GitHub, Set: map[string]any{"event_name": "pull_request"}}, "repo:acme@1234/payments-api@5678:pull_request"},
		"a pull request's env":   {Job{Provider: GitHub, Set: map[string]any{"event_name": "pull_request", "environment": "e"}}, "repo:acme@1234/payments-api@5678:environment:e"},
		"one that is set":        {Job{Provider: GitHub, Set: map[string]any{"sub": "mine"}}, "mine"},
		"a GitLab branch":        {Job{Provider: GitLab}, "project_path:acme/payments-api:ref_type:branch:ref:main"},
		"a GitLab tag":           {Job{Provider: GitLab, Set: map[string]any{"ref": "v1", "ref_type": "tag"}}, "project_path:acme/payments-api:ref_type:tag:ref:v1"},
		"a GitLab deeper folder": {Job{Provider: GitLab, Set: map[string]any{"project_path": "a/b/c"}}, "project_path:a/b/c:ref_type:branch:ref:main"},
	} {
		token, err := f.Token(row.job)
		if err != nil {
			t.Fatal(err)
		}
		if got := open(t, f, token)["sub"]; got != row.want {
			t.Errorf("%s: sub %q, want %q", name, got, row.want)
		}
	}
}

func TestOtherClaimsFollowToo(t *testing.T) {
	now := time.Unix(1793707200, 0)
	f, err := New("https://ci.example.com", Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	github, err := f.Claims(Job{Provider: GitHub, Set: map[string]any{"repository": "o/r", "ref": "refs/heads/x", "run_attempt": json.Number("2")}, Unset: []string{"actor"}})
	if err != nil {
		t.Fatal(err)
	}
	gitlab, err := f.Claims(Job{Provider: GitLab, Audience: "us", Life: time.Minute, Set: map[string]any{"project_path": "o/s/r", "ref": "v1", "ref_type": "tag", "environment": "prod"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct{ got, want any }{
		"owner":          {github["repository_owner"], "o"},
		"workflow":       {github["job_workflow_ref"], "o/r/.github/workflows/deploy.yml@refs/heads/x"},
		"audience":       {github["aud"], "https://github.com/o"},
		"issuer":         {github["iss"], "https://ci.example.com/github"},
		"life":           {github["exp"].(int64) - github["iat"].(int64), int64(300)},
		"early":          {github["nbf"], now.Unix() - 300},
		"type":           {github["run_attempt"], json.Number("2")},
		"unset":          {github["actor"], nil},
		"namespace":      {gitlab["namespace_path"], "o/s"},
		"ref path":       {gitlab["ref_path"], "refs/tags/v1"},
		"job project":    {gitlab["job_project_path"], "o/s/r"},
		"configuration":  {gitlab["ci_config_ref_uri"], "ci.example.com/gitlab/o/s/r//.gitlab-ci.yml@refs/tags/v1"},
		"gitlab aud":     {gitlab["aud"], "us"},
		"gitlab life":    {gitlab["exp"], now.Unix() + 60},
		"protected":      {gitlab["environment_protected"], "true"},
		"a real number":  {gitlab["runner_id"], float64(12)},
		"no environment": {github["environment"], nil},
	} {
		if row.got != row.want {
			t.Errorf("%s: %#v, want %#v", name, row.got, row.want)
		}
	}
	if _, err := f.Claims(Job{Provider: "teamcity"}); err == nil || !strings.Contains(err.Error(), "unknown provider") {
		t.Errorf("an unknown provider: %v", err)
	}
}

func TestDiscoveryLeadsToTheKeysOfEachProvider(t *testing.T) {
	s := start(t, Options{})
	for _, p := range Providers() {
		code, body := get(t, s.URL(p)+"/.well-known/openid-configuration", "")
		var doc struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(body, &doc); err != nil || code != 200 || doc.Issuer != s.URL(p) {
			t.Fatalf("%s: %d %s %v", p, code, body, err)
		}
		want, err := s.JWKS()
		if err != nil {
			t.Fatal(err)
		}
		if code, body := get(t, doc.Keys, ""); code != 200 || strings.TrimSpace(string(body)) != string(want) {
			t.Errorf("%s: %d %s", p, code, body)
		}
	}
}

func TestAJobAsksForIDTokensAsOnGitHub(t *testing.T) {
	s := start(t, Options{})
	request, err := s.RequestToken(Job{Provider: GitHub, Set: map[string]any{"ref": "refs/heads/x", "big": json.Number("123456789012345678")}, Unset: []string{"actor"}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() map[string]any {
		code, body := get(t, s.RequestURL()+"&audience=https%3A%2F%2Fus", request)
		var answer struct {
			Count int    `json:"count"`
			Value string `json:"value"`
		}
		if err := json.Unmarshal(body, &answer); err != nil || code != 200 || answer.Count != len(answer.Value) {
			t.Fatalf("%d %s %v", code, body, err)
		}
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(answer.Value, ".")[1])
		if err != nil || !strings.Contains(string(payload), `"big":123456789012345678`) {
			t.Errorf("a number changed on its way: %s %v", payload, err)
		}
		return open(t, s.Fake, answer.Value)
	}
	one, two := ask(), ask()
	if one["aud"] != "https://us" || one["ref"] != "refs/heads/x" || one["sub"] != "repo:acme@1234/payments-api@5678:ref:refs/heads/x" {
		t.Errorf("claims %v", one)
	}
	if _, ok := one["actor"]; ok {
		t.Error("a claim that was unset is there")
	}
	if one["jti"] == two["jti"] || one["jti"] == "" {
		t.Error("two tokens have one jti")
	}
}

func TestOnlyARequestTokenBuysIDTokens(t *testing.T) {
	now := time.Now()
	s := start(t, Options{Now: func() time.Time { return now }})
	other, err := New(s.Base(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.RequestToken(Job{Provider: GitHub})
	if err != nil {
		t.Fatal(err)
	}
	idToken, err := s.Token(Job{Provider: GitHub})
	if err != nil {
		t.Fatal(err)
	}
	good, err := s.RequestToken(Job{Provider: GitHub})
	if err != nil {
		t.Fatal(err)
	}
	for name, bearer := range map[string]string{
		"nothing": "", "nonsense": "x", "three parts": "a.b.c", "another key's": foreign, "an ID token": idToken,
		"another payload": strings.Split(good, ".")[0] + "." + strings.Split(idToken, ".")[1] + "." + strings.Split(good, ".")[2],
	} {
		if code, body := get(t, s.RequestURL(), bearer); code != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	if code, _ := get(t, s.URL(GitHub)+"/_apis/id-token", good); code != http.StatusBadRequest {
		t.Errorf("without api-version: %d", code)
	}
	now = now.Add(6 * time.Hour)
	if code, body := get(t, s.RequestURL(), good); code != http.StatusUnauthorized || !strings.Contains(string(body), "expired") {
		t.Errorf("after six hours: %d %s", code, body)
	}
	if _, err := s.RequestToken(Job{Provider: GitLab}); err == nil {
		t.Error("GitLab has no request tokens")
	}
}

func TestTheRequestTokenIsNoIDToken(t *testing.T) {
	f, err := New("https://ci.example.com", Options{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := f.RequestToken(Job{Provider: GitHub})
	if err != nil {
		t.Fatal(err)
	}
	claims := open(t, f, token)
	_, sub := claims["sub"]
	_, jti := claims["jti"]
	if aud, _ := claims["aud"].(string); sub || jti || !strings.HasPrefix(aud, "vso:") || claims["iss"] != f.URL(GitHub) {
		t.Errorf("claims %v", claims)
	}
}

func TestAKeyIsMadeOnceAndReadByItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	one, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	two, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if !one.Equal(two) {
		t.Error("the key was made twice")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil {
		t.Error("a file that is not a key was replaced or read")
	}
}
