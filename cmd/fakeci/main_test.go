package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fakeci": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"await":  await,
			"status": status,
			"claims": claims,
			"load":   load,
			"get":    get,
			"mode":   mode,
		},
	})
}

// await FILE TEXT: until the file is there and has the text.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await file text")
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if raw, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && strings.Contains(string(raw), args[1]) {
			return
		}
	}
	ts.Fatalf("%s has no %s after 20 s", args[0], args[1])
}

// status CODE ARGS…: the exit code of fakeci ARGS, in process. Its output is in
// the files stdout and stderr of the work folder.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: status code args...")
	}
	var stdout, stderr strings.Builder
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "$WORK", ts.Getenv("WORK"))
	}
	got := run(context.Background(), args[1:], &stdout, &stderr)
	ts.Check(os.WriteFile(ts.MkAbs("stdout"), []byte(stdout.String()), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("stderr"), []byte(stderr.String()), 0o600))
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit %d, want %s: %s", got, args[0], stderr.String())
	}
}

// claims FILE: prints the claims of the token in FILE.
func claims(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: claims file")
	}
	parts := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), ".")
	if len(parts) != 3 {
		ts.Fatalf("not a token: %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("claims"), payload, 0o600))
}

// load FILE: sets the variables of a JSON object.
func load(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: load file")
	}
	var vars map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &vars))
	for name, v := range vars {
		if s, ok := v.(string); ok {
			ts.Setenv(name, s)
		}
	}
}

// get [!] URL FILE [BEARER]: fetches; with ! the status is not 200.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: get url file [bearer]")
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, args[0], nil)
	ts.Check(err)
	if len(args) > 2 {
		req.Header.Set("Authorization", "Bearer "+args[2])
	}
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(resp.Body.Close())
	if (resp.StatusCode == http.StatusOK) == neg {
		ts.Fatalf("status %d: %s", resp.StatusCode, body)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Value != "" {
		body = []byte(answer.Value)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o600))
}

// mode FILE OCTAL.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode file octal")
	}
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("mode %s, want %s", got, args[1])
	}
}
