package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	daypass "github.com/daypass-dev/daypass/clients/go"
	"github.com/daypass-dev/daypass/clients/go/daypasstest"
)

// start runs the program in this process against a world, with a handler
// before its broker that may be nil.
func start(t *testing.T, ctx context.Context, w *world, before func(*http.Request), args ...string) (code int, stdout, stderr string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if before != nil {
			before(r)
		}
		w.broker.ServeHTTP(rw, r)
	}))
	defer srv.Close()
	var out, errs bytes.Buffer
	code = run(ctx, process{
		Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Env: []string{"PATH=" + os.Getenv("PATH"), "DAYPASS_URL=" + srv.URL, "DAYPASS_ID_TOKEN=" + daypasstest.Token("ci-from-test")},
	})
	return code, out.String(), errs.String()
}

// A signal that comes while the broker is minting must not leave credentials
// that nobody knows how to give back.
func TestASignalDuringTheExchangeLosesNoCredential(t *testing.T) {
	for _, args := range [][]string{
		{"exec", "-g", "orders-db", "--", "sh", "-c", "echo the command ran"},
		{"get", "-g", "orders-db"},
	} {
		w := newWorld()
		once := true
		code, stdout, stderr := start(t, t.Context(), w, func(r *http.Request) {
			if r.URL.Path == "/v1/exchange" && once {
				once = false
				if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
					t.Error(err)
				}
				time.Sleep(50 * time.Millisecond) // it is delivered while we mint
			}
		}, args...)
		if code != exitSignal+int(syscall.SIGTERM) || stdout != "" {
			t.Errorf("%s: code %d, stdout %q, stderr %q", args[0], code, stdout, stderr)
		}
		if live := w.broker.Live(); len(w.broker.Tokens()) != 1 || len(live) != 0 {
			t.Errorf("%s: tokens %v, still live %v", args[0], w.broker.Tokens(), live)
		}
	}
}

func TestAnUntrustedCertificateIsToldWithTheWayToTrustIt(t *testing.T) {
	srv := httptest.NewTLSServer(&newWorld().broker)
	defer srv.Close()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	var out, errs bytes.Buffer
	code := run(t.Context(), process{
		Args: []string{"get", "-g", "orders-db"}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Env: []string{"DAYPASS_URL=" + srv.URL, "DAYPASS_ID_TOKEN=" + daypasstest.Token("ci-from-test")},
	})
	if code != exitUnavailable || !strings.Contains(errs.String(), "DAYPASS_CACERT") {
		t.Errorf("code %d: %s", code, errs.String())
	}
}

func TestALogThatStandsStillExplainsItselfOnce(t *testing.T) {
	for waits, want := range map[time.Duration]int{patience - time.Second: 0, time.Hour: 1} {
		synctest.Test(t, func(t *testing.T) {
			var errs bytes.Buffer
			a := &app{process: process{Stderr: &errs}, asked: "https://daypass.example.com", timeout: time.Minute}
			answered := a.sayIfSlow()
			time.Sleep(waits)
			answered()
			time.Sleep(time.Hour)
			if got := strings.Count(errs.String(), "still asking the broker at https://daypass.example.com; giving up after 1m0s in all"); got != want || strings.Count(errs.String(), "\n") != want {
				t.Errorf("after %s: %q", waits, errs.String())
			}
		})
	}
}

// A file from before there were versions: its session was opened without a
// key, and is gone on with in clear.
func TestASessionFileWithoutAVersionIsGoneOnWith(t *testing.T) {
	w := newWorld()
	srv := httptest.NewServer(&w.broker)
	defer srv.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/v1/exchange", strings.NewReader(`{"grants":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+daypasstest.Token("1"))
	r.Header.Set("Content-Type", "application/json")
	res, err := srv.Client().Do(r)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%+v, %v", res, err)
	}
	defer res.Body.Close()
	path := filepath.Join(t.TempDir(), "session")
	if err := os.WriteFile(path, []byte(`{"url":"`+srv.URL+`","token":"dps_fake-session-1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := run(t.Context(), process{Args: []string{"get", "-g", "orders-db", "-o", "field=username", "--session-file", path},
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs})
	if code != 0 || out.String() != "dp_user_1\n" {
		t.Errorf("code %d, stdout %q, stderr %q", code, out.String(), errs.String())
	}
}

func TestACommandIsEndedWhenItsContextEnds(t *testing.T) {
	w := newWorld()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	code, _, stderr := start(t, ctx, w, nil, "exec", "-g", "orders-db", "--", "sleep", "60")
	if code != exitSignal+int(syscall.SIGTERM) || len(w.broker.Live()) != 0 {
		t.Errorf("code %d, live %v, stderr %q", code, w.broker.Live(), stderr)
	}
}

func TestAnExchangeIsGivenTimeAfterASignalButNotTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 2)
		ctx, done := untilSignal(t.Context(), signals, 5*time.Second)
		signals <- syscall.SIGUSR1
		time.Sleep(time.Minute)
		if ctx.Err() != nil {
			t.Fatal("a signal that does not ask to end ended it")
		}
		signals <- syscall.SIGINT
		time.Sleep(4 * time.Second)
		if ctx.Err() != nil {
			t.Fatal("no time was given")
		}
		time.Sleep(2 * time.Second)
		if ctx.Err() == nil {
			t.Fatal("it goes on for ever")
		}
		if s := done(); s != syscall.SIGINT {
			t.Errorf("the signal was %v", s)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 2)
		ctx, done := untilSignal(t.Context(), signals, time.Hour)
		signals <- syscall.SIGINT
		signals <- syscall.SIGTERM
		synctest.Wait()
		if ctx.Err() == nil {
			t.Error("the second signal does not end it")
		}
		if s := done(); s != syscall.SIGINT {
			t.Errorf("the signal was %v", s)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, done := untilSignal(t.Context(), make(chan os.Signal), time.Hour)
		if s := done(); s != nil {
			t.Errorf("there was none, but %v", s)
		}
	})
}

func TestExitCodesFollowTheError(t *testing.T) {
	const own = 42
	for name, tc := range map[string]struct {
		err  error
		code int
	}{
		"denied":                   {&daypass.Error{Code: daypass.Denied, Status: 403}, exitDenied},
		"unavailable":              {&daypass.Error{Code: daypass.Unavailable, Status: 503}, exitUnavailable},
		"not minted":               {&daypass.Error{Code: daypass.MintFailed, Status: 502}, exitUnavailable},
		"rate limited":             {&daypass.Error{Code: daypass.RateLimited, Status: 429}, exitUnavailable},
		"no answer":                {&daypass.Error{Code: daypass.NoAnswer}, exitUnavailable},
		"only a new job":           {errors.Join(daypass.ErrNewJob, &daypass.Error{Code: daypass.TokenReused, Status: 409}), exitNewJob},
		"used, by somebody else":   {&daypass.Error{Code: daypass.TokenReused, Status: 409}, own},
		"not trusted":              {&daypass.Error{Code: daypass.TokenInvalid, Status: 401}, own},
		"not a broker":             {&daypass.Error{Code: daypass.NotDaypass, Status: 404}, own},
		"anything else":            {errors.New("disk full"), own},
		"what has its code by now": {usage("no"), exitUsage},
	} {
		f, ok := errors.AsType[*failure](failed(tc.err, own))
		if !ok || f.code != tc.code {
			t.Errorf("%s: %+v, want %d", name, f, tc.code)
		}
	}
	if failed(nil, own) != nil {
		t.Error("no error became one")
	}
}

func TestACredentialCannotChangeHowProgramsRun(t *testing.T) {
	env := func(name string) []daypass.Credential {
		return []daypass.Credential{{Grant: "g", Env: map[string]daypass.Secret{name: daypass.NewSecret("v")}}}
	}
	for _, name := range []string{"PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "BASH_ENV", "ENV", "IFS", "NODE_OPTIONS",
		"DAYPASS_URL", "DAYPASS_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "BASH_FUNC_ls",
		"GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_EXTERNAL_DIFF", "PAGER", "_JAVA_OPTIONS", "PYTHONHOME", "PERL5DB", "npm_config_script_shell",
		"GITHUB_ENV", "GITHUB_PATH", "RUNNER_TEMP", "https_proxy", "ALL_PROXY", "SSL_CERT_FILE", "PSQLRC", "GLIBC_TUNABLES"} {
		if vars, err := variables([]daypass.Grant{{Name: "g"}}, env(name)); err == nil {
			t.Errorf("%s was set: %v", name, vars)
		}
	}
	for _, name := range []string{"PGPASSWORD", "DATABASE_URL", "DAYPASS_JWT", "GITHUB_TOKEN", "AWS_SESSION_TOKEN", "VAULT_TOKEN"} {
		if _, err := variables([]daypass.Grant{{Name: "g"}}, env(name)); err != nil {
			t.Errorf("a credential is refused: %v", err)
		}
	}
	if _, err := variables([]daypass.Grant{{Name: "g", Prefix: "LD_"}}, env("PRELOAD")); err == nil {
		t.Error("a prefix made a name that is reserved")
	}
	vars, err := variables([]daypass.Grant{{Name: "g", Prefix: "A_"}}, env("PATH"))
	if err != nil || vars["A_PATH"] != "v" {
		t.Errorf("a prefix makes it harmless: %v, %v", vars, err)
	}
}

func TestTheChildsEnvironmentIsReplacedNotAdded(t *testing.T) {
	base := []string{"A=1", "PGUSER=old", "DAYPASS_ID_TOKEN=x", "DAYPASS_ID_TOKEN_FILE=x", "DAYPASS_SESSION=x", "ACTIONS_ID_TOKEN_REQUEST_URL=x", "DAYPASS_URL=u"}
	got := childEnv(base, map[string]string{"PGUSER": "new"}, false)
	if want := []string{"A=1", "DAYPASS_URL=u", "PGUSER=new"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := childEnv(base, nil, true); !slices.Equal(got, base) {
		t.Errorf("preserved %v", got)
	}
}

func TestAShellReadsBackWhatIsQuoted(t *testing.T) {
	all := make([]byte, 0, 255)
	for c := 1; c < 256; c++ {
		all = append(all, byte(c))
	}
	for _, s := range []string{"", "plain-1.2/x", "it's", "$(touch x)`touch y`", "a b\tc\n d ", "'", "''\\''", "-n", "~", "*", string(all) + "."} {
		for _, line := range []string{"export X=" + shellQuote(s), "X=" + shellQuote(s)} {
			out, err := exec.Command("sh", "-c", line+"\nprintf %s \"$X\"").CombinedOutput()
			if err != nil || string(out) != s {
				t.Errorf("%q came back as %q (%v)", s, out, err)
			}
		}
	}
}

func TestMaskCommandsAreOneLineForEachValueAndLine(t *testing.T) {
	var errs bytes.Buffer
	a := &app{process: process{Env: []string{"GITHUB_ACTIONS=true"}, Stderr: &errs}}
	if err := a.addMasks([]string{"100%\r\nsecond line\n", "abc"}); err != nil {
		t.Fatal(err)
	}
	if want := "::add-mask::100%25%0D%0Asecond line%0A\n::add-mask::100%25\n::add-mask::second line\n"; errs.String() != want {
		t.Errorf("got %q, want %q", errs.String(), want)
	}
	errs.Reset()
	a.Env = nil
	if err := a.addMasks([]string{"hunter2"}); err != nil || errs.Len() != 0 {
		t.Errorf("elsewhere than on GitHub a secret was printed: %q, %v", errs.String(), err)
	}
}

func FuzzTextOfOthersStaysOnItsLine(f *testing.F) {
	f.Add("refs/heads/x\n::set-env name=A::b")
	f.Add("##[set-env]####[[\x1b[2J\u202e\u2028\xff\u0085")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if strings.Contains(got, "##[") {
			t.Errorf("%q has a command", got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %q", got, r)
			}
		}
	})
}
