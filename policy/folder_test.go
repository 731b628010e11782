package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/policy"
)

// within fails the test if do has not returned in time.
func within(t *testing.T, limit time.Duration, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("it still waits after %v", limit)
	}
}

func TestAPipeInAFolderIsAFaultAndNothingWaitsForIt(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"p.yaml": rule(allowDB), "link.yaml": "->pipe.yaml"})
	for _, name := range []string{"pipe.yaml", "pipe_test.yaml"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 10*time.Second, func() {
		f, err := policy.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		faults := f.Faults().Error()
		for _, name := range []string{"pipe.yaml", "pipe_test.yaml", "link.yaml"} {
			if !strings.Contains(faults, filepath.Join(dir, name)+": is not a regular file") {
				t.Errorf("%s is not named in %s", name, faults)
			}
		}
	})
}

// TestAFileThatTurnsIntoAPipeIsNotWaitedFor swaps the two while the folder is
// read, so that one is seen and the other is opened.
func TestAFileThatTurnsIntoAPipeIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"p.yaml": rule(allowDB)})
	pipe, file, at := filepath.Join(dir, "pipe"), filepath.Join(dir, "file"), filepath.Join(dir, "p.yaml")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = syscall.Mkfifo(pipe, 0o644)
			_ = os.Rename(pipe, at)
			_ = os.WriteFile(file, []byte("owner: x\n"), 0o644)
			_ = os.Rename(file, at)
		}
	}()
	within(t, 30*time.Second, func() {
		for range 500 {
			f, err := policy.ReadDir(dir)
			if err != nil {
				t.Error(err)
			} else if data, read := f.Files()["p.yaml"]; read && string(data) != "owner: x\n" && !strings.Contains(string(data), "repos:") {
				t.Errorf("read %q", data)
			}
		}
	})
	close(stop)
	<-stopped
}

func TestADeviceOrASocketUnderAPolicysNameIsAFault(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"p.yaml": rule(allowDB), "zero.yaml": "->/dev/zero"})
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(socket)
	t.Chdir(dir) // the address of a socket is short
	if err := syscall.Bind(socket, &syscall.SockaddrUnix{Name: "socket.yaml"}); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, func() {
		_, err := policy.LoadDir(dir, known())
		for _, want := range []string{"zero.yaml: cannot be read: path escapes", "socket.yaml: is not a regular file"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no %q in %v", want, err)
			}
		}
	})
}

func TestAFolderOfMoreThanAnybodyWritesIsRefusedOnce(t *testing.T) {
	files := map[string]string{"p.yaml": rule(allowDB)}
	for i := range 140 {
		files[fmt.Sprintf("big/%d.yaml", i)] = strings.Repeat("# none\n", 1<<20/7)
	}
	_, err := policy.Load(folder(files), known())
	if err == nil || strings.Count(err.Error(), "more than 128 MiB of policy files") != 1 {
		t.Errorf("140 MiB: %.300v", err)
	}
	files = map[string]string{}
	for i := range 10_100 {
		files[fmt.Sprintf("a/b/%d.yaml", i)] = "owner: x\n"
	}
	_, err = policy.Load(folder(files), known())
	if err == nil || strings.Count(err.Error(), "more than 10000 policy files") != 1 {
		t.Errorf("10,100 files: %.300v", err)
	}
}

func TestAFolderKeepsWhatItWasReadAs(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"p.yaml": rule(allowDB), "teams/p_test.yaml": "cases: []\n", ".hidden.yaml": "x", "README.md": "x", "link": "->teams"})
	read := func() *policy.Folder {
		t.Helper()
		f, err := policy.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := read()
	if len(first.Files()) != 1 || len(first.Cases()) != 2 || string(first.Cases()["link/p_test.yaml"]) != "cases: []\n" {
		t.Errorf("files %v, cases %v", first.Files(), first.Cases())
	}
	if got := first.Folders(); !slices.Equal(got, []string{".", "link", "teams"}) {
		t.Errorf("folders are %v", got)
	}
	if first.Sum() != read().Sum() {
		t.Error("the same folder has two sums")
	}
	write(t, dir, map[string]string{"p.yaml": "rules: ["})
	if _, err := first.Book(known()); err != nil {
		t.Errorf("what was read has changed with the disk: %v", err)
	}
	sums := map[any]string{first.Sum(): "the first"}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"a policy that is broken", func() error { return nil }},
		{"another test case", func() error {
			return os.WriteFile(filepath.Join(dir, "teams/p_test.yaml"), []byte("cases: {}\n"), 0o644)
		}},
		{"a file that becomes a test case", func() error { return os.Rename(filepath.Join(dir, "p.yaml"), filepath.Join(dir, "p_test.yaml")) }},
		{"a file that cannot be read", func() error { return os.Symlink("nowhere", filepath.Join(dir, "q.yaml")) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		sum := read().Sum()
		if before, same := sums[sum]; same {
			t.Errorf("%s is not seen: it has the sum of %s", step.what, before)
		}
		sums[sum] = step.what
	}
}

func TestAKeptVersionIsReadBackAsItWas(t *testing.T) {
	k := known()
	g := k.Grants["payments-db"]
	g.Params, g.Labels = []byte(`{"roles":  ["a<b"], "n": 1.50}`), map[string]string{"env": "prod"}
	k.Grants["payments-db"] = g
	book, err := policy.Load(folder(map[string]string{"teams/p.yaml": rule(allowDB), "q.yaml": "owner: q\n"}), k)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := book.Keep()
	if err != nil {
		t.Fatal(err)
	}
	f, was, err := policy.Restore(book.Version(), kept)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.Book(was)
	if err != nil || again.Version() != book.Version() || !bytes.Equal(again.Sources()["teams/p.yaml"], book.Sources()["teams/p.yaml"]) {
		t.Fatalf("%v: %v, was %v", err, again.Version(), book.Version())
	}
	// What decides is today's: an issuer that has become shared is pinned anew.
	was.Issuers["github"] = policy.Issuer{Shared: true, ImmutableIDs: []string{"enterprise_id"}}
	if _, err := f.Book(was); err == nil {
		t.Error("rules that pin nothing of a shared issuer are taken from a kept version")
	}
}

func TestAKeptVersionThatWasChangedIsRefused(t *testing.T) {
	book, err := policy.Load(folder(map[string]string{"p.yaml": rule(allowDB), "q.yaml": "owner: q\n"}), known())
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(map[string][]byte){
		"a byte of a policy": func(f map[string][]byte) { f["policies/p.yaml"] = append(f["policies/p.yaml"], '\n') },
		"a file less":        func(f map[string][]byte) { delete(f, "policies/q.yaml") },
		"a file more":        func(f map[string][]byte) { f["policies/r.yaml"] = []byte("owner: r\n") },
		"a file elsewhere":   func(f map[string][]byte) { f["r.yaml"] = []byte("owner: r\n") },
		"a renamed file": func(f map[string][]byte) {
			f["policies/r.yaml"] = f["policies/q.yaml"]
			delete(f, "policies/q.yaml")
		},
		"a longer life": func(f map[string][]byte) {
			f["grants.json"] = bytes.Replace(f["grants.json"], []byte("3600000000000"), []byte("7200000000000"), 1)
		},
		"no grants":           func(f map[string][]byte) { delete(f, "grants.json") },
		"grants that are cut": func(f map[string][]byte) { f["grants.json"] = f["grants.json"][:10] },
		"an issuer's pins":    func(f map[string][]byte) { f["issuers.json"] = []byte("{}") },
		"a grant that calls itself an issuer": func(f map[string][]byte) {
			f["grants.json"] = bytes.Replace(f["grants.json"], []byte(`"web-identity": {`), []byte(`"web-identity2": {`), 1)
			delete(f, "issuers.json")
		},
		"nothing left": func(f map[string][]byte) { clear(f) },
	} {
		kept, err := book.Keep()
		if err != nil {
			t.Fatal(err)
		}
		change(kept)
		if f, _, err := policy.Restore(book.Version(), kept); err == nil || f != nil {
			t.Errorf("%s: it is taken for what it was", what)
		}
	}
}

func TestAGrantThatCannotBeWrittenDownIsNotKept(t *testing.T) {
	k := known()
	g := k.Grants["payments-ro"]
	g.Params = []byte(`{`)
	k.Grants["payments-ro"] = g
	book, err := policy.Load(folder(map[string]string{"p.yaml": rule(allowDB)}), k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := book.Keep(); err == nil || errors.Unwrap(err) == nil {
		t.Errorf("got %v", err)
	}
}
