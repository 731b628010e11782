package secretref_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/secretref"
)

const canary = "hunter2-canary"

func openRef(t *testing.T, ref string, lookup func(string) (string, bool)) broker.SecretSource {
	t.Helper()
	r, err := secretref.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	s, err := secretref.Open(r, secretref.Config{LookupEnv: lookup})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, s broker.SecretSource, current, previous string) {
	t.Helper()
	v, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v.Current.Reveal() != current || v.Previous.Reveal() != previous {
		t.Errorf("read %q before %q, want %q before %q", v.Current.Reveal(), v.Previous.Reveal(), current, previous)
	}
}

func TestReferencesAreParsed(t *testing.T) {
	for ref, want := range map[string]secretref.Ref{
		"env:PAYMENTS_ADMIN_URL":  {Scheme: secretref.Env, Name: "PAYMENTS_ADMIN_URL"},
		"env:_x9":                 {Scheme: secretref.Env, Name: "_x9"},
		"file:/run/secrets/a b:c": {Scheme: secretref.File, Name: "/run/secrets/a b:c"},
		"file:./secret":           {Scheme: secretref.File, Name: "./secret"},
		"file:../secret":          {Scheme: secretref.File, Name: "../secret"},
		"file:///run/secret":      {Scheme: secretref.File, Name: "///run/secret"},
	} {
		if got, err := secretref.Parse(ref); err != nil || got != want || got.String() != ref {
			t.Errorf("%s: %+v %v", ref, got, err)
		}
	}
}

func TestWhatIsNoReferenceIsRefusedAndNotRepeated(t *testing.T) {
	for ref, says := range map[string]string{
		"":                                     "env:NAME",
		canary:                                 "not written into the configuration",
		"postgres://admin:" + canary + "@h/db": "not written into the configuration",
		canary + ":" + canary:                  "not written into the configuration",
		"ENV:" + canary:                        "not written into the configuration",
		" env:" + canary:                       "not written into the configuration",
		"env:" + canary:                        "env: must be followed by the name",
		"env:":                                 "env: must be followed by the name",
		"env:A\n":                              "env: must be followed by the name",
		"file:" + canary:                       "file: must be followed by the path",
		"file:":                                "file: must be followed by the path",
		"file:/":                               "file: must be followed by the path",
		"file:/x\n" + canary:                   "file: must be followed by the path",
		"file:/x\x00" + canary:                 "file: must be followed by the path",
		"awssm:prod/" + canary:                 "awssm yet; supported are env:NAME and file:PATH",
		"ssm:/" + canary:                       "ssm yet; supported are env:NAME and file:PATH",
		"vault:secret/" + canary:               "vault yet; supported are env:NAME and file:PATH",
	} {
		_, err := secretref.Parse(ref)
		if err == nil {
			t.Errorf("%q is accepted", ref)
			continue
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", ref, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
}

func TestAnEnvironmentVariableIsReadEachTime(t *testing.T) {
	env := map[string]string{}
	s := openRef(t, "env:ADMIN", func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	for _, unset := range []func(){func() {}, func() { env["ADMIN"] = "" }} {
		unset()
		if _, err := s.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "ADMIN is not set") {
			t.Errorf("got %v", err)
		}
	}
	env["ADMIN"] = "one\n" // an environment variable is taken as it is
	mustRead(t, s, "one\n", "")
	mustRead(t, s, "one\n", "")
	env["ADMIN"] = "two"
	mustRead(t, s, "two", "one\n")
	mustRead(t, s, "two", "one\n")
}

func TestAFileIsReadWithoutItsLastNewline(t *testing.T) {
	for text, want := range map[string]string{
		canary:               canary,
		canary + "\n":        canary,
		canary + "\r\n":      canary,
		canary + "\n\n":      canary + "\n",
		" " + canary + " \n": " " + canary + " ",
		"a\nb\n":             "a\nb",
	} {
		path := filepath.Join(t.TempDir(), "secret")
		put(t, path, text, 0o400)
		mustRead(t, openRef(t, "file:"+path, nil), want, "")
	}
}

func TestAFileThatChangesIsSeenAtOnceAndTheValueBeforeIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	put(t, path, "one", 0o600)
	s := openRef(t, "file:"+path, nil)
	mustRead(t, s, "one", "")
	put(t, path, "two", 0o600)
	mustRead(t, s, "two", "one")
	put(t, path, "two\n", 0o600) // the same secret
	mustRead(t, s, "two", "one")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a secret that was taken away is still handed out: %v", err)
	}
	put(t, path, "three", 0o600)
	mustRead(t, s, "three", "two")
}

func TestAKubernetesMountIsReadAndFollowed(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"..1": "one", "..2": "two"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, name, "admin"), text, 0o644)
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, "new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/admin", "admin")
	s := openRef(t, "file:"+filepath.Join(dir, "admin"), nil)
	mustRead(t, s, "one", "")
	link("..2", "..data")
	mustRead(t, s, "two", "one")
}

func TestAFileThatIsNotFitForASecretIsRefused(t *testing.T) {
	for why, c := range map[string]struct {
		text string
		mode os.FileMode
		says string
	}{
		"the group can change it": {canary, 0o620, "chmod go-w"},
		"all can change it":       {canary, 0o602, "chmod go-w"},
		"it is empty":             {"", 0o600, "is empty"},
		"it is only a newline":    {"\n", 0o600, "is empty"},
		"it is huge":              {strings.Repeat(canary, 10_000), 0o600, "larger"},
	} {
		t.Run(why, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			put(t, path, c.text, c.mode)
			refused(t, path, c.says)
		})
	}
	t.Run("it is a folder", func(t *testing.T) { refused(t, t.TempDir(), "not a plain file") })
	t.Run("it is a pipe, which would block", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "pipe")
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, path, "not a plain file")
	})
	t.Run("it is absent", func(t *testing.T) { refused(t, filepath.Join(t.TempDir(), "x"), "no such file") })
}

func refused(t *testing.T, path, says string) {
	t.Helper()
	v, err := openRef(t, "file:"+path, nil).Read(t.Context())
	if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if !v.Current.IsZero() || strings.Contains(fmt.Sprint(err), canary) {
		t.Errorf("the secret got out: %v", err)
	}
}

func TestASourceSharedByManyStaysInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	put(t, path, "0", 0o600)
	s := openRef(t, "file:"+path, nil)
	mustRead(t, s, "0", "")
	for n := 1; n < 20; n++ {
		next := path + ".new"
		put(t, next, fmt.Sprint(n), 0o600)
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				v, err := s.Read(t.Context())
				if err != nil || v.Current.Reveal() != fmt.Sprint(n) || v.Previous.Reveal() != fmt.Sprint(n-1) {
					t.Errorf("%v %v", v, err)
				}
			})
		}
		all.Wait()
	}
}

func TestOnlyWhatParseGaveIsOpened(t *testing.T) {
	for _, ref := range []secretref.Ref{{}, {Scheme: "vault", Name: "x"}, {Scheme: secretref.File, Name: canary}, {Scheme: secretref.Env, Name: "a b"}} {
		if _, err := secretref.Open(ref, secretref.Config{LookupEnv: os.LookupEnv}); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%v", err)
		}
	}
	if _, err := secretref.Open(secretref.Ref{Scheme: secretref.Env, Name: "A"}, secretref.Config{}); err == nil {
		t.Error("opened without an environment")
	}
}

func TestReadHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := openRef(t, "env:A", os.LookupEnv).Read(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzParseNeverRepeatsWhatItRefuses(f *testing.F) {
	for _, s := range []string{canary, "env:" + canary, "file:x", "vault:x", "postgres://u:p@h", ":", "::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := secretref.Parse("\x01" + s + "\x01")
		if err == nil {
			t.Fatalf("accepted %+v", ref)
		}
		if strings.Contains(err.Error(), "\x01") {
			t.Fatalf("repeated: %v", err)
		}
		if ref, err := secretref.Parse(s); err == nil && ref.String() != s {
			t.Fatalf("%q became %q", s, ref)
		}
	})
}
