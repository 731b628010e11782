package main

import (
	"errors"
	"io/fs"
	"os"
)

// forwarded: a console interrupt reaches every process of the console itself;
// it is caught so that the command ends first and its credentials go back.
func forwarded() []os.Signal { return []os.Signal{os.Interrupt} }

func ends(s os.Signal) bool { return s == os.Interrupt }

func brokenPipe() []os.Signal { return nil }

func fromTerminal(os.Signal) bool { return true }

func openNoFollow(path string, flags int) (*os.File, error) { return os.OpenFile(path, flags, 0o600) }

// private: who may read a file is up to its folder's access list here.
func private(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file")
	}
	return nil
}
