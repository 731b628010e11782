package issuers

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// alone is go-oidc without us: its own verifier over a fixed key. Its clock
// goes as far back as our leeway, which it has none of for the expiry.
func alone(url, alg string, key crypto.PublicKey) *oidc.IDTokenVerifier {
	return oidc.NewVerifier(url, &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key}}, &oidc.Config{
		ClientID: ourAudience, SupportedSigningAlgs: []string{alg},
		Now: at(noon.Add(-defaultLeeway - time.Second)),
	})
}

// disagreement says how go-oidc's reading of a token that we accepted differs.
func disagreement(ctx context.Context, v *oidc.IDTokenVerifier, raw string, id broker.Identity) error {
	other, err := v.Verify(ctx, raw)
	if err != nil {
		return fmt.Errorf("go-oidc refuses it: %w", err)
	}
	var payload json.RawMessage
	if err := other.Claims(&payload); err != nil {
		return err
	}
	var claims map[string]any
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if err := d.Decode(&claims); err != nil {
		return err
	}
	switch {
	case !reflect.DeepEqual(claims, map[string]any(id.Claims)):
		return fmt.Errorf("claims %v, go-oidc %v", id.Claims, claims)
	case other.Issuer != id.URL || other.Subject != id.Subject:
		return fmt.Errorf("%s of %s, go-oidc %s of %s", id.Subject, id.URL, other.Subject, other.Issuer)
	case len(other.Audience) != 1 || other.Audience[0] != ourAudience:
		return fmt.Errorf("for %v", other.Audience)
	case other.Expiry.Unix() != id.Expires.Unix() || other.IssuedAt.Unix() != id.IssuedAt.Unix():
		return fmt.Errorf("%s to %s, go-oidc %s to %s", id.IssuedAt, id.Expires, other.IssuedAt, other.Expiry)
	}
	return nil
}

// laxer are the classes of which go-oidc alone takes tokens that we refuse, and
// why it may and we may not.
var laxer = map[string]string{
	"a claim twice":                  "it takes the last: two readers, two tokens",
	"a claim in two cases":           "it takes either case for the name",
	"a claim twice, escaped":         "it takes the last",
	"a member twice within":          "it does not look within",
	"a name that folds":              "it takes any name, and the long s for an s",
	"a line break":                   "its base64 skips line breaks",
	"unused bits":                    "its base64 drops unused bits",
	"a foreign character":            "it strips white space from a token",
	"JSON serialisation":             "it takes both serialisations",
	"too large":                      "it strips white space from a token, whatever its length",
	"a critical extension":           "it takes a list that names nothing",
	"an unencoded payload":           "it passes over b64 where crit does not name it",
	"what belongs to JWE":            "it passes over members of a header that mean nothing to it",
	"a header's member twice":        "it passes over KID and ALG as names it does not know",
	"an unknown member":              "it passes over members of a header that it does not know",
	"odd text":                       "it takes control characters, and mends what is not Unicode",
	"odd text in the header":         "the same",
	"an odd number":                  "it takes numbers of any length",
	"too deep":                       "it stops at 10,000 levels",
	"audiences":                      "it takes a token for us and others",
	"no kid":                         "one fixed key needs none",
	"a kid nobody has":               "one fixed key has no name",
	"a long word":                    "it takes words of any length",
	"a word of another type":         "it does not look at typ and x5t",
	"another kind of token":          "it does not look at typ",
	"no subject":                     "an ID token of a job has one; a login may not",
	"no token id":                    "it remembers no tokens",
	"a token id of a type":           "it remembers no tokens",
	"a long token id":                "it remembers no tokens",
	"a required claim less":          "it knows no jobs",
	"another token of the same key":  "it knows no jobs",
	"the token that asks for tokens": "it knows no jobs",
	"lives too long":                 "it knows no longest life",
	"issued later":                   "it does not look at iat",
	"begins later":                   "it grants nbf five minutes, which chance seldom hits",
	"no time of issue":               "it does not look at iat",
	"an odd issue":                   "it takes any number for a time",
	"an odd expiry":                  "it takes any number for a time",
	"an odd start":                   "it takes any number for a time",
	"ends before it was":             "its clock, set back for the leeway, has not got there",
}

// TestWhereWeAndGoOIDCDifferWeAreStricter shows both the same tokens.
func TestWhereWeAndGoOIDCDifferWeAreStricter(t *testing.T) {
	rig, seed, classes := newForgeRig(t), seedOf(t), forgeries()
	taken := map[string]bool{}
	for p, fake := range rig.fakes {
		_, key := fake.Key()
		other := alone(fake.URL(p), "RS256", &key.PublicKey)
		for _, name := range slices.Sorted(maps.Keys(classes)) {
			for n := range uint64(12) {
				f := newForger(rig, p, seed, n)
				if _, err := other.Verify(t.Context(), classes[name].forge(f)); err == nil {
					taken[name] = true
				}
			}
		}
		for n := range uint64(100) {
			raw := newForger(rig, p, seed, n).twin()
			id, err := rig.set.Verify(t.Context(), broker.NewSecret(raw))
			if err != nil {
				t.Errorf("an honest token: %v", err)
				continue
			}
			if err := disagreement(t.Context(), other, raw, id); err != nil {
				t.Error(err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(taken)) {
		if _, listed := laxer[name]; !listed {
			t.Errorf("go-oidc takes %q, and nobody has said why that is", name)
		}
	}
	t.Logf("go-oidc alone takes tokens of %d of %d classes of forgery, ours of none", len(taken), len(classes))
}

// FuzzVerify lets an issuer sign anything: whatever we accept, go-oidc accepts
// and reads the same claims in it. The issuer signs with Ed25519, so that most of
// the time is not spent on signing.
func FuzzVerify(f *testing.F) {
	r := newAlgRig(f, "EdDSA")
	other := alone(r.all[0].url, r.alg, r.public())
	r.seed(f)
	f.Fuzz(func(t *testing.T, header, payload string) {
		raw := r.signed(t, r.headed(header), payload)
		id, err := r.Verify(t.Context(), broker.NewSecret(raw))
		if err != nil {
			return
		}
		if err := disagreement(t.Context(), other, raw, id); err != nil {
			t.Fatal(err)
		}
	})
}

// algRig is a rig whose issuer signs by one algorithm, be it one that its
// profile lists or not, and that asks nobody for its key.
type algRig struct {
	rig
	alg    string
	key    crypto.Signer
	jwks   []byte
	honest map[string]any // claims of a job
}

func newAlgRig(t testing.TB, alg string) algRig {
	t.Helper()
	r := algRig{rig: newRig(t, fakeissuer.GitHub), alg: alg}
	var numbers string
	r.key, numbers = keyFor(t, alg)
	r.jwks = []byte(`{"keys":[{"kid":"k",` + numbers + `}]}`)
	is := r.all[0]
	is.profile.Algorithms = []string{alg}
	is.oidc.SupportedSigningAlgs = is.profile.Algorithms
	held, err := parseKeys(r.jwks, is.profile.Algorithms)
	if err != nil {
		t.Fatal(err)
	}
	held.at = noon
	is.keys.held = held
	is.keys.load = func(context.Context) ([]byte, error) { return nil, errors.New("nobody is asked") }
	if r.honest, err = r.fake.Claims(fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience}); err != nil {
		t.Fatal(err)
	}
	r.honest["jti"] = "1"
	if _, err := r.Verify(t.Context(), broker.NewSecret(r.signed(t, r.headed(`"typ":"JWT"`), mustJSON(t, r.honest)))); err != nil {
		t.Fatalf("the honest token is refused, so nothing is compared: %v", err)
	}
	return r
}

// keyFor makes a key that fits an algorithm, and writes down its public half
// as a JWK has it.
func keyFor(t testing.TB, alg string) (crypto.Signer, string) {
	t.Helper()
	a, _ := algorithmOf(alg)
	switch {
	case a.curve != nil:
		key, err := ecdsa.GenerateKey(a.curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := len(point) / 2
		return key, `"kty":"EC","crv":"` + a.curve.Params().Name + `",` + b64("x", point[1:1+half]) + `,` + b64("y", point[1+half:])
	case a.hash == 0:
		key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
		return key, `"kty":"OKP","crv":"Ed25519",` + b64("x", key.Public().(ed25519.PublicKey))
	default:
		return ciKey(), `"kty":"RSA","e":"AQAB",` + b64("n", ciKey().N.Bytes())
	}
}

func (r algRig) public() crypto.PublicKey { return r.key.Public() }

// headed is a header with more members.
func (r algRig) headed(more string) string { return `{"alg":"` + r.alg + `","kid":"k",` + more + `}` }

// signed signs header and payload as they stand.
func (r algRig) signed(t testing.TB, header, payload string) string {
	t.Helper()
	if key, ok := r.key.(ed25519.PrivateKey); ok {
		signed := enc(header) + "." + enc(payload)
		return signed + "." + enc(string(ed25519.Sign(key, []byte(signed))))
	}
	raw, err := fakeissuer.Forge{Header: header, Payload: payload, Alg: r.alg, Key: r.key}.Compact()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// seed gives a fuzz target of header and payload its first tokens.
func (r algRig) seed(f *testing.F) {
	f.Helper()
	honest := mustJSON(f, r.honest)
	for _, add := range []string{``, `"x":1.5e3`, `"x":[{"y":null}]`, `"x":"\ud83d\ude00"`, `"AUD":"x"`, `"nonce":"n","at_hash":"h"`, `"_claim_names":{}`, `"_claim_sources":{"a":{}}`} {
		if add != "" {
			add = "," + add
		}
		f.Add(`"typ":"JWT"`, honest[:len(honest)-1]+add+"}")
	}
	f.Add(`"typ":"jwt","x5t":"a"`, honest)
	f.Add(`"crit":[]`, honest)
	f.Add(`"KID":"a"`, honest)
}
