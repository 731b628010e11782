package issuers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
)

const (
	maxDocument   = 256 << 10 // bytes of a discovery document or a key set
	discoveryPath = "/.well-known/openid-configuration"
)

// remote fetches an issuer's keys from the issuer.
type remote struct {
	url      string
	hosts    []string // host[:port] that keys may come from; the issuer's own is the first
	insecure bool
	dialer   *net.Dialer // what the client dials with
	client   *http.Client
}

// newRemote makes the client for one issuer. It follows no redirect, uses no
// proxy, keeps no connection, asks for no compression, and sees the address of
// every dial.
func newRemote(c Config, roots *x509.CertPool) *remote {
	r := reachPublic
	if c.AllowPrivate {
		r = reachPrivate
	}
	if c.Insecure {
		r = reachLocal
	}
	dialer := &net.Dialer{Timeout: fetchTimeout, ControlContext: r.control}
	host := ""
	if u, err := url.Parse(c.URL); err == nil {
		host = u.Host
	}
	return &remote{
		url: c.URL, hosts: append([]string{host}, c.JWKSHosts...), insecure: c.Insecure, dialer: dialer,
		client: &http.Client{
			Timeout:       fetchTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext:            dialer.DialContext,
				TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
				TLSHandshakeTimeout:    fetchTimeout,
				ResponseHeaderTimeout:  fetchTimeout,
				MaxResponseHeaderBytes: 64 << 10,
				DisableKeepAlives:      true,
				DisableCompression:     true,
			},
		},
	}
}

// load asks discovery for the key set's place, which differs by provider and
// may move, and fetches it.
func (r *remote) load(ctx context.Context) ([]byte, error) {
	raw, err := r.get(ctx, r.url+discoveryPath)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	place, err := r.place(raw)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	raw, err = r.get(ctx, place)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	return raw, nil
}

// place reads out of a discovery document where the key set lies.
func (r *remote) place(raw []byte) (string, error) {
	document, err := decodeObject(raw)
	if err != nil {
		return "", err
	}
	if document["issuer"] != r.url {
		return "", fmt.Errorf("the document is not %s's, byte for byte", r.url)
	}
	place, _ := document["jwks_uri"].(string)
	if err := r.checkPlace(place); err != nil {
		return "", fmt.Errorf("jwks_uri %w", err)
	}
	return place, nil
}

// checkPlace holds the key set to the hosts that the operator knows of: who can
// change a discovery document for a moment must not leave keys elsewhere.
func (r *remote) checkPlace(place string) error {
	u, err := url.Parse(place)
	switch {
	case err != nil || u.Host == "":
		return errors.New("is not a URL")
	case u.Scheme != "https" && (!r.insecure || u.Scheme != "http"):
		return errors.New("is not https")
	case u.User != nil:
		return errors.New("has a user")
	case !slices.ContainsFunc(r.hosts, func(h string) bool { return strings.EqualFold(h, u.Host) }):
		return errors.New("is on a host that is neither the issuer's nor in jwks_hosts")
	}
	return nil
}

// get fetches one document, whole or not at all.
func (r *remote) get(ctx context.Context, place string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d", place, resp.StatusCode)
	}
	return readCapped(resp.Body)
}

// loadFile returns a load that reads a key set from a file and dials nobody.
func loadFile(path string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
		return readCapped(file)
	}
}

func readCapped(from io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(from, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxDocument {
		return nil, fmt.Errorf("larger than %d bytes", maxDocument)
	}
	return raw, nil
}

// loadRoots reads a ca_file; with none, the system's roots are used.
func loadRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return roots, nil
}
