package daypass

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	userAgent = "daypass-go/1"
	maxAnswer = 1 << 20 // bytes of one answer's body
)

type plainHTTP int

const (
	httpsOrLoopback plainHTTP = iota
	httpAnywhere
)

// checkURL accepts an absolute http(s) URL that cannot leak what is sent to
// it: plain http only where plain allows. It never repeats the URL, which may
// hold a password.
func checkURL(s, what string, plain plainHTTP) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return nil, fmt.Errorf("%s is not a URL such as https://daypass.example.com", what)
	}
	if u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("%s must have neither user nor fragment", what)
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && (plain == httpAnywhere || loopback(u.Hostname())):
	default:
		return nil, fmt.Errorf("%s must be an https URL: only loopback may be reached in clear", what)
	}
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// newHTTPClient honours the proxy variables, though never for loopback, and
// trusts roots beside the system's where they are given.
func newHTTPClient(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           4,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

// rootsWith returns the system's roots and those of a PEM file.
func rootsWith(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read CA certificates: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a bare image has none; the file is then all that is trusted
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA certificates: %s has no PEM certificate", path)
	}
	return roots, nil
}

// safeHTTP returns a copy of c that follows no redirect and keeps no cookies:
// a bearer token goes where it was meant to go.
func safeHTTP(c *http.Client) *http.Client {
	safe := *c
	safe.Jar = nil
	safe.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &safe
}

type transport struct {
	http    *http.Client
	timeout time.Duration // for one attempt
	agent   string
}

type message struct {
	method, url string
	bearer      Secret
	key         Secret // Idempotency-Key, if any
	body        []byte // JSON, or nil
}

type answer struct {
	status     int
	mediaType  string
	retryAfter time.Duration
	body       []byte
}

// send makes one attempt. Whatever keeps a complete answer from coming is an
// [*Error] with [NoAnswer] that says whether the request may have arrived.
func (t transport) send(ctx context.Context, m message) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	none := func(err error) (answer, error) {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL: GitHub's holds ids that are nobody's business
		}
		return answer{}, &Error{Code: NoAnswer, Sent: sent.Load(), Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, m.method, m.url, bytes.NewReader(m.body))
	if err != nil {
		return none(err)
	}
	req.Header.Set("Authorization", "Bearer "+m.bearer.Reveal())
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", t.agent)
	if !m.key.IsZero() {
		req.Header.Set("Idempotency-Key", m.key.Reveal())
	}
	if m.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := t.http.Do(req)
	if err != nil {
		return none(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return none(fmt.Errorf("the answer was cut short: %w", err))
	}
	if len(body) > maxAnswer {
		return answer{}, &Error{Code: NotDaypass, Status: res.StatusCode, Sent: true, Detail: "the answer is too long"}
	}
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return answer{res.StatusCode, media, retryAfter(res.Header), body}, nil
}

// retryAfter reads whole seconds, the only form that brokers send.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}
