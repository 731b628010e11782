//go:build race

package policy

// slower is how much slower the race detector makes what is timed.
const slower = 20
