package main

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
)

// A broker makes its ballast at its start. Later the heap may have used that much
// before, and would clear it: so this is tested in a process of its own.
func TestTheBallastTakesUpNoMemory(t *testing.T) {
	const alone = "DAYPASS_TEST_ALONE"
	if os.Getenv(alone) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTheBallastTakesUpNoMemory$", "-test.v")
		cmd.Env = append(os.Environ(), alone+"=yes")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestTheBallastTakesUpNoMemory")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	before := resident(t)
	b := ballast(func(string) (string, bool) { return "", false })
	runtime.GC()
	if grown := resident(t) - before; len(b) != ballastSize || grown > ballastSize/4 {
		t.Errorf("%d bytes of ballast take up %d", len(b), grown)
	}
	runtime.KeepAlive(b)
}

func TestThereIsNoBallastWhereTheOperatorSaysHowToCollect(t *testing.T) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		b := ballast(func(asked string) (string, bool) { return "50", asked == name })
		if b != nil {
			t.Errorf("with %s there are %d bytes", name, len(b))
		}
	}
}

// resident is how much memory this process takes up.
func resident(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(string(bytes.Fields(raw)[1]))
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
