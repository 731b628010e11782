package mysql

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
// replaced by a quoted name or a quoted text; it stands only where no quotes
// are, so that it cannot end any.
type statements struct {
	Create []string // when the user is made, last
	Revoke []string // when its sessions have ended, whether or not it is still there
}

const (
	maxStatements      = 50
	maxStatementLength = 10_000
)

// verbs begin the statements one may add. SET, USE, LOCK and their like would
// change what our own statements mean; PREPARE and EXECUTE run text that nobody
// checks.
var verbs = []string{"ALTER", "CALL", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "REVOKE", "UPDATE"}

// values are what placeholders stand for.
type values struct {
	handle   broker.Handle
	host     string
	database string
	expiry   string // UTC
	lease    broker.LeaseID
	server   server
}

// placeholders are all there are, each with its way of quoting.
var placeholders = map[string]func(values) string{
	"account":          func(v values) string { return account(string(v.handle), v.host) },
	"name_literal":     func(v values) string { return quoteText(string(v.handle)) },
	"host_literal":     func(v values) string { return quoteText(v.host) },
	"database":         func(v values) string { return quoteName(v.database) },
	"database_pattern": func(v values) string { return v.server.database(v.database) },
	"expiry":           func(v values) string { return quoteText(v.expiry) },
	"lease":            func(v values) string { return quoteText(string(v.lease)) },
}

// UnmarshalJSON refuses what a typing error would leave out silently.
func (s *statements) UnmarshalJSON(b []byte) error {
	return errors.Join(broker.DecodeParams(b, map[string]any{"create": &s.Create, "revoke": &s.Revoke})...)
}

// check names every fault.
func (s statements) check() []error {
	var faults []error
	for _, name := range []string{"create", "revoke"} {
		list := map[string][]string{"create": s.Create, "revoke": s.Revoke}[name]
		if len(list) > maxStatements {
			faults = append(faults, fmt.Errorf("statements: %s has more than %d", name, maxStatements))
			continue
		}
		for i, sql := range list {
			if err := checkStatement(sql); err != nil {
				faults = append(faults, fmt.Errorf("statements: %s: number %d: %w", name, i+1, err))
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
	first := append(strings.Fields(sql), "")[0]
	if !slices.Contains(verbs, strings.ToUpper(first)) {
		return fmt.Errorf("it must begin with one of %s", strings.Join(verbs, ", "))
	}
	_, err := render(sql, values{})
	return err
}

// render replaces the placeholders of one statement. What it reads is a part of
// the servers' language in which it is certain where quotes begin and end, in
// every sql_mode; the rest is refused.
func render(sql string, v values) (string, error) {
	var out strings.Builder
	for at := 0; at < len(sql); {
		n, text, err := token(sql[at:], v)
		if err != nil {
			return "", err
		}
		if sql[at] == '{' && !(edge(sql, at-1) && edge(sql, at+n)) {
			return "", errors.New("a placeholder touches what stands beside it: only spaces, commas, dots, brackets and = may")
		}
		out.WriteString(text)
		at += n
	}
	return out.String(), nil
}

// edge reports whether the byte at i, if there is one, ends a word without
// becoming a part of it. A quote would: two that touch are one.
func edge(sql string, i int) bool {
	return i < 0 || i >= len(sql) || strings.IndexByte(" \t\r\n,.()=", sql[i]) >= 0
}

var placeholderRE = regexp.MustCompile(`\A\{\{([a-z_]+)\}\}`)

// token reads what sql begins with: how long it is, and what it becomes.
func token(sql string, v values) (int, string, error) {
	for text, why := range map[string]string{
		";": "a semicolon: write each statement by itself, without one", `"`: "a double quote, which is one thing or another by sql_mode: write 'text' or `name`",
		`\`: "a backslash", "#": "a comment; write it outside of the statement", "--": "a comment; write it outside of the statement",
		"/*": "a comment; write it outside of the statement", "?": "a question mark, which stands for a parameter", "@": "an @: write {{account}}, or a user in a routine",
	} {
		if strings.HasPrefix(sql, text) {
			return 0, "", errors.New("it holds " + why)
		}
	}
	switch sql[0] {
	case '\'', '`':
		n, err := quoted(sql)
		return n, sql[:n], err
	case '{', '}':
		m := placeholderRE.FindStringSubmatch(sql)
		if m == nil {
			return 0, "", errors.New("it holds a brace that is not of a placeholder such as {{account}}")
		}
		value, ok := placeholders[m[1]]
		if !ok {
			return 0, "", fmt.Errorf("there is no placeholder {{%s}}; there are %s", m[1], strings.Join(slices.Sorted(maps.Keys(placeholders)), ", "))
		}
		return len(m[0]), value(v), nil
	}
	return 1, sql[:1], nil
}

// quoted finds the end of a text or a name in quotes. A backslash would mean one
// thing or another by sql_mode, and a placeholder would be text: neither is let
// through.
func quoted(sql string) (int, error) {
	quote := sql[0]
	for i := 1; i < len(sql); i++ {
		switch {
		case sql[i] == quote && i+1 < len(sql) && sql[i+1] == quote:
			i++ // a quote within
		case sql[i] == quote:
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
