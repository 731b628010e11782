package postgres

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/daypass-dev/daypass/broker"
)

// statements are what an operator adds to making a user and to taking it back.
// Each is one statement with placeholders. A placeholder has a type, and is
// replaced by a quoted identifier or a quoted literal; it stands only where no
// quotes are, so that it cannot end any.
type statements struct {
	Create []string `json:"create,omitempty"` // in the transaction that makes the user, last
	Revoke []string `json:"revoke,omitempty"` // when its sessions have ended, before it is dropped
}

const (
	maxStatements      = 50
	maxStatementLength = 10_000
)

// verbs begin the statements one may add: those that run in a transaction and
// end when they have run. SET, COPY, COMMIT and their like would change what
// our own statements mean; DO and dollar quotes hold text that nobody checks.
var verbs = []string{"ALTER", "COMMENT", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "REVOKE", "SECURITY", "SELECT", "UPDATE"}

// values are what placeholders stand for.
type values struct {
	handle   broker.Handle
	owner    string
	database string
	expiry   string
	lease    broker.LeaseID
}

// placeholders are all there are, each with its way of quoting.
var placeholders = map[string]func(values) string{
	"name":             func(v values) string { return quoteName(string(v.handle)) },
	"name_literal":     func(v values) string { return quoteText(string(v.handle)) },
	"owner":            func(v values) string { return quoteName(v.owner) },
	"owner_literal":    func(v values) string { return quoteText(v.owner) },
	"database":         func(v values) string { return quoteName(v.database) },
	"database_literal": func(v values) string { return quoteText(v.database) },
	"expiry":           func(v values) string { return quoteText(v.expiry) },
	"lease":            func(v values) string { return quoteText(string(v.lease)) },
}

// UnmarshalJSON refuses what a typing error would leave out silently.
func (s *statements) UnmarshalJSON(b []byte) error {
	var lists struct{ Create, Revoke []string }
	if faults := broker.DecodeParams(b, map[string]any{"create": &lists.Create, "revoke": &lists.Revoke}); len(faults) > 0 {
		return errors.Join(faults...)
	}
	*s = statements(lists)
	return nil
}

// check names every fault.
func (s statements) check() []error {
	var faults []error
	for _, list := range []struct {
		name string
		sql  []string
	}{{"create", s.Create}, {"revoke", s.Revoke}} {
		if len(list.sql) > maxStatements {
			faults = append(faults, fmt.Errorf("statements: %s has more than %d", list.name, maxStatements))
			continue
		}
		for i, sql := range list.sql {
			if err := checkStatement(sql); err != nil {
				faults = append(faults, fmt.Errorf("statements: %s: number %d: %w", list.name, i+1, err))
			}
		}
	}
	return faults
}

func checkStatement(sql string) error {
	switch {
	case len(sql) > maxStatementLength:
		return fmt.Errorf("it is longer than %d bytes", maxStatementLength)
	case !utf8.ValidString(sql) || strings.ContainsRune(sql, 0):
		return errors.New("it is not text")
	}
	word, _, _ := strings.Cut(strings.Map(spaces, strings.TrimSpace(sql)), " ")
	if !slices.Contains(verbs, strings.ToUpper(word)) {
		return fmt.Errorf("it must begin with one of %s", strings.Join(verbs, ", "))
	}
	_, err := render(sql, values{})
	return err
}

func spaces(r rune) rune {
	if r == '\n' || r == '\t' || r == '\r' {
		return ' '
	}
	return r
}

// render replaces the placeholders of one statement. What it reads is a part
// of PostgreSQL's language in which it is certain where quotes begin and end,
// whatever the server's settings; the rest is refused.
func render(sql string, v values) (string, error) {
	var out strings.Builder
	for at := 0; at < len(sql); {
		n, text, err := token(sql[at:], v)
		if err != nil {
			return "", err
		}
		if sql[at] == '{' && !(edge(sql[:at], len(sql[:at])-1) && edge(sql, at+n)) {
			return "", errors.New("a placeholder touches what stands beside it: only spaces, commas, dots, colons, brackets and = may")
		}
		out.WriteString(text)
		at += n
	}
	return out.String(), nil
}

// edge reports whether the byte at i, if there is one, ends a word without
// becoming a part of it. A quote would: "a""b" is one identifier.
func edge(sql string, i int) bool {
	return i < 0 || i >= len(sql) || strings.IndexByte(" \t\r\n,.:()[]=", sql[i]) >= 0
}

var (
	placeholderRE = regexp.MustCompile(`\A\{\{([a-z_]+)\}\}`)
)

// token reads what sql begins with: how long it is, and what it becomes.
func token(sql string, v values) (int, string, error) {
	switch {
	case sql[0] == '\'' || sql[0] == '"':
		n, err := quoted(sql)
		return n, sql[:max(n, 0)], err
	case sql[0] == ';':
		return 0, "", errors.New("it holds a semicolon outside of quotes: write each statement by itself, without one")
	case sql[0] == '$':
		return 0, "", errors.New("it holds a dollar sign outside of quotes: dollar quotes and parameters are not for here")
	case sql[0] == '\\':
		return 0, "", errors.New("it holds a backslash outside of quotes")
	case strings.HasPrefix(sql, "--") || strings.HasPrefix(sql, "/*"):
		return 0, "", errors.New("it holds a comment; write it outside of the statement")
	case sql[0] == '{' || sql[0] == '}':
		m := placeholderRE.FindStringSubmatch(sql)
		if m == nil {
			return 0, "", errors.New("it holds a brace that is not of a placeholder such as {{name}}")
		}
		value, ok := placeholders[m[1]]
		if !ok {
			return 0, "", fmt.Errorf("there is no placeholder {{%s}}; there are %s", m[1], strings.Join(slices.Sorted(maps.Keys(placeholders)), ", "))
		}
		return len(m[0]), value(v), nil
	}
	return 1, sql[:1], nil
}

// quoted finds the end of a literal or an identifier in quotes. A backslash
// would mean one thing or another by the server's settings, and a placeholder
// would be text: neither is let through.
func quoted(sql string) (int, error) {
	quote := sql[:1]
	for i := 1; i < len(sql); i++ {
		switch {
		case sql[i:i+1] == quote && i+1 < len(sql) && sql[i+1:i+2] == quote:
			i++ // a quote within
		case sql[i:i+1] == quote:
			return i + 1, nil
		case sql[i] == '\\':
			return 0, errors.New("it holds a backslash in quotes, which servers read in different ways")
		case strings.HasPrefix(sql[i:], "{{") || strings.HasPrefix(sql[i:], "}}"):
			return 0, errors.New("it holds a placeholder in quotes; placeholders bring their own")
		}
	}
	return 0, errors.New("a quote does not end")
}

// renderAll renders statements that were checked when they were read.
func renderAll(list []string, v values) ([]string, error) {
	out := make([]string, len(list))
	for i, sql := range list {
		var err error
		if out[i], err = render(sql, v); err != nil {
			return nil, fmt.Errorf("statement %d: %w", i+1, err)
		}
	}
	return out, nil
}
