package postgres

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATE codes that we act on.
const (
	codeReadOnly         = "25006" // a demoted primary
	codeNoSuchRole       = "42704"
	codeNoRight          = "42501"
	codeDependents       = "2BP01" // the role owns something, or holds grants
	codeDeadlock         = "40P01"
	codeSerialization    = "40001"
	codeLockNotAvailable = "55P03"
	codeInternal         = "XX000" // with these words: two sessions changed one catalogue row
	codeWrongPassword    = "28P01"
	codeNotAuthorized    = "28000"
	codeOutOfMemory      = "53200" // of the lock table, most likely
	codeTooMany          = "53300" // connections
	codeNotThere         = "3D000" // a database
	codeNoSuchTable      = "42P01"
	codeUnsupported      = "0A000"
	codeWrongState       = "55000" // such as a database that takes no connections
	tupleConcurrently    = "tuple concurrently "
	tupleGone            = "could not find tuple for role " // from version 16 on, where two drop one role at once
)

// serverError is what the server said, cut to what may be shown. It holds no
// part of a statement and none of the driver's own errors: those carry the
// connection's whole configuration, the admin password included.
type serverError struct {
	code string
	text string
}

func (e *serverError) Error() string { return e.text + " (SQLSTATE " + e.code + ")" }

func codeOf(err error) string {
	if e, ok := errors.AsType[*serverError](err); ok {
		return e.code
	}
	return ""
}

// lostError is a connection that was lost or never came about: why, without
// where. Server, account and database are parts of the admin secret.
type lostError struct {
	why     string
	replica bool // it is there, and is not the primary
}

func (e *lostError) Error() string { return e.why }

// scrub turns any of the driver's errors into one that can be logged. What it
// does not know it does not repeat.
func scrub(err error) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return &serverError{pg.Code, words(pg)}
	}
	for _, is := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, is) {
			return is
		}
	}
	return &lostError{why: why(err)}
}

// words are ours where the server's would name the account, the database or
// our address, and the server's where they name roles and rights.
func words(e *pgconn.PgError) string {
	switch e.Code {
	case codeWrongPassword, codeNotAuthorized:
		return "the server does not accept the admin credential"
	case codeNotThere:
		return "the database does not exist"
	case codeTooMany:
		return "the server has no connection left"
	case "57P01", "57P02", "57P03":
		return "the server is starting or stopping"
	case "57014":
		return "the statement took too long"
	case codeReadOnly:
		return "the server is read-only"
	case codeLockNotAvailable:
		return "somebody else holds a lock for too long"
	case codeWrongState:
		return "the database, or what this is about, is in a state that does not allow it"
	case codeNoRight, codeNoSuchRole, codeDependents, codeDeadlock, codeSerialization, codeInternal,
		"42710", "54000", "53100", codeOutOfMemory, "0LP01", "22023", codeUnsupported, codeNoSuchTable, "42883":
		return printable(e.Message)
	default:
		return "the server refused"
	}
}

// printable keeps an error on one line of a sane length.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return s[:min(len(s), 200)]
}

// why tells how a connection failed, by sort.
func why(err error) string {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "the server's name cannot be resolved"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the server's certificate is not signed by an authority we know"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the server's certificate names another host"
	}
	if _, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return "the server's certificate is not valid"
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return "the server does not answer"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the server refuses connections"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, pgconn.ErrConnClosed):
		return "the connection was lost"
	default:
		return "the connection failed"
	}
}

// fleeting reports whether the server undid a transaction for a reason that is
// over when it is tried again.
func fleeting(err error) bool {
	e, ok := errors.AsType[*serverError](err)
	return ok && (e.code == codeDeadlock || e.code == codeSerialization ||
		e.code == codeInternal && (strings.Contains(e.text, tupleConcurrently) || strings.HasPrefix(e.text, tupleGone)))
}

// lost reports whether something broke off because of its connection, and so
// may be tried with another.
func lost(err error) bool {
	_, isLost := errors.AsType[*lostError](err)
	return isLost || unfit(err) || strings.HasPrefix(codeOf(err), "57P") || strings.HasPrefix(codeOf(err), "08")
}

// unfit reports whether the connection leads to a server that takes no writes.
func unfit(err error) bool {
	l, ok := errors.AsType[*lostError](err)
	return ok && l.replica || codeOf(err) == codeReadOnly
}

// exhausted reports whether the server has no room left for us: somebody has
// filled its table of locks, or taken all its connections.
func exhausted(err error) bool {
	code := codeOf(err)
	return code == codeOutOfMemory || code == codeTooMany
}

// fatal reports whether a connection is of no more use after err.
func fatal(err error) bool {
	return err != nil && (lost(err) || codeOf(err) == "" &&
		(errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)))
}
