package postgres

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestStatementsOfAGrantAreCheckedWhenItIsLoaded(t *testing.T) {
	for sql, want := range map[string]string{
		`GRANT SELECT ON ALL TABLES IN SCHEMA reports TO {{name}}`:                       "",
		`grant select on reports.a, "odd ""name" . "b;c" to {{name}}`:                    "",
		`INSERT INTO app.users (name, till) VALUES ({{name_literal}}, {{expiry}})`:       "",
		`SELECT app.announce('it''s; new', {{name_literal}}, {{lease}}, {{owner}}.x(1))`: "",
		"ALTER ROLE {{name}}\n\tSET statement_timeout = '5s'":                            "",
		`UPDATE app.t SET till={{expiry}}::timestamptz WHERE db = {{database_literal}}`:  "",
		`COMMENT ON DATABASE {{database}} IS 'of {one}'`:                                 "",
		``:                                   "must begin with",
		`SET ROLE postgres`:                  "must begin with",
		`COMMIT`:                             "must begin with",
		`DO $$ BEGIN END $$`:                 "must begin with",
		`COPY t TO PROGRAM 'id'`:             "must begin with",
		`GRANTED`:                            "must begin with",
		`SELECT 1; DROP TABLE t`:             "semicolon",
		`SELECT 1;`:                          "semicolon",
		`SELECT '{{name}}'`:                  "placeholder in quotes",
		`SELECT "{{name}}"`:                  "placeholder in quotes",
		`SELECT '{{name`:                     "placeholder in quotes",
		`SELECT $${{name}}$$`:                "dollar",
		`SELECT $a$;$a$`:                     "dollar",
		`SELECT $1`:                          "dollar",
		`SELECT 1 -- {{name}}`:               "comment",
		`SELECT /* x */ 1`:                   "comment",
		`SELECT 'a\'; DROP TABLE t; --'`:     "backslash",
		`SELECT E'a\'b'`:                     "backslash",
		`SELECT "a\"`:                        "backslash",
		`SELECT \gexec`:                      "backslash",
		`SELECT 'a`:                          "does not end",
		`SELECT 'a''`:                        "does not end",
		`SELECT "a`:                          "does not end",
		`SELECT {{who}}`:                     "no placeholder {{who}}",
		`SELECT {{.Name}}`:                   "brace",
		`SELECT {{ name }}`:                  "brace",
		`SELECT {name}`:                      "brace",
		`SELECT {{name`:                      "brace",
		`SELECT {{{{name}}}}`:                "brace",
		`SELECT {{name}}"x"`:                 "touches",
		`SELECT "x"{{name}}`:                 "touches",
		`SELECT 'x'{{name_literal}}`:         "touches",
		`SELECT E{{owner_literal}}`:          "touches",
		`SELECT U&{{name}}`:                  "touches",
		`SELECT {{name}}{{name}}`:            "touches",
		`SELECT dp{{name}}`:                  "touches",
		"SELECT 1\x00":                       "not text",
		"SELECT '\xff'":                      "not text",
		"SELECT " + strings.Repeat("1", 1e4): "longer than",
	} {
		params, err := json.Marshal(map[string]any{"roles": []string{"app"}, "statements": map[string]any{"revoke": []string{"SELECT 1", sql}}})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(sql, "\xff") { // JSON cannot hold it
			err = checkStatement(sql)
		} else {
			_, err = parseParams(params, 1)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: want %q, got %v", sql, want, err)
		}
	}
	for params, want := range map[string]string{
		`{"create": "SELECT 1"}`: "has the wrong type",
		`{"creation": []}`:       "has the wrong type",
		`{"Create": []}`:         "has the wrong type",
		`["SELECT 1"]`:           "has the wrong type",
		`{"create": [1]}`:        "has the wrong type",
		`{"create": [` + strings.Repeat(`"SELECT 1",`, 50) + `"SELECT 1"]}`: "more than 50",
	} {
		if _, err := parseParams([]byte(`{"roles": ["app"], "statements": `+params+`}`), 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", params, err)
		}
	}
}

func TestPlaceholdersBringTheirOwnQuotes(t *testing.T) {
	v := values{handle: "dp_prod_tabcde_abcdefghijkl", owner: `o"'\;--`, database: `d"'\`, expiry: timestamp(time.Unix(1_800_000_000, 0)), lease: "dpl_x"}
	got, err := render(`SELECT {{name}}, {{name_literal}}, {{owner}}, {{owner_literal}}, {{database}}, {{database_literal}}, {{expiry}}, {{lease}}`, v)
	want := `SELECT "dp_prod_tabcde_abcdefghijkl", 'dp_prod_tabcde_abcdefghijkl', "o""'\;--",  E'o"''\\;--', "d""'\",  E'd"''\\', '2027-01-15 08:00:00+00', 'dpl_x'`
	if err != nil || got != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}

// FuzzAStatementStaysOne holds what is let through to one statement, as far as
// can be seen without a server: outside of quotes there is no semicolon, and
// quotes are even, whatever the placeholders stand for.
func FuzzAStatementStaysOne(f *testing.F) {
	for _, s := range []string{`GRANT x TO {{name}}`, `SELECT '{{name}}'`, `SELECT "a""b", 'c''d' , {{owner}}`, `SELECT {{owner_literal}}.{{lease}}`} {
		f.Add(s, `o"'\;--`)
	}
	f.Fuzz(func(t *testing.T, sql, owner string) {
		if checkStatement(sql) != nil || strings.ContainsRune(owner, 0) {
			return
		}
		out, err := render(sql, values{handle: "dp_test_tabcde_abcdefghijkl", owner: owner, database: owner, expiry: "2027-01-01 00:00:00+00", lease: "dpl_x"})
		if err != nil {
			t.Fatalf("%q was let through, and then %v", sql, err)
		}
		for i, escapes := 0, false; i < len(out); i++ {
			switch c := out[i]; c {
			case ';', '$':
				t.Fatalf("%q became %q: %q is outside of quotes", sql, out, c)
			case '\'', '"':
				escapes = c == '\'' && i > 1 && out[i-1] == 'E' && out[i-2] == ' '
				for i++; ; i++ {
					if i >= len(out) {
						t.Fatalf("%q became %q: a quote does not end", sql, out)
					}
					if escapes && out[i] == '\\' {
						i++
					} else if out[i] == c && i+1 < len(out) && out[i+1] == c {
						i++
					} else if out[i] == c {
						break
					}
				}
			}
		}
	})
}

// From PostgreSQL 16 on a membership says what it gives and belongs to whoever
// granted it.
func TestMembershipsAreWrittenForTheServersVersion(t *testing.T) {
	m := membership{Group: `g"x`, Member: "dp_a", Grantor: "Some One"}
	for version, want := range map[int][2]string{
		120000: {`GRANT "dp_a" TO CURRENT_USER`, `REVOKE "g""x" FROM "dp_a"`},
		150020: {`GRANT "dp_a" TO CURRENT_USER`, `REVOKE "g""x" FROM "dp_a"`},
		160000: {`GRANT "dp_a" TO CURRENT_USER WITH INHERIT TRUE, SET TRUE`, `REVOKE "g""x" FROM "dp_a" GRANTED BY "Some One" CASCADE`},
		180001: {`GRANT "dp_a" TO CURRENT_USER WITH INHERIT TRUE, SET TRUE`, `REVOKE "g""x" FROM "dp_a" GRANTED BY "Some One" CASCADE`},
	} {
		if got := [2]string{become(version, "dp_a"), m.revokeStatement(version)}; got != want {
			t.Errorf("%d: got %q", version, got)
		}
	}
	if strings.Contains(grantsQuery(140000), "pg_parameter_acl") || !strings.Contains(grantsQuery(150000), "pg_parameter_acl") {
		t.Error("rights to parameters came with PostgreSQL 15")
	}
}
