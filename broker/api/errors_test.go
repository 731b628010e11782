package api

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

var update = flag.Bool("update", false, "rewrite golden files")

func allCodes() []broker.Code {
	return []broker.Code{broker.BadRequest, broker.TokenInvalid, broker.TokenExpired, broker.TokenStale, broker.TokenReused,
		broker.SessionExpired, broker.Denied, broker.NotFound, broker.Conflict, broker.RateLimited, broker.Unavailable,
		broker.MintFailed, broker.Internal}
}

// dump is an answer as one reads it: status, headers in order, body.
func dump(w *httptest.ResponseRecorder) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n", w.Code)
	var names []string
	for name := range w.Header() {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(w.Header()[name], " | "))
	}
	fmt.Fprintf(&b, "\n%s\n", w.Body)
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s; got:\n%s", path, got)
	}
}

func goldenName(rt route) string {
	return strings.Trim(strings.NewReplacer("/", "-", " ", "", "{", "", "}", "").Replace(strings.ToLower(rt.String())), "-")
}

func TestEveryRouteAnswersEveryErrorTheSameWay(t *testing.T) {
	for _, rt := range jobRoutes(t) {
		t.Run(rt.String(), func(t *testing.T) {
			var got strings.Builder
			for _, code := range allCodes() {
				f := &fakeBroker{err: fmt.Errorf("wrapped: %w", &broker.Error{Code: code, Public: "words about " + string(code),
					Err: errors.New("a cause that only the log may know")})}
				w := send(NewPublic(publicConfig(f, &logBook{})), requestFor(rt))
				fmt.Fprintf(&got, "== %s\n%s\n", code, dump(w))
				if len(f.calls()) != 1 {
					t.Errorf("%s: the broker was called %d times", code, len(f.calls()))
				}
				if strings.Contains(w.Body.String(), "a cause") {
					t.Errorf("%s: the cause is in the answer", code)
				}
			}
			golden(t, goldenName(rt), got.String())
		})
	}
}

func TestOneTableMapsEveryCode(t *testing.T) {
	want := map[broker.Code]int{
		"bad_request": 400, "token_invalid": 401, "token_expired": 401, "token_stale": 401, "session_expired": 401, "denied": 403,
		"not_found": 404, "token_reused": 409, "conflict": 409, "rate_limited": 429, "internal": 500, "mint_failed": 502, "unavailable": 503}
	table := verdicts()
	if len(table) != len(want) || len(allCodes()) != len(want) {
		t.Fatalf("the table has %d codes, the test %d and %d", len(table), len(want), len(allCodes()))
	}
	for code, status := range want {
		if table[code].status != status || table[code].title == "" {
			t.Errorf("%s is %+v, want %d and a title", code, table[code], status)
		}
	}
}

func TestWhatWeDidNotForeseeIsAFaultOfOurs(t *testing.T) {
	for name, err := range map[string]error{
		"an error without a code":       errors.New("dial tcp 10.1.2.3:5432: password wrong for admin"),
		"a code that nobody knows":      &broker.Error{Code: "teapot", Public: "short and stout"},
		"an internal error with a text": &broker.Error{Code: broker.Internal, Public: "grant x cannot be planned"},
	} {
		t.Run(name, func(t *testing.T) {
			w := send(NewPublic(publicConfig(&fakeBroker{err: err}, &logBook{})), requestFor(jobRoutes(t)[0]))
			var p problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			if w.Code != 500 || p.Code != broker.Internal || p.Detail != internalDetail || p.RequestID != fixedID {
				t.Errorf("got %d %+v", w.Code, p)
			}
		})
	}
}

func TestRetryAfterIsWholeSecondsRoundedUp(t *testing.T) {
	for wait, want := range map[time.Duration]string{1: "1", time.Second: "1", 1001 * time.Millisecond: "2", time.Minute: "60", 0: ""} {
		e := &broker.Error{Code: broker.TokenStale, RetryAfter: wait}
		if got := retryAfter(e, fixedRand{}); got != want {
			t.Errorf("%v: got %q, want %q", wait, got, want)
		}
	}
}

func TestJobsSentAwayTogetherAreToldDifferentTimes(t *testing.T) {
	for _, code := range []broker.Code{broker.Unavailable, broker.RateLimited} {
		seen := map[string]bool{}
		for b := range 256 {
			seen[retryAfter(&broker.Error{Code: code}, strings.NewReader(string([]byte{byte(b)})))] = true
		}
		if len(seen) != 5 || !seen["1"] || !seen["5"] {
			t.Errorf("%s: told %v, want 1 to 5", code, seen)
		}
		if got := retryAfter(&broker.Error{Code: code}, brokenRand{}); got != "5" {
			t.Errorf("%s without randomness: %q", code, got)
		}
	}
}

func TestAFailedExchangeHandsOverTheSessionItOpened(t *testing.T) {
	for _, code := range []broker.Code{broker.MintFailed, broker.Conflict, broker.Unavailable} {
		f := &fakeBroker{answer: anAnswer(), err: &broker.Error{Code: code, Public: "no"}}
		w := send(NewPublic(publicConfig(f, &logBook{})), requestFor(jobRoutes(t)[0]))
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if p.Session == nil || p.Session.Token != sessionToken || p.Session.Expires != "2026-11-23T12:05:00Z" {
			t.Errorf("%s: session is %+v", code, p.Session)
		}
		if strings.Contains(w.Body.String(), "password") {
			t.Errorf("%s: a credential is in an error", code)
		}
	}
}

func TestARefusalWithoutASessionInventsNone(t *testing.T) {
	f := &fakeBroker{err: &broker.Error{Code: broker.MintFailed, Public: "no"}}
	w := send(NewPublic(publicConfig(f, &logBook{})), requestFor(jobRoutes(t)[1]))
	if strings.Contains(w.Body.String(), "session") {
		t.Errorf("got %s", w.Body)
	}
}

func TestDenialsAreToldWithADenialOnly(t *testing.T) {
	denials := []broker.Denial{{Grant: "orders-db", Rule: "a.yaml/b", Failed: []broker.Mismatch{
		{Claim: "ref", Saw: "refs/heads/x"}, {Claim: "run_attempt", Saw: json.Number("2"), Wanted: json.Number("1")}}}, {Grant: "g", Rule: "r"}}
	for code, want := range map[broker.Code]string{
		broker.Denied: `"denials":[{"grant":"orders-db","rule":"a.yaml/b","failed":[{"claim":"ref","saw":"refs/heads/x"},` +
			`{"claim":"run_attempt","saw":2,"wanted":1}]},{"grant":"g","rule":"r","failed":[]}]`,
		broker.RateLimited: "",
	} {
		f := &fakeBroker{err: &broker.Error{Code: code, Public: "no", Denials: denials}}
		got := send(NewPublic(publicConfig(f, &logBook{})), requestFor(jobRoutes(t)[0])).Body.String()
		if want == "" && strings.Contains(got, "denials") || !strings.Contains(got, want) {
			t.Errorf("%s: got %s", code, got)
		}
	}
}

func TestADenialThatJSONCannotSayIsLeftOut(t *testing.T) {
	f := &fakeBroker{err: &broker.Error{Code: broker.Denied, Public: "no", Denials: []broker.Denial{
		{Grant: "g", Failed: []broker.Mismatch{{Claim: "c", Saw: func() {}}}}}}}
	w := send(NewPublic(publicConfig(f, &logBook{})), requestFor(jobRoutes(t)[0]))
	if w.Code != 403 || !json.Valid(w.Body.Bytes()) || strings.Contains(w.Body.String(), "denials") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestAnUnknownPathIsAProblemToo(t *testing.T) {
	h := NewPublic(publicConfig(&fakeBroker{}, &logBook{}))
	for _, path := range []string{"/", "/v1", "/v1/exchange/", "//v1/exchange", "/v1/%65xchange", "/V1/exchange", "/v1/leases/", "/metrics",
		"/admin/v1/leases", "/debug/pprof/", "/v1/../healthz", "/healthz/.", "/index.html"} {
		w := send(h, ask{method: "GET", path: path, bearer: adminToken, header: http.Header{"Host": {"127.0.0.1:8081"}}})
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 404 || p.Code != broker.NotFound ||
			w.Header().Get("Content-Type") != mediaProblem {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestAnotherMethodIsToldWhichOnesThereAre(t *testing.T) {
	h := NewPublic(publicConfig(&fakeBroker{}, &logBook{}))
	for path, allow := range map[string]string{"/v1/exchange": "POST", "/v1/session": "DELETE, GET", "/healthz": "GET, HEAD", "/v1/leases/x": "DELETE"} {
		for _, method := range []string{"PUT", "OPTIONS", "PROPFIND", "TRACE", "PATCH"} {
			w := send(h, ask{method: method, path: path, header: http.Header{"Origin": {"https://evil.example"}, "Access-Control-Request-Method": {"POST"}}})
			got := strings.Split(w.Header().Get("Allow"), ", ")
			slices.Sort(got)
			if w.Code != 405 || strings.Join(got, ", ") != allow || w.Header().Get("Content-Type") != mediaProblem {
				t.Errorf("%s %s: %d, Allow %q, %s", method, path, w.Code, w.Header().Get("Allow"), w.Body)
			}
			for name := range w.Header() {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s %s: answers with %s", method, path, name)
				}
			}
		}
	}
}
