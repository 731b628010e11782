package api

import (
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
)

var wordRE = regexp.MustCompile(`\A[a-z0-9_]{1,40}\z`)

// tell writes the request's one log line. Each value is one of ours: a known
// method, the route's pattern, a code; what the client wrote stays out, so that
// nothing in it can forge a line or leave a secret behind.
func (s *surface) tell(c *call, status int) {
	took := s.now().Sub(c.began)
	s.metrics.served(c.route, status, took)
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs,
		slog.String("method", knownMethod(c.http.Method)),
		slog.String("route", c.route),
		slog.Int("status", status),
		slog.String("request_id", c.id),
		slog.Duration("duration", took),
		slog.String("remote", s.remote(c.http)),
	)
	if c.code != "" {
		attrs = append(attrs, slog.String("code", string(c.code)), slog.String("reason", word(c.reason)))
	}
	if c.issuer != "" {
		attrs = append(attrs, slog.String("issuer", c.issuer))
	}
	if status >= http.StatusInternalServerError && c.failure != nil {
		attrs = append(attrs, slog.String("err", c.scrub(c.failure.Error())))
	}
	s.log.LogAttrs(c.ctx(), levelOf(c, status), "request", attrs...)
}

func levelOf(c *call, status int) slog.Level {
	switch {
	case status >= http.StatusInternalServerError && c.code != "":
		return slog.LevelError
	case c.quiet && status < http.StatusBadRequest:
		return slog.LevelDebug
	default:
		return slog.LevelInfo
	}
}

func word(s string) string {
	if wordRE.MatchString(s) {
		return s
	}
	return "other"
}

func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return m
	}
	return "other"
}

// remote is the peer's address, or behind a proxy the one that the last proxy
// saw: earlier hops are the client's own words. It is for the log only.
func (s *surface) remote(r *http.Request) string {
	if s.behindProxy {
		if hops := r.Header.Values("X-Forwarded-For"); len(hops) > 0 {
			last := hops[len(hops)-1]
			last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
			if a, err := netip.ParseAddr(last); err == nil {
				return a.WithZone("").String() // a zone may be any text
			}
		}
	}
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return ap.Addr().Unmap().WithZone("").String()
	}
	return "unknown"
}

const maxLogged = 1000

// scrub takes what the caller sent in confidence out of a text for the log: a
// cause or a panic of some other part may quote it, whole or by a token's
// segment.
func (c *call) scrub(s string) string {
	for _, secret := range c.hide {
		v := secret.Reveal()
		s = strings.ReplaceAll(s, v, "[redacted]")
		for part := range strings.SplitSeq(v, ".") {
			if len(part) >= 16 {
				s = strings.ReplaceAll(s, part, "[redacted]")
			}
		}
	}
	if len(s) > maxLogged {
		s = s[:maxLogged]
	}
	return s
}
