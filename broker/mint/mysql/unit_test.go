package mysql

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/daypass-dev/daypass/broker"
)

var update = flag.Bool("update", false, "write golden files")

func TestParamsNameEveryFault(t *testing.T) {
	long := strings.Repeat("é", 33) // 66 bytes
	for params, want := range map[string][]string{
		``:                 {"roles: name at least one"},
		`[]`:               {"not an object"},
		`null`:             {"not an object"},
		`{"roles": []}`:    {"roles: name at least one"},
		`{"roles": "app"}`: {"roles: has the wrong type"},
		`{"Roles": ["a"]}`: {"Roles: no such setting"},
		`{"roles": ["a"], "x": 1, "port": "3306"}`:                                            {"x: no such setting", "port: has the wrong type"},
		`{"roles": ["a", "a", "", "` + long + `", "a\u0000b", "None", " a", "\ud83d\ude00"]}`: {`"a" is named twice`, "a name is empty", "longer than 32 bytes", `"a\x00b" holds`, "reserve", "with a space", "default_role: with several", "\U0001F600"},
		`{"roles": ["a"], "default_role": "b"}`:                                               {`default_role: "b" is not one of roles`},
		`{"roles": ["a"], "on_owned": "reassign"}`:                                            {`on_owned: "reassign" is not one of keep, drop`},
		`{"roles": ["a"], "require": "x509"}`:                                                 {`require: "x509" is not one of ssl, none`},
		`{"roles": ["a"], "auth": "plain"}`:                                                   {`auth: "plain" is not one of native, ed25519, sha2`},
		`{"roles": ["a"], "server_expiry": "no"}`:                                             {`server_expiry: "no" is not one of wanted, required, none`},
		`{"roles": ["a"], "connection_limit": 0}`:                                             {"connection_limit: 0"},
		`{"roles": ["a"], "database": "` + long + `"}`:                                        {"database: "},
		`{"roles": ["a"], "client_host": ""}`:                                                 {"client_host: "},
		`{"roles": ["a"], "client_host": "%' OR 1"}`:                                          {"client_host: "},
		`{"roles": ["a"], "client_host": "` + strings.Repeat("a", 61) + `"}`:                  {"client_host: "},
		`{"roles": ["a"], "host": "a b", "port": 65536, "ssl_mode": "yes"}`:                   {"host: ", "port: 65536", `ssl_mode: "yes"`},
		`{"grants": {"app": []}}`:                                                             {`grants: "app" names no privilege`},
		`{"grants": {"app": ["SELECT", "SELECT", "select", "SELECT ON *.* TO x; --", "GRANT OPTION", "SUPER", "FILE", "ALL"]}}`: {`"SELECT" is named twice`, `"select" is not one of`, `"SELECT ON *.* TO x; --" is not`, `"GRANT OPTION" is not`, `"SUPER" is not`, `"FILE" is not`, `"ALL" is not`},
		`{"grants": {"mysql": ["SELECT"], "SYS": ["SELECT"], "a\\_b": ["SELECT"], "": ["SELECT"]}}`:                             {`"mysql" is the server's own`, `"SYS" is the server's own`, "backslash", "a name is empty"},
	} {
		_, err := parseParams([]byte(params))
		if err == nil {
			t.Errorf("%s is accepted", params)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", params, err, w)
			}
		}
	}
}

func TestParamsHaveDefaults(t *testing.T) {
	p, err := parseParams([]byte(`{"roles": ["app"]}`))
	if err != nil || p.DefaultRole != "app" || p.ClientHost != "%" || !p.RequireTLS || p.OnOwned != "keep" || p.ServerExpiry != "wanted" || p.Auth != "" || p.Database != "" {
		t.Errorf("got %+v, %v", p, err)
	}
	p, err = parseParams([]byte(`{"grants": {"app": ["SELECT"]}, "require": "none"}`))
	if err != nil || p.Database != "app" || p.RequireTLS {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := parseParams([]byte(`{"roles": ["a", "b"], "default_role": "b", "grants": {"x": ["SELECT", "CREATE TEMPORARY TABLES"], "y": ["EVENT"]}, "require": "ssl", "auth": "ed25519",
		"on_owned": "drop", "server_expiry": "required", "connection_limit": 10000, "client_host": "10.0.0.0/255.0.0.0", "host": "fe80::1", "port": 65535, "ssl_mode": "VERIFY_CA", "database": "x"}`)); err != nil {
		t.Error(err)
	}
}

// The vector is the published example of hashcat for this sort of hash.
func TestTheDigestIsWhatMySQLStores(t *testing.T) {
	salt, err1 := hex.DecodeString("F9CC98CE08892924F50A213B6BC571A2C11778C5")
	want, err2 := hex.DecodeString("625479393559393965414D45316477456B484F41316E64484742577A2E3162785353526B7554584647562F")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if got := sha2Digest(broker.NewSecret("hashcat"), salt, 5000); got != string(want) {
		t.Errorf("got %s, want %s", got, want)
	}
	s, err := identified(authSHA2, broker.NewSecret("hashcat"), bytes.NewReader(bytes.Repeat([]byte{0xff, 0}, 10)))
	if err != nil || !strings.HasPrefix(s.Reveal(), "IDENTIFIED WITH 'caching_sha2_password' AS 0x2441243030352"+"47A2E7A2E7A2E7A2E7A2E7A2E7A2E7A2E7A2E7A2E") {
		t.Errorf("got %s, %v", s.Reveal(), err)
	}
	stored, err := hex.DecodeString(s.Reveal()[strings.Index(s.Reveal(), "0x")+2:])
	if err != nil || len(stored) != 7+20+43 {
		t.Errorf("%d bytes are stored, %v", len(stored), err)
	}
}

func TestPasswordsNeedNoQuotingAndHave160RandomBits(t *testing.T) {
	a, err1 := newPassword(bytes.NewReader(bytes.Repeat([]byte{0xff}, 20)))
	b, err2 := newPassword(bytes.NewReader(make([]byte, 20)))
	if err1 != nil || err2 != nil || a.Reveal() != strings.Repeat("7", 32) || b.Reveal() != strings.Repeat("a", 32) {
		t.Errorf("got %q, %q", a.Reveal(), b.Reveal())
	}
	if _, err := newPassword(strings.NewReader("too little")); err == nil {
		t.Error("a password was made of too little randomness")
	}
	if _, err := identified(authSHA2, a, strings.NewReader("too little")); err == nil {
		t.Error("a salt was made of too little randomness")
	}
	if _, err := identified("plain", a, strings.NewReader("")); err == nil {
		t.Error("a password was stored in an unknown way")
	}
}

func TestStatementsAreTheGoldenOnes(t *testing.T) {
	for name, c := range map[string]struct {
		server server
		params string
		auth   string
	}{
		"mariadb_role":    {server{mariadb: true, version: 101119, tls: true}, `{"roles": ["payments_rw"]}`, authNative},
		"mariadb_ed25519": {server{mariadb: true, version: 101119, tls: true}, `{"roles": ["payments_rw"], "auth": "ed25519"}`, authEd25519},
		"mariadb_hostile": {server{mariadb: true, version: 101119, tls: true}, `{"roles": ["z` + "`" + `; DROP", "a'b\\c\""], "default_role": "a'b\\c\"", "connection_limit": 5, "require": "none",
			"client_host": "10.0.%", "grants": {"pay_ments%": ["SELECT"], "x` + "`" + `.*; --": ["INSERT", "EVENT"]}}`, authNative},
		"mysql_role":      {server{version: 80400, tls: true, watched: true}, `{"roles": ["payments_rw"], "connection_limit": 5}`, authSHA2},
		"mysql_grants":    {server{version: 80022, tls: true}, `{"grants": {"pay_ments": ["SELECT", "UPDATE"]}, "require": "none", "client_host": "10.0.%"}`, authSHA2},
		"mysql_no_expiry": {server{version: 80022, tls: true}, `{"grants": {"payments": ["SELECT"]}, "server_expiry": "none"}`, authSHA2},
	} {
		p, err := parseParams([]byte(c.params))
		if err != nil {
			t.Fatal(err)
		}
		id, err := identified(c.auth, broker.NewSecret("abcdefghijklmnopqrstuvwxyz234567"), bytes.NewReader(make([]byte, 20)))
		if err != nil {
			t.Fatal(err)
		}
		o := broker.Order{Lease: "dpl_golden'\\", For: broker.Identity{Issuer: "ci", Job: broker.Job{RepositoryID: "'\\\"é"}}}
		u := newUser{handle: "dp_prod_tabcde_abcdefghijkl", identified: id, params: p, note: newNote(o), server: c.server, home: quoteName("day`pass"),
			notAfter: time.Date(2026, 11, 23, 14, 0, 0, 0, time.FixedZone("away", 2*3600))}
		as := account(string(u.handle), p.ClientHost)
		got := strings.Join(append(append(c.server.sessionStatements(), u.statements()...),
			lockStatement(as), stripStatement(as), dropStatement(as), dropEventStatement(u.home, u.handle)), ";\n") + ";\n"
		path := filepath.Join("testdata", name+".golden.sql")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || got != string(want) {
			t.Errorf("%s (%v): got\n%s", path, err, got)
		}
	}
}

func TestVersionsAreRead(t *testing.T) {
	for text, want := range map[string]server{
		"8.0.36":                          {version: 80036},
		"8.4.0-commercial":                {version: 80400},
		"9.1":                             {version: 90100},
		"8.0.mysql_aurora.3.04.0":         {version: 80000},
		"10.11.19-MariaDB-0+deb12u1-log":  {mariadb: true, version: 101119},
		"5.5.5-10.6.5-MariaDB-1:10.6.5+x": {mariadb: true, version: 100605},
		"11.4.2-MariaDB":                  {mariadb: true, version: 110402},
		"":                                {},
	} {
		if got := readVersion(text); got != want {
			t.Errorf("%q is %+v, want %+v", text, got, want)
		}
	}
}

func TestWhatARoleMayDoIsReadAsTheServersShowIt(t *testing.T) {
	for line, want := range map[string]string{
		"GRANT USAGE ON *.* TO `app_rw`":                                   "",
		"GRANT SELECT ON *.* TO `app_rw`":                                  "",
		"GRANT SELECT, INSERT ON `app\\_db`.* TO `app_rw`":                 "",
		"GRANT ALL PRIVILEGES ON `app\\_db`.* TO `app_rw`":                 "",
		"GRANT SELECT (`n`), INSERT (`n`, `m`) ON `a`.`t` TO `app_rw`":     "",
		"GRANT EXECUTE ON PROCEDURE `app`.`p` TO `app_rw`":                 "",
		"GRANT `other` TO `app_rw`":                                        "",
		"GRANT `other`@`%`,`third`@`%` TO `app_rw`@`%`":                    "",
		"SET DEFAULT ROLE `other` FOR `app_rw`@`%`":                        "",
		"GRANT SELECT ON `mysql`.* TO `app_rw`":                            "",
		"GRANT SELECT ON `daypass`.* TO `app_rw`":                          "",
		"GRANT INSERT ON `my_ql`.* TO `app_rw`":                            "INSERT in schema mysql",
		"GRANT INSERT ON `my\\_ql`.* TO `app_rw`":                          "",
		"GRANT INSERT ON `%`.* TO `app_rw`":                                "INSERT in schema daypass",
		"GRANT INSERT ON `day%`.* TO `app_rw`":                             "INSERT in schema daypass",
		"GRANT INSERT ON `DAYPASS`.`x` TO `app_rw`":                        "INSERT in schema daypass",
		"GRANT SELECT, LOCK TABLES ON `mysql`.* TO `app_rw`":               "LOCK TABLES in schema mysql",
		"GRANT UPDATE (`Priv`) ON `mysql`.`global_priv` TO `app_rw`":       "UPDATE in schema mysql",
		"GRANT INSERT ON *.* TO `app_rw`":                                  "INSERT everywhere",
		"GRANT LOCK TABLES ON *.* TO `app_rw`":                             "LOCK TABLES everywhere",
		"GRANT RELOAD, CREATE USER ON *.* TO `app_rw`":                     "RELOAD everywhere",
		"GRANT ALL PRIVILEGES ON *.* TO `app_rw`":                          "ALL PRIVILEGES everywhere",
		"GRANT SET USER ON *.* TO `app_rw`":                                "SET USER everywhere",
		"GRANT BACKUP_ADMIN,SYSTEM_USER ON *.* TO `app_rw`@`%`":            "BACKUP_ADMIN everywhere",
		"GRANT SELECT ON `app`.* TO `app_rw` WITH GRANT OPTION":            "WITH GRANT OPTION",
		"GRANT EXECUTE ON FUNCTION `a`.`f` TO `app_rw` WITH GRANT OPTION":  "WITH GRANT OPTION",
		"GRANT `other` TO `app_rw` WITH ADMIN OPTION":                      "WITH ADMIN OPTION",
		"GRANT `other`@`%` TO `app_rw`@`%` WITH ADMIN OPTION":              "WITH ADMIN OPTION",
		"GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION":    "not understood",
		"REVOKE SELECT ON `mysql`.* FROM `app_rw`@`%`":                     "", // it takes
		"REVOKE SELECT ON `mysql`.* FROM `a` TO `app_rw`@`%`":              "not understood",
		"REVOKE SELECT ON `mysql`.`user` FROM `app_rw`@`%`":                "not understood",
		"GRANT SELECT ON \"app\".* TO \"app_rw\"":                          "not understood",
		"GRANT SELECT ON app.* TO app_rw":                                  "not understood",
		"":                                                                 "not understood",
		"GRANT SELECT ON `a` ON `b`.* TO `x`.* TO `app_rw`":                "not understood",
		"GRANT SELECT ON `app``.* TO ``x`.* TO `app_rw`":                   "",
		"GRANT SELECT ON `app`.* TO `app_rw`; DROP TABLE x":                "",
		"GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*00'":       "",
		"GRANT DELETE HISTORY, SHOW CREATE ROUTINE ON `app`.* TO `app_rw`": "",
	} {
		why := tooGreat(line, "daypass", server{})
		if want == "" && why != "" || want != "" && !strings.Contains(why, want) {
			t.Errorf("%s: %q, want %q", line, why, want)
		}
	}
}

// Who reads MariaDB's table of accounts holds it.
func TestOnMariaDBNoRoleMayReadTheTableOfAccounts(t *testing.T) {
	for line, want := range map[string]string{
		"GRANT SELECT ON *.* TO `r`":                             "SELECT everywhere",
		"GRANT SELECT, SHOW VIEW ON *.* TO `r`":                  "SELECT everywhere",
		"GRANT SELECT ON `mysql`.* TO `r`":                       "SELECT in schema mysql",
		"GRANT SELECT ON `%`.* TO `r`":                           "SELECT in schema mysql",
		"GRANT SELECT ON `m_sql`.* TO `r`":                       "SELECT in schema mysql",
		"GRANT SELECT (`User`) ON `mysql`.`global_priv` TO `r`":  "SELECT in schema mysql",
		"GRANT SELECT ON `app\\_db`.* TO `r`":                    "",
		"GRANT SELECT ON `sys`.* TO `r`":                         "",
		"GRANT PROCESS, SHOW DATABASES, SHOW VIEW ON *.* TO `r`": "",
		"GRANT SHOW VIEW ON `mysql`.* TO `r`":                    "",
		"GRANT USAGE ON *.* TO `r`":                              "",
	} {
		why := tooGreat(line, "daypass", server{mariadb: true})
		if want == "" && why != "" || want != "" && !strings.Contains(why, want) {
			t.Errorf("%s: %q, want %q", line, why, want)
		}
		if why := tooGreat(line, "daypass", server{}); why != "" {
			t.Errorf("%s: on MySQL %q", line, why)
		}
	}
}

func TestPatternsMatchAsTheServersMatch(t *testing.T) {
	for pattern, names := range map[string]map[string]bool{
		`app\_db`: {"app_db": true, "appxdb": false, "app_d": false},
		`app_db`:  {"app_db": true, "appxdb": true, "app__db": false},
		`%`:       {"": true, "mysql": true},
		`m%l`:     {"mysql": true, "ml": true, "mysq": false},
		`m\%`:     {"m%": true, "mx": false},
		`m\`:      {`m\`: true, "m": false},
		``:        {"": true, "x": false},
	} {
		for name, want := range names {
			if got := matches(pattern, name); got != want {
				t.Errorf("%q matches %q: %v", pattern, name, got)
			}
		}
	}
	for _, name := range []string{"app_db", "100%", "a_%b", "plain"} {
		if !matches(escapePattern(name), name) || matches(escapePattern(name), strings.NewReplacer("_", "x", "%", "x").Replace(name)) && strings.ContainsAny(name, "_%") {
			t.Errorf("%q escaped is %q, which matches something else", name, escapePattern(name))
		}
	}
}

func TestAnAdminNeedsRightsOnEverything(t *testing.T) {
	maria, old, my := server{mariadb: true, version: 101119}, server{mariadb: true, version: 100402}, server{version: 80036}
	for _, c := range []struct {
		server server
		lines  []string
		want   string
	}{
		{maria, []string{"GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` IDENTIFIED BY PASSWORD '*00' WITH GRANT OPTION", "GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION"}, ""},
		{maria, []string{"GRANT PROCESS, CREATE USER, CONNECTION ADMIN ON *.* TO `d`@`%`"}, ""},
		{maria, []string{"GRANT PROCESS, CREATE USER, SUPER ON *.* TO `d`@`%`"}, "CONNECTION ADMIN"},
		{old, []string{"GRANT PROCESS, CREATE USER, SUPER ON *.* TO 'd'@'%'"}, "CREATE USER PROCESS SUPER"}, // quoted as nobody does with our settings
		{old, []string{"GRANT PROCESS, CREATE USER, SUPER ON *.* TO `d`@`%`"}, ""},
		{my, []string{"GRANT PROCESS, CREATE USER ON *.* TO `d`@`%`", "GRANT CONNECTION_ADMIN ON *.* TO `d`@`%`"}, ""},
		{my, []string{"GRANT ALL PRIVILEGES ON `daypass`.* TO `d`@`%`"}, "CONNECTION_ADMIN CREATE USER PROCESS"},
		{my, nil, "CONNECTION_ADMIN CREATE USER PROCESS"},
	} {
		got := strings.Join(missing(c.lines, c.server), " ")
		if got != c.want {
			t.Errorf("%+v %q: lacks %q, want %q", c.server, c.lines, got, c.want)
		}
	}
}

func TestAGrantMustFitTheServer(t *testing.T) {
	maria, my := server{mariadb: true, tls: true}, server{tls: true}
	for _, c := range []struct {
		conn   conn
		params string
		want   string
	}{
		{conn{server: maria}, `{"roles": ["a"]}`, ""},
		{conn{server: maria}, `{"roles": ["a"], "auth": "sha2"}`, "auth: sha2 is not for MariaDB"},
		{conn{server: my}, `{"roles": ["a"], "auth": "sha2"}`, ""},
		{conn{server: my}, `{"roles": ["a"], "auth": "native"}`, "auth: native is not for MySQL"},
		{conn{server: my}, `{"roles": ["a"], "auth": "ed25519"}`, "auth: ed25519 is not for MySQL"},
		{conn{server: server{mariadb: true}}, `{"roles": ["a"]}`, "require: the server has no TLS"},
		{conn{server: server{mariadb: true}}, `{"roles": ["a"], "require": "none"}`, ""},
		{conn{server: my}, `{"roles": ["a"], "server_expiry": "required"}`, "event_scheduler is not ON"},
		{conn{server: my, events: true}, `{"roles": ["a"], "server_expiry": "required"}`, ""},
		{conn{server: my}, `{"grants": {"a": ["DELETE HISTORY"]}}`, "DELETE HISTORY is not for MySQL"},
		{conn{server: maria}, `{"grants": {"a": ["DELETE HISTORY"]}}`, ""},
		{conn{server: my, schema: "daypass"}, `{"grants": {"DayPass": ["SELECT"]}}`, "the broker's own schema"},
	} {
		p, err := parseParams([]byte(c.params))
		if err != nil {
			t.Fatal(err)
		}
		err = c.conn.fits(p)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s on %+v: %v, want %q", c.params, c.conn.server, err, c.want)
		}
	}
}

func TestOnlyPlainTablesRightsSpareTheLookForDefiners(t *testing.T) {
	for params, want := range map[string]bool{
		`{"grants": {"a": ["SELECT", "DROP"]}}`:                             true,
		`{"grants": {"a": ["SELECT"], "b": ["TRIGGER"]}}`:                   false,
		`{"grants": {"a": ["SELECT"]}, "roles": ["r"]}`:                     false,
		`{"roles": ["r"]}`:                                                  false,
		`{"grants": {"a": ["CREATE TEMPORARY TABLES", "CREATE", "ALTER"]}}`: true,
	} {
		p, err := parseParams([]byte(params))
		if err != nil || p.definesNothing() != want {
			t.Errorf("%s: %v, %v", params, p.definesNothing(), err)
		}
	}
	if (params{}).definesNothing() {
		t.Error("an orphan, of which nothing is known, is not looked at")
	}
}

func TestNamesOfAJobsChoiceAreCutForALog(t *testing.T) {
	for text, want := range map[string]string{
		"VIEW `a`.`b`": "VIEW `a`.`b`", "a\x00\r\nb\u2028c": "a   b c", "\xff": "?",
		strings.Repeat("€", 99): strings.Repeat("€", 66), // 198 bytes
	} {
		if got := printable(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestErrorsOfTheDriverAreCutToWhatMayBeSeen(t *testing.T) {
	for _, url := range []string{
		"mysql://theuser:thepass@thehost.invalid:1/thedb", "mysql://theuser:thepass@thehost:thepass/thedb",
		"mysql://theuser:thepass@thehost/thedb?timeout=thepass", "theuser:thepass@tcp(thehost)/thedb", "postgres://theuser:thepass@thehost/thedb",
		"mysql://theuser:thepass@/", "mysql://theuser:thepass@thehost/thedb?ssl-mode=thepass", "mysql://theuser:the%zzpass@thehost/thedb",
		"mysql://theuser:thepass@127.0.0.1:1/thedb", "mysql://theuser:thepass@thehost/thedb?ssl-ca=/thepass", "",
		"mysql://theuser:thepass@thehost/thedb?ssl-cert=/thepass", "mysql://theuser:thepass@/thedb", "mysql://theuser:thepass@thehost/thedb?socket=/thepass",
		"mysql://theuser:thepass@/thedb?socket=/thepass", "mysql://theuser@thehost/thedb", "mysql://thehost/thedb", "mysql://theuser:thepass@thehost:99999/thedb",
		"mysql://theuser:thepass@thehost/mysql", "mysql://theuser:thepass@thehost/thedb?ssl-ca=a&ssl-ca=thepass", "mysql://theuser:thepass@thehost/thedb#thepass",
		"mysql://theuser:thepass@thehost/thedb?%zz",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := dial(ctx, broker.NewSecret(url))
		cancel()
		if err == nil {
			t.Errorf("connected to %q", url)
			continue
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			for _, part := range []string{"theuser", "thepass", "thehost", "thedb", "127.0.0.1"} {
				if strings.Contains(e.Error(), part) {
					t.Errorf("%q: the error shows %s: %v", url, part, e)
				}
			}
		}
	}
	for number := range uint16(5000) {
		for e := scrub(fmt.Errorf("x: %w", &driver.MySQLError{Number: number, Message: "near 'thepass' --read-only"})); e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error(), "thepass") {
				t.Fatalf("error %d repeats the server's words: %v", number, e)
			}
		}
	}
	if err := scrub(errors.New("dial thehost with thepass")); strings.Contains(err.Error(), "the pass") || strings.Contains(err.Error(), "thehost") {
		t.Errorf("an unknown error is repeated: %v", err)
	}
}

func TestAnAdminURLVerifiesTheServerUnlessItSaysOtherwise(t *testing.T) {
	for url, want := range map[string]string{
		"mysql://u:p@db.example.com/daypass":                          "verified",
		"mariadb://u:p@db.example.com:3307/daypass":                   "verified",
		"mysql://u:p@10.0.0.1/daypass":                                "verified",
		"mysql://u:p@db.example.com/daypass?ssl-mode=VERIFY_CA":       "chain",
		"mysql://u:p@db.example.com/daypass?ssl-mode=REQUIRED":        "encrypted",
		"mysql://u:p@db.example.com/daypass?ssl-mode=required":        "encrypted",
		"mysql://u:p@db.example.com/daypass?ssl-mode=DISABLED":        "plain",
		"mysql://u:p@127.0.0.1/daypass":                               "plain",
		"mysql://u:p@localhost/daypass":                               "plain",
		"mysql://u:p@[::1]/daypass":                                   "plain",
		"mysql://u:p@127.0.0.1/daypass?ssl-mode=VERIFY_IDENTITY":      "verified",
		"mysql://u:p@/daypass?socket=/run/mysqld/mysqld.sock":         "plain",
		"mysql://u:p@localhost.example.com/daypass":                   "verified",
		"mysql://u:p@/daypass?socket=/run/s&ssl-mode=VERIFY_IDENTITY": "refused",
		"mysql://u:p@db.example.com/daypass?ssl-mode=PREFERRED":       "refused",
	} {
		a, err := parseAdmin(broker.NewSecret(url))
		got := "refused"
		switch {
		case err != nil:
		case a.config.TLS == nil:
			got = "plain"
		case a.config.TLS.VerifyConnection != nil:
			got = "chain"
		case a.config.TLS.InsecureSkipVerify:
			got = "encrypted"
		default:
			got = "verified"
		}
		if got != want {
			t.Errorf("%s: %s (%v), want %s", url, got, err, want)
		}
		if err == nil && (a.config.MultiStatements || a.config.AllowAllFiles || a.config.AllowCleartextPasswords || a.config.AllowFallbackToPlaintext || !a.config.InterpolateParams) {
			t.Errorf("%s: the driver may do more than it must", url)
		}
	}
}

func TestTextsAreWrittenWithoutAnythingToEscape(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "'plain'", "it's": "'it%27s'", `a\b`: "'a%5Cb'", "é\n\x00": "'%C3%A9%0A%00'", `{"by":"x"}`: `'{"by":"x"}'`,
	} {
		if got := quoteText(text); got != want {
			t.Errorf("%q became %s", text, got)
		}
	}
	if got := plain("a b\"\\'%<>&`é/:@._-"); got != "a%20b%22%5C%27%25%3C%3E%26%60%C3%A9/:@._-" {
		t.Errorf("got %s", got)
	}
	n := newNote(broker.Order{Lease: "dpl_x", For: broker.Identity{Issuer: "ci", Job: broker.Job{RepositoryID: strings.Repeat("'\\\"\x00", 300)}}})
	if text := n.text(); quoteText(text) != "'"+text+"'" || strings.ContainsAny(text, `\'`) {
		t.Errorf("a note needs escaping: %s", text)
	}
}

func TestOverdueIsPastTheSecondThatTheNameSays(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	if overdue(at, at) || overdue(at.Add(-time.Second), at) || !overdue(at.Add(time.Microsecond), at) {
		t.Error("the edge is elsewhere")
	}
}
