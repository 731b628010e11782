package daypass

import (
	"bytes"
	"crypto/hpke"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/daypass-dev/daypass/clients/go/daypasstest"
)

// box is what a broker of a test seals, and how; the zero values are right.
type box struct {
	plain string
	token string // of whose exchange it is the answer
	info  string
	to    hpke.PublicKey
	spoil func(enc, ciphertext []byte) ([]byte, []byte)
}

// sealedTo answers an exchange as a broker does, or wrongly where b says so.
func sealedTo(t *testing.T, r *http.Request, b box) string {
	t.Helper()
	var asked wireRequest
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		t.Fatal(err)
	}
	public, err := base64.RawURLEncoding.DecodeString(asked.Recipient)
	if err != nil {
		t.Fatal(err)
	}
	if b.to == nil {
		if b.to, err = kem().NewPublicKey(public); err != nil {
			t.Fatal(err)
		}
	}
	if b.token == "" {
		b.token = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	if b.info == "" {
		b.info = "daypass/v1 exchange"
	}
	names, err := namesOfToken(NewSecret(b.token))
	if err != nil {
		t.Fatal(err)
	}
	enc, sender, err := hpke.NewSender(b.to, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte(b.info))
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := sender.Seal(names[0][:], []byte(b.plain))
	if err != nil {
		t.Fatal(err)
	}
	if b.spoil != nil {
		enc, ciphertext = b.spoil(enc, ciphertext)
	}
	answer, err := json.Marshal(map[string]any{"request_id": "req_outside", "sealed": map[string]string{
		"enc": base64.RawURLEncoding.EncodeToString(enc), "ciphertext": base64.RawURLEncoding.EncodeToString(ciphertext)}})
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

const sealedAnswer = `{"request_id":"req_inside","session":{"token":"dps_x","expires_at":"2030-01-01T00:00:00Z"},"credentials":[]}`

func TestOnlyWhatWasSealedForThisRequestAndKeyIsOpened(t *testing.T) {
	other, err := newRecipient()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		box  box
		good bool
	}{
		"an answer to this token, sealed to this key": {box{}, true},
		"an answer to another token":                  {box{token: daypasstest.Token("another")}, false},
		"an answer for another use":                   {box{info: "daypass/v2 exchange"}, false},
		"an answer to somebody else's key":            {box{to: other.private.PublicKey()}, false},
		"another encapsulated key":                    {box{spoil: func(_, c []byte) ([]byte, []byte) { return other.private.PublicKey().Bytes(), c }}, false},
		"an encapsulated key of low order":            {box{spoil: func(_, c []byte) ([]byte, []byte) { return make([]byte, 32), c }}, false},
		"an encapsulated key that is cut":             {box{spoil: func(e, c []byte) ([]byte, []byte) { return e[:31], c }}, false},
		"no encapsulated key":                         {box{spoil: func(_, c []byte) ([]byte, []byte) { return nil, c }}, false},
		"a ciphertext with one bit turned":            {box{spoil: func(e, c []byte) ([]byte, []byte) { c[0] ^= 1; return e, c }}, false},
		"a ciphertext that is cut":                    {box{spoil: func(e, c []byte) ([]byte, []byte) { return e, c[:len(c)-1] }}, false},
		"no ciphertext":                               {box{spoil: func(e, _ []byte) ([]byte, []byte) { return e, nil }}, false},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				tc.box.plain = sealedAnswer
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, sealedTo(t, r, tc.box))
			})
			a, err := clientFor(t, fixed(), inMemory{handler: h}).Exchange(t.Context())
			if tc.good {
				if err != nil || a.Session.Token.Reveal() != "dps_x" || a.RequestID != "req_inside" {
					t.Errorf("got %+v, %v", a, err)
				}
				return
			}
			if CodeOf(err) != NotDaypass || !errors.Is(err, errSealed) || asked != 1 {
				t.Errorf("got %v after %d requests", err, asked)
			}
		})
	}
}

func TestAnAnswerInClearIsRefusedAndWhatItOpenedIsEnded(t *testing.T) {
	ended := ""
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodDelete {
			ended = r.Header.Get("Authorization")
			_, _ = io.WriteString(w, `{"leases":[]}`)
			return
		}
		_, _ = io.WriteString(w, sealedAnswer)
	})
	_, err := clientFor(t, fixed(), inMemory{handler: h}).Exchange(t.Context())
	if CodeOf(err) != NotDaypass || !strings.Contains(err.Error(), "not sealed") {
		t.Errorf("got %v", err)
	}
	if ended != "Bearer dps_x" {
		t.Errorf("its session lives on: %q", ended)
	}
}

// tap is a broker whose exchanges are recorded, as whoever sits on the way and
// has the keys of TLS could.
type tap struct {
	http.Handler
	mu    sync.Mutex
	seen  []*http.Request
	said  []string // bodies of requests
	heard []string // bodies of answers
}

func (p *tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	again := r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	rec := httptest.NewRecorder()
	p.Handler.ServeHTTP(rec, r)
	p.mu.Lock()
	p.seen, p.said, p.heard = append(p.seen, again), append(p.said, string(body)), append(p.heard, rec.Body.String())
	p.mu.Unlock()
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

// replay sends a recorded request again, with another body where one is given.
func (p *tap) replay(n int, body string) *httptest.ResponseRecorder {
	r := p.seen[n].Clone(p.seen[n].Context())
	if body == "" {
		body = p.said[n]
	}
	r.Body = io.NopCloser(strings.NewReader(body))
	rec := httptest.NewRecorder()
	p.Handler.ServeHTTP(rec, r)
	return rec
}

func TestAThiefOfTheTokenAndThePublicKeyReadsNothing(t *testing.T) {
	b := orders()
	way := &tap{Handler: b}
	if _, err := clientFor(t, fixed(), inMemory{handler: way}).Exchange(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	for _, text := range append(way.said, way.heard...) {
		if strings.Contains(text, "hunter") || strings.Contains(text, "dps_") {
			t.Errorf("on the way is to be read: %s", text)
		}
	}
	thief, err := newRecipient()
	if err != nil {
		t.Fatal(err)
	}
	names, err := namesOfToken(NewSecret(daypasstest.Token("ci")))
	if err != nil {
		t.Fatal(err)
	}
	var got wireAnswer
	if again := way.replay(0, ""); json.Unmarshal(again.Body.Bytes(), &got) != nil || got.Sealed == nil || got.Session != nil || got.Credentials != nil {
		t.Fatalf("the same request is answered %s", again.Body)
	}
	if plain, err := thief.open(*got.Sealed, names); err == nil {
		t.Errorf("the thief reads %s", plain)
	}
	for what, body := range map[string]string{
		"a key of the thief's": `{"grants":[{"name":"orders-db"}],"recipient_key":"` + thief.public() + `"}`,
		"no key":               `{"grants":[{"name":"orders-db"}]}`,
	} {
		if rec := way.replay(0, body); rec.Code != http.StatusConflict || !strings.Contains(rec.Body.String(), "token_reused") {
			t.Errorf("%s: %d %s", what, rec.Code, rec.Body)
		}
	}
	if b.Made() != 1 {
		t.Errorf("%d credentials were made", b.Made())
	}
}

func TestEveryExchangeHasAKeyOfItsOwn(t *testing.T) {
	way := &tap{Handler: orders()}
	c := clientFor(t, numbered(), inMemory{handler: way})
	keys := map[string]bool{}
	for range 3 {
		a, err := c.Exchange(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		keys[a.Session.Key.Reveal()] = true
	}
	if len(keys) != 3 || keys[""] {
		t.Errorf("%d keys for 3 sessions", len(keys))
	}
	if text := strings.Join(way.said, "\n"); strings.Count(text, "recipient_key") != 3 {
		t.Errorf("asked %s", text)
	}
	for key := range keys {
		if strings.Contains(strings.Join(way.said, "\n"), key) {
			t.Error("a private key was sent")
		}
	}
}

func TestASessionWithoutAKeyIsServedInClear(t *testing.T) {
	b := orders()
	rec := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/v1/exchange", strings.NewReader(`{"grants":[]}`))
	r.Header.Set("Authorization", "Bearer "+daypasstest.Token("by-curl"))
	r.Header.Set("Content-Type", "application/json")
	b.ServeHTTP(rec, r)
	c := clientFor(t, nil, inMemory{handler: b})
	s := Session{Token: NewSecret("dps_fake-session-1")}
	if a, err := c.Credentials(t.Context(), s, want); err != nil || len(a.Credentials) != 1 {
		t.Fatalf("got %+v, %v; the session was opened with %s", a, err, rec.Body)
	}
	key, err := newRecipient()
	if err != nil {
		t.Fatal(err)
	}
	if s.Key, err = key.secret(); err != nil {
		t.Fatal(err)
	}
	if a, err := c.Credentials(t.Context(), s, want); err == nil {
		t.Errorf("an answer in clear was taken for a sealed one: %+v", a)
	}
	s.Key = NewSecret("planted-key")
	if _, err := c.Credentials(t.Context(), s, want); err == nil || strings.Contains(err.Error(), "planted") {
		t.Errorf("a key that is none: %v", err)
	}
}

func TestASealedAnswerWithoutItsKeyIsNotTakenForAnEmptyOne(t *testing.T) {
	c := clientFor(t, numbered(), inMemory{handler: orders()})
	a, err := c.Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.Session.Key = Secret{}
	if got, err := c.Credentials(t.Context(), a.Session); CodeOf(err) != NotDaypass {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestATokenWhoseAnswerCouldNotBeOpenedIsNotSpent(t *testing.T) {
	part := base64.RawURLEncoding.EncodeToString
	for name, token := range map[string]string{
		"no JWT":            "planted",
		"two parts":         "planted.planted",
		"no base64url":      "planted.=.planted",
		"no JSON":           "planted." + part([]byte("{planted")) + ".planted",
		"no object":         "planted." + part([]byte(`["planted"]`)) + ".planted",
		"no issuer":         "planted." + part([]byte(`{"jti":"planted"}`)) + ".planted",
		"an issuer in caps": "planted." + part([]byte(`{"ISS":"planted"}`)) + ".planted",
	} {
		b := orders()
		_, err := clientFor(t, Static(NewSecret(token)), inMemory{handler: b}).Exchange(t.Context(), want)
		if err == nil || strings.Contains(err.Error(), "planted") || len(b.Asked()) != 0 {
			t.Errorf("%s: %v, asked %v", name, err, b.Asked())
		}
	}
}

func TestATokenWithoutAnIDIsNamedByWhatIsSigned(t *testing.T) {
	signed := "aGVhZGVy." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"https://ci.example.com"}`))
	names, err := namesOfToken(NewSecret(signed + ".c2lnbmF0dXJl"))
	if err != nil || len(names) != 1 || names[0] != nameOf("https://ci.example.com", signed) {
		t.Errorf("got %v, %v", names, err)
	}
}

// A session that was sealed to somebody else is none of ours: the refusal stands
// alone, and nothing that came with it is believed.
func TestASessionInARefusalThatCannotBeOpenedIsNone(t *testing.T) {
	to, err := newRecipient()
	if err != nil {
		t.Fatal(err)
	}
	foreign := &wireSealed{Enc: strings.Repeat("A", 43), Ciphertext: strings.Repeat("A", 80)}
	for name, o := range map[string]order{
		"of an exchange":       {path: "/v1/exchange", to: to, names: []requestName{{}}},
		"on a session":         {path: "/v1/credentials", to: to, names: []requestName{{}}},
		"where no key is used": {path: "/v1/exchange"},
	} {
		got := o.open(&Error{Code: MintFailed, Status: 502, sealed: foreign})
		e, ok := errors.AsType[*Error](got)
		if !ok || e.Code != MintFailed || e.Session != nil {
			t.Errorf("%s: %#v", name, got)
		}
	}
	if other := errors.New("something else"); (order{path: "/v1/exchange", to: to}).open(other) != other {
		t.Error("an error that is no refusal was changed")
	}
}
