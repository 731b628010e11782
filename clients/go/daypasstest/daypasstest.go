// Package daypasstest is a fake broker for tests of programs that use the
// client. It speaks the native API over HTTP, seals answers and gives lost ones
// again as a broker does, and remembers what it was asked; it verifies no token
// and makes no credential.
package daypasstest

import (
	"cmp"
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

	recipient []byte // that the session is bound to
}

// Broker is the fake. Its zero value has no grants; it is an [http.Handler],
// safe for concurrent use.
type Broker struct {
	Now func() time.Time // time.Now where nil

	mu       sync.Mutex // guards what follows
	grants   map[string]Credential
	refusals map[string][]Problem // by "METHOD /path", in order
	lose     map[string]int       // answers still to be lost, by "METHOD /path"
	used     map[string]bool      // CI tokens
	sessions map[string]*session
	kept     map[keptKey]kept
	leases   []lease
	asked    []string
	count    int
}

type session struct {
	recipient []byte // the key that its answers are sealed to; nil: none
	closing   bool
	names     map[string]bool // Idempotency-Keys
}

func (s *session) use(name string) {
	if s.names == nil {
		s.names = map[string]bool{}
	}
	s.names[name] = true
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

// Lose makes the answers to the next n requests to route get lost: the work is
// done, half of the answer is sent, and the connection is cut. It does so after
// what [Broker.Refuse] has queued for the route.
func (b *Broker) Lose(route string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lose == nil {
		b.lose = map[string]int{}
	}
	b.lose[route] += n
}

// Made returns how many credentials were made so far.
func (b *Broker) Made() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.leases)
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
		if queue[0].Session { // it is bound to the key all the same
			body, ok := b.read(w, r)
			if !ok {
				return
			}
			to, _ := recipientOf(body, bearer)
			queue[0].recipient = to.key
		}
		b.refuse(w, queue[0])
		return
	}
	if b.lose[route] > 0 {
		b.lose[route]--
		cut := &cutter{header: http.Header{}}
		defer cut.off(w)
		w = cut
	}
	switch {
	case bearer == "":
		b.refuse(w, Problem{Status: 401, Code: "token_invalid", Detail: "no token"})
	case route == "POST /v1/exchange":
		b.exchange(w, r, bearer)
	case !b.known(bearer):
		b.refuse(w, Problem{Status: 401, Code: "session_expired", Detail: "the job session is not known or has ended"})
	case route == "POST /v1/credentials" && b.sessions[bearer].closing:
		b.refuse(w, Problem{Status: 409, Code: "conflict", Detail: "the job session is closing"})
	case route == "POST /v1/credentials":
		b.more(w, r, bearer)
	case route == "POST /v1/session/extend":
		b.answer(w, map[string]any{"session": map[string]any{"expires_at": b.now().Add(10 * time.Minute)}})
	case route == "GET /v1/session":
		b.show(w, bearer)
	case route == "DELETE /v1/session":
		b.sessions[bearer].closing = true
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

func (b *Broker) open(recipient []byte) (string, map[string]any) {
	if b.sessions == nil {
		b.sessions = map[string]*session{}
	}
	token := fmt.Sprintf("dps_fake-session-%d", len(b.sessions)+1)
	b.sessions[token] = &session{recipient: recipient}
	return token, map[string]any{"token": token, "expires_at": b.now().Add(5 * time.Minute)}
}

// wants is the body of a request for credentials.
type wants struct {
	Grants    []struct{ Name, TTL string }
	Recipient *string `json:"recipient_key"`
	DryRun    bool    `json:"dry_run"`
}

// read decodes and decides; it has answered where it returns false.
func (b *Broker) read(w http.ResponseWriter, r *http.Request) (wants, bool) {
	var body wants
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil || r.Header.Get("Content-Type") != "application/json" {
		b.refuse(w, Problem{Status: 400, Code: "bad_request", Detail: "malformed"})
		return body, false
	}
	return body, true
}

// decide refuses grants that nobody defined.
func (b *Broker) decide(w http.ResponseWriter, body wants) bool {
	for _, g := range body.Grants {
		if _, ok := b.grants[g.Name]; !ok {
			b.refuse(w, Problem{Status: 403, Code: "denied", Detail: "policy does not give this to this job"})
			return false
		}
	}
	return true
}

func (b *Broker) exchange(w http.ResponseWriter, r *http.Request, token string) {
	body, ok := b.read(w, r)
	if !ok {
		return
	}
	to, refusal := recipientOf(body, token)
	if refusal != nil {
		b.refuse(w, *refusal)
		return
	}
	if !body.DryRun && b.again(w, to) {
		return
	}
	if b.used[token] && !body.DryRun {
		b.refuse(w, Problem{Status: 409, Code: "token_reused", Detail: "this CI token has been used; a token buys one exchange"})
		return
	}
	if !b.decide(w, body) {
		return
	}
	if body.DryRun {
		b.preview(w, body)
		return
	}
	if b.used == nil {
		b.used = map[string]bool{}
	}
	b.used[token] = true
	session, shown := b.open(to.key)
	b.issue(w, session, body, map[string]any{"session": shown}, to)
}

// more serves a request on an open session.
func (b *Broker) more(w http.ResponseWriter, r *http.Request, session string) {
	body, ok := b.read(w, r)
	if !ok {
		return
	}
	s, name := b.sessions[session], r.Header.Get("Idempotency-Key")
	if body.Recipient != nil || name != "" && s.recipient == nil {
		b.refuse(w, Problem{Status: 400, Code: "bad_request", Detail: "recipient_key is for an exchange, Idempotency-Key for a session that was opened with one"})
		return
	}
	to := sealTo{key: s.recipient, keep: name != ""}
	if name == "" {
		name = b.request()
		to.request = name
	}
	to.aad = onSession(session, name)
	if b.again(w, to) {
		return
	}
	if to.keep && s.names[name] {
		b.refuse(w, Problem{Status: 409, Code: "conflict", Detail: "this Idempotency-Key was used, and its answer is kept no longer"})
		return
	}
	if !b.decide(w, body) {
		return
	}
	if body.DryRun {
		b.preview(w, body)
		return
	}
	if to.keep {
		s.use(name)
	}
	b.issue(w, session, body, map[string]any{}, to)
}

// preview answers a dry run.
func (b *Broker) preview(w http.ResponseWriter, body wants) {
	if len(body.Grants) == 0 { // all that there is
		for _, name := range slices.Sorted(maps.Keys(b.grants)) {
			body.Grants = append(body.Grants, struct{ Name, TTL string }{Name: name})
		}
	}
	permits := []any{}
	for _, g := range body.Grants {
		c := b.grants[g.Name]
		permits = append(permits, map[string]any{"name": g.Name, "rule": "fake/" + g.Name, "ttl": lifeOf(g.TTL).String(),
			"kind": c.Kind, "takeback": cmp.Or(c.Takeback, "now")})
	}
	b.answer(w, map[string]any{"dry_run": true, "grants": permits, "credentials": []any{}})
}

// issue makes what was decided, and answers.
func (b *Broker) issue(w http.ResponseWriter, session string, body wants, answer map[string]any, to sealTo) {
	made := []any{}
	for _, g := range body.Grants {
		made = append(made, b.make(session, g.Name, g.TTL))
	}
	answer["credentials"] = made
	b.give(w, answer, to)
}

func (b *Broker) request() string {
	b.count++
	return fmt.Sprintf("req_fake%d", b.count)
}

func (b *Broker) answer(w http.ResponseWriter, body map[string]any) {
	if body["request_id"] == nil {
		body["request_id"] = b.request()
	}
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
		_, body["session"] = b.open(p.recipient)
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(body)
}
