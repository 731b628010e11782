package signing

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/renameio/v2"
)

// Names in the folder. The lock holds nothing.
const (
	secretName = "shared-secret"
	lockName   = "lock"
	keyPrefix  = "key-"
	keySuffix  = ".json"
)

const (
	keyBits     = 2048
	maxFileSize = 64 << 10
	secretSize  = 32
)

// key is one key of the ring. It is immutable.
type key struct {
	id        string // RFC 7638 thumbprint, base64url
	published time.Time
	signsFrom time.Time
	retires   time.Time // as planned; it signs on until its successor does
	private   *rsa.PrivateKey

	path string
	info fs.FileInfo // of the file when it was read
}

// keyFile is how a key lies in its file.
type keyFile struct {
	Version   int       `json:"version"`
	ID        string    `json:"kid"`
	Published time.Time `json:"published"`
	SignsFrom time.Time `json:"signs_from"`
	Retires   time.Time `json:"retires"`
	Private   string    `json:"private_key"` // PKCS #8, PEM
}

// readPrivate reads a file that nobody but its owner may read.
func readPrivate(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if err := checkPrivate(path, info); err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, nil, err
	}
	if len(b) > maxFileSize {
		return nil, nil, fmt.Errorf("%s is larger than any file of a key ring", path)
	}
	return b, info, nil
}

func checkPrivate(path string, info fs.FileInfo) error {
	want, right := "0600", info.Mode().IsRegular()
	if info.IsDir() {
		want, right = "0700", true
	}
	if !right {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s holds private keys and is open to others (mode %04o): "+
			"if nobody has read it, run chmod %s %s; otherwise replace the keys", path, mode, want, path)
	}
	return nil
}

// writePrivate puts a file in place, whole and durably.
func writePrivate(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := renameio.WriteFile(path, b, 0o600, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// readKeys reads all keys of a folder, in no order. Files that known holds as
// they are now are not read again.
func readKeys(dir string, known []*key) ([]*key, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var keys []*key
	byID := map[string]string{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), keyPrefix) || !strings.HasSuffix(e.Name(), keySuffix) {
			continue
		}
		k, err := readKey(filepath.Join(dir, e.Name()), known)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another broker deleted it since we looked
		}
		if err != nil {
			return nil, err
		}
		if other, twice := byID[k.id]; twice {
			return nil, fmt.Errorf("%s and %s hold the same key: remove one", other, k.path)
		}
		byID[k.id] = k.path
		keys = append(keys, k)
	}
	return keys, nil
}

func readKey(path string, known []*key) (*key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	for _, k := range known {
		if k.path == path && os.SameFile(k.info, info) && k.info.ModTime().Equal(info.ModTime()) && k.info.Mode() == info.Mode() {
			return k, nil
		}
	}
	b, info, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	k, err := parseKey(b)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w; restore it, or remove it if no token of it is in use", path, err)
	}
	k.path, k.info = path, info
	return k, nil
}

// parseKey never repeats what is in the file.
func parseKey(b []byte) (*key, error) {
	var f keyFile
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return nil, errors.New("it is not a key file")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the key")
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("it has version %d; this program knows 1", f.Version)
	}
	block, rest := pem.Decode([]byte(f.Private))
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("private_key is not one PEM block of a PKCS #8 key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("private_key is damaged")
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok || private.N.BitLen() < keyBits {
		return nil, fmt.Errorf("private_key is not an RSA key of %d bits or more", keyBits)
	}
	id, err := thumbprint(private)
	if err != nil {
		return nil, err
	}
	if id != f.ID {
		return nil, errors.New("its kid is not the key's thumbprint")
	}
	if f.Published.IsZero() || f.SignsFrom.Before(f.Published) || !f.Retires.After(f.SignsFrom) {
		return nil, errors.New("its times are not in order")
	}
	return &key{id: id, published: f.Published, signsFrom: f.SignsFrom, retires: f.Retires, private: private}, nil
}

func thumbprint(private *rsa.PrivateKey) (string, error) {
	jwk := jose.JSONWebKey{Key: private.Public()}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// makeKey makes a key and its file.
func makeKey(dir string, random io.Reader, published, signsFrom time.Time) error {
	private, err := rsa.GenerateKey(random, keyBits)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	id, err := thumbprint(private)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(keyFile{
		Version: 1, ID: id, Published: published.UTC(),
		SignsFrom: signsFrom.UTC(), Retires: signsFrom.Add(signingPeriod).UTC(),
		Private: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}, "", "  ")
	if err != nil {
		return err
	}
	return writePrivate(filepath.Join(dir, keyPrefix+id+keySuffix), append(b, '\n'))
}

// readSecret returns nil where there is none.
func readSecret(dir string) (*[secretSize]byte, error) {
	path := filepath.Join(dir, secretName)
	b, _, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(string(b), "\n"))
	if err != nil || len(raw) != secretSize {
		return nil, fmt.Errorf("%s is damaged: it should be %d bytes in base64; restore it", path, secretSize)
	}
	return (*[secretSize]byte)(raw), nil
}

func makeSecret(dir string, random io.Reader) error {
	var b [secretSize]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return fmt.Errorf("draw the shared secret: %w", err)
	}
	return writePrivate(filepath.Join(dir, secretName), []byte(base64.StdEncoding.EncodeToString(b[:])+"\n"))
}
