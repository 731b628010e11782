package api

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSFiles name a certificate chain and its key, both PEM. They are read again
// when they change, within a second of the next handshake, so that a renewal
// needs no restart.
type TLSFiles struct{ Cert, Key string }

const certsAge = time.Second

// certs hands out the certificate of the moment. While the files do not fit
// each other, as in the middle of a renewal, the last good pair stays.
type certs struct {
	files TLSFiles
	now   func() time.Time
	log   *slog.Logger

	mu      sync.Mutex // guards the rest
	pair    *tls.Certificate
	stamps  [2]os.FileInfo
	checked time.Time
	fault   string // the last one told
}

func newCerts(files TLSFiles, now func() time.Time, log *slog.Logger) (*certs, error) {
	c := &certs{files: files, now: now, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	c.checked = now()
	return c, nil
}

// config is TLS 1.2 and later, with the protocols' own choice of ciphers.
func (c *certs) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.certificate}
}

func (c *certs) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if age := now.Sub(c.checked); age >= 0 && age < certsAge {
		return c.pair, nil
	}
	c.checked = now
	err := c.load()
	switch {
	case err == nil:
		c.fault = ""
	case err.Error() != c.fault:
		c.fault = err.Error()
		c.log.Warn("changed TLS files cannot be used; the last good ones stay", "err", err)
	}
	return c.pair, nil
}

// load reads the files if one of them is another than the last time.
func (c *certs) load() error {
	var stamps [2]os.FileInfo
	same := c.pair != nil
	for i, name := range []string{c.files.Cert, c.files.Key} {
		info, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("TLS files: %w", err)
		}
		stamps[i] = info
		old := c.stamps[i]
		same = same && os.SameFile(old, info) && old.ModTime().Equal(info.ModTime()) && old.Size() == info.Size()
	}
	if same {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return fmt.Errorf("TLS files: %w", err)
	}
	if c.pair != nil {
		c.log.Info("TLS certificate read again", "not_after", pair.Leaf.NotAfter)
	}
	c.pair, c.stamps = &pair, stamps
	return nil
}
