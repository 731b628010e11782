package main

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func TestEveryEdgeCaseNamesATestThatExists(t *testing.T) {
	const cases = 34
	next := 1
	for line := range strings.Lines(readAll(t, filepath.Join(root, "docs/edge-cases.md"))) {
		row := regexp.MustCompile(`^\| (\d+) \| (.+) \| (.+) \|\n$`).FindStringSubmatch(line)
		if row == nil {
			continue
		}
		if n, _ := strconv.Atoi(row[1]); n != next {
			t.Fatalf("case %s stands where %d should", row[1], next)
		}
		next++
		named := regexp.MustCompile("`([a-z/]+)\\.(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(row[3], -1)
		if len(named) == 0 {
			t.Errorf("case %s names no test", row[1])
		}
		for _, m := range named {
			if !testExists(t, m[1], m[2]) {
				t.Errorf("case %s: there is no %s in %s", row[1], m[2], m[1])
			}
		}
	}
	if next != cases+1 {
		t.Errorf("there are %d cases, want %d", next-1, cases)
	}
}

func testExists(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.Contains(readAll(t, f), "func "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}
