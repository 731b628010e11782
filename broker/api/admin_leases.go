package api

import (
	"errors"
	"net/url"
	"regexp"

	"github.com/daypass-dev/daypass/broker"
)

// admin serves what operators ask for.
type admin struct{ operator Operator }

// leases lists leases, and while revoking is paused also what would be dropped
// without one.
func (a *admin) leases(c *call) (reply, error) {
	f, err := leaseFilterOf(c.http.URL.RawQuery)
	if err != nil {
		return reply{}, err
	}
	leases, err := a.operator.Leases(c.ctx(), f)
	if err != nil {
		return reply{}, unavailable(err)
	}
	out := struct {
		RequestID string            `json:"request_id"`
		Paused    bool              `json:"revocation_paused"`
		Leases    []storedLeaseJSON `json:"leases"`
		Strays    []strayJSON       `json:"strays,omitempty"`
	}{RequestID: c.id, Paused: a.operator.Paused(), Leases: showStored(leases)}
	for _, s := range a.operator.Strays() {
		if f == (broker.LeaseFilter{}) || f == (broker.LeaseFilter{Target: s.Target}) {
			out.Strays = append(out.Strays, strayJSON{Target: s.Target, Handle: s.Handle, Expires: showTime(s.Expires)})
		}
	}
	return replyJSON(out)
}

// filterFields are the filters by the names of their query parameters.
func filterFields(f *broker.LeaseFilter) map[string]*string {
	return map[string]*string{"session": (*string)(&f.Session), "place": &f.Place, "rule": &f.Rule, "grant": &f.Grant, "target": &f.Target}
}

// leaseFilterOf refuses what it does not know: a misspelt filter must not
// list, and then revoke, everything.
func leaseFilterOf(query string) (broker.LeaseFilter, error) {
	var f broker.LeaseFilter
	values, err := url.ParseQuery(query)
	if err != nil {
		return f, badRequest("the query cannot be read")
	}
	fields := filterFields(&f)
	for name, v := range values {
		field, known := fields[name]
		switch {
		case !known:
			return f, badRequest("unknown query parameter " + showName("", name) + "; there are grant, place, rule, session and target")
		case len(v) != 1 || v[0] == "":
			return f, badRequest("query parameter " + name + " must be there once, with a value")
		}
		*field = v[0]
	}
	return f, nil
}

func (a *admin) lease(c *call) (reply, error) {
	if err := noQuery(c); err != nil {
		return reply{}, err
	}
	id, err := leaseIDOf(c.param)
	if err != nil {
		return reply{}, err
	}
	l, err := a.operator.Lease(c.ctx(), id)
	if err != nil {
		return reply{}, unavailable(err)
	}
	return replyJSON(struct {
		RequestID string          `json:"request_id"`
		Lease     storedLeaseJSON `json:"lease"`
	}{c.id, showStoredLease(l)})
}

func (a *admin) revoke(c *call) (reply, error) {
	if err := noQuery(c); err != nil {
		return reply{}, err
	}
	id, err := leaseIDOf(c.param)
	if err != nil {
		return reply{}, err
	}
	act, err := actOf(c)
	if err != nil {
		return reply{}, err
	}
	o, err := a.operator.RevokeLease(c.ctx(), id, act)
	if err != nil {
		return reply{}, unavailable(err)
	}
	return replyJSON(struct {
		RequestID string          `json:"request_id"`
		State     string          `json:"state"`
		Lease     storedLeaseJSON `json:"lease"`
	}{c.id, o.State, showStoredLease(o.Lease)})
}

// revokeAll marks all that a filter picks. Without one the broker refuses.
func (a *admin) revokeAll(c *call) (reply, error) {
	f, err := leaseFilterOf(c.http.URL.RawQuery)
	if err != nil {
		return reply{}, err
	}
	act, err := actOf(c)
	if err != nil {
		return reply{}, err
	}
	leases, err := a.operator.RevokeLeases(c.ctx(), f, act)
	if err != nil {
		return reply{}, unavailable(err)
	}
	return replyJSON(struct {
		RequestID string            `json:"request_id"`
		Leases    []storedLeaseJSON `json:"leases"`
	}{c.id, showStored(leases)})
}

// forget gives up on a target that is gone, and names what may live on there.
func (a *admin) forget(c *call) (reply, error) {
	if err := noQuery(c); err != nil {
		return reply{}, err
	}
	body, err := readBody(c.writer, c.http)
	if err != nil {
		return reply{}, err
	}
	target, only, reason, err := decodeForget(body)
	if err != nil {
		return reply{}, err
	}
	act, err := actOf(c)
	if err != nil {
		return reply{}, err
	}
	act.Reason = reason
	leases, err := a.operator.Forget(c.ctx(), target, only, act)
	if err != nil {
		return reply{}, unavailable(err)
	}
	return replyJSON(struct {
		RequestID string            `json:"request_id"`
		Leases    []storedLeaseJSON `json:"leases"`
	}{c.id, showStored(leases)})
}

func decodeForget(body []byte) (target string, only broker.LeaseID, reason string, err error) {
	m, err := document(body, "target", "lease_id", "reason")
	if err != nil {
		return "", "", "", err
	}
	fields := map[string]*string{"target": &target, "lease_id": (*string)(&only), "reason": &reason}
	for name, field := range fields {
		raw, there := m[name]
		if !there {
			continue
		}
		value, ok := text(raw)
		if !ok {
			return "", "", "", badRequest(name + " must be a string")
		}
		*field = value
	}
	if only != "" && !leaseRE.MatchString(string(only)) {
		return "", "", "", broker.ErrNoLease
	}
	return target, only, reason, nil
}

var operatorRE = regexp.MustCompile(`\A[A-Za-z0-9._@+-]{1,64}\z`)

// actOf says who asks. All operators have the same token, so a name is their
// own word, and is journalled as such.
func actOf(c *call) (broker.Act, error) {
	a := broker.Act{Request: c.id, By: "admin token"}
	names := c.http.Header.Values("Daypass-Operator")
	if len(names) == 0 {
		return a, nil
	}
	if len(names) > 1 || !operatorRE.MatchString(names[0]) {
		return a, badRequest("Daypass-Operator must be there once, with 1 to 64 letters, digits or ._@+-")
	}
	a.By = "admin token, as " + names[0]
	return a, nil
}

// storedLeaseJSON is a lease as operators see it: whole, for it holds no
// secret, with durations that people can read.
type storedLeaseJSON struct {
	broker.Lease
	Grant storedGrantJSON `json:"grant"`
}

type storedGrantJSON struct {
	broker.Grant
	MaxTTL string `json:"max_ttl"`
}

type strayJSON struct {
	Target  string        `json:"target"`
	Handle  broker.Handle `json:"handle"`
	Expires string        `json:"expires_at"`
}

func showStoredLease(l broker.Lease) storedLeaseJSON {
	return storedLeaseJSON{Lease: l, Grant: storedGrantJSON{Grant: l.Grant, MaxTTL: showTTL(l.Grant.MaxTTL)}}
}

func showStored(leases []broker.Lease) []storedLeaseJSON {
	out := make([]storedLeaseJSON, len(leases))
	for i, l := range leases {
		out[i] = showStoredLease(l)
	}
	return out
}

// unavailable is what an operator's call comes to when a store does not answer.
func unavailable(err error) error {
	if _, ok := errors.AsType[*broker.Error](err); ok {
		return err
	}
	return &broker.Error{Code: broker.Unavailable, Reason: "leases", Err: err, Public: "the lease store cannot be read"}
}
