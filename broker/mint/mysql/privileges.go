package mysql

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// databasePrivileges may be given on a database. Not among them is GRANT OPTION:
// what a job hands on could not be taken back with the job.
var databasePrivileges = []string{
	"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "INDEX", "REFERENCES", "CREATE TEMPORARY TABLES",
	"LOCK TABLES", "EXECUTE", "CREATE VIEW", "SHOW VIEW", "CREATE ROUTINE", "ALTER ROUTINE", "TRIGGER", "EVENT", "DELETE HISTORY",
}

// definingPrivileges let a user leave something behind that runs as itself.
var definingPrivileges = []string{"CREATE VIEW", "CREATE ROUTINE", "ALTER ROUTINE", "TRIGGER", "EVENT"}

// definesNothing reports whether what the user was given cannot have left
// anything behind that names it as its definer.
func (p params) definesNothing() bool {
	if len(p.Roles) > 0 || len(p.Grants) == 0 || len(p.Statements.Create) > 0 {
		return false
	}
	for _, privileges := range p.Grants {
		if slices.ContainsFunc(privileges, func(s string) bool { return slices.Contains(definingPrivileges, s) }) {
			return false
		}
	}
	return true
}

// systemSchemas are the servers' own, in lower case.
var systemSchemas = []string{"mysql", "sys", "information_schema", "performance_schema", "ndbinfo"}

// Which privileges a role may have on everything, and on a schema of the
// server's own or ours. Whoever may write there, or lock tables there, can make
// users or keep us from dropping them.
var (
	harmlessEverywhere = []string{"USAGE", "SELECT", "SHOW VIEW", "SHOW DATABASES", "PROCESS", "REPLICATION CLIENT", "BINLOG MONITOR", "SLAVE MONITOR", "REPLICA MONITOR"}
	harmlessInSystem   = []string{"USAGE", "SELECT", "SHOW VIEW"}
)

// readsAccounts is what MariaDB gives to read its table of accounts. Who reads it
// holds it, for as long as the statement takes, and no account
// can be locked or dropped meanwhile: a job would hold up the end of another.
const readsAccounts = "SELECT"

// harmless takes from privileges what is not on this server.
func (s server) harmless(privileges []string) []string {
	if !s.mariadb {
		return privileges
	}
	return slices.DeleteFunc(slices.Clone(privileges), func(p string) bool { return p == readsAccounts })
}

// A privilege line is what SHOW GRANTS prints, with names in backticks and what
// is no name in capitals.
const (
	shownName = "`(?:[^`]|``)*`"
	shownWho  = shownName + "(?:@" + shownName + ")?"
)

var (
	roleLine      = regexp.MustCompile("^GRANT " + shownWho + "(?:,\\s*" + shownWho + ")* TO " + shownWho + "( WITH ADMIN OPTION)?$")
	defaultLine   = regexp.MustCompile("^SET DEFAULT ROLE " + shownName + " FOR " + shownWho + "$")
	privilegeLine = regexp.MustCompile("^GRANT ((?:[A-Z_ ,]|\\((?:" + shownName + "|[, ])+\\))+) ON (?:(?:TABLE|PROCEDURE|FUNCTION|PACKAGE|PACKAGE BODY) )?" +
		"(\\*|" + shownName + ")\\.(\\*|" + shownName + ") TO (" + shownWho + ")(.*)$")
	// With partial_revokes MySQL also prints what is taken from rights on everything.
	takenLine  = regexp.MustCompile("^REVOKE [A-Z_ ,]+ ON " + shownName + "\\.\\* FROM " + shownWho + "$")
	columnList = regexp.MustCompile(`\([^)]*\)`)
)

// shown is one line of SHOW GRANTS, read.
type shown struct {
	privileges []string
	schema     string // a pattern; empty: everywhere
	grantable  bool
}

// readShown reads a line; false if it is not one that gives privileges.
func readShown(line string) (shown, bool) {
	m := privilegeLine.FindStringSubmatch(line)
	if m == nil {
		return shown{}, false
	}
	s := shown{grantable: strings.Contains(m[5], "GRANT OPTION")}
	for p := range strings.SplitSeq(columnList.ReplaceAllString(m[1], ""), ",") {
		s.privileges = append(s.privileges, strings.TrimSpace(p))
	}
	if m[2] != "*" {
		s.schema = strings.ReplaceAll(strings.Trim(m[2], "`"), "``", "`")
		if m[3] != "*" { // a name, not a pattern
			s.schema = escapePattern(s.schema)
		}
	}
	return s, true
}

// tooGreat says why a job must not have what a line of SHOW GRANTS for its role
// says; empty if it may. A line that is not understood is too great.
func tooGreat(line string, ours string, on server) string {
	if m := roleLine.FindStringSubmatch(line); m != nil {
		if m[1] != "" {
			return "it can hand on a role (WITH ADMIN OPTION)"
		}
		return "" // the other role is looked at itself
	}
	if defaultLine.MatchString(line) || takenLine.MatchString(line) {
		return ""
	}
	s, ok := readShown(line)
	switch {
	case !ok:
		return "it has rights that are not understood"
	case s.grantable:
		return "it can hand on what it has (WITH GRANT OPTION)"
	case s.schema == "":
		return beyond(s.privileges, on.harmless(harmlessEverywhere), "everywhere")
	}
	for _, schema := range append([]string{strings.ToLower(ours)}, systemSchemas...) {
		if schema != "" && matches(strings.ToLower(s.schema), schema) {
			may := harmlessInSystem
			if schema == "mysql" {
				may = on.harmless(may)
			}
			if why := beyond(s.privileges, may, "in schema "+schema); why != "" {
				return why
			}
		}
	}
	return ""
}

func beyond(privileges, harmless []string, where string) string {
	for _, p := range privileges {
		if !slices.Contains(harmless, p) {
			return fmt.Sprintf("it has %s %s", p, where)
		}
	}
	return ""
}

// missing says which rights an admin needs and does not have, by its own SHOW
// GRANTS.
func missing(lines []string, s server) []string {
	need := map[string][]string{ // and what stands for it
		"CREATE USER": {"CREATE USER", "ALL PRIVILEGES"},
		"PROCESS":     {"PROCESS", "ALL PRIVILEGES"},
	}
	switch {
	case !s.mariadb:
		need["CONNECTION_ADMIN"] = []string{"CONNECTION_ADMIN", "SUPER", "ALL PRIVILEGES"}
	case s.version >= 100502:
		need["CONNECTION ADMIN"] = []string{"CONNECTION ADMIN", "ALL PRIVILEGES"}
	default:
		need["SUPER"] = []string{"SUPER", "ALL PRIVILEGES"}
	}
	for _, line := range lines {
		given, ok := readShown(line)
		if !ok || given.schema != "" {
			continue
		}
		for right, any := range need {
			if slices.ContainsFunc(any, func(s string) bool { return slices.Contains(given.privileges, s) }) {
				delete(need, right)
			}
		}
	}
	var list []string
	for right := range need {
		list = append(list, right)
	}
	slices.Sort(list)
	return list
}

// escapePattern makes a pattern that only the name itself matches.
func escapePattern(name string) string {
	return strings.NewReplacer(`_`, `\_`, `%`, `\%`).Replace(name)
}

// matches reports whether a name matches a pattern of GRANT: % is anything, _
// is one character, and a backslash takes their meaning.
func matches(pattern, name string) bool {
	for pattern != "" {
		switch c := pattern[0]; {
		case c == '%':
			for i := range len(name) + 1 {
				if matches(pattern[1:], name[i:]) {
					return true
				}
			}
			return false
		case name == "":
			return false
		case c == '\\' && len(pattern) > 1:
			if pattern[1] != name[0] {
				return false
			}
			pattern, name = pattern[2:], name[1:]
		case c == '_' || c == name[0]:
			pattern, name = pattern[1:], name[1:]
		default:
			return false
		}
	}
	return name == ""
}
