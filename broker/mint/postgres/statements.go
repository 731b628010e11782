package postgres

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
)

// quoteName quotes an identifier. It holds no zero byte and is not too long:
// checkIdentifier saw to it, or it was read from the catalogue.
func quoteName(s string) string { return pgx.Identifier{s}.Sanitize() }

// quoteText quotes a literal so that it means the same whatever
// standard_conforming_strings says: a backslash makes it an E” string.
func quoteText(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return ` E'` + strings.ReplaceAll(s, `\`, `\\`) + `'`
	}
	return `'` + s + `'`
}

// note is the comment on a role: whose it is, for people and for us. All roles
// of the server can read it.
type note struct {
	By    string         `json:"by"` // "daypass"
	Lease broker.LeaseID `json:"lease,omitempty"`
	Place string         `json:"place,omitempty"`
	Kept  string         `json:"kept,omitempty"` // why the role is still there, disabled
	Why   []string       `json:"why,omitempty"`  // what on_owned could not do
	Since string         `json:"since,omitempty"`
}

// maxPlace bounds the one part of a comment that comes from a token.
const maxPlace = 200

func newNote(o broker.Order) note {
	place := o.For.Place()
	if len(place) > maxPlace {
		place = place[:maxPlace]
	}
	return note{By: "daypass", Lease: o.Lease, Place: place}
}

// readNote reads a comment back; what we did not write is the zero note.
func readNote(comment string) note {
	var n note
	if err := json.Unmarshal([]byte(comment), &n); err != nil || n.By != "daypass" {
		return note{}
	}
	return n
}

// text is plain ASCII, so that every database encoding can store it.
func (n note) text() string {
	b, err := json.Marshal(n)
	if err != nil {
		panic(fmt.Sprintf("a note of strings does not marshal: %v", err)) // cannot be
	}
	var ascii strings.Builder
	for _, r := range string(b) {
		switch {
		case r < 0x7f:
			ascii.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&ascii, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			fmt.Fprintf(&ascii, `\u%04x`, r)
		}
	}
	return ascii.String()
}

// newUser is all that the statements of a mint are made of.
type newUser struct {
	handle   broker.Handle
	verifier broker.Secret
	notAfter time.Time
	params   params
	note     note
}

// values are what placeholders of a grant's own statements stand for.
func (u newUser) values(database string) values {
	return values{handle: u.handle, owner: u.params.Owner, database: database, expiry: timestamp(u.notAfter), lease: u.note.Lease}
}

// timestamp is how PostgreSQL reads a time whatever its time zone.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + "+00" }

// statements make the user. Groups are granted in one order everywhere, so
// that two mints cannot wait for each other.
func (u newUser) statements() []string {
	name := quoteName(string(u.handle))
	create := fmt.Sprintf("CREATE ROLE %s LOGIN INHERIT PASSWORD %s VALID UNTIL %s",
		name, quoteText(u.verifier.Reveal()), quoteText(timestamp(u.notAfter)))
	if u.params.ConnectionLimit > 0 {
		create += fmt.Sprintf(" CONNECTION LIMIT %d", u.params.ConnectionLimit)
	}
	list := []string{create}
	for _, group := range slices.Sorted(slices.Values(u.params.Roles)) {
		list = append(list, fmt.Sprintf("GRANT %s TO %s", quoteName(group), name))
	}
	return append(list,
		fmt.Sprintf("ALTER ROLE %s SET role = %s", name, quoteText(u.params.Owner)),
		fmt.Sprintf("COMMENT ON ROLE %s IS %s", name, quoteText(u.note.text())))
}

// disableStatement ends logins for good: no login, no password, expired.
func disableStatement(h broker.Handle) string {
	return fmt.Sprintf("ALTER ROLE %s NOLOGIN PASSWORD NULL VALID UNTIL '1970-01-01 00:00:00+00'", quoteName(string(h)))
}
