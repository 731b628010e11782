package issuers

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

const ourAudience = "https://daypass.example.com"

// noon is when the tests happen, unless they say otherwise.
var noon = time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

// Keys are made once: they cost a second each under the race detector.
var (
	ciKey    = sync.OnceValue(func() *rsa.PrivateKey { return mustRSA(2048) })
	otherKey = sync.OnceValue(func() *rsa.PrivateKey { return mustRSA(2048) })
)

func mustRSA(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

// clock is a hand-moved clock, safe for concurrent use.
type clock struct {
	mu sync.Mutex // guards t
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// rig is a set whose one issuer signs with ciKey and dials nobody.
type rig struct {
	*Set
	fake *fakeissuer.Fake
}

const rigBase = "https://ci.example.com"

// newRig makes the set with the issuer's keys in a file.
func newRig(t testing.TB, provider fakeissuer.Provider) rig {
	t.Helper()
	fake, err := fakeissuer.New(rigBase, fakeissuer.Options{Key: ciKey(), Now: at(noon)})
	if err != nil {
		t.Fatal(err)
	}
	set, err := New(Options{
		Issuers:  []Config{{Name: "ci", Profile: string(provider), URL: fake.URL(provider), JWKSFile: keyFile(t, fake)}},
		Audience: ourAudience, URL: "https://daypass.example.com", Now: at(noon),
	})
	if err != nil {
		t.Fatal(err)
	}
	return rig{set, fake}
}

func keyFile(t testing.TB, fake *fakeissuer.Fake) string {
	t.Helper()
	raw, err := fake.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, raw)
}

func writeFile(t testing.TB, raw []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func sign(t testing.TB, fake *fakeissuer.Fake, j fakeissuer.Job) string {
	t.Helper()
	token, err := fake.Token(j)
	if err != nil {
		t.Fatal(err)
	}
	return token
}
