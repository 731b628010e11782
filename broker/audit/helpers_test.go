package audit

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func config(dir string) Config {
	return Config{Dir: dir, Deployment: "test", Broker: "b0", Now: time.Now, Log: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, c Config) *Journal {
	t.Helper()
	j, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	return j
}

func mustAppend(t *testing.T, j *Journal, r broker.Record) {
	t.Helper()
	if err := j.Append(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// history reads a folder and fails the test on any fault.
func history(t *testing.T, dir string) []Entry {
	t.Helper()
	var all []Entry
	for e, err := range Read(dir) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// events is a history as one line of text.
func events(t *testing.T, dir string) string {
	t.Helper()
	s := ""
	for _, e := range history(t, dir) {
		s += string(e.Event) + " "
	}
	return s
}

// glob finds files and fails where there are none.
func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("no %s in %s (%v)", pattern, dir, err)
	}
	return found
}

// sample writes a journal of records in several files, and returns its folder.
func sample(t testing.TB, records int, maxFile int64) string {
	t.Helper()
	dir := t.TempDir()
	c := config(dir)
	c.MaxFile = maxFile
	j, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		r := broker.Record{Event: broker.EventIssued, At: time.Unix(1790000000+int64(i), 0).UTC(),
			Request: fmt.Sprintf("req_%d", i), Token: broker.NewTokenID("github", fmt.Sprint(i)),
			Claims: broker.Claims{"ref": "refs/heads/\"main\"\n"}}
		if err := j.Append(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func verify(paths ...string) (Report, error) { return Verify(io.Discard, paths...) }
