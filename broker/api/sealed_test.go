package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
)

const recipientKey = "hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo" // of RFC 7748, section 6.1

func TestASealedAnswerShowsNothingButCiphertext(t *testing.T) {
	f := &fakeBroker{answer: anAnswer()}
	f.answer.Sealed = &broker.Sealed{Request: "req_first", Enc: []byte{1, 2}, Ciphertext: []byte{251, 255}}
	w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: "/v1/exchange", bearer: ciToken,
		body: `{"grants":[{"name":"prod-db"}],"recipient_key":"` + recipientKey + `"}`})
	if want := `{"request_id":"` + fixedID + `","sealed":{"enc":"AQI","ciphertext":"-_8"}}`; w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("%d %s, want %s", w.Code, w.Body, want)
	}
	if asked := f.calls(); len(asked) != 1 || len(asked[0].want.Recipient) != 32 {
		t.Errorf("the broker was asked %+v", asked)
	}
}

func TestWhatIsSealedIsWhatAClientWouldHaveRead(t *testing.T) {
	f := &fakeBroker{answer: anAnswer()}
	w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: "/v1/exchange", bearer: ciToken, body: `{"grants":[{"name":"prod-db"}]}`})
	a := anAnswer()
	a.Request = fixedID
	plain, err := EncodeAnswer(a)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(w.Body.String()) != string(plain) || !json.Valid(plain) {
		t.Errorf("sealed would be\n%s\nplain is\n%s", plain, w.Body)
	}
}

func TestAnIdempotencyKeyIsForRequestsOnASession(t *testing.T) {
	for sentence, c := range map[string]struct {
		path, bearer, body string
		keys               []string
		status             int
		passed             string
	}{
		"on a session it is passed on":    {"/v1/credentials", sessionToken, `{"grants":[]}`, []string{"a-1"}, 200, "a-1"},
		"on an exchange it is refused":    {"/v1/exchange", ciToken, `{"grants":[]}`, []string{"a-1"}, 400, ""},
		"two of them are refused":         {"/v1/credentials", sessionToken, `{"grants":[]}`, []string{"a", "b"}, 400, ""},
		"an empty one is refused":         {"/v1/credentials", sessionToken, `{"grants":[]}`, []string{""}, 400, ""},
		"one with a space is refused":     {"/v1/credentials", sessionToken, `{"grants":[]}`, []string{"a b"}, 400, ""},
		"one of 256 letters is refused":   {"/v1/credentials", sessionToken, `{"grants":[]}`, []string{strings.Repeat("a", 256)}, 400, ""},
		"a recipient key comes too late":  {"/v1/credentials", sessionToken, `{"recipient_key":"` + recipientKey + `"}`, nil, 400, ""},
		"without one the request is made": {"/v1/credentials", sessionToken, `{"grants":[]}`, nil, 200, ""},
	} {
		f := &fakeBroker{answer: anAnswer()}
		w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: c.path, bearer: c.bearer, body: c.body,
			header: http.Header{"Idempotency-Key": c.keys}})
		asked := f.calls()
		if w.Code != c.status || (c.status == 200) != (len(asked) == 1) {
			t.Errorf("%s: %d %s", sentence, w.Code, w.Body)
			continue
		}
		if len(asked) == 1 && asked[0].want.Idempotency != c.passed {
			t.Errorf("%s: passed on %q", sentence, asked[0].want.Idempotency)
		}
	}
}

func TestTheSessionOfAFailedExchangeIsSealedOrInClearAndNeverBoth(t *testing.T) {
	for name, sealed := range map[string]*broker.Sealed{"in clear": nil, "sealed": {Enc: []byte{1, 2}, Ciphertext: []byte{251, 255}}} {
		f := &fakeBroker{answer: broker.Answer{Token: anAnswer().Token, Session: anAnswer().Session, Sealed: sealed},
			err: &broker.Error{Code: broker.MintFailed, Public: "nothing was issued"}}
		w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: "/v1/exchange", bearer: ciToken,
			body: `{"grants":[{"name":"prod-db"}],"recipient_key":"` + recipientKey + `"}`})
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusBadGateway || got["code"] != "mint_failed" {
			t.Fatalf("%s: %d %s", name, w.Code, w.Body)
		}
		_, clear := got["session"]
		if clear != (sealed == nil) || strings.Contains(w.Body.String(), anAnswer().Token.Reveal()) != clear {
			t.Errorf("%s: %s", name, w.Body)
		}
		if sealed != nil && !strings.Contains(w.Body.String(), `"sealed":{"enc":"AQI","ciphertext":"-_8"}`) {
			t.Errorf("%s: %s", name, w.Body)
		}
	}
}
