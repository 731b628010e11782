package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	daypass "github.com/daypass-dev/daypass/clients/go"
)

// Exit codes: sysexits(3) where it has one, and what shells and env(1) use.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnavailable = 69  // EX_UNAVAILABLE
	exitNewJob      = 75  // EX_TEMPFAIL: not in this job
	exitDenied      = 77  // EX_NOPERM
	exitExecFailed  = 125 // exec: daypass itself failed
	exitNotExec     = 126 // exec: the command cannot be executed
	exitNotFound    = 127 // exec: there is no such command
	exitSignal      = 128 // plus the signal's number
)

// failure is an error with the code to exit with.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func usage(format string, args ...any) *failure {
	return &failure{exitUsage, fmt.Errorf(format, args...)}
}

// failed picks the exit code for an error; own is the code for what is nobody
// else's fault.
func failed(err error, own int) error {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	code := own
	e, answered := errors.AsType[*daypass.Error](err)
	switch {
	case errors.Is(err, daypass.ErrNewJob):
		code = exitNewJob
	case !answered:
	case e.Code == daypass.Denied:
		code = exitDenied
	case e.Code == daypass.NoAnswer, e.Code == daypass.RateLimited, e.Status >= 500:
		code = exitUnavailable
	}
	return &failure{code, err}
}

// report tells on stderr what went wrong and what can be done about it.
func (a *app) report(f *failure) {
	var b strings.Builder
	e, answered := errors.AsType[*daypass.Error](f.err)
	switch {
	case f.err == nil:
		return // a signal: whoever sent it knows
	case answered && e.Code == daypass.Denied:
		denied(&b, e)
	default:
		fmt.Fprintf(&b, "daypass: %s\n", clean(f.err.Error()))
	}
	switch {
	case f.code == exitUsage:
		fmt.Fprintf(&b, "daypass: see %s --help\n", a.command)
	case f.code == exitNewJob:
		b.WriteString("  hint: this job has no other CI token; run the job again.\n")
		if answered && e.Code == daypass.TokenReused {
			b.WriteString("  hint: several daypass commands in one job can share one exchange with --session-file.\n")
		}
	case answered && e.Code == daypass.NoAnswer && !errors.Is(f.err, daypass.ErrOutcomeUnknown):
		fmt.Fprintf(&b, "  hint: no broker answered at %s; %s.\n", clean(a.asked), whatToCheck(f.err))
	case answered && (e.Code == daypass.NotDaypass || e.Code == daypass.NotFound && a.exchanges()):
		fmt.Fprintf(&b, "  hint: DAYPASS_URL must be what the broker's configuration calls url; what answered is at %s.\n", clean(a.asked))
	case answered && e.Code == daypass.TokenInvalid:
		b.WriteString("  hint: daypass whoami shows what the token says; issuer and audience must be those the broker expects.\n")
	}
	_, _ = io.WriteString(a.Stderr, b.String()) // stderr is the last place to complain to
}

func whatToCheck(err error) string {
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		return "if its certificate is from an authority of your own, name that authority's PEM file in DAYPASS_CACERT"
	}
	return "check DAYPASS_URL, the network and HTTPS_PROXY"
}

// exchanges reports whether the command asks for credentials: a broker always
// knows the path for that, while a lease may be unknown to it.
func (a *app) exchanges() bool {
	return a.command == "daypass exec" || a.command == "daypass get" || a.command == "daypass explain"
}

// denied writes why policy said no, as far as the broker tells.
func denied(b *strings.Builder, e *daypass.Error) {
	fmt.Fprintf(b, "daypass: denied: %s\n", clean(e.Detail))
	reasons(b, e.Denials)
	fmt.Fprintf(b, "  request id: %s\n", clean(e.RequestID))
	b.WriteString(hintFor(e.Denials))
}

// reasons writes which claims kept the nearest rules from matching.
func reasons(b *strings.Builder, denials []daypass.Denial) {
	for _, d := range denials {
		fmt.Fprintf(b, "  %s: rule %s does not match\n", clean(d.Grant), clean(d.Rule))
		for _, m := range d.Failed {
			saw := "the token does not have it"
			if m.Saw != nil {
				saw = "saw " + value(m.Saw)
			}
			if m.Wanted != nil {
				saw += ", wanted " + value(m.Wanted)
			}
			fmt.Fprintf(b, "    %s: %s\n", clean(m.Claim), saw)
		}
	}
}

// hintFor says what a person can do about it.
func hintFor(denials []daypass.Denial) string {
	if len(denials) > 0 {
		return "  hint: run the job as the rule wants it, or ask the rule's owners for another; daypass whoami shows what the token says.\n"
	}
	return "  hint: no rule that may be shown gives this job what it asked for. Check the names of the grants; if they are right, send the request id to the security team: their journal says what the job was and what it asked for.\n"
}

// value writes a claim's value as JSON, so that text and numbers differ.
func value(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return clean(string(b))
}

// clean makes text of others' fit for one line of a terminal or a CI log:
// nothing moves a cursor, starts a line or a command to the CI runner, or
// changes the direction of text.
func clean(s string) string {
	var b strings.Builder
	for i, w := 0, 0; i < len(s); i += w {
		var r rune
		r, w = utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && w <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return strings.ReplaceAll(b.String(), "##[", "# #[") // the old form of a command to GitHub's runner
}
