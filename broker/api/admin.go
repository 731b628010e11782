package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Operator is what operators may do. by says who asked, for the journal.
type Operator interface {
	Leases(ctx context.Context, f broker.LeaseFilter) ([]broker.Lease, error)
	RevokeLease(ctx context.Context, id broker.LeaseID, request, by string) (broker.Outcome, error)
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
		{method: http.MethodDelete, path: "/admin/v1/leases/{id}", access: accessOperator, handle: a.revoke},
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

// admin serves what operators ask for.
type admin struct{ operator Operator }

// leases lists leases as they are stored: a lease holds no secret.
func (a *admin) leases(c *call) (reply, error) {
	f, err := leaseFilterOf(c.http.URL.RawQuery)
	if err != nil {
		return reply{}, err
	}
	leases, err := a.operator.Leases(c.ctx(), f)
	if err != nil {
		return reply{}, unavailable(err)
	}
	if leases == nil {
		leases = []broker.Lease{}
	}
	return replyJSON(struct {
		RequestID string         `json:"request_id"`
		Leases    []broker.Lease `json:"leases"`
	}{c.id, leases})
}

// leaseFilterOf refuses what it does not know: a misspelt filter must not
// list, and then revoke, everything.
func leaseFilterOf(query string) (broker.LeaseFilter, error) {
	var f broker.LeaseFilter
	values, err := url.ParseQuery(query)
	if err != nil {
		return f, badRequest("the query cannot be read")
	}
	fields := map[string]*string{"grant": &f.Grant, "place": &f.Place, "target": &f.Target}
	for name, v := range values {
		field, known := fields[name]
		switch {
		case !known:
			return f, badRequest("unknown query parameter " + showName("", name) + "; there are grant, place and target")
		case len(v) != 1 || v[0] == "":
			return f, badRequest("query parameter " + name + " must be there once, with a value")
		}
		*field = v[0]
	}
	return f, nil
}

func (a *admin) revoke(c *call) (reply, error) {
	if err := noQuery(c); err != nil {
		return reply{}, err
	}
	id, err := leaseIDOf(c.param)
	if err != nil {
		return reply{}, err
	}
	o, err := a.operator.RevokeLease(c.ctx(), id, c.id, "admin token")
	if err != nil {
		return reply{}, unavailable(err)
	}
	return replyJSON(struct {
		RequestID string       `json:"request_id"`
		State     string       `json:"state"`
		Lease     broker.Lease `json:"lease"`
	}{c.id, o.State, o.Lease})
}

// unavailable is what an operator's call comes to when a store does not answer.
func unavailable(err error) error {
	if _, ok := errors.AsType[*broker.Error](err); ok {
		return err
	}
	return &broker.Error{Code: broker.Unavailable, Reason: "leases", Err: err, Public: "the lease store cannot be read"}
}
