// Package daypasstest is a fake broker for tests of programs that use the
// client. It speaks the native API over HTTP and remembers what it was asked;
// it verifies no token and makes no credential.
package daypasstest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Credential is what a grant of the fake gives. The text $N in a value is
// replaced by the number of the lease.
type Credential struct {
	Kind      string
	Takeback  string // "now" where empty
	Fields    map[string]string
	Env       map[string]string
	Sensitive []string
}

// Problem is a refusal.
type Problem struct {
	Status     int
	Code       string
	Detail     string
	RetryAfter int // seconds; 0: no header
	Denials    []map[string]any
	Session    bool // open a session and hand it out with the refusal, as mint_failed does
}

// Broker is the fake. Its zero value has no grants; it is an [http.Handler],
// safe for concurrent use.
type Broker struct {
	Now func() time.Time // time.Now where nil

	mu       sync.Mutex // guards what follows
	grants   map[string]Credential
	refusals map[string][]Problem // by "METHOD /path", in order
	used     map[string]bool      // CI tokens
	sessions map[string]bool      // true: still open
	leases   []lease
	asked    []string
	count    int
}

type lease struct {
	id, grant, kind, takeback, session string
	expires                            time.Time
	ended                              bool
}

// Grant defines what a grant gives.
func (b *Broker) Grant(name string, c Credential) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.grants == nil {
		b.grants = map[string]Credential{}
	}
	b.grants[name] = c
}

// Refuse makes the next request to route ("POST /v1/exchange") fail, and the
// one after that with the next problem.
func (b *Broker) Refuse(route string, next ...Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refusals == nil {
		b.refusals = map[string][]Problem{}
	}
	b.refusals[route] = append(b.refusals[route], next...)
}

// Live returns the grants whose credentials were not given back, sorted.
func (b *Broker) Live() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	live := []string{}
	for _, l := range b.leases {
		if !l.ended {
			live = append(live, l.grant)
		}
	}
	slices.Sort(live)
	return live
}

// Asked returns the requests so far, as "METHOD /path".
func (b *Broker) Asked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

// Tokens returns the CI tokens that were spent, sorted.
func (b *Broker) Tokens() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.used))
}

// ServeHTTP implements [http.Handler].
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	route := r.Method + " " + r.URL.Path
	b.asked = append(b.asked, route)
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if queue := b.refusals[route]; len(queue) > 0 {
		b.refusals[route] = queue[1:]
		b.refuse(w, queue[0])
		return
	}
	switch {
	case bearer == "":
		b.refuse(w, Problem{Status: 401, Code: "token_invalid", Detail: "no token"})
	case route == "POST /v1/exchange":
		b.exchange(w, r, bearer)
	case !b.known(bearer):
		b.refuse(w, Problem{Status: 401, Code: "session_expired", Detail: "the job session is not known or has ended"})
	case route == "POST /v1/credentials" && !b.sessions[bearer]:
		b.refuse(w, Problem{Status: 409, Code: "conflict", Detail: "the job session is closing"})
	case route == "POST /v1/credentials":
		b.issue(w, r, bearer, nil)
	case route == "POST /v1/session/extend":
		b.answer(w, map[string]any{"session": map[string]any{"expires_at": b.now().Add(10 * time.Minute)}})
	case route == "GET /v1/session":
		b.show(w, bearer)
	case route == "DELETE /v1/session":
		b.sessions[bearer] = false
		b.end(w, all, func(l lease) bool { return l.session == bearer })
	case strings.HasPrefix(route, "DELETE /v1/leases/"):
		id := strings.TrimPrefix(r.URL.Path, "/v1/leases/")
		b.end(w, theOne, func(l lease) bool { return l.session == bearer && l.id == id })
	default:
		b.refuse(w, Problem{Status: 404, Code: "not_found", Detail: "no such route"})
	}
}

func (b *Broker) now() time.Time {
	if b.Now == nil {
		return time.Now().UTC().Truncate(time.Second)
	}
	return b.Now().UTC().Truncate(time.Second)
}

func (b *Broker) known(session string) bool {
	_, ok := b.sessions[session]
	return ok
}

func (b *Broker) open() (string, map[string]any) {
	if b.sessions == nil {
		b.sessions = map[string]bool{}
	}
	token := fmt.Sprintf("dps_fake-session-%d", len(b.sessions)+1)
	b.sessions[token] = true
	return token, map[string]any{"token": token, "expires_at": b.now().Add(5 * time.Minute)}
}

func (b *Broker) exchange(w http.ResponseWriter, r *http.Request, token string) {
	if b.used == nil {
		b.used = map[string]bool{}
	}
	if b.used[token] {
		b.refuse(w, Problem{Status: 409, Code: "token_reused", Detail: "this CI token has been used; a token buys one exchange"})
		return
	}
	b.issue(w, r, "", func() (string, map[string]any) {
		b.used[token] = true
		return b.open()
	})
}

// issue decides, then opens a session where open is given, then makes.
func (b *Broker) issue(w http.ResponseWriter, r *http.Request, session string, open func() (string, map[string]any)) {
	var body struct {
		Grants []struct{ Name, TTL string }
		DryRun bool `json:"dry_run"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil || r.Header.Get("Content-Type") != "application/json" {
		b.refuse(w, Problem{Status: 400, Code: "bad_request", Detail: "malformed"})
		return
	}
	for _, g := range body.Grants {
		if _, ok := b.grants[g.Name]; !ok {
			b.refuse(w, Problem{Status: 403, Code: "denied", Detail: "policy does not give this to this job"})
			return
		}
	}
	answer := map[string]any{"credentials": []any{}}
	if body.DryRun {
		permits := []any{}
		for _, g := range body.Grants {
			permits = append(permits, map[string]any{"name": g.Name, "rule": "fake/" + g.Name, "ttl": lifeOf(g.TTL).String()})
		}
		answer["dry_run"], answer["grants"] = true, permits
		b.answer(w, answer)
		return
	}
	if open != nil {
		session, answer["session"] = open()
	}
	made := []any{}
	for _, g := range body.Grants {
		made = append(made, b.make(session, g.Name, g.TTL))
	}
	answer["credentials"] = made
	b.answer(w, answer)
}

// lifeOf is as long as was asked for, or an hour.
func lifeOf(ttl string) time.Duration {
	life, err := time.ParseDuration(ttl)
	if err != nil {
		return time.Hour
	}
	return life
}

func (b *Broker) make(session, name, ttl string) map[string]any {
	c := b.grants[name]
	life := lifeOf(ttl)
	takeback := c.Takeback
	if takeback == "" {
		takeback = "now"
	}
	n := strconv.Itoa(len(b.leases) + 1)
	l := lease{id: "dpl_fake" + n, grant: name, kind: c.Kind, takeback: takeback, session: session, expires: b.now().Add(life)}
	b.leases = append(b.leases, l)
	fill := func(m map[string]string) map[string]string {
		out := map[string]string{}
		for k, v := range m {
			out[k] = strings.ReplaceAll(v, "$N", n)
		}
		return out
	}
	return map[string]any{
		"grant": name, "kind": c.Kind, "lease_id": l.id, "issued_at": b.now(), "expires_at": l.expires,
		"takeback": takeback, "fields": fill(c.Fields), "env": fill(c.Env), "sensitive": c.Sensitive,
	}
}

func (b *Broker) show(w http.ResponseWriter, session string) {
	leases := []any{}
	for _, l := range b.leases {
		if l.session == session && !l.ended {
			leases = append(leases, map[string]any{"lease_id": l.id, "grant": l.grant, "kind": l.kind,
				"state": "active", "expires_at": l.expires, "takeback": l.takeback})
		}
	}
	b.answer(w, map[string]any{
		"session":  map[string]any{"expires_at": b.now().Add(5 * time.Minute), "closing": !b.sessions[session]},
		"identity": map[string]any{"issuer": "fake", "subject": "repo:acme/orders", "repository": "acme/orders", "ref": "refs/heads/main"},
		"leases":   leases,
	})
}

type many int

const (
	all many = iota
	theOne
)

func (b *Broker) end(w http.ResponseWriter, one many, which func(lease) bool) {
	ended := []any{}
	for i, l := range b.leases {
		if l.ended || !which(l) {
			continue
		}
		b.leases[i].ended = true
		state := "revoked"
		if l.takeback != "now" {
			state = "expires"
		}
		ended = append(ended, map[string]any{"lease_id": l.id, "grant": l.grant, "state": state, "expires_at": l.expires})
	}
	if one == theOne && len(ended) == 0 {
		b.refuse(w, Problem{Status: 404, Code: "not_found", Detail: "no such lease"})
		return
	}
	b.answer(w, map[string]any{"leases": ended})
}

func (b *Broker) request() string {
	b.count++
	return fmt.Sprintf("req_fake%d", b.count)
}

func (b *Broker) answer(w http.ResponseWriter, body map[string]any) {
	body["request_id"] = b.request()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(body) // a client that went away is its own fault
}

func (b *Broker) refuse(w http.ResponseWriter, p Problem) {
	body := map[string]any{"type": "about:blank", "title": p.Code, "status": p.Status, "detail": p.Detail,
		"code": p.Code, "request_id": b.request()}
	if p.Denials != nil {
		body["denials"] = p.Denials
	}
	if p.Session {
		_, body["session"] = b.open()
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(body)
}
