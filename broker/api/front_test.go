package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func TestEveryAnswerSaysNotToKeepOrSniffItAndCarriesOurRequestID(t *testing.T) {
	for _, s := range surfaces() {
		for _, rt := range s.routes {
			a := requestFor(rt)
			a.header = http.Header{"Host": {"127.0.0.1:8081"}, "X-Request-Id": {"req_theirs"}, "Origin": nil}
			w := send(s.handler(), a)
			want := "no-store"
			if strings.HasPrefix(rt.path, "/.well-known/") {
				want = "public, max-age=300"
			}
			if got := w.Header()["Cache-Control"]; len(got) != 1 || got[0] != want {
				t.Errorf("%s: Cache-Control %q", rt, got)
			}
			if got := w.Header()["X-Content-Type-Options"]; len(got) != 1 || got[0] != "nosniff" {
				t.Errorf("%s: X-Content-Type-Options %q", rt, got)
			}
			if got := w.Header()["X-Request-Id"]; len(got) != 1 || got[0] != fixedID {
				t.Errorf("%s: X-Request-Id %q", rt, got)
			}
			if strings.Contains(w.Body.String(), "req_theirs") {
				t.Errorf("%s took the client's id", rt)
			}
		}
	}
}

func TestTheRequestIDGoesToTheBrokerAndIntoTheAnswer(t *testing.T) {
	for _, rt := range jobRoutes(t) {
		f := &fakeBroker{answer: anAnswer()}
		w := send(NewPublic(publicConfig(f, &logBook{})), requestFor(rt))
		var body struct {
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != 200 || body.RequestID != fixedID {
			t.Errorf("%s: %d %s", rt, w.Code, w.Body)
		}
		if c := f.calls()[0]; c.method != "Whoami" && c.want.ID != fixedID {
			t.Errorf("%s: the broker got %q", rt, c.want.ID)
		}
	}
}

func TestWithoutRandomnessNothingIsServed(t *testing.T) {
	f, log := &fakeBroker{answer: anAnswer()}, &logBook{}
	c := publicConfig(f, log)
	c.Rand = brokenRand{}
	w := send(NewPublic(c), requestFor(jobRoutes(t)[0]))
	if w.Code != 500 || len(f.calls()) != 0 || !strings.Contains(log.String(), `"reason":"no_randomness"`) {
		t.Errorf("%d, %d calls, %s", w.Code, len(f.calls()), log)
	}
}

func TestNoRouteIsOpenThatDoesNotSaySo(t *testing.T) {
	open := map[string]bool{"GET /.well-known/openid-configuration": true, "GET /.well-known/jwks.json": true, "GET /openapi.yaml": true,
		"GET /healthz": true, "GET /readyz": true}
	for _, s := range surfaces() {
		for _, rt := range s.routes {
			a := requestFor(rt)
			a.bearer, a.header = "", http.Header{"Host": {"127.0.0.1:8081"}}
			w := send(s.handler(), a)
			if got := w.Code == http.StatusUnauthorized; got == open[rt.String()] {
				t.Errorf("%s without a token: %d", rt, w.Code)
			}
			if w.Code == 401 && w.Header().Get("WWW-Authenticate") != `Bearer realm="daypass"` {
				t.Errorf("%s: WWW-Authenticate %q", rt, w.Header().Get("WWW-Authenticate"))
			}
		}
	}
}

func TestARouteThatDoesNotSayWhoMayCallItIsNotBuilt(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it was built")
		}
	}()
	s := newPublic(publicConfig(&fakeBroker{}, &logBook{}))
	s.routes = append(s.routes, route{method: "GET", path: "/debug", handle: healthz})
	s.handler()
}

func TestOneWellFormedBearerTokenIsAccepted(t *testing.T) {
	for name, row := range map[string]struct {
		values []string
		good   bool
	}{
		"a token":                      {[]string{"Bearer " + ciToken}, true},
		"in another case":              {[]string{"bEARER " + ciToken}, true},
		"with padding":                 {[]string{"Bearer abc=="}, true},
		"the longest":                  {[]string{"Bearer " + strings.Repeat("a", maxToken)}, true},
		"none":                         {nil, false},
		"empty":                        {[]string{""}, false},
		"no token":                     {[]string{"Bearer"}, false},
		"an empty token":               {[]string{"Bearer "}, false},
		"only padding":                 {[]string{"Bearer =="}, false},
		"padding in the middle":        {[]string{"Bearer a=b"}, false},
		"two blanks":                   {[]string{"Bearer  " + ciToken}, false},
		"two tokens in one header":     {[]string{"Bearer a b"}, false},
		"a list":                       {[]string{"Bearer a, Bearer b"}, false},
		"two headers":                  {[]string{"Bearer " + ciToken, "Bearer " + ciToken}, false},
		"basic":                        {[]string{"Basic dXNlcjpwYXNz"}, false},
		"a bare token":                 {[]string{ciToken}, false},
		"a quoted token":               {[]string{`Bearer "a"`}, false},
		"a tab":                        {[]string{"Bearer\ta"}, false},
		"a control character":          {[]string{"Bearer a\x01"}, false},
		"not ASCII":                    {[]string{"Bearer é"}, false},
		"one character beyond 16 KiB":  {[]string{"Bearer " + strings.Repeat("a", maxToken+1)}, false},
		"a scheme that begins like it": {[]string{"BearerX " + ciToken}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeBroker{answer: anAnswer()}
			w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: "/v1/exchange", body: `{}`, header: http.Header{"Authorization": row.values}})
			if row.good {
				if w.Code != 200 || len(f.calls()) != 1 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
				return
			}
			if w.Code != 401 || len(f.calls()) != 0 || !strings.Contains(w.Body.String(), `"code":"token_invalid"`) ||
				!strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%d %s %s", w.Code, w.Header(), w.Body)
			}
		})
	}
}

func TestATokenElsewhereThanInTheHeaderIsNoToken(t *testing.T) {
	f := &fakeBroker{answer: anAnswer()}
	h := NewPublic(publicConfig(f, &logBook{}))
	for _, a := range []ask{
		{method: "GET", path: "/v1/session?access_token=" + sessionToken},
		{method: "GET", path: "/v1/session", header: http.Header{"Cookie": {"session=" + sessionToken}}},
		{method: "GET", path: "/v1/session", header: http.Header{"X-Authorization": {"Bearer " + sessionToken}}},
		{method: "GET", path: "/v1/session", header: http.Header{"Proxy-Authorization": {"Bearer " + sessionToken}}},
	} {
		if w := send(h, a); w.Code != 401 {
			t.Errorf("%+v: %d", a, w.Code)
		}
	}
	if len(f.calls()) != 0 {
		t.Error("the broker was asked")
	}
}

func TestAPanicIsAnInternalErrorAndTheNextRequestIsServed(t *testing.T) {
	f, log := &fakeBroker{answer: anAnswer()}, &logBook{}
	f.before = func() { panic(fmt.Errorf("cannot parse %s\nfor you", ciToken)) }
	h := NewPublic(publicConfig(f, log))
	w := send(h, requestFor(jobRoutes(t)[0]))
	if w.Code != 500 || !strings.Contains(w.Body.String(), internalDetail) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	got := log.String()
	if !strings.Contains(got, "cannot parse [redacted]") || !strings.Contains(got, "front_test.go") || !strings.Contains(got, `"reason":"panic"`) {
		t.Errorf("the log does not help: %s", got)
	}
	for _, part := range strings.Split(ciToken, ".") {
		if strings.Contains(got, part) {
			t.Errorf("the log holds the token: %s", got)
		}
	}
	f.before = nil
	if w := send(h, requestFor(jobRoutes(t)[0])); w.Code != 200 {
		t.Errorf("afterwards: %d", w.Code)
	}
}

func TestAHandlerThatAbortsTheConnectionStillDoes(t *testing.T) {
	f := &fakeBroker{before: func() { panic(http.ErrAbortHandler) }}
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("got %v", v)
		}
	}()
	send(NewPublic(publicConfig(f, &logBook{})), requestFor(jobRoutes(t)[0]))
}

func TestAnAnswerToAnotherQuestionIsWithheld(t *testing.T) {
	f := &fakeBroker{answer: anAnswer()} // not a dry run
	w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: "/v1/credentials", bearer: sessionToken, body: `{"dry_run":true}`})
	if w.Code != 500 || strings.Contains(w.Body.String(), "credentials") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestTheLogLineSaysWhatHappenedInFixedWords(t *testing.T) {
	for name, row := range map[string]struct {
		fake *fakeBroker
		ask  ask
		want map[string]any
	}{
		"an exchange": {&fakeBroker{answer: anAnswer()}, ask{method: "POST", path: "/v1/exchange", bearer: ciToken, body: `{}`},
			map[string]any{"level": "INFO", "msg": "request", "method": "POST", "route": "POST /v1/exchange", "status": 200.0, "request_id": fixedID, "issuer": "github", "remote": "192.0.2.1"}},
		"a denial": {&fakeBroker{err: &broker.Error{Code: broker.Denied, Reason: "denied_stranger", Err: errors.New("because")}}, ask{method: "POST", path: "/v1/exchange", bearer: ciToken, body: `{}`},
			map[string]any{"level": "INFO", "status": 403.0, "code": "denied", "reason": "denied_stranger", "err": nil}},
		"a fault": {&fakeBroker{err: errors.New("disk on fire\nat once")}, ask{method: "DELETE", path: "/v1/leases/" + string(leaseA), bearer: sessionToken},
			map[string]any{"level": "ERROR", "status": 500.0, "route": "DELETE /v1/leases/{id}", "code": "internal", "reason": "internal", "err": "disk on fire\nat once"}},
		"a reason that is no word": {&fakeBroker{err: &broker.Error{Code: broker.TokenInvalid, Reason: "got iss \"evil\"\n"}}, ask{method: "GET", path: "/v1/session", bearer: sessionToken},
			map[string]any{"status": 401.0, "code": "token_invalid", "reason": "other"}},
		"a probe":               {&fakeBroker{}, ask{method: "GET", path: "/healthz"}, map[string]any{"level": "DEBUG", "route": "GET /healthz", "status": 200.0, "code": nil}},
		"an unknown path":       {&fakeBroker{}, ask{method: "GET", path: "/v1/secret/path"}, map[string]any{"route": "unmatched", "status": 404.0, "code": "not_found", "reason": "route"}},
		"a method of their own": {&fakeBroker{}, ask{method: "SECRETMETHOD", path: "/healthz"}, map[string]any{"method": "other", "status": 405.0, "code": "bad_request", "reason": "method"}},
	} {
		t.Run(name, func(t *testing.T) {
			log := &logBook{}
			send(NewPublic(publicConfig(row.fake, log)), row.ask)
			lines := strings.Split(strings.TrimSpace(log.String()), "\n")
			if len(lines) != 1 {
				t.Fatalf("%d lines: %s", len(lines), log)
			}
			var got map[string]any
			if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
				t.Fatal(err)
			}
			for key, want := range row.want {
				if got[key] != want {
					t.Errorf("%s is %v, want %v", key, got[key], want)
				}
			}
			for key := range got {
				if !strings.Contains(" time level msg method route status request_id duration remote code reason issuer err ", " "+key+" ") {
					t.Errorf("the log line has %s", key)
				}
			}
		})
	}
}

func TestTheLogTrustsNoProxyUnlessToldAndThenTheLastOnly(t *testing.T) {
	for name, row := range map[string]struct {
		behind bool
		values []string
		peer   string
		want   string
	}{
		"no proxy":                      {false, []string{"203.0.113.9"}, "192.0.2.1:1234", "192.0.2.1"},
		"one hop":                       {true, []string{"203.0.113.9"}, "192.0.2.1:1234", "203.0.113.9"},
		"a hop that the client made up": {true, []string{"10.0.0.1, 203.0.113.9"}, "192.0.2.1:1234", "203.0.113.9"},
		"two headers":                   {true, []string{"10.0.0.1", "203.0.113.9"}, "192.0.2.1:1234", "203.0.113.9"},
		"IPv6":                          {true, []string{"2001:db8::1"}, "192.0.2.1:1234", "2001:db8::1"},
		"a zone":                        {true, []string{"fe80::1%SECRET\r\nx"}, "192.0.2.1:1234", "fe80::1"},
		"a zone without a line break":   {true, []string{"fe80::1%SECRET"}, "192.0.2.1:1234", "fe80::1"},
		"not an address":                {true, []string{"SECRET"}, "192.0.2.1:1234", "192.0.2.1"},
		"a port":                        {true, []string{"203.0.113.9:80"}, "192.0.2.1:1234", "192.0.2.1"},
		"nothing":                       {true, nil, "[::ffff:192.0.2.1]:1", "192.0.2.1"},
		"an odd peer":                   {false, nil, "@", "unknown"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = row.peer
		r.Header["X-Forwarded-For"] = row.values
		if got := (&surface{behindProxy: row.behind}).remote(r); got != row.want {
			t.Errorf("%s: %q, want %q", name, got, row.want)
		}
	}
}

// Every place where a client can put text gets a canary of its own; none of
// them may show up in the log or in an error.
func TestNothingThatAClientWritesGetsIntoTheLogOrAnError(t *testing.T) {
	const canary = "CANARYdps7f3a9c2b1e8d4650CANARYabcdefghijklmnop"
	places := map[string]ask{
		"bearer":                {bearer: canary},
		"malformed bearer":      {header: http.Header{"Authorization": {"Bearer " + canary + "\" x"}}},
		"scheme":                {header: http.Header{"Authorization": {canary + " x"}}},
		"body":                  {bearer: ciToken, body: canary},
		"body value":            {bearer: ciToken, body: `{"grants":[{"name":"` + canary + `"}]}`},
		"ttl":                   {bearer: ciToken, body: `{"grants":[{"name":"a","ttl":"` + canary + `"}]}`},
		"member name":           {bearer: ciToken, body: `{"` + canary + `":1}`},
		"member of a grant":     {bearer: ciToken, body: `{"grants":[{"name":"a","` + canary + `":1}]}`},
		"dry_run":               {bearer: ciToken, body: `{"dry_run":"` + canary + `"}`},
		"recipient_key":         {bearer: ciToken, body: `{"recipient_key":"` + canary + `"}`},
		"fresh token":           {bearer: sessionToken, body: `{"token":"` + canary + `"}`},
		"query":                 {bearer: ciToken, path: "?token=" + canary},
		"query name":            {bearer: ciToken, path: "?" + canary + "=1"},
		"path":                  {bearer: ciToken, path: "/" + canary},
		"user name in the path": {bearer: ciToken, path: "/@" + canary + "%0d%0alevel=ERROR"},
		"header":                {bearer: ciToken, header: http.Header{"X-Anything": {canary}}},
		"header name":           {bearer: ciToken, header: http.Header{"X-" + canary: {"1"}}},
		"request id":            {bearer: ciToken, header: http.Header{"X-Request-Id": {canary}}},
		"user agent":            {bearer: ciToken, header: http.Header{"User-Agent": {canary + "\r\nlevel=ERROR"}}},
		"cookie":                {bearer: ciToken, header: http.Header{"Cookie": {"a=" + canary}}},
		"content type":          {bearer: ciToken, body: `{}`, header: http.Header{"Content-Type": {canary}}},
		"host":                  {bearer: ciToken, header: http.Header{"Host": {canary}}},
		"origin":                {bearer: ciToken, header: http.Header{"Origin": {"https://" + canary}}},
		"forwarded for":         {bearer: ciToken, header: http.Header{"X-Forwarded-For": {canary}}},
		"method":                {bearer: ciToken, method: canary},
	}
	quoting := func(secret string) error { // the worst that stands behind us
		return fmt.Errorf("verify %q: %w", secret, &broker.Error{Code: broker.Unavailable, Public: "not now", Err: errors.New("lost " + secret)})
	}
	for _, rt := range []route{{method: "POST", path: "/v1/exchange"}, {method: "POST", path: "/v1/session/extend"}, {method: "GET", path: "/v1/session"},
		{method: "DELETE", path: "/v1/leases/" + string(leaseA)}, {method: "GET", path: "/admin/v1/leases"}, {method: "DELETE", path: "/admin/v1/leases/x"}} {
		for place, a := range places {
			for name, err := range map[string]error{"going well": nil, "failing": quoting(canary)} {
				log := &logBook{}
				f := &fakeBroker{answer: broker.Answer{}, err: err}
				pc := publicConfig(f, log)
				pc.BehindProxy = true
				h := NewPublic(pc)
				if strings.HasPrefix(rt.path, "/admin") {
					h = NewAdmin(adminConfig(f, log))
					if a.bearer == ciToken {
						a.bearer = adminToken
					}
				}
				if name == "failing" && !strings.Contains(a.bearer+a.body, canary) {
					continue // a part behind us cannot quote what it is not given
				}
				one := a
				one.path = rt.path + a.path
				if one.method == "" {
					one.method = rt.method
				}
				w := send(h, one)
				if text := log.String(); strings.Contains(text, canary) || strings.Contains(text, "CANARY") {
					t.Errorf("%s %s, %s: the log holds the %s: %s", rt.method, rt.path, name, place, text)
				}
				if text := dump(w); strings.Contains(text, "CANARY") {
					t.Errorf("%s %s, %s: the answer holds the %s: %s", rt.method, rt.path, name, place, text)
				}
			}
		}
	}
}

func TestALogLineCannotBeForged(t *testing.T) {
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
	} {
		var buf bytes.Buffer
		f := &fakeBroker{err: errors.New("claim was \"x\"\r\n{\"level\":\"INFO\",\"msg\":\"forged\"}\r\nlevel=INFO msg=forged\x00\x1b[2J")}
		c := publicConfig(f, &logBook{})
		c.Log = slog.New(handler(&buf))
		send(NewPublic(c), requestFor(jobRoutes(t)[0]))
		if n := strings.Count(buf.String(), "\n"); n != 1 || strings.ContainsAny(buf.String(), "\r\x00\x1b") {
			t.Errorf("%s: %d lines: %q", name, n, buf.String())
		}
	}
}

func TestTooManyBuyersWaitAMomentAndAreSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &fakeBroker{answer: anAnswer(), before: func() { <-release }}
		c := publicConfig(f, &logBook{})
		c.InFlight = 1
		h := NewPublic(c)
		buy := requestFor(route{method: "POST", path: "/v1/exchange", access: accessCI})
		done := make(chan *httptest.ResponseRecorder, 1)
		go func() { done <- send(h, buy) }()
		synctest.Wait()

		began := time.Now()
		w := send(h, buy)
		if w.Code != 429 || time.Since(began) != patience || w.Header().Get("Retry-After") == "" || len(f.calls()) != 1 {
			t.Errorf("the second: %d after %v, %d calls", w.Code, time.Since(began), len(f.calls()))
		}
		ctx, gone := context.WithCancel(t.Context())
		gone()
		r := httptest.NewRequestWithContext(ctx, "POST", "/v1/exchange", strings.NewReader(`{}`))
		r.Header.Set("Authorization", "Bearer "+ciToken)
		r.Header.Set("Content-Type", "application/json")
		began = time.Now()
		h.ServeHTTP(httptest.NewRecorder(), r)
		if time.Since(began) != 0 {
			t.Errorf("who hung up kept waiting for %v", time.Since(began))
		}
		go func() {
			done <- send(h, requestFor(route{method: "DELETE", path: "/v1/session", access: accessSession}))
		}()
		synctest.Wait()
		if len(f.calls()) != 2 {
			t.Error("giving back had to wait for buyers")
		}
		close(release)
		if a, b := <-done, <-done; a.Code != 200 || b.Code != 200 {
			t.Errorf("the others: %d, %d", a.Code, b.Code)
		}
		if w := send(h, buy); w.Code != 200 {
			t.Errorf("afterwards: %d", w.Code)
		}
	})
}

func TestAHeadIsAGetWithoutABody(t *testing.T) {
	h := NewPublic(publicConfig(&fakeBroker{}, &logBook{}))
	for _, path := range []string{"/healthz", "/readyz", "/openapi.yaml", "/.well-known/jwks.json", "/.well-known/openid-configuration"} {
		get, head := send(h, ask{method: "GET", path: path}), send(h, ask{method: "HEAD", path: path})
		if head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("Content-Length") != get.Header().Get("Content-Length") || get.Body.Len() == 0 {
			t.Errorf("%s: %d, %d bytes, %v", path, head.Code, head.Body.Len(), head.Header())
		}
	}
}

func TestAConfigWithoutAPartIsRefused(t *testing.T) {
	for _, part := range []string{"Exchanger", "Holder", "Keys", "URL", "Log", "Rand", "Now"} {
		if err := (Config{}).Check(); !strings.Contains(fmt.Sprint(err), part+" is missing") {
			t.Errorf("%s is not missed: %v", part, err)
		}
	}
	for _, part := range []string{"Operator", "Token", "Hosts", "Metrics", "Log", "Rand", "Now"} {
		if err := (AdminConfig{}).Check(); !strings.Contains(fmt.Sprint(err), part+" is missing") {
			t.Errorf("%s is not missed: %v", part, err)
		}
	}
	ok := func(context.Context) error { return nil }
	for name, checks := range map[string][]Check{"no name": {{Func: ok}}, "no function": {{Name: "a"}}, "one name twice": {{Name: "a", Func: ok}, {Name: "a", Func: ok}}} {
		c := publicConfig(&fakeBroker{}, &logBook{})
		c.Ready = checks
		if c.Check() == nil {
			t.Errorf("a readiness check with %s is accepted", name)
		}
	}
}
