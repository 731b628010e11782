package main

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"testing"
)

func TestTheBallastTakesUpNoMemory(t *testing.T) {
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
