package issuers

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// cacheFile keeps an issuer's last good key set across a restart, so that a
// broker which starts while the issuer is down serves on. It lies in a folder
// of the broker's own: who can write there can write its configuration.
type cacheFile struct {
	path string
	url  string
}

type cachedKeys struct {
	Issuer  string          `json:"issuer"`
	Fetched time.Time       `json:"fetched"`
	Keys    json.RawMessage `json:"jwks"`
}

func newCacheFile(dir, issuer string) cacheFile {
	sum := sha256.Sum256([]byte(issuer))
	return cacheFile{path: filepath.Join(dir, "issuer-"+hex.EncodeToString(sum[:8])+".json"), url: issuer}
}

// store replaces the file by a good key set.
func (f cacheFile) store(jwks []byte, at time.Time) error {
	raw, err := json.Marshal(cachedKeys{Issuer: f.url, Fetched: at.UTC().Round(0), Keys: jwks})
	if err != nil {
		return fmt.Errorf("keep keys: %w", err)
	}
	if err := renameio.WriteFile(f.path, raw, 0o600); err != nil {
		return fmt.Errorf("keep keys: %w", err)
	}
	return nil
}

// restore returns the keys that were kept, as old as they are; none if there is
// no file. A file that is not the issuer's, or from the future, is an error.
func (f cacheFile) restore(algs []string, now time.Time) (keys, error) {
	raw, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return keys{}, nil
	}
	if err != nil {
		return keys{}, fmt.Errorf("kept keys: %w", err)
	}
	var c cachedKeys
	if err := json.Unmarshal(raw, &c); err != nil {
		return keys{}, fmt.Errorf("kept keys: %s: %w", f.path, err)
	}
	if c.Issuer != f.url || c.Fetched.After(now.Add(time.Minute)) {
		return keys{}, fmt.Errorf("kept keys: %s is of another issuer or another time", f.path)
	}
	held, err := parseKeys(c.Keys, algs)
	held.at = c.Fetched
	return held, err
}
