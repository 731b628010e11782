//go:build unix && !linux

package servers

import "syscall"

// dieWithUs can do nothing here: a child outlives us if we are killed.
func dieWithUs(*syscall.SysProcAttr) {}
