package main

import (
	"encoding/binary"
	"io"
	"regexp"
	"strings"
)

// postgresDialect is PostgreSQL's: a greeting, and then messages with a letter.
type postgresDialect struct {
	greeted  bool
	prepared map[string]string // statements by name
}

// postgresSteps are the steps inside a PostgreSQL.
var postgresSteps = map[string]step{
	"mint-created":     {regexp.MustCompile(`^COMMIT$`), false}, // all is done but the commit
	"mint-committed":   {regexp.MustCompile(`^COMMIT$`), true},
	"revoke-disabled":  {regexp.MustCompile(`ALTER ROLE "dp_\w+" NOLOGIN`), true},
	"revoke-ended":     {regexp.MustCompile(`pg_terminate_backend`), true},
	"revoke-ungrouped": {regexp.MustCompile(`REVOKE "orders_rw" FROM`), true},
	"revoke-tidied":    {regexp.MustCompile(`DROP OWNED BY`), true},
	"revoke-undropped": {regexp.MustCompile(`DROP ROLE "dp_`), false},
	"revoke-dropped":   {regexp.MustCompile(`DROP ROLE "dp_`), true},
}

func (*postgresDialect) steps() map[string]step { return postgresSteps }

// next reads a message: its length stands behind its letter, which a greeting
// has not.
func (d *postgresDialect) next(r io.Reader) ([]byte, error) {
	letter := 1
	if !d.greeted {
		letter, d.greeted = 0, true
	}
	head := make([]byte, letter+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	return readBody(r, head, int(binary.BigEndian.Uint32(head[letter:]))-4)
}

// statement of one that is prepared is run when it is bound.
func (d *postgresDialect) statement(m []byte) string {
	parts := strings.SplitN(string(m[min(5, len(m)):]), "\x00", 3)
	if len(parts) < 2 {
		return ""
	}
	switch name := parts[0]; m[0] {
	case 'Q':
		return parts[0]
	case 'P':
		if name == "" {
			return parts[1]
		}
		d.prepared[name] = parts[1]
	case 'B':
		return d.prepared[parts[1]]
	}
	return ""
}
