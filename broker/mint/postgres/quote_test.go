package postgres_test

import (
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

// FuzzQuotedNamesAndTextsMeanThemselves asks a real server what our quoting
// means, with both readings of a backslash.
func FuzzQuotedNamesAndTextsMeanThemselves(f *testing.F) {
	for _, s := range []string{
		"plain", `"`, `""; DROP ROLE x; --`, `'`, `''`, `\`, `\'`, `\\'`, `'\`, "$$", "$1", "{{.}}", "%s", "é\U0001F600", "a\nb\r\t", "/*", "--", `U&"\0041"`, `E'x'`, ";", " ",
	} {
		f.Add(s, s)
	}
	c, err := pgx.Connect(f.Context(), server.AdminURL("app"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = c.Close(context.Background()) })
	f.Fuzz(func(t *testing.T, name, text string) {
		if name == "" || len(name) > 63 || !utf8.ValidString(name) || !utf8.ValidString(text) || strings.ContainsRune(name+text, 0) {
			return // refused before it is quoted
		}
		for _, conforming := range []string{"on", "off"} {
			sql := "SELECT" + postgres.QuoteText(text) + "::text AS " + postgres.QuoteName(name)
			if _, err := c.Exec(t.Context(), "SET standard_conforming_strings = "+conforming); err != nil {
				t.Fatal(err)
			}
			rows, err := c.Query(t.Context(), sql, pgx.QueryExecModeExec)
			if err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
			column := ""
			got, err := pgx.CollectExactlyOneRow(rows, func(r pgx.CollectableRow) (string, error) {
				column = r.FieldDescriptions()[0].Name
				return pgx.RowTo[string](r)
			})
			if err != nil || got != text || column != name {
				t.Errorf("%s means %q as %q (%v), want %q as %q", sql, got, column, err, text, name)
			}
		}
	})
}
