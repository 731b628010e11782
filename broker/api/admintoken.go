package api

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/daypass-dev/daypass/broker"
)

const (
	adminPrefix   = "dpa_"
	minAdminToken = 32 // characters, for one that an operator wrote
)

// AdminToken returns the admin token that is kept in the file at path, and
// makes one (256 random bits, mode 0600) where there is no file. The folder
// must be there. Two processes that start at once get the same token.
//
// It refuses a file that others than its owner can read or write, and names
// the way to mend it: whoever reads the token can revoke every lease.
func AdminToken(path string, random io.Reader) (broker.Secret, error) {
	token, err := readAdminToken(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, err
	}
	if err := makeAdminToken(path, random); err != nil && !errors.Is(err, fs.ErrExist) {
		return broker.Secret{}, fmt.Errorf("make admin token: %w", err)
	}
	return readAdminToken(path)
}

func readAdminToken(path string) (broker.Secret, error) {
	if at, err := os.Lstat(path); err == nil && !at.Mode().IsRegular() { // a pipe would block in Open
		return broker.Secret{}, fmt.Errorf("admin token %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return broker.Secret{}, fmt.Errorf("read admin token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, not of what is there by now
	if err != nil {
		return broker.Secret{}, fmt.Errorf("read admin token: %w", err)
	}
	if loose := info.Mode().Perm() & 0o077; loose != 0 {
		return broker.Secret{}, fmt.Errorf("admin token %s is open to others (mode %04o): delete it if it may have been read, otherwise run: chmod 600 %s",
			path, info.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return broker.Secret{}, fmt.Errorf("read admin token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < minAdminToken || !isToken68(token) {
		return broker.Secret{}, fmt.Errorf("admin token %s does not hold one token of at least %d letters and digits; delete it to have one made", path, minAdminToken)
	}
	return broker.NewSecret(token), nil
}

// makeAdminToken writes aside and links into place: nobody ever reads half a
// token, and a file that is there is never replaced.
func makeAdminToken(path string, random io.Reader) error {
	b := make([]byte, 32)
	if _, err := io.ReadFull(random, b); err != nil {
		return fmt.Errorf("draw it: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".admin.token-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(adminPrefix + base64.RawURLEncoding.EncodeToString(b) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}
