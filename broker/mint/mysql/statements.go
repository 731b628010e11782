package mysql

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// quoteName quotes a name, in every sql_mode alike.
func quoteName(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }

// quoteDatabase quotes a database for GRANT, where it is a pattern.
func quoteDatabase(s string) string { return quoteName(escapePattern(s)) }

// database quotes a database for GRANT on this server.
func (s server) database(name string) string {
	if s.literal {
		return quoteName(name)
	}
	return quoteDatabase(name)
}

// account is a user with its host part, quoted.
func account(name, host string) string { return quoteName(name) + "@" + quoteName(host) }

// quoteText quotes a text for the places that take no parameter. What is not
// harmless in every sql_mode is written as %XX, so that there is nothing to
// escape.
func quoteText(s string) string {
	var out strings.Builder
	for _, b := range []byte(s) {
		if b < ' ' || b > '~' || b == '\'' || b == '\\' {
			fmt.Fprintf(&out, "%%%02X", b)
		} else {
			out.WriteByte(b)
		}
	}
	return "'" + out.String() + "'"
}

// note is MySQL's ATTRIBUTE of an account: that it is ours, and whose it is. It
// is for people who look at the server. Nothing trusts it, since a job can
// change its own.
type note struct {
	By    string         `json:"by"` // "daypass"
	Lease broker.LeaseID `json:"lease,omitempty"`
	Place string         `json:"place,omitempty"`
}

const (
	ourMark  = "daypass"
	maxPlace = 200 // bounds the one part that comes from a token
)

func newNote(o broker.Order) note {
	place := o.For.Place()
	if len(place) > maxPlace {
		place = place[:maxPlace]
	}
	return note{By: ourMark, Lease: broker.LeaseID(plain(string(o.Lease))), Place: plain(place)}
}

// plain keeps of a text what needs escaping neither in JSON nor in SQL; the
// rest becomes %XX.
func plain(s string) string {
	var out strings.Builder
	for _, b := range []byte(s) {
		if b <= ' ' || b > '~' || strings.IndexByte("\"\\'%<>&`", b) >= 0 {
			fmt.Fprintf(&out, "%%%02X", b)
		} else {
			out.WriteByte(b)
		}
	}
	return out.String()
}

func (n note) text() string {
	b, err := json.Marshal(n)
	if err != nil {
		panic(fmt.Sprintf("a note of strings does not marshal: %v", err)) // cannot be
	}
	return string(b)
}

// newUser is all that the statements of a mint are made of.
type newUser struct {
	handle     broker.Handle
	identified broker.Secret // see identified
	notAfter   time.Time
	params     params
	note       note
	server     server
	home       string // our schema, quoted; empty: the server runs no events
}

// statements make the user. The event that ends it comes first: there is no
// moment in which the user is there and nothing will end it.
func (u newUser) statements() []string {
	name := account(string(u.handle), u.params.ClientHost)
	var list []string
	if u.home != "" && u.params.ServerExpiry != expiryNone {
		list = append(list, u.event(name))
	}
	list = append(list, u.create(name))
	for _, role := range slices.Sorted(slices.Values(u.params.Roles)) {
		list = append(list, fmt.Sprintf("GRANT %s TO %s", u.server.role(role), name))
	}
	for _, database := range slices.Sorted(maps.Keys(u.params.Grants)) {
		list = append(list, fmt.Sprintf("GRANT %s ON %s.* TO %s", strings.Join(u.params.Grants[database], ", "), u.server.database(database), name))
	}
	if u.params.DefaultRole != "" {
		preposition := "TO"
		if u.server.mariadb {
			preposition = "FOR"
		}
		list = append(list, fmt.Sprintf("SET DEFAULT ROLE %s %s %s", u.server.role(u.params.DefaultRole), preposition, name))
	}
	return list
}

// role is how a server names a role that a grant names.
func (s server) role(name string) string { return s.quoted(s.roleNamed(name)) }

func (u newUser) create(name string) string {
	sql := "CREATE USER " + name + " " + u.identified.Reveal() + " REQUIRE "
	if u.params.RequireTLS {
		sql += "SSL"
	} else {
		sql += "NONE"
	}
	if u.params.ConnectionLimit > 0 {
		sql += fmt.Sprintf(" WITH MAX_USER_CONNECTIONS %d", u.params.ConnectionLimit)
	}
	if !u.server.mariadb {
		sql += " ATTRIBUTE " + quoteText(u.note.text())
	}
	return sql
}

// event is what the server does by itself at the expiry: the account goes, then
// its sessions. KILL USER takes a host for the one that a session comes from, and
// not for a pattern, so it is told none: the name is the user's alone.
func (u newUser) event(name string) string {
	do := goOn + "DROP USER IF EXISTS " + name + "; KILL USER " + quoteName(string(u.handle)) + ";"
	if !u.server.mariadb {
		do = u.endOnMySQL(name)
	}
	comment := ourMark + " " + plain(string(u.note.Lease))
	return fmt.Sprintf("CREATE EVENT %s.%s ON SCHEDULE AT %s ON COMPLETION NOT PRESERVE ENABLE COMMENT %s"+
		" DO BEGIN %s END",
		u.home, quoteName(string(u.handle)), quoteText(u.notAfter.UTC().Format("2006-01-02 15:04:05")),
		quoteText(comment[:min(len(comment), 64)]), do)
}

// goOn has a block of statements do each, whether or not the one before failed.
const goOn = "DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; "

// endOnMySQL does the same on MySQL, which has no KILL USER: sessions are ended
// one by one, from the newest down, so that one which takes long to end is in the
// way of none. That is done as soon as nobody can log in, for what comes then can
// take long, and once more for who was just coming up. MySQL may refuse to drop
// who is named as the definer of something, so what the account may is taken
// before.
func (u newUser) endOnMySQL(name string) string {
	kill := "SET last = ~0; REPEAT SET s = (SELECT MAX(ID) FROM " + u.server.sessionTable() + " WHERE CAST(USER AS BINARY) = " +
		quoteText(string(u.handle)) + " AND ID < last); KILL s; SET last = s; UNTIL s IS NULL END REPEAT;"
	do := "DECLARE s, last BIGINT UNSIGNED; " + goOn + lockStatement(name) + "; " + kill + " " + stripStatement(name) + "; "
	for _, role := range slices.Sorted(slices.Values(u.params.Roles)) {
		do += "REVOKE " + u.server.role(role) + " FROM " + name + "; "
	}
	return do + dropStatement(name) + "; " + kill
}

// The statements of taking back.

func lockStatement(name string) string {
	return "ALTER USER IF EXISTS " + name + " ACCOUNT LOCK"
}

func stripStatement(name string) string {
	return "REVOKE ALL PRIVILEGES, GRANT OPTION FROM " + name // on MariaDB the roles, too
}

func dropStatement(name string) string { return "DROP USER IF EXISTS " + name }

func dropEventStatement(home string, h broker.Handle) string {
	return "DROP EVENT IF EXISTS " + home + "." + quoteName(string(h))
}
