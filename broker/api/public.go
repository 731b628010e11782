package api

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Exchanger buys credentials, and time to buy more. Its errors are
// [*broker.Error]; beside one an answer may carry the job session that was
// opened.
type Exchanger interface {
	Exchange(ctx context.Context, token broker.Secret, r broker.Request) (broker.Answer, error)
	More(ctx context.Context, session broker.Secret, r broker.Request) (broker.Answer, error)
	Extend(ctx context.Context, session, token broker.Secret, request string) (broker.Session, error)
}

// Holder looks up and gives back what a job session holds. A lease of somebody
// else is [broker.ErrNoLease].
type Holder interface {
	Whoami(ctx context.Context, session broker.Secret) (broker.Session, []broker.Lease, error)
	GiveBack(ctx context.Context, session broker.Secret, request string) ([]broker.Outcome, error)
	GiveBackLease(ctx context.Context, session broker.Secret, id broker.LeaseID, request string) (broker.Outcome, error)
}

// Keys are the broker's own public keys.
type Keys interface {
	JWKS() ([]byte, error)       // a JSON Web Key Set (RFC 7517)
	Discovery(url string) []byte // OpenID provider metadata for our issuer URL
}

// Config is what the public listener is made of. All fields are needed unless
// said otherwise.
type Config struct {
	Exchanger Exchanger
	Holder    Holder
	Keys      Keys
	URL       string   // our own issuer URL, for discovery
	Ready     []Check  // parts that must work for the broker to be of use
	Metrics   *Metrics // optional
	Log       *slog.Logger
	Rand      io.Reader // a cryptographic source
	Now       func() time.Time

	// BehindProxy lets the last hop of X-Forwarded-For name the client in
	// the log. Nothing else ever looks at that header.
	BehindProxy bool
	// InFlight bounds how many requests may be buying at one time; more wait
	// a moment and are then told to come back. Default 256. Giving back is
	// never held up.
	InFlight int
}

// Check names every part that is not there.
func (c Config) Check() error {
	var faults []error
	for _, part := range []struct {
		name   string
		absent bool
	}{
		{"Exchanger", c.Exchanger == nil}, {"Holder", c.Holder == nil}, {"Keys", c.Keys == nil},
		{"URL", c.URL == ""}, {"Log", c.Log == nil}, {"Rand", c.Rand == nil}, {"Now", c.Now == nil},
	} {
		if part.absent {
			faults = append(faults, fmt.Errorf("api: %s is missing", part.name))
		}
	}
	return errors.Join(append(faults, checkChecks(c.Ready)...)...)
}

// NewPublic serves the native API, discovery, health and the API's own
// description. It panics with what [Config.Check] says of an incomplete config:
// that is a mistake in the program, not in its input.
func NewPublic(c Config) http.Handler {
	if err := c.Check(); err != nil {
		panic(err)
	}
	return newPublic(c).handler()
}

func newPublic(c Config) *surface {
	if c.InFlight <= 0 {
		c.InFlight = 256
	}
	j := &jobs{exchanger: c.Exchanger, holder: c.Holder, buying: make(chan struct{}, c.InFlight)}
	w := &wellKnown{keys: c.Keys, url: c.URL}
	r := &readiness{checks: c.Ready, now: c.Now, log: c.Log}
	return &surface{log: c.Log, rand: c.Rand, now: c.Now, metrics: c.Metrics, behindProxy: c.BehindProxy, routes: []route{
		{method: http.MethodPost, path: "/v1/exchange", access: accessCI, handle: j.exchange},
		{method: http.MethodPost, path: "/v1/credentials", access: accessSession, handle: j.more},
		{method: http.MethodPost, path: "/v1/session/extend", access: accessSession, handle: j.extend},
		{method: http.MethodGet, path: "/v1/session", access: accessSession, handle: j.whoami},
		{method: http.MethodDelete, path: "/v1/session", access: accessSession, handle: j.giveBack},
		{method: http.MethodDelete, path: "/v1/leases/{id}", access: accessSession, handle: j.giveBackLease},
		{method: http.MethodGet, path: "/.well-known/openid-configuration", access: accessOpen, quiet: true, handle: w.discovery},
		{method: http.MethodGet, path: "/.well-known/jwks.json", access: accessOpen, quiet: true, handle: w.jwks},
		{method: http.MethodGet, path: "/openapi.yaml", access: accessOpen, quiet: true, handle: openAPI},
		{method: http.MethodGet, path: "/healthz", access: accessOpen, quiet: true, handle: healthz},
		{method: http.MethodGet, path: "/readyz", access: accessOpen, quiet: true, handle: r.handle},
	}}
}

var leaseRE = regexp.MustCompile(`\Adpl_[a-z2-7]{26}\z`)

// leaseIDOf reads a lease's id from the path. What cannot be one is as unknown
// as one that never was.
func leaseIDOf(param string) (broker.LeaseID, error) {
	if !leaseRE.MatchString(param) {
		return "", broker.ErrNoLease
	}
	return broker.LeaseID(param), nil
}

//go:embed openapi.yaml
var openAPIDocument []byte

func openAPI(*call) (reply, error) {
	return reply{status: http.StatusOK, media: "application/yaml", body: openAPIDocument}, nil // RFC 9512
}

func healthz(*call) (reply, error) {
	return reply{status: http.StatusOK, media: mediaJSON, body: []byte(`{"alive":true}`)}, nil
}

// wellKnown serves what relying parties of our own tokens need.
type wellKnown struct {
	keys Keys
	url  string
}

const cachePublic = "public, max-age=300"

func (w *wellKnown) discovery(*call) (reply, error) {
	return reply{status: http.StatusOK, media: mediaJSON, cache: cachePublic, body: w.keys.Discovery(w.url)}, nil
}

func (w *wellKnown) jwks(*call) (reply, error) {
	b, err := w.keys.JWKS()
	if err != nil {
		return reply{}, &broker.Error{Code: broker.Unavailable, Reason: "keys", Err: err, Public: "the broker's keys cannot be read"}
	}
	return reply{status: http.StatusOK, media: mediaJSON, cache: cachePublic, body: b}, nil
}
