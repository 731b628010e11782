package api

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

var (
	_ Exchanger = (*broker.Broker)(nil)
	_ Holder    = (*broker.Broker)(nil)
	_ Operator  = (*broker.Broker)(nil)
)

const (
	ciToken      = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXBvOmFjbWUvb3JkZXJzIn0.c2lnbmF0dXJl"
	sessionToken = "dps_N4vQ0y3mZr1uXkTt7c8WlJpB5sEoHqGfYdAaKi2RbDM"
	adminToken   = "dpa_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
	leaseA       = broker.LeaseID("dpl_mfrggzdfmztwq2lkmnxg6ytsoi")
	fixedID      = "req_fivcukrkfivcukrk" // what fixedRand makes of it
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// fakeBroker answers with what a test gave it, and keeps what it was asked.
type fakeBroker struct {
	answer   broker.Answer
	session  broker.Session
	leases   []broker.Lease
	strays   []broker.Stray
	outcomes []broker.Outcome
	err      error
	before   func() // runs in each call; may block or panic

	mu    sync.Mutex // guards asked
	asked []asked
}

type asked struct {
	method string
	token  string
	fresh  string
	want   broker.Request
	id     broker.LeaseID
	filter broker.LeaseFilter
	by     string
	target string
	reason string
}

func (f *fakeBroker) note(a asked) {
	f.mu.Lock()
	f.asked = append(f.asked, a)
	f.mu.Unlock()
	if f.before != nil {
		f.before()
	}
}

func (f *fakeBroker) calls() []asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *fakeBroker) Exchange(_ context.Context, token broker.Secret, r broker.Request) (broker.Answer, error) {
	f.note(asked{method: "Exchange", token: token.Reveal(), want: r})
	return f.answer, f.err
}

func (f *fakeBroker) More(_ context.Context, session broker.Secret, r broker.Request) (broker.Answer, error) {
	f.note(asked{method: "More", token: session.Reveal(), want: r})
	return f.answer, f.err
}

func (f *fakeBroker) Extend(_ context.Context, session, token broker.Secret, request string) (broker.Session, error) {
	f.note(asked{method: "Extend", token: session.Reveal(), fresh: token.Reveal(), want: broker.Request{ID: request}})
	return f.session, f.err
}

func (f *fakeBroker) Whoami(_ context.Context, session broker.Secret) (broker.Session, []broker.Lease, error) {
	f.note(asked{method: "Whoami", token: session.Reveal()})
	return f.session, f.leases, f.err
}

func (f *fakeBroker) GiveBack(_ context.Context, session broker.Secret, request string) ([]broker.Outcome, error) {
	f.note(asked{method: "GiveBack", token: session.Reveal(), want: broker.Request{ID: request}})
	return f.outcomes, f.err
}

func (f *fakeBroker) GiveBackLease(_ context.Context, session broker.Secret, id broker.LeaseID, request string) (broker.Outcome, error) {
	f.note(asked{method: "GiveBackLease", token: session.Reveal(), id: id, want: broker.Request{ID: request}})
	return first(f.outcomes), f.err
}

func (f *fakeBroker) Leases(_ context.Context, filter broker.LeaseFilter) ([]broker.Lease, error) {
	f.note(asked{method: "Leases", filter: filter})
	return f.leases, f.err
}

func (f *fakeBroker) Lease(_ context.Context, id broker.LeaseID) (broker.Lease, error) {
	f.note(asked{method: "Lease", id: id})
	if len(f.leases) == 0 {
		return broker.Lease{}, f.err
	}
	return f.leases[0], f.err
}

func (f *fakeBroker) Paused() bool { return len(f.strays) > 0 }

func (f *fakeBroker) Strays() []broker.Stray { return f.strays }

func (f *fakeBroker) RevokeLease(_ context.Context, id broker.LeaseID, a broker.Act) (broker.Outcome, error) {
	f.note(asked{method: "RevokeLease", id: id, by: a.By, want: broker.Request{ID: a.Request}})
	return first(f.outcomes), f.err
}

func (f *fakeBroker) RevokeLeases(_ context.Context, filter broker.LeaseFilter, a broker.Act) ([]broker.Lease, error) {
	f.note(asked{method: "RevokeLeases", filter: filter, by: a.By, want: broker.Request{ID: a.Request}})
	return f.leases, f.err
}

func (f *fakeBroker) Forget(_ context.Context, target string, only broker.LeaseID, a broker.Act) ([]broker.Lease, error) {
	f.note(asked{method: "Forget", target: target, id: only, by: a.By, reason: a.Reason, want: broker.Request{ID: a.Request}})
	return f.leases, f.err
}

func first(outcomes []broker.Outcome) broker.Outcome {
	if len(outcomes) == 0 {
		return broker.Outcome{}
	}
	return outcomes[0]
}

type fakeKeys struct{ err error }

func (k fakeKeys) JWKS() ([]byte, error)       { return []byte(`{"keys":[]}`), k.err }
func (k fakeKeys) Discovery(url string) []byte { return []byte(`{"issuer":"` + url + `"}`) }

// fixedRand gives the same byte for ever, so that goldens stay.
type fixedRand struct{}

func (fixedRand) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 42
	}
	return len(p), nil
}

type brokenRand struct{}

func (brokenRand) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// logBook keeps log lines, at every level.
type logBook struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBook) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func publicConfig(f *fakeBroker, log *logBook) Config {
	return Config{Exchanger: f, Holder: f, Keys: fakeKeys{}, URL: "https://daypass.example.com",
		Log: log.logger(), Rand: fixedRand{}, Now: func() time.Time { return noon }, Metrics: NewMetrics(MetricsConfig{})}
}

func adminConfig(f *fakeBroker, log *logBook) AdminConfig {
	return AdminConfig{Operator: f, Token: broker.NewSecret(adminToken), Hosts: []string{"127.0.0.1:8081", "localhost:8081"},
		Metrics: NewMetrics(MetricsConfig{Version: "v0.0.0-test"}), Log: log.logger(), Rand: fixedRand{}, Now: func() time.Time { return noon }}
}

type ask struct {
	method, path, bearer, body string
	header                     http.Header
}

// send makes one request as a well-behaved client would, but for what the test
// adds.
func send(h http.Handler, a ask) *httptest.ResponseRecorder {
	var body io.Reader
	if a.body != "" {
		body = strings.NewReader(a.body)
	}
	r := httptest.NewRequest(a.method, a.path, body)
	if a.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+a.bearer)
	}
	if a.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if strings.HasPrefix(a.path, "/admin") || strings.HasPrefix(a.path, "/metrics") {
		r.Host = "127.0.0.1:8081"
	}
	for name, values := range a.header {
		if name == "Host" {
			r.Host = values[0]
			continue
		}
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// requestFor is a request that a route accepts.
func requestFor(rt route) ask {
	a := ask{method: rt.method, path: strings.Replace(rt.path, "{id}", string(leaseA), 1)}
	switch rt.access {
	case accessCI:
		a.bearer = ciToken
	case accessSession:
		a.bearer = sessionToken
	case accessOperator:
		a.bearer = adminToken
	}
	switch rt.path {
	case "/v1/exchange", "/v1/credentials":
		a.body = `{"grants":[{"name":"orders-db","ttl":"15m"}]}`
	case "/v1/session/extend":
		a.body = `{"token":"` + ciToken + `"}`
	case "/admin/v1/forget":
		a.body = `{"target":"orders-pg","reason":"it is gone"}`
	}
	return a
}

func jobRoutes(t *testing.T) []route {
	t.Helper()
	var routes []route
	for _, rt := range newPublic(publicConfig(&fakeBroker{}, &logBook{})).routes {
		if rt.access == accessCI || rt.access == accessSession {
			routes = append(routes, rt)
		}
	}
	if len(routes) < 6 {
		t.Fatalf("the public surface has %d routes for jobs, want at least 6", len(routes))
	}
	return routes
}

func aLease() broker.Lease {
	return broker.Lease{ID: leaseA, Handle: "dp_prod_t9x2k0_mfrggzdfmztw", Takeback: broker.TakebackNow,
		Grant: broker.Grant{Name: "orders-db", Kind: "postgres", Target: "orders-pg", MaxTTL: time.Hour, Access: broker.Write},
		Rule:  "teams/orders/deploy.yaml/deploy-from-main", Issuer: "github", Place: "github/5678", Repo: "acme/orders",
		Session: broker.SessionIDOf(broker.NewSecret(sessionToken)), Request: fixedID,
		State: broker.LeaseActive, Opened: noon, NotAfter: noon.Add(15 * time.Minute), Due: noon.Add(15 * time.Minute)}
}

func anAnswer() broker.Answer {
	return broker.Answer{
		Token:   broker.NewSecret(sessionToken),
		Session: broker.Session{For: broker.Identity{Issuer: "github"}, Expires: noon.Add(5 * time.Minute)},
		Granted: []broker.Granted{{Lease: aLease(), Credential: broker.Credential{Takeback: broker.TakebackNow, Fields: []broker.Field{
			{Name: "username", Env: []string{"PGUSER"}, Value: broker.NewSecret("dp_prod_t9x2k0_mfrggzdfmztw"), Public: true},
			{Name: "password", Env: []string{"PGPASSWORD"}, Value: broker.NewSecret("not-a-real/password+1")},
		}}}},
	}
}
