package daypass

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/clients/go/daypasstest"
)

// inMemory hands requests to a handler without a network, so that waiting can
// be tested on a fake clock. before may fail the n-th attempt (from 1): before
// it is sent, or after the handler has done its work.
type inMemory struct {
	handler http.Handler
	before  func(n int) error // fails what never left
	after   func(n int) error // loses the answer
	n       *atomic.Int32
}

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	n := int(m.n.Add(1))
	if m.before != nil {
		if err := m.before(n); err != nil {
			return nil, err
		}
	}
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	rec, err := serve(m.handler, r)
	if err != nil {
		return nil, err
	}
	if m.after != nil {
		if err := m.after(n); err != nil {
			return nil, err
		}
	}
	return rec.Result(), nil
}

// serve cuts the connection where the handler does.
func serve(h http.Handler, r *http.Request) (rec *httptest.ResponseRecorder, err error) {
	defer func() {
		if aborted := recover(); aborted != nil {
			if aborted != http.ErrAbortHandler {
				panic(aborted)
			}
			err = io.ErrUnexpectedEOF
		}
	}()
	rec = httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec, nil
}

func orders() *daypasstest.Broker {
	b := new(daypasstest.Broker)
	b.Grant("orders-db", daypasstest.Credential{Kind: "postgres", Fields: map[string]string{"username": "u$N", "password": "hunter-$N"},
		Env: map[string]string{"PGUSER": "u$N", "PGPASSWORD": "hunter-$N"}, Sensitive: []string{"password", "PGPASSWORD"}})
	return b
}

func numbered() Source {
	var n atomic.Int32
	return Func(func(context.Context, string) (Secret, error) {
		return NewSecret(daypasstest.Token(fmt.Sprintf("ci-%d", n.Add(1)))), nil
	})
}

// fixed is the source of a job that was given one token.
func fixed() Source { return Static(NewSecret(daypasstest.Token("ci"))) }

// counting counts the tokens that a source gives.
type counting struct {
	Source
	n *atomic.Int32
}

func (c counting) Token(ctx context.Context, audience string) (Secret, error) {
	c.n.Add(1)
	return c.Source.Token(ctx, audience)
}

func clientFor(t *testing.T, source Source, m inMemory) *Client {
	t.Helper()
	m.n = new(atomic.Int32)
	c, err := New(Config{URL: "https://daypass.example.com/", Source: source, HTTP: &http.Client{Transport: m}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fails(n int, err error) func(int) error {
	return func(i int) error {
		if i == n {
			return err
		}
		return nil
	}
}

// onlyAfter fails every attempt after the n-th before it is sent.
func onlyAfter(n, attempt int) error {
	if attempt > n {
		return errReset
	}
	return nil
}

var (
	errReset = errors.New("connection reset")
	want     = Grant{Name: "orders-db", TTL: 15 * time.Minute}
)

const exchange = "POST /v1/exchange"

func TestRetriesFollowTheSourceAndTheAnswer(t *testing.T) {
	stale := daypasstest.Problem{Status: 401, Code: "token_stale", RetryAfter: 2}
	expired := daypasstest.Problem{Status: 401, Code: "token_expired"}
	busy := daypasstest.Problem{Status: 503, Code: "unavailable", RetryAfter: 3}
	mute := daypasstest.Problem{Status: 503, Code: "unavailable"}
	limited := daypasstest.Problem{Status: 429, Code: "rate_limited", RetryAfter: 300}
	for name, tc := range map[string]struct {
		source        Source
		refuse        []daypasstest.Problem
		before, after func(int) error
		asked         int           // exchanges that reach the broker
		drawn         int           // tokens that the source was asked for; 0: not looked at
		waited        time.Duration // exactly; -1: not looked at
		code          Code          // "" for success
		is, isNot     error
	}{
		"a stale token is replaced by a fresh one after Retry-After":               {source: numbered(), refuse: []daypasstest.Problem{stale}, asked: 2, drawn: 2, waited: 2 * time.Second},
		"an expired token is replaced by a fresh one":                              {source: numbered(), refuse: []daypasstest.Problem{expired}, asked: 2, drawn: 2, waited: -1},
		"a source that keeps giving stale tokens is given up":                      {source: numbered(), refuse: []daypasstest.Problem{stale, stale, stale, stale, stale}, asked: 4, waited: 6 * time.Second, code: TokenStale, isNot: ErrNewJob},
		"a fixed token that is stale needs a new job":                              {source: fixed(), refuse: []daypasstest.Problem{stale}, asked: 1, code: TokenStale, is: ErrNewJob},
		"a fixed token that has expired needs a new job":                           {source: fixed(), refuse: []daypasstest.Problem{expired}, asked: 1, code: TokenExpired, is: ErrNewJob},
		"a fixed token is sent again when the broker says":                         {source: fixed(), refuse: []daypasstest.Problem{busy}, asked: 2, drawn: 1, waited: 3 * time.Second},
		"a fixed token is sent again if the broker does not say when":              {source: fixed(), refuse: []daypasstest.Problem{mute}, asked: 2, drawn: 1, waited: -1},
		"a refusal after which a token may be spent costs a fresh source another":  {source: numbered(), refuse: []daypasstest.Problem{mute}, asked: 2, drawn: 2, waited: -1},
		"a Retry-After is waited for, but not for ever, and the token is kept":     {source: numbered(), refuse: []daypasstest.Problem{limited}, asked: 2, drawn: 1, waited: 30 * time.Second},
		"a lost answer is fetched again with a fixed token":                        {source: fixed(), after: fails(1, errReset), asked: 2, drawn: 1, waited: -1},
		"a lost answer is fetched again with the same token of a fresh source":     {source: numbered(), after: fails(1, errReset), asked: 2, drawn: 1, waited: -1},
		"what is lost every time is not known":                                     {source: fixed(), after: func(int) error { return errReset }, asked: 4, drawn: 1, waited: -1, code: NoAnswer, is: ErrOutcomeUnknown},
		"what is lost once and cannot be asked for again is not known":             {source: fixed(), after: fails(1, errReset), before: func(n int) error { return onlyAfter(1, n) }, asked: 1, waited: -1, code: NoAnswer, is: ErrOutcomeUnknown},
		"what never left is sent again, with a fixed token too":                    {source: fixed(), before: fails(1, &net.OpError{Op: "dial", Err: errReset}), asked: 1, drawn: 1, waited: -1},
		"what never leaves has not happened":                                       {source: fixed(), before: func(int) error { return errReset }, asked: 0, waited: -1, code: NoAnswer, isNot: ErrOutcomeUnknown},
		"a denial is final":                                                        {source: numbered(), refuse: []daypasstest.Problem{{Status: 403, Code: "denied"}}, asked: 1, code: Denied},
		"a fresh token that was used is not retried: somebody else has it":         {source: numbered(), refuse: []daypasstest.Problem{{Status: 409, Code: "token_reused"}}, asked: 1, code: TokenReused, isNot: ErrNewJob},
		"a fixed token that was used needs a new job":                              {source: fixed(), refuse: []daypasstest.Problem{{Status: 409, Code: "token_reused"}}, asked: 1, code: TokenReused, is: ErrNewJob},
		"a broker's fault is retried with the same token: what it did is open":     {source: numbered(), refuse: []daypasstest.Problem{{Status: 500, Code: "internal"}}, asked: 2, drawn: 1, waited: -1},
		"a token found used after a fault of the broker's is replaced":             {source: numbered(), refuse: []daypasstest.Problem{{Status: 500, Code: "internal"}, {Status: 409, Code: "token_reused"}}, asked: 3, drawn: 2, waited: -1},
		"a fixed token that is found used after a retry keeps the earlier refusal": {source: fixed(), refuse: []daypasstest.Problem{busy, {Status: 409, Code: "token_reused"}}, asked: 2, waited: 3 * time.Second, code: TokenReused, is: ErrNewJob},
		"a code that this client does not know is final, and passed on as it came": {source: numbered(), refuse: []daypasstest.Problem{{Status: 422, Code: "novel"}}, asked: 1, code: "novel"},
		"a request that timed out at the broker is repeated with the same token":   {source: numbered(), refuse: []daypasstest.Problem{{Status: 408, Code: "unavailable"}}, asked: 2, drawn: 1, waited: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := orders()
				b.Refuse(exchange, tc.refuse...)
				drawn := new(atomic.Int32)
				c := clientFor(t, counting{tc.source, drawn}, inMemory{handler: b, before: tc.before, after: tc.after})
				start := time.Now()
				a, err := c.Exchange(t.Context(), want)
				if CodeOf(err) != tc.code || (tc.code == "") != (err == nil) {
					t.Fatalf("got %v, want code %q", err, tc.code)
				}
				if err == nil && a.Credentials[0].Fields["password"].IsZero() {
					t.Error("the credential has no password")
				}
				if tc.is != nil && !errors.Is(err, tc.is) || tc.isNot != nil && errors.Is(err, tc.isNot) {
					t.Errorf("the chain of %v is wrong", err)
				}
				if got := len(b.Asked()); got != tc.asked {
					t.Errorf("the broker was asked %d times, want %d", got, tc.asked)
				}
				if took := time.Since(start); tc.waited >= 0 && took != tc.waited {
					t.Errorf("waited %v, want %v", took, tc.waited)
				}
				if got := int(drawn.Load()); tc.drawn > 0 && got != tc.drawn {
					t.Errorf("%d tokens were asked for, want %d", got, tc.drawn)
				}
				if got := b.Made(); got > 1 || err == nil && got != 1 {
					t.Errorf("%d credentials were made", got)
				}
			})
		})
	}
}

func TestARetryThatFindsTheTokenUsedStillTellsTheFirstRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := orders()
		b.Refuse(exchange, daypasstest.Problem{Status: 503, Code: "unavailable", Detail: "the journal is full", RetryAfter: 1},
			daypasstest.Problem{Status: 409, Code: "token_reused"})
		_, err := clientFor(t, fixed(), inMemory{handler: b}).Exchange(t.Context(), want)
		if err == nil || !strings.Contains(err.Error(), "the journal is full") {
			t.Errorf("got %v, which hides why the first attempt failed", err)
		}
	})
}

func TestNoTimeIsWastedOnAWaitThatPassesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := orders()
		b.Refuse(exchange, daypasstest.Problem{Status: 503, Code: "unavailable", RetryAfter: 20})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, err := clientFor(t, numbered(), inMemory{handler: b}).Exchange(ctx, want)
		if CodeOf(err) != Unavailable || time.Since(start) != 0 {
			t.Errorf("got %v after %v, want the broker's refusal at once", err, time.Since(start))
		}
	})
}

func TestACredentialThatWasNotMadeIsAskedForOnTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := orders()
		b.Refuse(exchange, daypasstest.Problem{Status: 502, Code: "mint_failed", Session: true})
		b.Refuse("POST /v1/credentials", daypasstest.Problem{Status: 502, Code: "mint_failed"})
		c := clientFor(t, fixed(), inMemory{handler: b})
		a, err := c.Exchange(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Asked(); !slices.Equal(got, []string{exchange, "POST /v1/credentials", "POST /v1/credentials"}) {
			t.Errorf("asked %v", got)
		}
		if _, err := c.GiveBack(t.Context(), a.Session.Token); err != nil || len(b.Live()) != 0 {
			t.Errorf("giving back: %v, still live: %v", err, b.Live())
		}
	})
}

func TestTheSessionOfAFailedMintIsTheCallersToGiveBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := orders()
		b.Refuse(exchange, daypasstest.Problem{Status: 502, Code: "mint_failed", Session: true})
		b.Refuse("POST /v1/credentials", slices.Repeat([]daypasstest.Problem{{Status: 502, Code: "mint_failed"}}, 4)...)
		c := clientFor(t, numbered(), inMemory{handler: b})
		_, err := c.Exchange(t.Context(), want)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != MintFailed || e.Session == nil {
			t.Fatalf("got %v, want mint_failed with a session", err)
		}
		if n := strings.Count(strings.Join(b.Asked(), "\n"), exchange); n != 1 {
			t.Errorf("%d exchanges: a second session was opened", n)
		}
		if a, err := c.Credentials(t.Context(), *e.Session, want); err != nil || len(a.Credentials) != 1 {
			t.Errorf("asking on with the session: %+v, %v", a, err)
		}
		if _, err := c.GiveBack(t.Context(), e.Session.Token); err != nil {
			t.Error(err)
		}
	})
}

func TestASessionGoesItsWholeWay(t *testing.T) {
	b := orders()
	b.Grant("cache", daypasstest.Credential{Kind: "redis", Takeback: "expiry"})
	c := clientFor(t, numbered(), inMemory{handler: b})
	a, err := c.Exchange(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	s := a.Session.Token
	if _, err := c.Credentials(t.Context(), a.Session, Grant{Name: "cache"}); err != nil {
		t.Fatal(err)
	}
	if until, err := c.Extend(t.Context(), s); err != nil || until.Before(time.Now()) {
		t.Errorf("extended until %v: %v", until, err)
	}
	info, err := c.Session(t.Context(), s)
	if err != nil || len(info.Leases) != 2 || info.Identity.Repository != "acme/orders" {
		t.Errorf("session %+v: %v", info, err)
	}
	if end, err := c.Revoke(t.Context(), s, a.Credentials[0].LeaseID); err != nil || end.State != "revoked" {
		t.Errorf("revoke: %+v: %v", end, err)
	}
	if _, err := c.Revoke(t.Context(), s, "dpl_somebody-elses"); CodeOf(err) != NotFound {
		t.Errorf("revoking what is not ours: %v", err)
	}
	ends, err := c.GiveBack(t.Context(), s)
	if err != nil || len(ends) != 1 || ends[0].State != "expires" {
		t.Errorf("give back: %+v: %v", ends, err)
	}
	if _, err := c.Credentials(t.Context(), a.Session, want); CodeOf(err) != Conflict {
		t.Errorf("a session that was given back mints: %v", err)
	}
}

func TestWhereTheBrokerDoesNotSayEverythingIsSensitive(t *testing.T) {
	b := orders()
	b.Grant("odd", daypasstest.Credential{Fields: map[string]string{"a": "1st"}, Env: map[string]string{"B": "2nd"}})
	b.Grant("open", daypasstest.Credential{Fields: map[string]string{"a": "1st"}, Sensitive: []string{}})
	a, err := clientFor(t, numbered(), inMemory{handler: b}).Exchange(t.Context(), Grant{Name: "odd"}, Grant{Name: "open"}, want)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []int{2, 0, 1} {
		if got := len(a.Credentials[i].Secrets()); got != n {
			t.Errorf("%s has %d secrets, want %d", a.Credentials[i].Grant, got, n)
		}
	}
}

func TestADryRunSpendsNothing(t *testing.T) {
	b := orders()
	c := clientFor(t, numbered(), inMemory{handler: b})
	p, err := c.DryRun(t.Context(), want)
	if err != nil || len(p.Permits) != 1 || p.Permits[0].Grant != want.Name || p.Permits[0].Rule == "" || p.Permits[0].TTL != want.TTL {
		t.Errorf("got %+v, %v", p, err)
	}
	if p, err := c.DryRun(t.Context()); err != nil || len(p.Permits) != 1 || p.Permits[0].Kind != "postgres" || p.Permits[0].Takeback == "" {
		t.Errorf("asked for nothing, the list is %+v, %v", p, err)
	}
	if p, err := c.DryRun(t.Context(), Grant{Name: "vault-keys"}); CodeOf(err) != Denied || p != nil {
		t.Errorf("got %v and %v, want a denial", p, err)
	}
	if len(b.Tokens()) != 0 || len(b.Live()) != 0 {
		t.Errorf("spent %v, made %v", b.Tokens(), b.Live())
	}
}

// A broker that does not know dry runs would mint; its answer is no preview.
func TestADryRunIsNotToldYesByAnAnswerToSomethingElse(t *testing.T) {
	for name, body := range map[string]string{
		"an exchange":              `{"request_id":"req_1","session":{"token":"dps_x","expires_at":"2030-01-01T00:00:00Z"},"credentials":[]}`,
		"an exchange and dry":      `{"dry_run":true,"session":{"token":"dps_x"},"grants":[{"name":"orders-db","rule":"r","ttl":"1m"}]}`,
		"credentials and no grant": `{"request_id":"req_1","dry_run":true,"credentials":[]}`,
		"another grant":            `{"dry_run":true,"grants":[{"name":"vault-keys","rule":"r","ttl":"1m"}]}`,
		"one grant too many":       `{"dry_run":true,"grants":[{"name":"orders-db","ttl":"1m"},{"name":"orders-db","ttl":"1m"}]}`,
		"no life":                  `{"dry_run":true,"grants":[{"name":"orders-db","rule":"r"}]}`,
		"a life that is over":      `{"dry_run":true,"grants":[{"name":"orders-db","rule":"r","ttl":"-1m"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			back := false
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				back = back || r.Method == http.MethodDelete && r.URL.Path == "/v1/session"
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, body)
			})
			p, err := clientFor(t, numbered(), inMemory{handler: h}).DryRun(t.Context(), Grant{Name: "orders-db"})
			if CodeOf(err) != NotDaypass || p != nil {
				t.Errorf("got %+v and %v, want %s", p, err, NotDaypass)
			}
			if back != strings.Contains(body, "session") {
				t.Errorf("a session that came was given back: %v", back)
			}
		})
	}
}

func TestAnAnswerThatIsNotTheProtocolsIsRefused(t *testing.T) {
	const ok = `{"request_id":"req_1","session":{"token":"dps_x","expires_at":"2030-01-01T00:00:00Z"},"credentials":[%s]}`
	const cred = `{"grant":"orders-db","lease_id":"dpl_1","expires_at":"2030-01-01T00:00:00Z","env":{"A":"b"}}`
	for name, tc := range map[string]struct {
		status      int
		media, body string
		givesBack   bool
	}{
		"a page of a proxy's":                   {200, "text/html", "<html>PLANTED", false},
		"JSON that says it is a page":           {200, "text/html", fmt.Sprintf(ok, cred), false},
		"half an object":                        {200, "application/json", `{"request_id":"PLANTED`, false},
		"no session":                            {200, "application/json", `{"credentials":[` + cred + `]}`, false},
		"fewer credentials than grants":         {200, "application/json", fmt.Sprintf(ok, ""), true},
		"more credentials than grants":          {200, "application/json", fmt.Sprintf(ok, cred+","+cred), true},
		"a credential for another grant":        {200, "application/json", fmt.Sprintf(ok, strings.Replace(cred, "orders-db", "PLANTED", 1)), true},
		"a credential without a lease":          {200, "application/json", fmt.Sprintf(ok, strings.Replace(cred, "dpl_1", "", 1)), true},
		"a variable name that starts another":   {200, "application/json", fmt.Sprintf(ok, strings.Replace(cred, `"A"`, `"A=B\nPLANTED"`, 1)), true},
		"a value with a zero byte":              {200, "application/json", fmt.Sprintf(ok, strings.Replace(cred, `"b"`, `"b\u0000PLANTED"`, 1)), true},
		"an error without a problem document":   {502, "text/html", "PLANTED", false},
		"a problem without a code":              {400, "application/problem+json", `{"detail":"PLANTED"}`, false},
		"an answer of more than a mebibyte":     {200, "application/json", `{"x":"` + strings.Repeat("PLANTED", 1<<18) + `"}`, false},
		"a created where an answer is expected": {201, "application/json", fmt.Sprintf(ok, cred), false},
	} {
		t.Run(name, func(t *testing.T) {
			gaveBack := false
			body := tc.body
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tc.media == "application/json" && tc.status < 300 && len(body) < maxAnswer && r.Method == http.MethodPost {
					body = sealedTo(t, r, box{plain: tc.body})
				}
				w.Header().Set("Content-Type", tc.media)
				if r.Method == http.MethodDelete {
					gaveBack = true
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, `{"leases":[]}`)
					return
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, body)
			})
			_, err := clientFor(t, fixed(), inMemory{handler: h}).Exchange(t.Context(), want)
			if CodeOf(err) != NotDaypass {
				t.Fatalf("got %v, want %s", err, NotDaypass)
			}
			if strings.Contains(err.Error(), "PLANTED") {
				t.Errorf("the error repeats the answer: %.200s", err)
			}
			if gaveBack != tc.givesBack {
				t.Errorf("gave back: %v, want %v", gaveBack, tc.givesBack)
			}
		})
	}
}

func TestATokenDoesNotFollowARedirect(t *testing.T) {
	var stolen atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen.Store(true) }))
	defer thief.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		srv := httptest.NewServer(http.RedirectHandler(thief.URL, status))
		c, err := New(Config{URL: srv.URL, Source: fixed(), HTTP: srv.Client()})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Exchange(t.Context(), want)
		if CodeOf(err) != NotDaypass || !strings.Contains(err.Error(), "redirect") {
			t.Errorf("%d: got %v", status, err)
		}
		srv.Close()
	}
	if stolen.Load() {
		t.Error("the redirect was followed")
	}
}

func TestABrokerIsReachedOverTLSOrLoopbackOnly(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://daypass.example.com":        true,
		"https://example.com/daypass/":       true,
		"http://127.0.0.1:8080":              true,
		"http://localhost:8080":              true,
		"http://[::1]:8080":                  true,
		"http://[::ffff:127.0.0.1]":          true,
		"http://daypass.example.com":         false,
		"http://localhost.example.com":       false,
		"http://127.0.0.1.example.com":       false,
		"http://10.0.0.1":                    false,
		"http://2130706433":                  false, // 127.0.0.1 to some resolvers
		"https://user:pw@daypass.example.io": false,
		"https://daypass.example.com?x=1":    false,
		"https://daypass.example.com#x":      false,
		"ftp://127.0.0.1":                    false,
		"daypass.example.com":                false,
		"https:daypass.example.com":          false,
		"":                                   false,
	} {
		_, err := New(Config{URL: url})
		if (err == nil) != ok {
			t.Errorf("%q: %v, want accepted %v", url, err, ok)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: the error repeats the password: %v", url, err)
		}
	}
	if _, err := New(Config{URL: "http://daypass.internal", PlainHTTP: true}); err != nil {
		t.Errorf("plain http that was asked for: %v", err)
	}
}

func TestABearerThatCouldBreakAHeaderIsNotSent(t *testing.T) {
	b := orders()
	c := clientFor(t, Func(func(context.Context, string) (Secret, error) { return NewSecret("x\r\nEvil: 1"), nil }), inMemory{handler: b})
	_, err := c.Exchange(t.Context(), want)
	if err == nil || strings.Contains(err.Error(), "Evil") || len(b.Asked()) != 0 {
		t.Errorf("got %v, asked %v", err, b.Asked())
	}
	if _, err := c.Session(t.Context(), Secret{}); err == nil || len(b.Asked()) != 0 {
		t.Errorf("an empty session token was sent: %v, %v", err, b.Asked())
	}
}

func TestAClientIsSafeForConcurrentUse(t *testing.T) {
	b := orders()
	srv := httptest.NewServer(b)
	defer srv.Close()
	c, err := New(Config{URL: srv.URL, Source: numbered()})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			a, err := c.Exchange(t.Context(), want)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := c.GiveBack(t.Context(), a.Session.Token); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(b.Tokens()) != 8 || len(b.Live()) != 0 {
		t.Errorf("spent %v, live %v", b.Tokens(), b.Live())
	}
}

func TestAnAttemptThatHangsIsCutOff(t *testing.T) {
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-hang }))
	defer srv.Close()
	defer close(hang)
	c, err := New(Config{URL: srv.URL, Source: fixed(), Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Exchange(t.Context(), want)
	if !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
