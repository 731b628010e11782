package api

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// vector is one file of clients/testdata/wire.
type vector struct {
	Sealed struct { // for whom a sealed answer is, and what it says
		PrivateKey   string `json:"private_key"`
		Token        struct{ Iss, Jti string }
		SessionToken string `json:"session_token"`
		Plaintext    json.RawMessage
	}
	Request struct {
		Method, Path, Bearer string
		Headers              map[string]string
		Body                 json.RawMessage
	}
	Response struct {
		Status      int
		ContentType string `json:"content_type"`
		Headers     map[string]string
		Body        json.RawMessage
	}
}

const wireFolder = "../../clients/testdata/wire"

func vectors(t *testing.T) map[string]vector {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(wireFolder, "*.json"))
	if err != nil || len(files) < 15 {
		t.Fatalf("%d wire vectors found (%v), want at least 15", len(files), err)
	}
	found := map[string]vector{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var v vector
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		found[strings.TrimSuffix(filepath.Base(file), ".json")] = v
	}
	return found
}

// wireBody is every member that an answer of the native API can have.
type wireBody struct {
	Code        broker.Code
	Detail      string
	Denials     []broker.Denial
	Session     struct{ Token, Expires_at string }
	Closing     bool
	Identity    identityJSON
	Credentials []credentialJSON
	Grants      []permitJSON
	Sealed      *struct{ Enc, Ciphertext string }
	Leases      []struct{ Lease_id, Grant, Kind, State, Expires_at, Takeback string }
}

// brokerFor is a fake that answers what a vector says.
func brokerFor(t *testing.T, v vector) *fakeBroker {
	t.Helper()
	var b wireBody
	if err := json.Unmarshal(v.Response.Body, &b); err != nil {
		t.Fatal(err)
	}
	f := &fakeBroker{}
	if b.Code != "" {
		wait, _ := strconv.Atoi(v.Response.Headers["Retry-After"])
		f.err = &broker.Error{Code: b.Code, Public: b.Detail, Denials: b.Denials, RetryAfter: time.Duration(wait) * time.Second}
	}
	f.answer.Token = broker.NewSecret(b.Session.Token)
	if b.Session.Expires_at != "" {
		f.session.Expires = parseTime(t, b.Session.Expires_at)
	}
	f.session.For = broker.Identity{Issuer: b.Identity.Issuer, Subject: b.Identity.Subject, Job: broker.Job{
		Repository: b.Identity.Repository, RepositoryID: b.Identity.RepositoryID, Ref: b.Identity.Ref,
		Environment: b.Identity.Environment, Event: b.Identity.Event, Run: b.Identity.Run, RunURL: b.Identity.RunURL}}
	f.answer.Session = f.session
	f.answer.DryRun = bytes.Contains(v.Request.Body, []byte(`"dry_run": true`))
	for _, g := range b.Grants {
		ttl, err := time.ParseDuration(g.TTL)
		if err != nil {
			t.Fatal(err)
		}
		f.answer.Decision.Permits = append(f.answer.Decision.Permits, broker.Permit{Grant: broker.Grant{Name: g.Name, Kind: g.Kind}, Rule: g.Rule, TTL: ttl, Takeback: g.Takeback})
	}
	if b.Sealed != nil {
		f.answer.Sealed = &broker.Sealed{Enc: fromBase64(t, b.Sealed.Enc), Ciphertext: fromBase64(t, b.Sealed.Ciphertext)}
	}
	for _, c := range b.Credentials {
		f.answer.Granted = append(f.answer.Granted, grantedFor(t, c))
	}
	for _, l := range b.Leases {
		lease := broker.Lease{ID: broker.LeaseID(l.Lease_id), Grant: broker.Grant{Name: l.Grant, Kind: l.Kind},
			State: broker.LeaseState(l.State), NotAfter: parseTime(t, l.Expires_at), Takeback: broker.Takeback(l.Takeback)}
		f.leases = append(f.leases, lease)
		f.outcomes = append(f.outcomes, broker.Outcome{Lease: lease, State: l.State})
	}
	return f
}

func fromBase64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parseTime(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// grantedFor finds the minter's fields in a credential of the wire: an env name
// belongs to the field that has its value.
func grantedFor(t *testing.T, c credentialJSON) broker.Granted {
	t.Helper()
	g := broker.Granted{
		Lease:      broker.Lease{ID: c.LeaseID, Grant: broker.Grant{Name: c.Grant, Kind: c.Kind}, Opened: parseTime(t, c.Issued), NotAfter: parseTime(t, c.Expires)},
		Credential: broker.Credential{Takeback: c.Takeback},
	}
	homeless := len(c.Env)
	for name, value := range c.Fields {
		f := broker.Field{Name: name, Value: broker.NewSecret(value), Public: !slices.Contains(c.Sensitive, name)}
		for env, v := range c.Env {
			if v == value {
				f.Env = append(f.Env, env)
				homeless--
			}
		}
		g.Credential.Fields = append(g.Credential.Fields, f)
	}
	if homeless != 0 {
		t.Fatalf("%s: env and fields do not belong together", c.Grant)
	}
	return g
}

func TestTheBrokerSpeaksAsTheWireVectorsSay(t *testing.T) {
	for name, v := range vectors(t) {
		t.Run(name, func(t *testing.T) {
			f := brokerFor(t, v)
			body := strings.ReplaceAll(string(v.Request.Body), "$CI_TOKEN", ciToken)
			w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: v.Request.Method, path: v.Request.Path,
				bearer: map[string]string{"ci": ciToken, "session": sessionToken}[v.Request.Bearer], body: body, header: headersOf(v)})
			if w.Code != v.Response.Status || w.Header().Get("Content-Type") != v.Response.ContentType {
				t.Fatalf("got %d %s\n%s", w.Code, w.Header().Get("Content-Type"), w.Body)
			}
			for header, want := range v.Response.Headers {
				if got := w.Header().Get(header); got != want {
					t.Errorf("%s is %q, want %q", header, got, want)
				}
			}
			sameShape(t, v.Response.Body, w.Body.Bytes())
			pattern := v.Request.Path
			if strings.HasPrefix(pattern, "/v1/leases/") {
				pattern = "/v1/leases/{id}"
			}
			checkAgainstOpenAPI(t, v.Request.Method, pattern, w.Code, v.Response.ContentType, w.Body.Bytes())
			checkAgainstOpenAPI(t, v.Request.Method, pattern, w.Code, v.Response.ContentType, v.Response.Body)
			heardAll(t, f, v)
		})
	}
}

func headersOf(v vector) http.Header {
	h := http.Header{}
	for name, value := range v.Request.Headers {
		h.Set(name, value)
	}
	return h
}

// TestTheSealedVectorsAreWhatTheBrokerWouldSeal holds clients and broker to one
// name for a request: it is authenticated with the answer.
func TestTheSealedVectorsAreWhatTheBrokerWouldSeal(t *testing.T) {
	sealed := 0
	for name, v := range vectors(t) {
		if v.Sealed.PrivateKey == "" {
			continue
		}
		sealed++
		f := brokerFor(t, v)
		id := broker.NewTokenID(v.Sealed.Token.Iss, v.Sealed.Token.Jti)
		if v.Request.Path != "/v1/exchange" {
			session := broker.SessionIDOf(broker.NewSecret(v.Sealed.SessionToken))
			id = broker.NewTokenID("daypass session "+string(session), v.Request.Headers["Idempotency-Key"])
		}
		key, err := hpke.DHKEM(ecdh.X25519()).NewPrivateKey(fromBase64(t, v.Sealed.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		r, err := hpke.NewRecipient(f.answer.Sealed.Enc, key, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte("daypass/v1 exchange"))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := r.Open(id[:], f.answer.Sealed.Ciphertext)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sameShape(t, v.Sealed.Plaintext, plain)
		inside := v
		inside.Response.Body = v.Sealed.Plaintext
		clear, err := EncodeAnswer(brokerFor(t, inside).answer)
		if err != nil {
			t.Fatal(err)
		}
		sameShape(t, v.Sealed.Plaintext, clear)
	}
	if sealed != 2 {
		t.Errorf("%d sealed vectors, want 2", sealed)
	}
}

// sameShape compares two bodies by members and types, and by value where a
// value is not the broker's own choice.
func sameShape(t *testing.T, want, got []byte) {
	t.Helper()
	var w, g any
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatal(err)
	}
	compare(t, "answer", w, g)
}

func compare(t *testing.T, where string, want, got any) {
	t.Helper()
	if jsonType(want) != jsonType(got) {
		t.Errorf("%s is a %s, want %s", where, jsonType(got), jsonType(want))
		return
	}
	switch w := want.(type) {
	case map[string]any:
		g := got.(map[string]any)
		for name, v := range w {
			if _, there := g[name]; !there {
				t.Errorf("%s.%s is missing", where, name)
				continue
			}
			compare(t, where+"."+name, v, g[name])
		}
		for name := range g {
			if _, there := w[name]; !there {
				t.Errorf("%s.%s is not in the vector", where, name)
			}
		}
	case []any:
		g := got.([]any)
		if len(w) != len(g) {
			t.Errorf("%s has %d items, want %d", where, len(g), len(w))
			return
		}
		if strings.HasSuffix(where, ".sensitive") { // a set
			sortText(w)
			sortText(g)
		}
		for i := range w {
			compare(t, where+"["+strconv.Itoa(i)+"]", w[i], g[i])
		}
	default:
		if own := []string{"answer.request_id", "answer.title", "answer.detail"}; want != got && !slices.Contains(own, where) {
			t.Errorf("%s is %v, want %v", where, got, want)
		}
	}
}

func sortText(list []any) {
	slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
}

// heardAll checks what the broker was asked against what the client sent.
func heardAll(t *testing.T, f *fakeBroker, v vector) {
	t.Helper()
	calls := f.calls()
	if len(calls) != 1 {
		if f.err != nil && broker.CodeOf(f.err) == broker.BadRequest && len(calls) == 0 {
			return // refused before the broker heard of it
		}
		t.Fatalf("the broker was asked %d times", len(calls))
	}
	var sent struct {
		Grants    []struct{ Name, TTL string }
		Token     string
		Recipient string `json:"recipient_key"`
		DryRun    bool   `json:"dry_run"`
	}
	if len(v.Request.Body) > 0 {
		if err := json.Unmarshal(v.Request.Body, &sent); err != nil {
			t.Fatal(err)
		}
	}
	c := calls[0]
	if len(c.want.Wants) != len(sent.Grants) || c.want.DryRun != sent.DryRun || (sent.Token != "") != (c.fresh == ciToken) {
		t.Errorf("asked %+v, sent %+v", c, sent)
	}
	if !bytes.Equal(c.want.Recipient, fromBase64(t, sent.Recipient)) || c.want.Idempotency != v.Request.Headers["Idempotency-Key"] {
		t.Errorf("asked for %+v, sent %+v with %v", c.want, sent, v.Request.Headers)
	}
	for i, g := range sent.Grants {
		ttl, _ := time.ParseDuration("0" + g.TTL)
		if c.want.Wants[i].Name != g.Name || c.want.Wants[i].TTL != ttl {
			t.Errorf("asked for %+v, sent %+v", c.want.Wants[i], g)
		}
	}
	if id, is := strings.CutPrefix(v.Request.Path, "/v1/leases/"); is && string(c.id) != id {
		t.Errorf("asked for %q, sent %q", c.id, id)
	}
}
