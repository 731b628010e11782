package postgres

import (
	"strconv"

	"github.com/daypass-dev/daypass/broker"
)

// What the external tests need to see.
var (
	QuoteName = quoteName
	QuoteText = quoteText
)

// LockKeyText is a handle's advisory lock, for a statement.
func LockKeyText(h broker.Handle) string { return strconv.FormatInt(lockKey(h), 10) }

// NotePlace reads place and kept out of a comment.
func NotePlace(comment string) (place, kept string, ours bool) {
	n := readNote(comment)
	return n.Place, n.Kept, n.By != ""
}
