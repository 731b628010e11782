package mysql

import (
	"context"
	"crypto/x509"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"unicode"

	driver "github.com/go-sql-driver/mysql"
)

// Error numbers that we act on.
const (
	codeNoConnection     = 1040
	codeStopping         = 1053
	codeWrongPassword    = 1045
	codeNotByThisPlugin  = 1698
	codeNoDatabaseRight  = 1044
	codeUnknownDatabase  = 1049
	codeNoSuchThread     = 1094
	codeNotItsOwner      = 1095
	codeNoTableRight     = 1142
	codeNoSuchTable      = 1146
	codeLockWait         = 1205
	codeDeadlock         = 1213
	codeNeedsRight       = 1227
	codeOption           = 1290 // the server runs with an option that forbids it, such as --read-only
	codeInterrupted      = 1317
	codeNoRoutineRight   = 1370
	codeUserFailed       = 1396
	codeNoPlugin         = 1524
	codeReadOnly         = 1836
	codeKilled           = 1927 // MariaDB
	codeNoSuchRole       = 1959
	codeStatementTooLong = 1969 // MariaDB's max_statement_time
	codeIsDefiner        = 4006 // MySQL: the account is named as somebody's definer
)

// serverError is what the server said, cut to what may be shown. It holds no
// part of a statement: the servers quote that.
type serverError struct {
	code uint16
	text string
}

func (e *serverError) Error() string { return fmt.Sprintf("%s (error %d)", e.text, e.code) }

func codeOf(err error) uint16 {
	if e, ok := errors.AsType[*serverError](err); ok {
		return e.code
	}
	return 0
}

// isOneOf reports whether the server said one of these.
func isOneOf(err error, codes ...uint16) bool {
	code := codeOf(err)
	for _, c := range codes {
		if code == c {
			return true
		}
	}
	return false
}

// printable cuts what a job may have chosen to what a line of a log can take.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.ToValidUTF8(s[:min(len(s), 200)], "")
}

// lostError is a connection that was lost or never came about: why, without
// where. Server, account and schema are parts of the admin secret.
type lostError struct {
	why      string
	readOnly bool // it is there, and takes no writes
}

func (e *lostError) Error() string { return e.why }

// scrub turns any of the driver's errors into one that can be logged. What it
// does not know it does not repeat.
func scrub(err error) error {
	if err == nil {
		return nil
	}
	if my, ok := errors.AsType[*driver.MySQLError](err); ok {
		if my.Number == codeOption && !readOnlyOption(my.Message) {
			return &serverError{my.Number, "an option of the server forbids it; where passwords are validated, strict_password_validation must be off, for what is sent is no password"}
		}
		return &serverError{my.Number, words(my.Number)}
	}
	for _, is := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, is) {
			return is
		}
	}
	return &lostError{why: why(err)}
}

func readOnlyOption(message string) bool {
	return strings.Contains(strings.ReplaceAll(message, "_", "-"), "read-only")
}

// words are ours: the servers' own name the account and our address, and quote
// statements.
func words(code uint16) string {
	if text, ok := told[code]; ok {
		return text
	}
	return "the server refused"
}

var told = map[uint16]string{
	codeWrongPassword:    "the server does not accept the admin credential",
	codeNotByThisPlugin:  "the server does not accept the admin credential",
	3118:                 "the admin's account is locked",
	4151:                 "the admin's account is locked",
	1130:                 "the server does not let us connect from here",
	1129:                 "the server has blocked our host",
	codeNoConnection:     "the server has no connection left",
	1203:                 "the admin has no connection left",
	1226:                 "the admin has used up what it may",
	codeStopping:         "the server is stopping",
	codeInterrupted:      "the statement was interrupted",
	codeKilled:           "the connection was ended by somebody",
	codeStatementTooLong: "the statement took too long, or somebody else holds a lock",
	3024:                 "the statement took too long",
	codeLockWait:         "somebody else holds a lock for too long",
	codeDeadlock:         "the statement met another one",
	codeOption:           "the server is read-only",
	codeReadOnly:         "the server is read-only",
	codeNoDatabaseRight:  "the admin may not do this to the database: it needs what it gives WITH GRANT OPTION, all rights on the admin URL's schema and, for roles on MariaDB, UPDATE on mysql",
	codeUnknownDatabase:  "the database does not exist",
	codeNoTableRight:     "the admin may not do this to the table",
	codeNoRoutineRight:   "the admin may not do this to the routine",
	codeNeedsRight:       "the admin lacks a right for this",
	codeNotItsOwner:      "the admin may not end sessions: it lacks CONNECTION ADMIN",
	codeNoSuchTable:      "a table is not there",
	codeUserFailed:       "the server could not do this to the account",
	codeNoPlugin:         "the server has not loaded the plugin that checks such passwords",
	codeNoSuchRole:       "the role does not exist, or the admin has it not WITH ADMIN OPTION",
	1133:                 "the account is not there any more",
	1141:                 "there is no such grant",
	1269:                 "the rights could not be taken",
	1419:                 "the server's binary log forbids what the admin may do: log_bin_trust_function_creators",
	3523:                 "the role does not exist",
	codeIsDefiner:        "the account is the definer of something",
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
	for _, plugin := range []error{driver.ErrNativePassword, driver.ErrOldPassword, driver.ErrCleartextPassword, driver.ErrUnknownPlugin} {
		if errors.Is(err, plugin) {
			return "the server wants the admin's password in a way that we do not give it"
		}
	}
	switch {
	case errors.Is(err, driver.ErrNoTLS):
		return "the server does not speak TLS"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return "the server refuses connections"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, driver.ErrInvalidConn), errors.Is(err, sqldriver.ErrBadConn), errors.Is(err, sql.ErrConnDone):
		return "the connection was lost"
	default:
		return "the connection failed"
	}
}

// lost reports whether something broke off because of its connection, and so
// may be tried with another.
func lost(err error) bool {
	_, isLost := errors.AsType[*lostError](err)
	return isLost || isOneOf(err, codeStopping, codeInterrupted, codeKilled)
}

// unfit reports whether the connection leads to a server that takes no writes.
func unfit(err error) bool {
	if e, ok := errors.AsType[*serverError](err); ok {
		return e.code == codeReadOnly || e.code == codeOption && e.text == told[codeOption]
	}
	l, ok := errors.AsType[*lostError](err)
	return ok && l.readOnly
}

// fatal reports whether a connection is of no more use after err: it is lost, or a
// context ended in the middle.
func fatal(err error) bool {
	return err != nil && (lost(err) || unfit(err) || codeOf(err) == codeOption || codeOf(err) == 0 &&
		(errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)))
}
