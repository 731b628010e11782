package postgres

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

var update = flag.Bool("update", false, "write golden files")

func TestParamsNameEveryFault(t *testing.T) {
	long := strings.Repeat("é", 32) // 64 bytes
	for params, want := range map[string][]string{
		``:                   {"roles: name at least one"},
		`[]`:                 {"not an object"},
		`null`:               {"not an object"},
		`{"roles": []}`:      {"roles: name at least one"},
		`{"roles": "app"}`:   {"roles: has the wrong type"},
		`{"Roles": ["app"]}`: {"Roles: no such setting"},
		`{"roles": ["app"], "x": 1, "owners": "app", "port": "5432"}`:      {"x: no such setting", "owners: no such setting", "port: has the wrong type"},
		`{"roles": ["a", "a", "", "` + long + `", "a\u0000b", "none"]}`:    {`"a" is named twice`, "a name is empty", "longer than 63 bytes", "zero byte", "reserves", "owner: with several roles"},
		`{"roles": ["a"], "owner": "b"}`:                                   {`owner: "b" is not one of roles`},
		`{"roles": ["a"], "owner": null}`:                                  {"owner: is empty"},
		`{"roles": ["a"], "on_owned": {"reassign": ""}}`:                   {"on_owned: has the wrong type"},
		`{"roles": ["a"], "on_owned": {"reassign": "none"}}`:               {"on_owned: reassign: ", "reserves"},
		`{"roles": ["a"], "on_owned": {"drop": "x"}}`:                      {"on_owned: has the wrong type"},
		`{"roles": ["a"], "probe": "yes"}`:                                 {"probe: has the wrong type"},
		`{"roles": ["a"], "on_owned": "burn"}`:                             {"not a way we know"},
		`{"roles": ["a"], "scram_iterations": 0}`:                          {"scram_iterations: 0"},
		`{"roles": ["a"], "scram_iterations": 1000001}`:                    {"scram_iterations: 1000001"},
		`{"roles": ["a"], "connection_limit": 0}`:                          {"connection_limit: 0"},
		`{"roles": ["a"], "connection_limit": -1}`:                         {"connection_limit: -1"},
		`{"roles": ["a"], "database": "` + long + `"}`:                     {"database: "},
		`{"roles": ["a"], "host": "a b", "port": 65536, "sslmode": "yes"}`: {"host: ", "port: 65536", `sslmode: "yes"`},
		`{"roles": ["a"], "host": "x@evil.example"}`:                       {"host: "},
	} {
		_, err := parseParams([]byte(params), defaultIterations)
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
	p, err := parseParams([]byte(`{"roles": ["app"]}`), defaultIterations)
	if err != nil || p.Owner != "app" || p.ScramIterations != 4096 || p.ConnectionLimit != 0 {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := parseParams([]byte(`{"roles": ["a", "b"], "owner": "b", "on_owned": "keep", "scram_iterations": 1000000, "connection_limit": 10000, "host": "fe80::1", "port": 65535, "sslmode": "require", "database": "d"}`), defaultIterations); err != nil {
		t.Error(err)
	}
}

// RFC 7677, section 3.
func TestTheVerifierIsWhatTheRFCSays(t *testing.T) {
	const (
		first    = "n=user,r=rOprNGfwEbeRWgbNEkqO"
		server   = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
		final    = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
		proof    = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
		verified = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
	)
	decode := func(s string) []byte {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	v, err := verifier(broker.NewSecret("pencil"), decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
	if err != nil {
		t.Fatal(err)
	}
	head, keys, _ := strings.Cut(strings.TrimPrefix(v.Reveal(), "SCRAM-SHA-256$"), "$")
	storedText, serverText, _ := strings.Cut(keys, ":")
	stored, serverKey := decode(storedText), decode(serverText)
	if head != "4096:W22ZaJ0SNY7soEsUEjb6gQ==" {
		t.Errorf("iterations and salt: %q", head)
	}
	message := first + "," + server + "," + final
	if got := mac(serverKey, message); !hmac.Equal(got, decode(verified)) {
		t.Error("the server key does not sign as in the RFC")
	}
	clientKey := mac(stored, message)
	for i, b := range decode(proof) {
		clientKey[i] ^= b
	}
	if sum := sha256.Sum256(clientKey); !hmac.Equal(sum[:], stored) {
		t.Error("the stored key does not accept the proof of the RFC")
	}
}

func TestPasswordsNeedNoQuotingAndHave200RandomBits(t *testing.T) {
	a, err1 := newPassword(bytes.NewReader(bytes.Repeat([]byte{0xff}, 25)))
	b, err2 := newPassword(bytes.NewReader(make([]byte, 25)))
	if err1 != nil || err2 != nil || a.Reveal() != strings.Repeat("7", 40) || b.Reveal() != strings.Repeat("a", 40) {
		t.Errorf("got %q, %q", a.Reveal(), b.Reveal())
	}
	if _, err := newPassword(strings.NewReader("too little")); err == nil {
		t.Error("a password was made of too little randomness")
	}
}

func TestStatementsAreTheGoldenOnes(t *testing.T) {
	for name, params := range map[string]string{
		"one_role":      `{"roles": ["payments_rw"]}`,
		"hostile_names": `{"roles": ["z\"; DROP", "a'b\\c"], "owner": "a'b\\c", "connection_limit": 5}`,
	} {
		p, err := parseParams([]byte(params), defaultIterations)
		if err != nil {
			t.Fatal(err)
		}
		v, err := newVerifier(bytes.NewReader(make([]byte, 16)), broker.NewSecret("pencil"), 1)
		if err != nil {
			t.Fatal(err)
		}
		o := broker.Order{Lease: "dpl_golden", For: broker.Identity{Issuer: "ci", Job: broker.Job{RepositoryID: `'\`}}}
		u := newUser{handle: "dp_prod_tabcde_abcdefghijkl", verifier: v, params: p, note: newNote(o),
			notAfter: time.Date(2026, 11, 23, 14, 0, 0, 0, time.FixedZone("away", 2*3600))}
		got := strings.Join(append(u.statements(), disableStatement(u.handle)), ";\n") + ";\n"
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

func TestErrorsOfTheDriverAreCutToWhatMayBeSeen(t *testing.T) {
	for _, url := range []string{
		"postgres://theuser:thepass@thehost.invalid:1/thedb", "postgres://theuser:thepass@thehost:thepass/thedb",
		"postgres://theuser:thepass@thehost/thedb?options=thepass", "host=thehost password=thepass", "mysql://theuser:thepass@thehost/thedb",
		"postgres://theuser:thepass@/", "postgres://theuser:thepass@thehost/thedb?sslmode=thepass", "postgres://theuser:the%zzpass@thehost/thedb",
		"postgres://theuser:thepass@127.0.0.1:1/thedb", "postgres://theuser:thepass@thehost/thedb?sslrootcert=/thepass", "",
	} {
		_, err := dial(t.Context(), broker.NewSecret(url), "")
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
}

func TestOverdueIsPastTheSecondThatTheNameSays(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	if overdue(at, at) || overdue(at.Add(-time.Second), at) || !overdue(at.Add(time.Microsecond), at) {
		t.Error("the edge is elsewhere")
	}
}
