package jwt_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/mint/jwt"
)

const ours = "https://daypass.example.com"

// rsaSigner is a Signer of the standard library only.
type rsaSigner struct{ key *rsa.PrivateKey }

func (s rsaSigner) Sign(_ context.Context, typ string, payload []byte) (broker.Secret, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64(fmt.Appendf(nil, `{"alg":"RS256","kid":"k","typ":%q}`, typ)) + "." + b64(payload)
	sum := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	return broker.NewSecret(input + "." + b64(sig)), err
}

// verify checks a token as a relying party does and returns its payload.
func (s rsaSigner) verify(token string, at time.Time) (map[string]any, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("not three parts")
	}
	var raw [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(p)
		if err != nil {
			return nil, err
		}
		raw[i] = b
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&s.key.PublicKey, crypto.SHA256, sum[:], raw[2]); err != nil {
		return nil, err
	}
	var header map[string]any
	payload := map[string]any{}
	if err := errors.Join(json.Unmarshal(raw[0], &header), json.Unmarshal(raw[1], &payload)); err != nil {
		return nil, err
	}
	exp, _ := payload["exp"].(float64)
	nbf, _ := payload["nbf"].(float64)
	if header["typ"] != "JWT" || at.Unix() < int64(nbf) || at.Unix() >= int64(exp) {
		return nil, errors.New("not now, or not a JWT")
	}
	return payload, nil
}

func newSigner(t *testing.T) rsaSigner {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return rsaSigner{key}
}

func grant(name, params string) broker.Grant {
	return broker.Grant{Name: name, Kind: jwt.KindName, Target: jwt.KindName, MaxTTL: time.Hour, Params: []byte(params)}
}

func open(t *testing.T, s broker.Signer, now time.Time) broker.Minter {
	t.Helper()
	m, err := jwt.Kind().Open(broker.TargetConfig{Name: "jwt", Deployment: "test", URL: ours, Signer: s, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestJWTKeepsTheContractOfAMinter(t *testing.T) {
	s := newSigner(t)
	brokertest.TestMinter(t, brokertest.MinterSuite{
		Kind: jwt.Kind(), Grant: grant("aws", `{"audience": "sts.amazonaws.com", "include": ["repository", "ref"]}`),
		Config: broker.TargetConfig{Name: "jwt", URL: ours, Signer: s, Now: time.Now},
		Works: func(_ context.Context, c broker.Credential) error {
			_, err := s.verify(c.Fields[0].Value.Reveal(), time.Now())
			return err
		},
	})
}

var at = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func order(g broker.Grant) broker.Order {
	return broker.Order{Lease: "dpl_one", Grant: g, NotAfter: at.Add(15 * time.Minute), For: broker.Identity{
		Issuer: "github", Subject: "repo:acme/api", Job: broker.Job{
			Repository: "acme/api", RepositoryID: "5678", Ref: `refs/heads/"},"sub":"dp:test:broker:`, Environment: "production", Key: "secret key",
		},
	}}
}

func mint(t *testing.T, g broker.Grant) map[string]any {
	t.Helper()
	s := newSigner(t)
	m, o := open(t, s, at), order(g)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Mint(t.Context(), o, h)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Fields) != 1 || c.Fields[0].Name != "token" || c.Fields[0].Public || !reflect.DeepEqual(c.Fields[0].Env, []string{"DAYPASS_JWT"}) {
		t.Errorf("fields are %+v", c.Fields)
	}
	payload, err := s.verify(c.Fields[0].Value.Reveal(), at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.verify(c.Fields[0].Value.Reveal(), o.NotAfter); err == nil {
		t.Error("valid at its expiry")
	}
	return payload
}

func TestATokenSaysWhatItMayAndNothingElse(t *testing.T) {
	got := mint(t, grant("aws", `{"audience": "sts.amazonaws.com", "include": ["repository", "repository_id", "ref", "environment", "event"]}`))
	want := map[string]any{
		"iss": ours, "sub": "dp:test:grant:aws:5678", "aud": "sts.amazonaws.com", "jti": "dpl_one",
		"iat": float64(at.Unix()), "nbf": float64(at.Unix() - 10), "exp": float64(at.Unix() + 900),
		"daypass": map[string]any{
			"lease": "dpl_one", "grant": "aws", "issuer": "github", "repository": "acme/api", "repository_id": "5678",
			"ref": `refs/heads/"},"sub":"dp:test:broker:`, "environment": "production",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := mint(t, grant("aws", `{"audience": "a", "per_repository": false}`)); got["sub"] != "dp:test:grant:aws" || len(got["daypass"].(map[string]any)) != 3 {
		t.Errorf("got %v", got)
	}
}

func TestNoGrantSpeaksForAnotherOrForTheBroker(t *testing.T) {
	m := open(t, newSigner(t), at)
	for _, name := range []string{
		"", "a:b", "aws:5678", "..:broker:x", "broker:x", "AWS", "a b", "a/b", "a\n", "é", "-a", ".a", "a\x00", "a%3Ab",
	} {
		g := grant(name, `{"audience": "a"}`)
		if jwt.Kind().CheckGrant(g) == nil {
			t.Errorf("grant %q is accepted", name)
		}
		if _, err := m.Plan(order(g)); err == nil {
			t.Errorf("grant %q is planned", name)
		}
	}
	for _, id := range []string{"1:2", "5678:x", "a/b", "a b", "\n", "é", "{5678}", strings.Repeat("1", 127)} {
		o := order(grant("aws", `{"audience": "a"}`))
		o.For.Job.RepositoryID = id
		if _, err := m.Plan(o); err == nil {
			t.Errorf("repository id %q is planned", id)
		}
	}
	subjects := map[any]string{}
	for _, name := range []string{"broker", "aws", "aws-5678", "aws.5678"} {
		for _, per := range []string{"true", "false"} {
			sub := mint(t, grant(name, `{"audience": "a", "per_repository": `+per+`}`))["sub"]
			if other, taken := subjects[sub]; taken || !strings.HasPrefix(sub.(string), "dp:test:grant:") {
				t.Errorf("grants %s and %s share the subject %v", name, other, sub)
			}
			subjects[sub] = name
		}
	}
}

func TestASubjectFitsOrTheGrantIsRefused(t *testing.T) {
	for _, c := range []struct {
		bytes int
		per   string
		fits  bool
	}{{76, "true", true}, {77, "true", false}, {113, "false", true}, {114, "false", false}} {
		err := jwt.Kind().CheckGrant(grant(strings.Repeat("a", c.bytes), `{"audience": "a", "per_repository": `+c.per+`}`))
		if (err == nil) != c.fits {
			t.Errorf("a name of %d bytes, per_repository %s: %v", c.bytes, c.per, err)
		}
	}
	got := mint(t, grant(strings.Repeat("a", 108), `{"audience": "a", "per_repository": true}`)) // 14 + 108 + 1 + 4
	if n := len(got["sub"].(string)); n != 127 {
		t.Errorf("%d bytes", n)
	}
}

func TestOurOwnURLIsNoAudience(t *testing.T) {
	m := open(t, newSigner(t), at)
	for _, audience := range []string{ours, ours + "/", "HTTPS://Daypass.Example.COM", "http://daypass.example.com", ours + ":443/", "daypass.example.com", "https://daypass.example.com./"} {
		if _, err := m.Plan(order(grant("aws", `{"audience": "`+audience+`"}`))); err == nil {
			t.Errorf("audience %q is planned", audience)
		}
	}
	if _, err := m.Plan(order(grant("aws", `{"audience": "https://daypass.example.com.evil.example"}`))); err != nil {
		t.Error(err)
	}
}

func TestParamsNameEveryFault(t *testing.T) {
	for params, want := range map[string][]string{
		``:                         {"audience: say who"},
		`[]`:                       {"not an object"},
		`{"audience": ["a", "b"]}`: {"audience: has the wrong type"},
		`{"audience": "a b"}`:      {"audience: "},
		`{"audience": "é"}`:        {"audience: "},
		`{"audience": null}`:       {"audience: is empty"},
		`{"Audience": "a"}`:        {"Audience: no such setting"},
		`{"sub": "dp:test:broker:x", "claims": {"aud": "x"}}`: {"sub: no such setting", "claims: no such setting"},
		`{"include": ["job_key", "sub", "ref", "ref"]}`:       {"audience: say who", `"job_key"`, `"sub"`, `"ref" is named twice`},
		`{"audience": "` + strings.Repeat("a", 256) + `"}`:    {"longer than 255"},
	} {
		err := jwt.Kind().CheckGrant(grant("aws", params))
		if err == nil {
			t.Errorf("%s is accepted", params)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", params, err, w)
			}
		}
	}
}

func TestWhatDoesNotFitIsRefusedAndNotCut(t *testing.T) {
	o := order(grant("aws", `{"audience": "a", "include": ["ref"]}`))
	o.For.Job.Ref = strings.Repeat("r", 513)
	if _, err := open(t, newSigner(t), at).Plan(o); err == nil {
		t.Error("a ref of 513 bytes is planned")
	}
}

func TestAnExpiredOrderIsNotSigned(t *testing.T) {
	o := order(grant("aws", `{"audience": "a"}`))
	m := open(t, newSigner(t), o.NotAfter)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mint(t.Context(), o, h); err == nil {
		t.Error("signed")
	}
}

func TestAJWTMinterNeedsASignerAClockAndAURL(t *testing.T) {
	whole := broker.TargetConfig{Deployment: "test", URL: ours, Signer: newSigner(t), Now: time.Now}
	for name, spoil := range map[string]func(*broker.TargetConfig){
		"url": func(c *broker.TargetConfig) { c.URL = "" }, "signer": func(c *broker.TargetConfig) { c.Signer = nil },
		"clock": func(c *broker.TargetConfig) { c.Now = nil }, "deployment": func(c *broker.TargetConfig) { c.Deployment = "x" },
	} {
		c := whole
		spoil(&c)
		if _, err := jwt.Kind().Open(c); err == nil {
			t.Errorf("opened without %s", name)
		}
	}
}
