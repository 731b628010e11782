package postgres

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"

	"github.com/daypass-dev/daypass/broker"
)

// What the external tests need to see.
var (
	QuoteName = quoteName
	QuoteText = quoteText
)

// Statements are what one mint has the server do, with a password of its own.
func Statements(o broker.Order, h broker.Handle) (string, error) {
	p, err := parseParams(o.Grant.Params, defaultIterations)
	if err != nil {
		return "", err
	}
	password, err := newPassword(rand.Reader)
	if err != nil {
		return "", err
	}
	v, err := newVerifier(rand.Reader, password, p.ScramIterations)
	if err != nil {
		return "", err
	}
	u := newUser{handle: h, verifier: v, notAfter: o.NotAfter, params: p, note: newNote(o)}
	return strings.Join(u.statements(), ";\n"), nil
}

// LockKeyText is a handle's advisory lock, for a statement.
func LockKeyText(h broker.Handle) string { return strconv.FormatInt(lockKey(h), 10) }

// NotePlace reads place and kept out of a comment.
func NotePlace(comment string) (place, kept string, ours bool) {
	n := readNote(comment)
	return n.Place, n.Kept, n.By != ""
}

// ExplainJudgement plans the judgement of a group on an admin connection, and
// tells how the server went about it after users came: its plan as JSON.
func ExplainJudgement(ctx context.Context, admin broker.Secret, group string, users func()) (string, error) {
	c, err := dial(ctx, admin, "")
	if err != nil {
		return "", err
	}
	defer c.close()
	execute := "EXECUTE judged(ARRAY[" + quoteText(group) + "], 0)"
	if err := c.exec(ctx, "PREPARE judged(text[], bigint) AS "+judgedQuery+";"+execute); err != nil {
		return "", err
	}
	users()
	var plan string
	err = c.row(ctx, []any{&plan}, "EXPLAIN (ANALYZE, FORMAT JSON) "+execute)
	return plan, err
}
