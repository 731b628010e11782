package mysql

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestStatementsOfAGrantAreCheckedWhenItIsLoaded(t *testing.T) {
	for sql, want := range map[string]string{
		"GRANT SELECT ON {{database_pattern}}.* TO {{account}}":                   "",
		"grant select on `odd``name`.`b;c` to {{account}}":                        "",
		"INSERT INTO app.users (name, till) VALUES ({{name_literal}},{{expiry}})": "",
		"CALL app.announce('it''s; new@x?', {{name_literal}}, {{lease}})":         "",
		"DELETE\n\tFROM app.users WHERE host={{host_literal}}":                    "",
		"ALTER DATABASE {{database}} COMMENT 'of {one} \" # -- /* x'":             "",
		"":                                     "must begin with",
		"SET GLOBAL read_only = 0":             "must begin with",
		"SELECT 1 INTO OUTFILE '/x'":           "must begin with",
		"LOAD DATA INFILE 'x' INTO TABLE y":    "must begin with",
		"PREPARE x FROM 'y'":                   "must begin with",
		"/*! DROP */ TABLE x":                  "must begin with",
		"GRANTED":                              "must begin with",
		"CALL a(); DROP TABLE t":               "semicolon",
		"CALL a();":                            "semicolon",
		"CALL a('{{name_literal}}')":           "placeholder in quotes",
		"DROP TABLE `{{database}}`":            "placeholder in quotes",
		"CALL a('{{name":                       "placeholder in quotes",
		"CALL a() -- {{account}}":              "comment",
		"CALL a() # {{account}}":               "comment",
		"CALL /*!50000 a */ ()":                "comment",
		`CALL a('a\'; DROP TABLE t; --')`:      "backslash",
		"DROP TABLE `a\\`":                     "backslash",
		`DROP TABLE \x`:                        "backslash",
		`DROP TABLE "x"`:                       "double quote",
		"CALL a(?)":                            "question mark",
		"DROP USER root@localhost":             "@",
		"CALL a(@x)":                           "@",
		"CALL a('a":                            "does not end",
		"CALL a('a'')":                         "does not end",
		"DROP TABLE `a":                        "does not end",
		"CALL a({{who}})":                      "no placeholder {{who}}",
		"CALL a({{.Name}})":                    "brace",
		"CALL a({{ lease }})":                  "brace",
		"CALL a({{{{lease}}}})":                "brace",
		"CALL a({lease})":                      "brace",
		"CALL a('x'{{lease}})":                 "touches",
		"CALL a(N{{lease}})":                   "touches",
		"CALL a({{lease}}'x')":                 "touches",
		"DROP TABLE x{{database}}":             "touches",
		"DROP USER {{account}}{{account}}":     "touches",
		"CALL a(1\x00)":                        "not text",
		"CALL a('\xff')":                       "not text",
		"CALL a(" + strings.Repeat("1", 10000): "longer than",
	} {
		params, err := json.Marshal(map[string]any{"roles": []string{"app"}, "database": "app", "statements": map[string]any{"revoke": []string{"CALL a()", sql}}})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(sql, "\xff") { // JSON cannot hold it
			err = checkStatement(sql)
		} else {
			_, err = parseParams(params)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: want %q, got %v", sql, want, err)
		}
	}
	for params, want := range map[string]string{
		`{"create": "CALL a()"}`: "has the wrong type", `{"creation": []}`: "has the wrong type", `["CALL a()"]`: "has the wrong type", `{"create": [1]}`: "has the wrong type",
		`{"create": [` + strings.Repeat(`"CALL a()",`, 50) + `"CALL a()"]}`: "more than 50",
		`{"create": ["DROP TABLE {{database}}.x"]}`:                         "the grant names none",
	} {
		if _, err := parseParams([]byte(`{"roles": ["app"], "statements": ` + params + `}`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", params, want, err)
		}
	}
}

func TestPlaceholdersBringTheirQuotes(t *testing.T) {
	v := params{ClientHost: "10.0.%", Database: "a_`'b"}.values(server{}, "dp_prod_tabcde_abcdefghijkl", "dpl_'x", time.Date(2026, 11, 23, 14, 0, 0, 0, time.FixedZone("away", 2*3600)))
	got, err := renderAll([]string{"CALL {{database}}.a({{name_literal}}, {{host_literal}}, {{expiry}}, {{lease}}, 'it''s')", "GRANT SELECT ON {{database_pattern}}.* TO {{account}}"}, v)
	want := "CALL `a_``'b`.a('dp_prod_tabcde_abcdefghijkl', '10.0.%', '2026-11-23 12:00:00', 'dpl_%27x', 'it''s')\nGRANT SELECT ON `a\\_``'b`.* TO `dp_prod_tabcde_abcdefghijkl`@`10.0.%`"
	if err != nil || strings.Join(got, "\n") != want {
		t.Errorf("got %q, %v", got, err)
	}
}
