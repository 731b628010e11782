//go:build race

package main

// raceEnabled: the binaries are built as the tests are.
const raceEnabled = true
