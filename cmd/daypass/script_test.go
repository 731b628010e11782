package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/daypass-dev/daypass/clients/go/daypasstest"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"daypass": main}) }

// The secrets that the fake broker plants, without the number of the lease
// before them. They are made to need every sort of quoting.
const (
	password = `-s3cret'"$\/+ pw`
	key      = "-----BEGIN PRIVATE KEY-----\nMIIBplantedKeyLineOne\nplantedKeyLineTwo=\n-----END PRIVATE KEY-----\n"
)

// world is what one script talks to.
type world struct {
	broker daypasstest.Broker
	tokens atomic.Int32
}

// token makes a JWT that nobody signed, with a serial number in it.
func (w *world) token(claims map[string]any) string {
	claims["jti"] = "jti-" + strconv.Itoa(int(w.tokens.Add(1)))
	b, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"none"}`)) + "." + part(b) + "." + part([]byte("no-signature"))
}

// github is the endpoint that a GitHub job asks for ID tokens.
func (w *world) github(rw http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer github-request-token" {
		http.Error(rw, "who are you?", http.StatusForbidden)
		return
	}
	_ = json.NewEncoder(rw).Encode(map[string]string{"value": w.token(map[string]any{
		"iss": "https://token.actions.githubusercontent.com", "sub": "repo:acme/orders:ref:refs/heads/main",
		"aud": r.URL.Query().Get("audience"), "repository": "acme/orders", "repository_id": "5678",
		"repository_owner_id": "1234", "ref": "refs/heads/main", "event_name": "push", "environment": "production",
		"iat": 1790000000, "exp": 1790000300,
	})})
}

func newWorld() *world {
	w := new(world)
	w.broker.Grant("orders-db", daypasstest.Credential{Kind: "postgres",
		Fields:    map[string]string{"username": "dp_user_$N", "password": "$N" + password},
		Env:       map[string]string{"PGUSER": "dp_user_$N", "PGPASSWORD": "$N" + password},
		Sensitive: []string{"password", "PGPASSWORD"}})
	w.broker.Grant("stock-db", daypasstest.Credential{Kind: "postgres",
		Fields: map[string]string{"password": "$N" + password}, Env: map[string]string{"PGPASSWORD": "$N" + password}, Sensitive: []string{"password", "PGPASSWORD"}})
	w.broker.Grant("deploy-key", daypasstest.Credential{Kind: "ssh", Takeback: "expiry",
		Fields: map[string]string{"key": key}, Env: map[string]string{"DEPLOY_KEY": key}, Sensitive: []string{"key", "DEPLOY_KEY"}})
	w.broker.Grant("rogue", daypasstest.Credential{Kind: "odd", Env: map[string]string{"LD_PRELOAD": "/tmp/x.so"}})
	return w
}

func TestScripts(t *testing.T) {
	if files, err := filepath.Glob("testdata/script/*.txt"); err != nil || len(files) < 14 {
		t.Fatalf("found %d scripts (%v): where did they go?", len(files), err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			w := newWorld()
			mux := http.NewServeMux()
			mux.Handle("/v1/", &w.broker)
			mux.HandleFunc("/github/token", w.github)
			srv := httptest.NewServer(mux)
			env.Defer(srv.Close)
			env.Values["world"] = w
			gitlab := func() string {
				return w.token(map[string]any{"iss": "https://gitlab.example.com", "sub": "project_path:acme/orders:ref_type:branch:ref:main",
					"aud": []string{srv.URL}, "project_path": "acme/orders", "project_id": "42", "namespace_id": "7", "ref": "main",
					"pipeline_source": "push", "iat": 1790000000, "exp": 1790003600})
			}
			env.Setenv("DAYPASS_URL", srv.URL)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each process otherwise
			env.Setenv("TOKEN", gitlab())
			env.Setenv("TOKEN2", gitlab())
			env.Values["gitlab"] = gitlab
			env.Setenv("GITHUB_URL", srv.URL+"/github/token?api-version=2.0")
			env.Setenv("GITHUB_BEARER", "github-request-token")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "live": live, "asked": asked, "refuse": refuse, "clean": cleanOutput, "masked": masked,
			"waitfor": waitFor, "gitlab": newJob, "lose": lose, "made": made,
		},
	})
}

func theWorld(ts *testscript.TestScript) *world { return ts.Value("world").(*world) }

// exits CODE PROGRAM [ARG]...: the program ends with exactly this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program [arg]...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = e.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// live [GRANT]...: exactly these grants' credentials have not been given back.
func live(ts *testscript.TestScript, neg bool, args []string) {
	slices.Sort(args)
	if got := theWorld(ts).broker.Live(); slices.Equal(got, args) == neg {
		ts.Fatalf("live are %v", got)
	}
}

// asked N "METHOD /path": the broker has been asked this N times.
func asked(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: asked n route")
	}
	n := 0
	for _, route := range theWorld(ts).broker.Asked() {
		if strings.HasPrefix(route, args[1]) {
			n++
		}
	}
	if strconv.Itoa(n) != args[0] {
		ts.Fatalf("%s was asked %d times, want %s", args[1], n, args[0])
	}
}

// refuse "METHOD /path" FILE: the next such request gets the problem in FILE.
func refuse(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: refuse route file")
	}
	var p daypasstest.Problem
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &p))
	theWorld(ts).broker.Refuse(args[0], p)
}

// gitlab: another GitLab job begins, with a fixed token of its own.
func newJob(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: gitlab")
	}
	ts.Setenv("DAYPASS_ID_TOKEN", ts.Value("gitlab").(func() string)())
}

// lose "METHOD /path" N: the answers to the next N such requests get lost.
func lose(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lose route n")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	theWorld(ts).broker.Lose(args[0], n)
}

// made N: so many credentials were made so far.
func made(ts *testscript.TestScript, neg bool, args []string) {
	if got := strconv.Itoa(theWorld(ts).broker.Made()); neg || len(args) != 1 || got != args[0] {
		ts.Fatalf("made %s credentials", got)
	}
}

// secretsIn returns which planted secrets text shows, in whatever form a test
// prints them.
func secretsIn(text string) []string {
	var found []string
	for _, s := range []string{"s3cret", "plantedKeyLine", base64.StdEncoding.EncodeToString([]byte("1" + password)),
		"dps_fake-session", "github-request-token", ".bm8tc2lnbmF0dXJl" /* the end of every CI token */} {
		if strings.Contains(text, s) {
			found = append(found, s)
		}
	}
	return found
}

// clean: neither output of the last command shows a secret, but where it tells
// GitHub's runner what to mask.
func cleanOutput(ts *testscript.TestScript, neg bool, _ []string) {
	var text strings.Builder
	for line := range strings.Lines(ts.ReadFile("stdout") + "\n" + ts.ReadFile("stderr")) {
		if !strings.HasPrefix(line, "::add-mask::") {
			text.WriteString(line)
		}
	}
	if found := secretsIn(text.String()); (len(found) == 0) == neg {
		ts.Fatalf("secrets in the output: %v", found)
	}
}

// masked [OUTPUT]: with what stderr tells it to mask, GitHub's runner shows no
// secret of either output.
func masked(ts *testscript.TestScript, neg bool, _ []string) {
	all := ts.ReadFile("stdout") + "\n" + ts.ReadFile("stderr")
	var values []string
	var rest strings.Builder
	for line := range strings.Lines(all) {
		if v, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "::add-mask::"); ok {
			values = append(values, strings.NewReplacer("%0A", "\n", "%0D", "\r", "%25", "%").Replace(v))
		} else {
			rest.WriteString(line)
		}
	}
	shown := rest.String()
	for _, v := range values {
		shown = strings.ReplaceAll(shown, v, "***")
	}
	if found := secretsIn(shown); (len(found) == 0) == neg {
		ts.Fatalf("the runner would show %v", found)
	}
}

// waitfor FILE: it exists, within ten seconds.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfor file")
	}
	for range 200 {
		if matches, _ := filepath.Glob(ts.MkAbs(args[0])); len(matches) > 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%s", fmt.Sprintf("%s did not come", args[0]))
}
