package daypass

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Answer is what a job gets.
type Answer struct {
	RequestID   string
	Session     Session      // of an exchange; zero in answers to Credentials
	Credentials []Credential // in the order asked for
}

// Session is a job session: with its token the same job asks for more, or
// gives back. Who keeps a session keeps both secrets.
type Session struct {
	Token     Secret
	Key       Secret    // the private key that opens the session's answers; none where another client opened it without
	ExpiresAt time.Time // it mints until then, and gives back as long as a lease lives
}

// Credential is one credential, with all its values held as secrets.
type Credential struct {
	Grant     string
	Kind      string
	LeaseID   string
	IssuedAt  time.Time
	ExpiresAt time.Time
	Takeback  Takeback
	Fields    map[string]Secret // its parts, such as username and password
	Env       map[string]Secret // the same under the names that tools look for
	Sensitive []string          // keys of Fields and Env whose values must be masked in logs; all, where the broker does not say
}

// Takeback says what giving a credential back achieves.
type Takeback string

// How a credential ends before its expiry.
const (
	TakebackNow    Takeback = "now"    // it stops working when it is given back
	TakebackExpiry Takeback = "expiry" // it ends by itself at its expiry
	TakebackNever  Takeback = "never"  // it outlives its lease: a static secret that was read
)

// IsSensitive reports whether the value under a key of Fields or Env must be
// masked.
func (c Credential) IsSensitive(key string) bool { return slices.Contains(c.Sensitive, key) }

// Secrets returns the values that must be masked in logs, each once, longest
// first.
func (c Credential) Secrets() []Secret {
	seen := map[string]bool{}
	var all []Secret
	for _, m := range []map[string]Secret{c.Fields, c.Env} {
		for key, value := range m {
			if c.IsSensitive(key) && !value.IsZero() && !seen[value.Reveal()] {
				seen[value.Reveal()] = true
				all = append(all, value)
			}
		}
	}
	slices.SortFunc(all, func(a, b Secret) int {
		if d := len(b.Reveal()) - len(a.Reveal()); d != 0 {
			return d
		}
		return strings.Compare(a.Reveal(), b.Reveal())
	})
	return all
}

// SessionInfo is what the broker knows of a job session.
type SessionInfo struct {
	RequestID string `json:"request_id"`
	Session   struct {
		ExpiresAt time.Time `json:"expires_at"`
		Closing   bool      `json:"closing"`
	} `json:"session"`
	Identity Identity `json:"identity"`
	Leases   []Lease  `json:"leases"`
}

// Identity is the job that the broker verified. Its text comes from a token:
// outsiders influence it, so escape it before a terminal or log sees it.
type Identity struct {
	Issuer       string `json:"issuer"` // the name the operator gave it
	Subject      string `json:"subject"`
	Repository   string `json:"repository,omitempty"`
	RepositoryID string `json:"repository_id,omitempty"`
	Ref          string `json:"ref,omitempty"`
	Environment  string `json:"environment,omitempty"`
	Event        string `json:"event,omitempty"`
	Run          string `json:"run,omitempty"`
	RunURL       string `json:"run_url,omitempty"`
}

// Lease is a credential that lives under a session.
type Lease struct {
	LeaseID   string    `json:"lease_id"`
	Grant     string    `json:"grant"`
	Kind      string    `json:"kind"`
	State     string    `json:"state"`
	ExpiresAt time.Time `json:"expires_at"`
	Takeback  Takeback  `json:"takeback"`
}

// Ending is how a lease that was given back ends.
type Ending struct {
	LeaseID   string    `json:"lease_id"`
	Grant     string    `json:"grant"`
	State     string    `json:"state"` // "revoked", "revoking" (the broker goes on trying) or "expires" (by itself)
	ExpiresAt time.Time `json:"expires_at"`
}

type wireSession struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (s *wireSession) session() *Session {
	if s == nil || s.Token == "" {
		return nil
	}
	return &Session{Token: NewSecret(s.Token), ExpiresAt: s.ExpiresAt}
}

type wireAnswer struct {
	RequestID   string           `json:"request_id"`
	Session     *wireSession     `json:"session"`
	Credentials []wireCredential `json:"credentials"`
	Sealed      *wireSealed      `json:"sealed"` // in place of the rest
}

type wireCredential struct {
	Grant     string            `json:"grant"`
	Kind      string            `json:"kind"`
	LeaseID   string            `json:"lease_id"`
	IssuedAt  time.Time         `json:"issued_at"`
	ExpiresAt time.Time         `json:"expires_at"`
	Takeback  Takeback          `json:"takeback"`
	Fields    map[string]string `json:"fields"`
	Env       map[string]string `json:"env"`
	Sensitive []string          `json:"sensitive"`
}

type wireGrant struct {
	Name string `json:"name"`
	TTL  string `json:"ttl,omitempty"`
}

type wireRequest struct {
	Grants    []wireGrant `json:"grants"`
	Recipient string      `json:"recipient_key,omitempty"`
	DryRun    bool        `json:"dry_run"`
}

func request(grants []Grant) wireRequest {
	r := wireRequest{Grants: []wireGrant{}}
	for _, g := range grants {
		w := wireGrant{Name: g.Name}
		if g.TTL > 0 {
			w.TTL = short(g.TTL)
		}
		r.Grants = append(r.Grants, w)
	}
	return r
}

// short writes 15m where [time.Duration.String] writes 15m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// order is one attempt to get credentials.
type order struct {
	path   string
	bearer Secret // the CI token, or the job session's
	key    Secret // Idempotency-Key, on a session
	grants []Grant
	to     recipient
	names  []requestName // one of which the answer is sealed with
}

// opens reports whether a session is to come of it.
func (o order) opens() bool { return o.path == "/v1/exchange" }

// ask makes one attempt to get credentials and checks what came.
func (c *Client) ask(ctx context.Context, o order) (*Answer, error) {
	r := request(o.grants)
	if o.opens() {
		r.Recipient = o.to.public()
	}
	var got wireAnswer
	if err := c.call(ctx, call{method: http.MethodPost, path: o.path, bearer: o.bearer, key: o.key, body: r}, &got); err != nil {
		return nil, o.open(err)
	}
	plain, err := o.to.read(got, o.names)
	if err == nil {
		got = plain
		var a *Answer
		if a, err = got.check(o); err == nil {
			return a, nil
		}
	}
	return nil, c.useless(ctx, err, got.RequestID, got.Session)
}

// open finds the session in a refusal that has it sealed. One that cannot be
// opened was not made for us, and is a refusal without a session.
func (o order) open(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.sealed == nil || o.to.none() || !o.opens() {
		return err
	}
	if inside, bad := o.to.read(wireAnswer{Sealed: e.sealed}, o.names); bad == nil {
		e.Session = inside.Session.session()
	}
	e.sealed = nil
	return e
}

// useless says why an answer is none. A session that came with it must not
// live on: nobody would give it back.
func (c *Client) useless(ctx context.Context, why error, request string, w *wireSession) error {
	if s := w.session(); s != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, back := c.GiveBack(ctx, s.Token)
		why = errors.Join(why, back)
	}
	return &Error{Code: NotDaypass, Status: http.StatusOK, Sent: true, RequestID: request, Err: why}
}

var envNameRE = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)

// check is strict: an answer that differs from what was asked is no answer.
func (w wireAnswer) check(o order) (*Answer, error) {
	a := &Answer{RequestID: w.RequestID}
	if o.opens() {
		s := w.Session.session()
		if s == nil {
			return nil, errors.New("the answer has no job session")
		}
		a.Session = *s
	}
	if len(w.Credentials) != len(o.grants) {
		return nil, fmt.Errorf("%d grants asked for, %d credentials given", len(o.grants), len(w.Credentials))
	}
	for i, wc := range w.Credentials {
		if wc.Grant != o.grants[i].Name {
			return nil, fmt.Errorf("credential %d is not for the grant that was asked for", i+1)
		}
		if wc.LeaseID == "" || wc.ExpiresAt.IsZero() {
			return nil, fmt.Errorf("the credential for %s has no lease or no expiry", wc.Grant)
		}
		for name, value := range wc.Env {
			if !envNameRE.MatchString(name) || strings.ContainsRune(value, 0) {
				return nil, fmt.Errorf("the credential for %s has an environment variable that none can be", wc.Grant)
			}
		}
		if wc.Sensitive == nil {
			wc.Sensitive = slices.Sorted(maps.Keys(merged(wc.Fields, wc.Env)))
		}
		a.Credentials = append(a.Credentials, Credential{
			Grant: wc.Grant, Kind: wc.Kind, LeaseID: wc.LeaseID, IssuedAt: wc.IssuedAt, ExpiresAt: wc.ExpiresAt,
			Takeback: wc.Takeback, Fields: secrets(wc.Fields), Env: secrets(wc.Env), Sensitive: wc.Sensitive,
		})
	}
	return a, nil
}

func merged(a, b map[string]string) map[string]string {
	m := maps.Clone(a)
	if m == nil {
		return b
	}
	maps.Copy(m, b)
	return m
}

func secrets(m map[string]string) map[string]Secret {
	s := make(map[string]Secret, len(m))
	for k, v := range m {
		s[k] = NewSecret(v)
	}
	return s
}

// call is one request to the broker.
type call struct {
	method, path string
	bearer       Secret
	key          Secret // Idempotency-Key, if any
	body         any    // nil: none
}

// call makes one attempt and reads the answer into into.
func (c *Client) call(ctx context.Context, r call, into any) error {
	if _, err := checkToken(r.bearer.Reveal()); err != nil {
		return fmt.Errorf("daypass: bearer token: %w", err)
	}
	m := message{method: r.method, url: c.base + r.path, bearer: r.bearer, key: r.key}
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return fmt.Errorf("daypass: encode the request: %w", err)
		}
		m.body = b
	}
	a, err := c.t.send(ctx, m)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return a.problem()
	}
	if a.mediaType != "application/json" || json.Unmarshal(a.body, into) != nil {
		return a.strange()
	}
	return nil
}

// problem reads a refusal. What does not have the form of a broker's is not
// repeated: it may be a proxy's page, with anything in it.
func (a answer) problem() error {
	var p struct {
		Detail    string       `json:"detail"`
		Code      Code         `json:"code"`
		RequestID string       `json:"request_id"`
		Denials   []Denial     `json:"denials"`
		Session   *wireSession `json:"session"`
		Sealed    *wireSealed  `json:"sealed"` // in place of the session
	}
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.UseNumber() // an id that was seen must not come out as 5.67e+08
	if a.mediaType != "application/problem+json" || d.Decode(&p) != nil || p.Code == "" {
		return a.strange()
	}
	return &Error{
		Status: a.status, Code: p.Code, Detail: p.Detail, RequestID: p.RequestID, Denials: p.Denials,
		RetryAfter: a.retryAfter, Session: p.Session.session(), Sent: true, sealed: p.Sealed,
	}
}

func (a answer) strange() error {
	detail := fmt.Sprintf("HTTP status %d, and not in the form that a Daypass broker answers in; is the URL right?", a.status)
	if a.status >= 300 && a.status < 400 {
		detail = fmt.Sprintf("HTTP status %d: redirects are not followed; use the broker's own URL", a.status)
	}
	return &Error{Status: a.status, Code: NotDaypass, Detail: detail, RetryAfter: a.retryAfter, Sent: true}
}
