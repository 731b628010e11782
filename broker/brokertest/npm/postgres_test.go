//go:build unix

package npm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unpacked is a folder as npm leaves one, with a list of links.
func unpacked(t *testing.T, links string) string {
	t.Helper()
	root := t.TempDir()
	lib := filepath.Join(root, "native", "lib")
	if err := os.MkdirAll(lib, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{filepath.Join(lib, "libx.so.1.2"): "x", filepath.Join(root, "native", "pg-symlinks.json"): links} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestTheLibrariesOfAServerAreLinkedAndCanBeLinkedAgain(t *testing.T) {
	root := unpacked(t, `[{"source":"native/lib/libx.so.1.2","target":"native/lib/libx.so.1"}]`)
	for range 2 {
		if err := linkLibraries(root); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, filepath.Join(root, "native", "lib", "libx.so.1")); got != "x" {
		t.Errorf("the link leads to %q", got)
	}
}

func TestALinkThatLeadsElsewhereIsRefused(t *testing.T) {
	for _, links := range []string{
		`[{"source":"/etc/passwd","target":"native/lib/libx.so.1"}]`, `[{"source":"../../libx.so","target":"native/lib/libx.so.1"}]`,
		`[{"source":"../x","target":"../y"}]`, `[{"source":"/tmp/x","target":"/tmp/y"}]`, `{}`, `[`,
	} {
		if err := linkLibraries(unpacked(t, links)); err == nil {
			t.Errorf("%s is accepted", links)
		}
	}
}

func TestAServerIsReadableToOthersAndWritableToNone(t *testing.T) {
	root := unpacked(t, `[]`)
	if err := readable(root); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{"": 0o755, "native/lib": 0o755, "native/pg-symlinks.json": 0o644} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestAVersionThatIsNotPinnedIsAnErrorThatNamesIt(t *testing.T) {
	p, err := InstallPostgres(t.Context(), folder(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Bin(11); err == nil || !strings.Contains(err.Error(), "no PostgreSQL 11") {
		t.Errorf("got %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(p.dir); !os.IsNotExist(err) {
		t.Errorf("its folder is left: %v", err)
	}
}
