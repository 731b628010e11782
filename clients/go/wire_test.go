package daypass

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/clients/go/daypasstest"
)

type vector struct {
	Sealed *struct { // for whom the answer is, and what it says
		PrivateKey   string `json:"private_key"`
		Token        struct{ Iss, Jti string }
		SessionToken string `json:"session_token"`
		Plaintext    json.RawMessage
	}
	Request struct {
		Method, Path, Bearer string
		Headers              map[string]string
		Body                 any
	}
	Response struct {
		Status      int
		ContentType string `json:"content_type"`
		Headers     map[string]string
		Body        json.RawMessage
	}
}

// tokens are the CI token and the session's token of a vector; where it does
// not say, some of our own.
func (v vector) tokens(t *testing.T) (ci, session string) {
	t.Helper()
	ci, session = daypasstest.Token("for-tests"), "dps_session-for-tests"
	if v.Sealed == nil {
		return ci, session
	}
	claims, err := json.Marshal(map[string]string{"iss": v.Sealed.Token.Iss, "jti": v.Sealed.Token.Jti})
	if err != nil {
		t.Fatal(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln", v.Sealed.SessionToken
}

// exchanges reports whether the request is one whose answer a client wants to
// have sealed.
func (v vector) exchanges() bool {
	body, _ := v.Request.Body.(map[string]any)
	return v.Request.Path == "/v1/exchange" && body["dry_run"] == false
}

// speak answers one vector's request, and nothing else.
type speak struct {
	t *testing.T
	v vector
}

func (s speak) RoundTrip(r *http.Request) (*http.Response, error) {
	want := s.v.Request
	if r.URL.Path != want.Path && r.URL.Path == "/v1/credentials" && s.v.Response.Status == http.StatusBadGateway {
		return nil, errors.New("asking on with the session is not in this vector")
	}
	ciToken, sessionToken := s.v.tokens(s.t)
	bearer := map[string]string{"ci": ciToken, "session": sessionToken}[want.Bearer]
	if r.Method != want.Method || r.URL.Path != want.Path || r.Header.Get("Authorization") != "Bearer "+bearer {
		s.t.Errorf("asked %s %s with the wrong line or bearer; want %s %s with the %s token", r.Method, r.URL.Path, want.Method, want.Path, want.Bearer)
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var body any
	if len(raw) > 0 {
		if err := json.Unmarshal(bytes.ReplaceAll(raw, []byte(ciToken), []byte("$CI_TOKEN")), &body); err != nil {
			s.t.Errorf("request body: %v", err)
		}
	}
	answer := []byte(s.v.Response.Body)
	if s.v.exchanges() && s.v.Sealed == nil {
		// These vectors are of clients that want their answer in clear. Ours
		// adds its key, and what it reads is the same.
		m, _ := body.(map[string]any)
		if key, _ := m["recipient_key"].(string); len(key) != 43 {
			s.t.Errorf("recipient_key is %q", key)
		}
		delete(m, "recipient_key")
		if s.v.Response.Status == http.StatusOK {
			r.Body = io.NopCloser(bytes.NewReader(raw))
			answer = []byte(sealedTo(s.t, r, box{plain: string(answer)}))
		}
	}
	for name, value := range want.Headers {
		if got := r.Header.Get(name); got != value {
			s.t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	if !reflect.DeepEqual(body, want.Body) {
		s.t.Errorf("request body\n%v\nwant\n%v", body, want.Body)
	}
	res := &http.Response{StatusCode: s.v.Response.Status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(answer)), Request: r}
	res.Header.Set("Content-Type", s.v.Response.ContentType)
	for k, v := range s.v.Response.Headers {
		res.Header.Set(k, v)
	}
	return res, nil
}

// asWire writes an answer the way it came, so that the two can be compared.
func asWire(a *Answer) any {
	shown := func(m map[string]Secret) map[string]string {
		out := map[string]string{}
		for k, v := range m {
			out[k] = v.Reveal()
		}
		return out
	}
	credentials := []any{}
	for _, c := range a.Credentials {
		credentials = append(credentials, map[string]any{"grant": c.Grant, "kind": c.Kind, "lease_id": c.LeaseID,
			"issued_at": c.IssuedAt, "expires_at": c.ExpiresAt, "takeback": c.Takeback,
			"fields": shown(c.Fields), "env": shown(c.Env), "sensitive": c.Sensitive})
	}
	w := map[string]any{"request_id": a.RequestID, "credentials": credentials}
	if !a.Session.Token.IsZero() {
		w["session"] = map[string]any{"token": a.Session.Token.Reveal(), "expires_at": a.Session.ExpiresAt}
	}
	return w
}

// previewed writes a dry run's result the way it came.
func previewed(p *Preview, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	grants := []any{}
	for _, g := range p.Permits {
		one := map[string]any{"name": g.Grant, "rule": g.Rule, "ttl": short(g.TTL), "kind": g.Kind}
		if g.Takeback != "" {
			one["takeback"] = g.Takeback
		}
		grants = append(grants, one)
	}
	return map[string]any{"request_id": p.RequestID, "dry_run": true, "grants": grants, "credentials": []any{}}, nil
}

func sameJSON(t *testing.T, got any, want []byte) {
	t.Helper()
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var g, w any
	if err := errors.Join(json.Unmarshal(b, &g), json.Unmarshal(want, &w)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}

// TestTheClientSpeaksTheWireVectors makes every call of the shared vectors.
// The broker's tests read the same files.
func TestTheClientSpeaksTheWireVectors(t *testing.T) {
	files, err := filepath.Glob("../testdata/wire/*.json")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d vectors (%v): where did they go?", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var v vector
			if err := json.Unmarshal(raw, &v); err != nil {
				t.Fatal(err)
			}
			ciToken, _ := v.tokens(t)
			c, err := New(Config{URL: "https://daypass.example.com", Source: Static(NewSecret(ciToken)), HTTP: &http.Client{Transport: speak{t, v}}})
			if err != nil {
				t.Fatal(err)
			}
			c.retry.attempts = 1
			got, err := perform(t, c, v)
			if v.Response.Status != http.StatusOK {
				sameRefusal(t, err, v)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := v.Response.Body
			if v.Sealed != nil {
				want = v.Sealed.Plaintext
			}
			sameJSON(t, got, want)
		})
	}
}

// perform makes the call that a vector's request is the trace of. The result
// has the form of the answer's body.
func perform(t *testing.T, c *Client, v vector) (any, error) {
	t.Helper()
	var grants []Grant
	dry := false
	if body, ok := v.Request.Body.(map[string]any); ok {
		dry = body["dry_run"] == true
		for _, g := range asList(body["grants"]) {
			m := g.(map[string]any)
			ttl, _ := m["ttl"].(string)
			d, _ := time.ParseDuration(ttl)
			if d < 0 { // the client cannot be made to ask for that
				c.t.http.Transport = speakAnyBody{v}
			}
			grants = append(grants, Grant{Name: m["name"].(string), TTL: d})
		}
	}
	ciToken, sessionToken := v.tokens(t)
	session := NewSecret(sessionToken)
	id := strings.TrimPrefix(v.Request.Path, "/v1/leases/")
	switch route := v.Request.Method + " " + v.Request.Path; {
	case v.Sealed != nil:
		a, err := c.ask(t.Context(), sealedOrder(t, v, grants, ciToken, sessionToken))
		return answered(a, err)
	case route == "POST /v1/exchange" && dry:
		p, err := c.DryRun(t.Context(), grants...)
		return previewed(p, err)
	case route == "POST /v1/exchange":
		a, err := c.Exchange(t.Context(), grants...)
		return answered(a, err)
	case route == "POST /v1/credentials":
		a, err := c.Credentials(t.Context(), Session{Token: session}, grants...)
		return answered(a, err)
	case route == "POST /v1/session/extend":
		until, err := c.Extend(t.Context(), session)
		return withRequest(v, map[string]any{"session": map[string]any{"expires_at": until}}), err
	case route == "GET /v1/session":
		info, err := c.Session(t.Context(), session)
		return info, err
	case route == "DELETE /v1/session":
		ends, err := c.GiveBack(t.Context(), session)
		return withRequest(v, map[string]any{"leases": ends}), err
	case v.Request.Method == http.MethodDelete && id != v.Request.Path:
		end, err := c.Revoke(t.Context(), session, id)
		return withRequest(v, map[string]any{"leases": []Ending{end}}), err
	}
	t.Fatalf("no call of the client's makes %s %s", v.Request.Method, v.Request.Path)
	return nil, nil
}

// sealedOrder is the request of a vector whose keys are fixed; a client draws
// new ones each time.
func sealedOrder(t *testing.T, v vector, grants []Grant, ciToken, sessionToken string) order {
	t.Helper()
	to, err := recipientOf(NewSecret(v.Sealed.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	o := order{path: v.Request.Path, to: to, grants: grants}
	if o.opens() {
		o.bearer = NewSecret(ciToken)
		if o.names, err = namesOfToken(o.bearer); err != nil {
			t.Fatal(err)
		}
		return o
	}
	o.bearer, o.key = NewSecret(sessionToken), NewSecret(v.Request.Headers["Idempotency-Key"])
	o.names = []requestName{nameOnSession(o.bearer, o.key)}
	return o
}

type speakAnyBody struct{ v vector }

func (s speakAnyBody) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: s.v.Response.Status, Header: http.Header{"Content-Type": {s.v.Response.ContentType}},
		Body: io.NopCloser(bytes.NewReader(s.v.Response.Body)), Request: r}, nil
}

func asList(v any) []any { l, _ := v.([]any); return l }

func answered(a *Answer, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return asWire(a), nil
}

// withRequest adds the request id that the call does not return.
func withRequest(v vector, m map[string]any) any {
	var body map[string]any
	if json.Unmarshal(v.Response.Body, &body) == nil {
		m["request_id"] = body["request_id"]
	}
	return m
}

func sameRefusal(t *testing.T, err error, v vector) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %v, want an *Error", err)
	}
	got := map[string]any{"type": "about:blank", "status": e.Status, "detail": e.Detail, "code": e.Code, "request_id": e.RequestID}
	if e.Denials != nil {
		got["denials"] = e.Denials
	}
	if e.Session != nil {
		got["session"] = map[string]any{"token": e.Session.Token.Reveal(), "expires_at": e.Session.ExpiresAt}
	}
	var want map[string]any
	if err := json.Unmarshal(v.Response.Body, &want); err != nil {
		t.Fatal(err)
	}
	if after, _ := time.ParseDuration(v.Response.Headers["Retry-After"] + "s"); e.RetryAfter != after {
		t.Errorf("Retry-After is %v, want %v", e.RetryAfter, after)
	}
	delete(want, "title") // for people who read the raw answer
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, got, b)
}
