package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass-dev/daypass/broker"
)

// What the external tests need to see.
var (
	QuoteName = quoteName
	QuoteText = quoteText
)

// Statements are what makes one user, with a password of its own.
func Statements(o broker.Order, h broker.Handle) (string, error) {
	u, err := userOf(o, h)
	return strings.Join(u.statements(), ";\n"), err
}

func userOf(o broker.Order, h broker.Handle) (newUser, error) {
	p, err := parseParams(o.Grant.Params, defaultIterations)
	if err != nil {
		return newUser{}, err
	}
	password, err := newPassword(rand.Reader)
	if err != nil {
		return newUser{}, err
	}
	v, err := newVerifier(rand.Reader, password, p.ScramIterations)
	return newUser{handle: h, verifier: v, notAfter: o.NotAfter, params: p, note: newNote(o)}, err
}

// A Bare connection runs what the kind runs, and does nothing else.
type Bare struct{ *conn }

// ConnectBare connects as the kind does.
func ConnectBare(ctx context.Context, admin broker.Secret) (Bare, error) {
	c, err := dial(ctx, admin, "")
	if err != nil {
		return Bare{}, err
	}
	return Bare{c}, errors.Join(c.prepare(ctx, locking, lockQuery), c.prepare(ctx, judgement, judgedQuery))
}

// Mint has the server run the statements of one mint, all in one message.
func (b Bare) Mint(ctx context.Context, o broker.Order, h broker.Handle) error {
	u, err := userOf(o, h)
	if err != nil {
		return err
	}
	var all pgconn.Batch
	addAll(&all, []string{"BEGIN"})
	all.ExecPrepared(locking, [][]byte{strconv.AppendInt(nil, lockKey(h), 10)}, nil, nil)
	all.ExecPrepared(judgement, judgedValues(u.params.groups(), o.NotAfter, b.database), nil, nil)
	addAll(&all, append(u.statements(), "COMMIT"))
	_, err = b.pg.PgConn().ExecBatch(ctx, &all).ReadAll()
	return err
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
	defer c.Close()
	execute := "EXECUTE judged(ARRAY[" + quoteText(group) + "], 0, current_database())"
	if err := c.exec(ctx, "PREPARE judged(text[], bigint, text) AS "+judgedQuery+";"+execute); err != nil {
		return "", err
	}
	users()
	var plan string
	err = c.row(ctx, []any{&plan}, "EXPLAIN (ANALYZE, FORMAT JSON) "+execute)
	return plan, err
}
