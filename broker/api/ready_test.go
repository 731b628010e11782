package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func readyOf(t *testing.T, h http.Handler) (int, readyJSON) {
	t.Helper()
	w := send(h, ask{method: "GET", path: "/readyz"})
	var r readyJSON
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	checkAgainstOpenAPI(t, "GET", "/readyz", w.Code, w.Header().Get("Content-Type"), w.Body.Bytes())
	return w.Code, r
}

func TestReadyMeansThatEveryPartIs(t *testing.T) {
	good := func(context.Context) error { return nil }
	for name, row := range map[string]struct {
		check  func(context.Context) error
		status int
		reason string
	}{
		"all good": {good, 200, ""},
		"with words for people": {func(context.Context) error {
			return &broker.Error{Code: broker.Unavailable, Public: "the fence is not confirmed yet"}
		}, 503, "the fence is not confirmed yet"},
		"with a cause only": {func(context.Context) error { return errors.New("dial redis://user:SECRET@host") }, 503, "not ready; the broker's log says why"},
		"a fault of ours":   {func(context.Context) error { return &broker.Error{Code: broker.Internal, Public: "SECRET"} }, 503, "not ready; the broker's log says why"},
		"a panic":           {func(context.Context) error { panic("SECRET") }, 503, "not ready; the broker's log says why"},
	} {
		t.Run(name, func(t *testing.T) {
			c := publicConfig(&fakeBroker{}, &logBook{})
			c.Ready = []Check{{Name: "journal", Func: good}, {Name: "replay", Func: row.check}}
			status, got := readyOf(t, NewPublic(c))
			if status != row.status || got.Ready != (row.status == 200) || len(got.Checks) != 2 || !got.Checks[0].Ready ||
				got.Checks[1] != (readyPartJSON{Name: "replay", Ready: row.status == 200, Reason: row.reason}) {
				t.Errorf("%d %+v", status, got)
			}
		})
	}
}

func TestAPartThatOnlyDegradesIsToldAndDoesNotMakeTheBrokerUnready(t *testing.T) {
	c := publicConfig(&fakeBroker{}, &logBook{})
	c.Ready = []Check{
		{Name: "journal", Func: func(context.Context) error { return nil }},
		{Name: "issuer github", Degrades: true, Func: func(context.Context) error {
			return &broker.Error{Code: broker.Unavailable, Public: "its keys could not be fetched"}
		}},
	}
	status, got := readyOf(t, NewPublic(c))
	if status != 200 || !got.Ready || got.Checks[1] != (readyPartJSON{Name: "issuer github", Reason: "its keys could not be fetched"}) {
		t.Errorf("%d %+v", status, got)
	}
}

func TestAPartThatHangsIsNotReadyAfterTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := publicConfig(&fakeBroker{}, &logBook{})
		c.Now = time.Now
		c.Ready = []Check{{Name: "replay", Func: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}}
		began := time.Now()
		status, got := readyOf(t, NewPublic(c))
		if status != 503 || got.Ready || time.Since(began) != readyTimeout {
			t.Errorf("%d %+v after %v", status, got, time.Since(began))
		}
	})
}

func TestStrangersCannotMakeThePartsWork(t *testing.T) {
	var asked atomic.Int32
	now := noon
	c := publicConfig(&fakeBroker{}, &logBook{})
	c.Now = func() time.Time { return now }
	c.Ready = []Check{{Name: "replay", Func: func(context.Context) error { asked.Add(1); return nil }}}
	h := NewPublic(c)
	for range 100 {
		readyOf(t, h)
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times within a second", asked.Load())
	}
	now = now.Add(readyAge)
	readyOf(t, h)
	if asked.Load() != 2 {
		t.Errorf("asked %d times after a second", asked.Load())
	}
	now = now.Add(-time.Hour) // a clock that went back must not freeze the answer
	readyOf(t, h)
	if asked.Load() != 3 {
		t.Errorf("asked %d times after the clock went back", asked.Load())
	}
}

func TestOnlyAChangeOfReadinessIsLogged(t *testing.T) {
	now, log := noon, &logBook{}
	var fault error
	c := publicConfig(&fakeBroker{}, log)
	c.Now = func() time.Time { return now }
	c.Ready = []Check{{Name: "journal", Func: func(context.Context) error { return fault }}}
	h := NewPublic(c)
	for _, fault = range []error{nil, errors.New("disk full"), errors.New("disk full"), nil, nil} {
		readyOf(t, h)
		now = now.Add(time.Minute)
	}
	if text := log.String(); strings.Count(text, `"not ready"`) != 1 || strings.Count(text, `"ready again"`) != 1 || !strings.Contains(text, "disk full") {
		t.Errorf("got %s", text)
	}
}

func TestKeysAndDiscoveryComeFromTheKeyRing(t *testing.T) {
	h := NewPublic(publicConfig(&fakeBroker{}, &logBook{}))
	if got := send(h, ask{method: "GET", path: "/.well-known/jwks.json"}).Body.String(); got != `{"keys":[]}` {
		t.Errorf("jwks: %s", got)
	}
	if got := send(h, ask{method: "GET", path: "/.well-known/openid-configuration"}).Body.String(); got != `{"issuer":"https://daypass.example.com"}` {
		t.Errorf("discovery: %s", got)
	}
	c := publicConfig(&fakeBroker{}, &logBook{})
	c.Keys = fakeKeys{err: errors.New("open /data/keys: permission denied")}
	w := send(NewPublic(c), ask{method: "GET", path: "/.well-known/jwks.json"})
	if w.Code != 503 || w.Header().Get("Cache-Control") != "no-store" || strings.Contains(w.Body.String(), "/data") {
		t.Errorf("a broken key ring: %d %s", w.Code, w.Body)
	}
}
