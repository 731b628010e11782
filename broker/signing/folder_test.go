package signing

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ringFolder makes a ring and returns its folder and its key's file.
func ringFolder(t *testing.T) (dir, keyPath string) {
	t.Helper()
	dir = newDir(t)
	r := open(t, dir, time.Now)
	return dir, r.state.Load().keys[0].path
}

func TestFilesThatOthersCanReadAreRefusedWithTheFix(t *testing.T) {
	for why, c := range map[string]struct {
		name string
		mode os.FileMode
		fix  string
	}{
		"a key that the group can read": {"key", 0o640, "chmod 0600"},
		"a key that all can read":       {"key", 0o604, "chmod 0600"},
		"a secret that all can read":    {secretName, 0o644, "chmod 0600"},
		"a folder that all can list":    {".", 0o755, "chmod 0700"},
		"a folder that all can change":  {".", 0o703, "chmod 0700"},
	} {
		t.Run(why, func(t *testing.T) {
			dir, path := ringFolder(t)
			r := open(t, dir, time.Now)
			if c.name != "key" {
				path = filepath.Join(dir, c.name)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := Open(config(dir, time.Now))
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.fix) {
				t.Errorf("got %v", err)
			}
			if err := readAgain(r); err == nil || r.Healthy() == nil {
				t.Error("a ring that is open already does not mind")
			}
			sign(t, r, "{}")
		})
	}
}

func TestAFileThatIsNotWhatItShouldBeStopsTheStart(t *testing.T) {
	encode := func(t *testing.T, key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	edit := func(change func(t *testing.T, f *keyFile)) func(*testing.T, string, string) {
		return func(t *testing.T, _, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var f keyFile
			if err := json.Unmarshal(b, &f); err != nil {
				t.Fatal(err)
			}
			change(t, &f)
			if b, err = json.Marshal(f); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	text := func(s string) func(*testing.T, string, string) {
		return func(t *testing.T, _, path string) {
			if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for why, spoil := range map[string]func(t *testing.T, dir, path string){
		"empty":            text(""),
		"not JSON":         text("canary-key"),
		"huge":             text(strings.Repeat(" ", maxFileSize+1)),
		"an unknown field": text(`{"version":1,"canary-key":"x"}`),
		"a later version":  edit(func(_ *testing.T, f *keyFile) { f.Version = 2 }),
		"no key":           edit(func(_ *testing.T, f *keyFile) { f.Private = "canary-key" }),
		"a damaged key": edit(func(_ *testing.T, f *keyFile) {
			f.Private = strings.Replace(f.Private, f.Private[100:104], "AAAA", 1)
		}),
		"another key's kid": edit(func(_ *testing.T, f *keyFile) { f.ID = "x" + f.ID[1:] }),
		"a key of another sort": edit(func(t *testing.T, f *keyFile) {
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			f.Private = encode(t, k)
		}),
		"a key that is too short": edit(func(t *testing.T, f *keyFile) {
			k, err := rsa.GenerateKey(rand.Reader, 1024)
			if err != nil {
				t.Fatal(err)
			}
			f.Private = encode(t, k)
			if f.ID, err = thumbprint(k); err != nil {
				t.Fatal(err)
			}
		}),
		"times out of order": edit(func(_ *testing.T, f *keyFile) { f.Retires = f.Published }),
	} {
		t.Run(why, func(t *testing.T) {
			dir, path := ringFolder(t)
			spoil(t, dir, path)
			_, err := Open(config(dir, time.Now))
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), "canary-key") || strings.Contains(err.Error(), "MII") {
				t.Errorf("the error shows what is in the file: %v", err)
			}
		})
	}
}

func TestADamagedSecretStopsTheStart(t *testing.T) {
	for _, s := range []string{"", "canary-secret", "AAAA\n"} {
		dir, _ := ringFolder(t)
		path := filepath.Join(dir, secretName)
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(config(dir, time.Now))
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: got %v", s, err)
		}
	}
}

func TestTheSameKeyInTwoFilesStopsTheStart(t *testing.T) {
	dir, path := ringFolder(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key-copy.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(config(dir, time.Now)); err == nil || !strings.Contains(err.Error(), "same key") {
		t.Errorf("got %v", err)
	}
}

func TestASecretThatIsLostIsNotMadeAnew(t *testing.T) {
	dir, _ := ringFolder(t)
	if err := os.Remove(filepath.Join(dir, secretName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(config(dir, time.Now)); err == nil || !strings.Contains(err.Error(), secretName) {
		t.Errorf("got %v", err)
	}
}

func TestAMakerThatCrashedBeforeTheFirstKeyIsTakenUp(t *testing.T) {
	dir, path := ringFolder(t)
	secret, err := os.ReadFile(filepath.Join(dir, secretName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir, time.Now)
	sign(t, r, "{}")
	if again, err := os.ReadFile(filepath.Join(dir, secretName)); err != nil || !bytes.Equal(again, secret) {
		t.Errorf("the secret was made anew (%v)", err)
	}
}

func TestARingInUseSurvivesTheLossOfItsFolder(t *testing.T) {
	for why, lose := range map[string]func(dir string) error{
		"the folder is gone":      os.RemoveAll,
		"the keys are gone":       func(dir string) error { return removeAll(dir, "key-*") },
		"the secret is gone":      func(dir string) error { return removeAll(dir, secretName) },
		"the secret was replaced": func(dir string) error { return makeSecret(dir, rand.Reader) },
	} {
		t.Run(why, func(t *testing.T) {
			dir, _ := ringFolder(t)
			r := open(t, dir, time.Now)
			set := jwks(t, r)
			if err := lose(dir); err != nil {
				t.Fatal(err)
			}
			if err := r.tend(t.Context()); err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v", err)
			}
			if r.Healthy() == nil {
				t.Error("it calls itself healthy")
			}
			if err := check(sign(t, r, "{}"), set); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, secretName)); why == "the folder is gone" && err == nil {
				t.Error("a ring was made anew under a running broker")
			}
		})
	}
}

func removeAll(dir, pattern string) error {
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	for _, f := range files {
		err = os.Remove(f)
	}
	return err
}

func TestAKeyThatTheOperatorRemovesSignsNoMore(t *testing.T) {
	c := &clock{at: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	dir := newDir(t)
	r := open(t, dir, c.now)
	stolen := r.state.Load().keys[0]
	c.add(signingPeriod - time.Hour)
	if err := r.tend(t.Context()); err != nil { // publishes the next
		t.Fatal(err)
	}
	if err := os.Remove(stolen.path); err != nil {
		t.Fatal(err)
	}
	if err := readAgain(r); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(jwks(t, r)), stolen.id) {
		t.Error("the JWKS still names it")
	}
	if err := check(sign(t, r, "{}"), jwks(t, r)); err != nil {
		t.Error(err)
	}
}

func TestAnIncompleteConfigurationIsRefused(t *testing.T) {
	for why, change := range map[string]func(*Config){
		"no folder":     func(c *Config) { c.Dir = "" },
		"no clock":      func(c *Config) { c.Now = nil },
		"no randomness": func(c *Config) { c.Rand = nil },
		"no log":        func(c *Config) { c.Log = nil },
		"a file where the folder should be": func(c *Config) {
			c.Dir = filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(c.Dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		c := config(newDir(t), time.Now)
		change(&c)
		if _, err := Open(c); err == nil {
			t.Errorf("%s: accepted", why)
		}
	}
}
