package signing

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func config(dir string, now func() time.Time) Config {
	return Config{Dir: dir, Now: now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler), LongestToken: 2 * time.Hour}
}

func open(t *testing.T, dir string, now func() time.Time) *Ring {
	t.Helper()
	r, err := Open(config(dir, now))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sign(t *testing.T, r *Ring, payload string) string {
	t.Helper()
	s, err := r.Sign(t.Context(), "JWT", []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal()
}

func jwks(t *testing.T, r *Ring) []byte {
	t.Helper()
	b, err := r.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// check verifies a token as a stranger would who holds nothing but a JWKS.
func check(token string, set []byte) error {
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return err
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(set, &keys); err != nil {
		return err
	}
	found := keys.Key(parsed.Signatures[0].Header.KeyID)
	if len(found) != 1 {
		return fmt.Errorf("%d keys of that kid", len(found))
	}
	_, err = parsed.Verify(found[0])
	return err
}

func newDir(t *testing.T) string { return filepath.Join(t.TempDir(), "keys") }

func TestAVerifierThatKnowsOnlyOurURLAcceptsOurTokens(t *testing.T) {
	r := open(t, newDir(t), time.Now)
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(r.Discovery(server.URL))
	})
	mux.HandleFunc("/.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(jwks(t, r))
	})
	ctx := oidc.ClientContext(t.Context(), server.Client())
	provider, err := oidc.NewProvider(ctx, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: "sts.amazonaws.com"})
	claims := func(aud string) string {
		return fmt.Sprintf(`{"iss":%q,"sub":"dp:test:grant:x","aud":%q,"iat":%d,"exp":%d}`,
			server.URL, aud, time.Now().Unix(), time.Now().Add(time.Minute).Unix())
	}
	token, err := verifier.Verify(ctx, sign(t, r, claims("sts.amazonaws.com")))
	if err != nil || token.Subject != "dp:test:grant:x" {
		t.Errorf("%+v %v", token, err)
	}
	if _, err := verifier.Verify(ctx, sign(t, r, claims("somebody.else"))); err == nil {
		t.Error("a token for somebody else is accepted: the check above checks nothing")
	}
	stranger := open(t, newDir(t), time.Now)
	if _, err := verifier.Verify(ctx, sign(t, stranger, claims("sts.amazonaws.com"))); err == nil {
		t.Error("a token of another ring is accepted")
	}
}

func TestTheHeaderSaysAlgKidAndTypAndNoMore(t *testing.T) {
	r := open(t, newDir(t), time.Now)
	s, err := r.Sign(t.Context(), "at+jwt", []byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", s, s, s), s.Reveal()) {
		t.Error("the token shows when printed")
	}
	parsed, err := jose.ParseSignedCompact(s.Reveal(), []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	h := parsed.Signatures[0].Protected
	if h.Algorithm != "RS256" || h.ExtraHeaders["typ"] != "at+jwt" || len(h.ExtraHeaders) != 1 || h.JSONWebKey != nil {
		t.Errorf("header %+v", h)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(jwks(t, r), &set); err != nil {
		t.Fatal(err)
	}
	if id, _ := thumbprint(r.state.Load().keys[0].private); h.KeyID != id || set.Keys[0].KeyID != id {
		t.Errorf("kid %s, in the JWKS %s, thumbprint %s", h.KeyID, set.Keys[0].KeyID, id)
	}
}

func TestTheJWKSHasPublicMembersOnly(t *testing.T) {
	r := open(t, newDir(t), time.Now)
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(jwks(t, r), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 {
		t.Fatalf("%d keys", len(set.Keys))
	}
	for name := range set.Keys[0] {
		if !slices.Contains([]string{"kty", "use", "alg", "kid", "n", "e"}, name) {
			t.Errorf("the JWKS shows %q", name)
		}
	}
	if k := set.Keys[0]; k["kty"] != "RSA" || k["use"] != "sig" || k["alg"] != "RS256" || k["e"] != "AQAB" {
		t.Errorf("%v", k)
	}
}

func TestTheDiscoveryDocumentFitsWhatCloudsAsk(t *testing.T) {
	r := open(t, newDir(t), time.Now)
	for _, url := range []string{"https://daypass.example.com", "https://daypass.example.com/ci/"} {
		var doc map[string]any
		if err := json.Unmarshal(r.Discovery(url), &doc); err != nil {
			t.Fatal(err)
		}
		if doc["issuer"] != url {
			t.Errorf("issuer %v, which must be exactly %s", doc["issuer"], url)
		}
		if want := strings.TrimSuffix(url, "/") + "/.well-known/jwks.json"; doc["jwks_uri"] != want {
			t.Errorf("jwks_uri %v", doc["jwks_uri"])
		}
		if fmt.Sprint(doc["id_token_signing_alg_values_supported"]) != "[RS256]" {
			t.Errorf("algorithms %v", doc["id_token_signing_alg_values_supported"])
		}
		for _, name := range []string{"response_types_supported", "subject_types_supported", "claims_supported", "scopes_supported"} {
			if list, _ := doc[name].([]any); len(list) == 0 {
				t.Errorf("%s is missing", name)
			}
		}
	}
}

func TestOnlyJSONObjectsWithATypeAreSigned(t *testing.T) {
	r := open(t, newDir(t), time.Now)
	for _, payload := range []string{"", "null", "[]", `"x"`, "{", `{} {}`} {
		if _, err := r.Sign(t.Context(), "JWT", []byte(payload)); err == nil {
			t.Errorf("%q was signed", payload)
		}
	}
	if _, err := r.Sign(t.Context(), "", []byte("{}")); err == nil {
		t.Error("signed without a typ")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Sign(ctx, "JWT", []byte("{}")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSixteenBrokersThatStartAtOnceMakeOneKey(t *testing.T) {
	dir := newDir(t)
	rings := make([]*Ring, 16)
	var all sync.WaitGroup
	for i := range rings {
		all.Go(func() {
			r, err := Open(config(dir, time.Now))
			if err != nil {
				t.Error(err)
			}
			rings[i] = r
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	set := jwks(t, rings[0])
	derived, err := rings[0].DeriveKey("leases")
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rings {
		if got := jwks(t, r); string(got) != string(set) {
			t.Errorf("ring %d says %s", i, got)
		}
		if err := check(sign(t, r, "{}"), set); err != nil {
			t.Errorf("ring %d: %v", i, err)
		}
		if k, err := r.DeriveKey("leases"); err != nil || k != derived {
			t.Errorf("ring %d derives another key (%v)", i, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 3 { // a key, the secret, the lock
		t.Errorf("%v %v", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", f, info.Mode())
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v", info.Mode())
	}
}

func TestDerivedKeysDifferByLabelAndRing(t *testing.T) {
	a, b := open(t, newDir(t), time.Now), open(t, newDir(t), time.Now)
	seen := map[[32]byte]string{}
	for name, r := range map[string]*Ring{"a": a, "b": b} {
		for _, label := range []string{"leases", "sessions"} {
			k, err := r.DeriveKey(label)
			if err != nil {
				t.Fatal(err)
			}
			if other, ok := seen[k]; ok || k == [32]byte{} {
				t.Errorf("%s/%s is the same as %s", name, label, other)
			}
			seen[k] = name + "/" + label
		}
	}
	if _, err := a.DeriveKey(""); err == nil {
		t.Error("a key without a purpose is derived")
	}
}

// readAgain is what Run does each minute where nothing is due.
func readAgain(r *Ring) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remember(r.read())
}

// TestEveryTokenVerifiesWithTheJWKSOfADayBefore runs two brokers on one folder
// for seventy days, one of them two hours late to learn of each change. Every two
// hours both sign; a verifier may have fetched its JWKS from either, up to 24
// hours before, or fetch it as late as the token lives.
func TestEveryTokenVerifiesWithTheJWKSOfADayBefore(t *testing.T) {
	c := &clock{at: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	dir := newDir(t)
	a, b := open(t, dir, c.now), open(t, dir, c.now)
	const step = 2 * time.Hour
	type moment struct {
		jwks   [2][]byte
		tokens [2]string
	}
	var moments []moment
	kids := map[string]bool{}
	for range 70 * 24 * time.Hour / step {
		if err := readAgain(b); err != nil { // before a: it misses what a does now
			t.Fatal(err)
		}
		if err := a.tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		h := moment{[2][]byte{jwks(t, a), jwks(t, b)}, [2]string{sign(t, a, "{}"), sign(t, b, "{}")}}
		kids[a.state.Load().signer(c.now()).id] = true
		moments = append(moments, h)
		c.add(step)
	}
	for i, h := range moments {
		for _, at := range []int{max(i-int(24*time.Hour/step), 0), i, min(i+1, len(moments)-1)} {
			for _, set := range moments[at].jwks {
				for _, token := range h.tokens {
					if err := check(token, set); err != nil {
						t.Fatalf("a token of moment %d with the JWKS of moment %d: %v", i, at, err)
					}
				}
			}
		}
	}
	if len(kids) != 3 {
		t.Errorf("%d keys signed in 70 days, want 3", len(kids))
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(jwks(t, a), &set); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "key-*"))
	if len(set.Keys) != 1 || len(files) != 1 {
		t.Errorf("%d keys in the JWKS and %d in the folder after 70 days, want only the third", len(set.Keys), len(files))
	}
}

func TestAfterALongOutageTheOldKeySignsUntilTheNextIsKnown(t *testing.T) {
	c := &clock{at: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	dir := newDir(t)
	first := open(t, dir, c.now)
	old := jwks(t, first)
	c.add(200 * 24 * time.Hour)
	r := open(t, dir, c.now)
	if err := check(sign(t, r, "{}"), old); err != nil {
		t.Errorf("right after the outage: %v", err)
	}
	published := jwks(t, r)
	c.add(publishAhead)
	token := sign(t, r, "{}")
	if check(token, old) == nil {
		t.Error("the next key does not take over")
	}
	if err := check(token, published); err != nil {
		t.Errorf("the next key was not published: %v", err)
	}
}

func TestAClockThatIsBehindSignsWithTheFirstKey(t *testing.T) {
	c := &clock{at: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	dir := newDir(t)
	set := jwks(t, open(t, dir, c.now))
	c.add(-time.Minute)
	if err := check(sign(t, open(t, dir, c.now), "{}"), set); err != nil {
		t.Error(err)
	}
}

func TestRunLearnsWithinAMinuteAndRotates(t *testing.T) {
	dir := newDir(t)
	synctest.Test(t, func(t *testing.T) {
		a, b := open(t, dir, time.Now), open(t, dir, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := a.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		running.Go(func() {
			if err := b.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		count := func(r *Ring) int { return strings.Count(string(jwks(t, r)), `"kid"`) }
		time.Sleep(10 * time.Minute)
		if count(a) != 1 || count(b) != 1 {
			t.Error("a key was made too early")
		}
		// Sleeping on for four weeks would mean forty thousand looks: make
		// the key as old as that instead.
		age(t, dir, signingPeriod-publishAhead)
		time.Sleep(time.Minute + time.Second)
		if count(a) != 2 || count(b) != 2 {
			t.Errorf("%d and %d keys a minute after the next was due", count(a), count(b))
		}
		cancel()
		running.Wait()
	})
}

// age makes all keys of a folder older.
func age(t *testing.T, dir string, by time.Duration) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "key-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no keys in %s (%v)", dir, err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var f keyFile
		if err := json.Unmarshal(b, &f); err != nil {
			t.Fatal(err)
		}
		f.Published, f.SignsFrom, f.Retires = f.Published.Add(-by), f.SignsFrom.Add(-by), f.Retires.Add(-by)
		if b, err = json.Marshal(f); err != nil {
			t.Fatal(err)
		}
		if err := writePrivate(path, b); err != nil {
			t.Fatal(err)
		}
	}
}
