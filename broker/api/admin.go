package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Operator is what operators may see and do.
type Operator interface {
	LeaseViewer
	LeaseTaker
}

// LeaseViewer is what operators may see of leases.
type LeaseViewer interface {
	Leases(ctx context.Context, f broker.LeaseFilter) ([]broker.Lease, error)
	Lease(ctx context.Context, id broker.LeaseID) (broker.Lease, error)
	Paused() bool
	Strays() []broker.Stray
}

// LeaseTaker is what operators may do to leases; an Act says who asked, for the
// journal.
type LeaseTaker interface {
	RevokeLease(ctx context.Context, id broker.LeaseID, a broker.Act) (broker.Outcome, error)
	RevokeLeases(ctx context.Context, f broker.LeaseFilter, a broker.Act) ([]broker.Lease, error)
	Forget(ctx context.Context, target string, only broker.LeaseID, a broker.Act) ([]broker.Lease, error)
}

// AdminConfig is what the admin listener is made of. All fields are needed
// unless said otherwise.
type AdminConfig struct {
	Operator Operator
	Token    broker.Secret // see [AdminToken]
	// Hosts are the exact Host headers that are answered, such as
	// "127.0.0.1:8081" and "localhost:8081". A web page that made its own
	// name point to loopback sends its own name.
	Hosts   []string
	Metrics *Metrics
	Log     *slog.Logger
	Rand    io.Reader // a cryptographic source
	Now     func() time.Time
}

// Check names every part that is not there.
func (c AdminConfig) Check() error {
	var faults []error
	for _, part := range []struct {
		name   string
		absent bool
	}{
		{"Operator", c.Operator == nil}, {"Token", c.Token.IsZero()}, {"Hosts", len(c.Hosts) == 0 || slices.Contains(c.Hosts, "")},
		{"Metrics", c.Metrics == nil}, {"Log", c.Log == nil}, {"Rand", c.Rand == nil}, {"Now", c.Now == nil},
	} {
		if part.absent {
			faults = append(faults, fmt.Errorf("api: admin %s is missing", part.name))
		}
	}
	return errors.Join(faults...)
}

// NewAdmin serves metrics and what operators do to leases. Everything but the
// health check needs the admin token. Like [NewPublic] it panics on an
// incomplete config.
func NewAdmin(c AdminConfig) http.Handler {
	if err := c.Check(); err != nil {
		panic(err)
	}
	return newAdmin(c).handler()
}

func newAdmin(c AdminConfig) *surface {
	a := &admin{operator: c.Operator}
	s := &surface{log: c.Log, rand: c.Rand, now: c.Now, metrics: c.Metrics, operator: c.Token}
	hosts := slices.Clone(c.Hosts)
	s.guard = func(r *http.Request) error { return sameMachine(r, hosts) }
	s.routes = []route{
		{method: http.MethodGet, path: "/metrics", access: accessOperator, quiet: true, handle: c.Metrics.expose},
		{method: http.MethodGet, path: "/admin/v1/leases", access: accessOperator, handle: a.leases},
		{method: http.MethodDelete, path: "/admin/v1/leases", access: accessOperator, handle: a.revokeAll},
		{method: http.MethodGet, path: "/admin/v1/leases/{id}", access: accessOperator, handle: a.lease},
		{method: http.MethodDelete, path: "/admin/v1/leases/{id}", access: accessOperator, handle: a.revoke},
		{method: http.MethodPost, path: "/admin/v1/forget", access: accessOperator, handle: a.forget},
		{method: http.MethodGet, path: "/healthz", access: accessOpen, quiet: true, handle: healthz},
	}
	return s
}

// sameMachine refuses what a browser was made to send: a foreign name that was
// rebound to loopback, and anything with an Origin. No tool sends one.
func sameMachine(r *http.Request, hosts []string) error {
	if !slices.Contains(hosts, r.Host) {
		return &broker.Error{Code: broker.Denied, Reason: "host", Public: "the Host header is not one that this listener answers to"}
	}
	if len(r.Header.Values("Origin")) > 0 {
		return &broker.Error{Code: broker.Denied, Reason: "origin", Public: "requests from web pages are refused"}
	}
	return nil
}
