package audit

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAPolicyVersionIsStoredOnceAndWhole(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "versions")
	const version = "0123456789abcdef"
	sources := map[string][]byte{"policies/teams/a.yaml": []byte("a"), "grants.yaml": []byte("b"), "policies/c.yaml": nil}
	unfinished := filepath.Join(dir, ".new-"+version, "policies")
	if err := os.MkdirAll(unfinished, 0o700); err != nil { // what a crash left
		t.Fatal(err)
	}
	write(t, filepath.Join(unfinished, "stale.yaml"), []byte("stale"))
	for range 3 {
		if err := StoreVersion(dir, version, sources); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range sources {
		path := filepath.Join(dir, version, name)
		if got := read(t, path); string(got) != string(text) {
			t.Errorf("%s holds %q", name, got)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %o", name, info.Mode().Perm())
		}
	}
	for _, f := range glob(t, dir, "*") {
		if filepath.Base(f) != version {
			t.Errorf("%s is left over", f)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, version, "policies", "stale.yaml")); err == nil {
		t.Error("what a crash left became part of the version")
	}
}

func TestAStoredPolicyVersionDoesNotChange(t *testing.T) {
	for why, other := range map[string]map[string][]byte{
		"another text":    {"a.yaml": []byte("b")},
		"one file more":   {"a.yaml": []byte("a"), "b.yaml": []byte("b")},
		"another file":    {"b.yaml": []byte("a")},
		"no files at all": {},
	} {
		t.Run(why, func(t *testing.T) {
			dir := t.TempDir()
			if err := StoreVersion(dir, "0123456789", map[string][]byte{"a.yaml": []byte("a")}); err != nil {
				t.Fatal(err)
			}
			if err := StoreVersion(dir, "0123456789", other); err == nil || !strings.Contains(err.Error(), "stored already") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAPolicyVersionCannotLeaveItsFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "versions")
	for _, version := range []string{"", "..", "../../etc", "a/b/c/d/e/f", ".new-0123456789", "0123456789\n"} {
		if err := StoreVersion(dir, version, nil); err == nil {
			t.Errorf("version %q is accepted", version)
		}
	}
	for _, name := range []string{"../a.yaml", "/etc/passwd", "a/../../b", ""} {
		if err := StoreVersion(dir, "0123456789", map[string][]byte{name: nil}); err == nil {
			t.Errorf("path %q is accepted", name)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("something was written")
	}
}

func TestAStoredPolicyVersionIsReadBack(t *testing.T) {
	dir := t.TempDir()
	sources := map[string][]byte{"policies/teams/a.yaml": []byte("a"), "grants.json": []byte("b"), "policies/c.yaml": {}}
	if err := StoreVersion(dir, "0123456789", sources); err != nil {
		t.Fatal(err)
	}
	got, err := ReadVersion(dir, "0123456789")
	if err != nil || !maps.EqualFunc(got, sources, bytes.Equal) {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := ReadVersion(dir, "9876543210"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that was never stored: %v", err)
	}
	for _, version := range []string{"", "..", "../0123456789", "0123456789/policies"} {
		if got, err := ReadVersion(dir, version); err == nil {
			t.Errorf("%q is read: %v", version, got)
		}
	}
	for what, put := range map[string]func(path string) error{
		"a link out of it": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a pipe":           func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a file of 300 MiB": func(path string) error {
			f, err := os.Create(path)
			return errors.Join(err, f.Truncate(300<<20), f.Close())
		},
	} {
		path := filepath.Join(dir, "0123456789", "policies", "odd.yaml")
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadVersion(dir, "0123456789"); err == nil {
			t.Errorf("%s is read", what)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
