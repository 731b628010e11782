package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

const (
	mediaJSON    = "application/json"
	mediaProblem = "application/problem+json" // RFC 9457
)

// verdict is how a code looks in HTTP.
type verdict struct {
	status int
	title  string
}

// verdicts is the one place where a code becomes a status.
func verdicts() map[broker.Code]verdict {
	return map[broker.Code]verdict{
		broker.BadRequest:     {http.StatusBadRequest, "Bad request"},
		broker.TokenInvalid:   {http.StatusUnauthorized, "Token not accepted"},
		broker.TokenExpired:   {http.StatusUnauthorized, "Token expired"},
		broker.TokenStale:     {http.StatusUnauthorized, "Token too old"},
		broker.SessionExpired: {http.StatusUnauthorized, "Job session expired"},
		broker.Denied:         {http.StatusForbidden, "Denied"},
		broker.NotFound:       {http.StatusNotFound, "Not found"},
		broker.TokenReused:    {http.StatusConflict, "Token already used"},
		broker.Conflict:       {http.StatusConflict, "Conflict"},
		broker.RateLimited:    {http.StatusTooManyRequests, "Too many requests"},
		broker.Internal:       {http.StatusInternalServerError, "Internal error"},
		broker.MintFailed:     {http.StatusBadGateway, "Credential not made"},
		broker.Unavailable:    {http.StatusServiceUnavailable, "Unavailable"},
	}
}

// internalDetail is all that a caller hears of a fault of ours.
const internalDetail = "something went wrong on our side; the request id finds it in the broker's log"

// problem is the body of every error: RFC 9457 with our members.
type problem struct {
	Type      string          `json:"type"`
	Title     string          `json:"title"`
	Status    int             `json:"status"`
	Detail    string          `json:"detail,omitempty"`
	Code      broker.Code     `json:"code"`
	RequestID string          `json:"request_id"`
	Denials   []broker.Denial `json:"denials,omitempty"`
	Session   *sessionJSON    `json:"session,omitempty"`
	Sealed    *ciphertextJSON `json:"sealed,omitempty"` // in place of Session
}

// sessionError carries the job session that a failed exchange opened: the
// token is spent, so the session is all that the job has left. It is in clear or
// sealed.
type sessionError struct {
	error
	session *sessionJSON
	sealed  *ciphertextJSON
}

func (e *sessionError) Unwrap() error { return e.error }

// methodError is a known path asked with another method.
type methodError struct{ allow string }

func (e *methodError) Error() string { return "method not allowed" }

func badRequest(public string) *broker.Error {
	return &broker.Error{Code: broker.BadRequest, Public: public}
}

// refusal is an error ready to be written.
type refusal struct {
	problem problem
	headers [][2]string
	code    broker.Code
	reason  string
	cause   error // for the log, of statuses from 500 on
}

// refuse turns any error into what the caller may read of it.
func refuse(err error, requestID string, random io.Reader) refusal {
	if m, is := errors.AsType[*methodError](err); is {
		return refuseMethod(m, requestID)
	}
	e, ok := errors.AsType[*broker.Error](err)
	if !ok {
		e = &broker.Error{Code: broker.Internal, Err: err}
	}
	table := verdicts()
	v, known := table[e.Code]
	if !known {
		e = &broker.Error{Code: broker.Internal, Reason: "unknown_code", Err: err}
		v = table[e.Code]
	}
	r := refusal{code: e.Code, reason: broker.ReasonOf(e), cause: err, problem: problem{
		Type: "about:blank", Title: v.title, Status: v.status, Detail: e.Public,
		Code: e.Code, RequestID: requestID, Denials: denialsOf(e)}}
	if e.Code == broker.Internal {
		r.problem.Detail = internalDetail
	}
	if s, is := errors.AsType[*sessionError](err); is {
		r.problem.Session, r.problem.Sealed = s.session, s.sealed
	}
	if wait := retryAfter(e, random); wait != "" {
		r.headers = append(r.headers, [2]string{"Retry-After", wait})
	}
	if v.status == http.StatusUnauthorized {
		r.headers = append(r.headers, [2]string{"WWW-Authenticate", challenge(e)})
	}
	return r
}

// refuseMethod is the one status that has no code of its own.
func refuseMethod(m *methodError, requestID string) refusal {
	return refusal{code: broker.BadRequest, reason: "method", headers: [][2]string{{"Allow", m.allow}}, problem: problem{
		Type: "about:blank", Title: http.StatusText(http.StatusMethodNotAllowed), Status: http.StatusMethodNotAllowed,
		Detail: "this path does not take this method; see Allow", Code: broker.BadRequest, RequestID: requestID}}
}

// denialsOf gives denials only where they belong, and lists as lists.
func denialsOf(e *broker.Error) []broker.Denial {
	if e.Code != broker.Denied {
		return nil
	}
	denials := make([]broker.Denial, len(e.Denials))
	for i, d := range e.Denials {
		if d.Failed == nil {
			d.Failed = []broker.Mismatch{}
		}
		denials[i] = d
	}
	return denials
}

// retryAfter is the header's value in whole seconds, rounded up. What comes
// without a time of its own is spread over five seconds, so that jobs refused
// together do not return together.
func retryAfter(e *broker.Error, random io.Reader) string {
	switch {
	case e.RetryAfter > 0:
		return strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10)
	case e.Code == broker.Unavailable, e.Code == broker.RateLimited:
		var b [1]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return "5"
		}
		return strconv.Itoa(1 + int(b[0])%5)
	}
	return ""
}

// challenge names the scheme, and the error only where a token was shown
// (RFC 6750, section 3.1).
func challenge(e *broker.Error) string {
	if e.Reason == reasonNoToken {
		return `Bearer realm="daypass"`
	}
	return `Bearer realm="daypass", error="invalid_token"`
}

func (p problem) encode() []byte {
	b, err := json.Marshal(p)
	if err != nil { // a denial holds what JSON cannot say: the caller does without it
		p.Denials = nil
		b, _ = json.Marshal(p)
	}
	return b
}
