package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass-dev/daypass/broker"
)

// access says who may call a route. The zero value is none of these, and no
// surface is built with a route that has it.
type access int

const (
	accessOpen     access = iota + 1 // anyone: it tells nothing that is not public
	accessCI                         // who holds a CI token; the broker verifies it
	accessSession                    // who holds a job session's token; the broker looks it up
	accessOperator                   // who can read the admin token
)

// route is one operation of the API.
type route struct {
	method string
	path   string // as in OpenAPI: /v1/leases/{id}
	access access
	quiet  bool // asked by probes all day: logged as debug when it goes well
	handle func(*call) (reply, error)
}

func (rt route) String() string { return rt.method + " " + rt.path }

// call is one request on its way through, and what its log line will say.
type call struct {
	http    *http.Request
	writer  http.ResponseWriter
	param   string // the path's one parameter
	id      string
	began   time.Time
	bearer  broker.Secret
	hide    []broker.Secret // what the caller sent in confidence: never in the log
	route   string
	quiet   bool
	issuer  string
	code    broker.Code
	reason  string
	failure error // the cause, for the log
	reply   reply
}

func (c *call) ctx() context.Context { return c.http.Context() }

// surface is what both listeners have in common.
type surface struct {
	log         *slog.Logger
	rand        io.Reader
	now         func() time.Time
	metrics     *Metrics
	behindProxy bool
	guard       func(*http.Request) error // before anything else; nil: none
	operator    broker.Secret             // for accessOperator
	routes      []route
}

const callKey = "call"

// handler builds the routes. Everything, unknown paths included, goes through
// front.
func (s *surface) handler() http.Handler {
	e := echo.New()
	e.Use(s.front)
	e.HTTPErrorHandler = func(error, echo.Context) {} // front answers, always
	for _, rt := range s.routes {
		if rt.access < accessOpen || rt.access > accessOperator {
			panic(fmt.Sprintf("api: route %s does not say who may call it", rt))
		}
		path := strings.NewReplacer("{", ":", "}", "").Replace(rt.path)
		e.Add(rt.method, path, s.serve(rt))
		if rt.method == http.MethodGet && rt.access == accessOpen {
			e.Add(http.MethodHead, path, s.serve(rt))
		}
	}
	return e
}

// front gives each request its id and headers, and writes its answer and its
// log line.
func (s *surface) front(next echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		c := &call{http: ec.Request(), writer: ec.Response(), began: s.now(), route: "unmatched"}
		h := ec.Response().Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if len(c.http.TransferEncoding) > 0 {
			// net/http takes the chunks where a length is given as well. A proxy
			// that took the length has sent us the next request already, and it
			// may not be what its sender thinks (RFC 9112, section 6.1).
			h.Set("Connection", "close")
		}
		ec.Set(callKey, c)
		err := s.safely(c, func() error { return s.dispatch(c, ec, next) })
		s.tell(c, s.answer(c, ec.Response(), err))
		return nil
	}
}

// safely turns a panic into an error.
func (s *surface) safely(c *call, do func() error) error {
	var err error
	func() {
		defer func() {
			if v := recover(); v == http.ErrAbortHandler {
				panic(v) // how a handler says that the connection must go
			} else if v != nil {
				err = s.panicked(c, v)
			}
		}()
		err = do()
	}()
	return err
}

// dispatch does what is done for every request, and calls the route.
func (s *surface) dispatch(c *call, ec echo.Context, next echo.HandlerFunc) error {
	id, err := broker.NewRequestID(s.rand)
	if err != nil {
		return &broker.Error{Code: broker.Internal, Reason: "no_randomness", Err: err}
	}
	c.id = id
	ec.Response().Header().Set("X-Request-Id", id)
	if s.guard != nil {
		if err := s.guard(c.http); err != nil {
			return err
		}
	}
	if allow, ok := ec.Get(echo.ContextKeyHeaderAllow).(string); ok { // OPTIONS too: there is no CORS to negotiate
		return &methodError{allow: strings.TrimPrefix(allow, http.MethodOptions+", ")}
	}
	return next(ec)
}

// serve is a route's way from the router to its handler and back.
func (s *surface) serve(rt route) echo.HandlerFunc {
	name := rt.String()
	return func(ec echo.Context) error {
		c := ec.Get(callKey).(*call)
		c.route, c.quiet = name, rt.quiet
		if values := ec.ParamValues(); len(values) > 0 {
			c.param = values[0]
		}
		if err := s.authorize(c, rt); err != nil {
			return err
		}
		rep, err := rt.handle(c)
		c.reply = rep
		return err
	}
}

// authorize takes the token out of the request. Whether a CI token or a job
// session is good is the broker's to say; the admin token is compared here.
func (s *surface) authorize(c *call, rt route) error {
	if rt.access == accessOpen {
		return noBody(c.http)
	}
	token, err := bearerOf(c.http.Header)
	if err != nil {
		return err
	}
	c.bearer, c.hide = token, append(c.hide, token)
	if rt.access == accessOperator && (s.operator.IsZero() || !token.Equal(s.operator)) {
		return badToken("admin_token", "this is not the admin token")
	}
	if rt.method != http.MethodPost {
		return noBody(c.http)
	}
	return nil
}

// answer writes what came out, once, and returns the status.
func (s *surface) answer(c *call, w *echo.Response, err error) int {
	h := w.Header()
	if errors.Is(err, echo.ErrNotFound) {
		err = &broker.Error{Code: broker.NotFound, Reason: "route", Public: "there is nothing under this path; see /openapi.yaml"}
	}
	rep := c.reply
	if err != nil {
		r := refuse(err, c.id, s.rand)
		c.code, c.reason, c.failure = r.code, r.reason, r.cause
		for _, kv := range r.headers {
			h.Set(kv[0], kv[1])
		}
		rep = reply{status: r.problem.Status, media: mediaProblem, body: r.problem.encode()}
	}
	if w.Committed { // a handler that wrote by itself, or panicked half way
		return w.Status
	}
	if rep.cache != "" {
		h.Set("Cache-Control", rep.cache)
	}
	h.Set("Content-Type", rep.media)
	h.Set("Content-Length", strconv.Itoa(len(rep.body)))
	w.WriteHeader(rep.status)
	if c.http.Method != http.MethodHead {
		_, _ = w.Write(rep.body) // the caller is gone: nothing is left to tell them
	}
	return rep.status
}

// panicked keeps what is needed to find the fault.
func (s *surface) panicked(c *call, v any) error {
	s.log.Error("panic while serving a request", "request_id", c.id, "route", c.route,
		"panic", c.scrub(fmt.Sprint(v)), "stack", string(debug.Stack()))
	return &broker.Error{Code: broker.Internal, Reason: "panic"}
}
