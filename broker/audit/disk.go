package audit

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// disk is all that the writer does to its folder. Tests put one in its place
// that fills up, or fails to sync.
type disk interface {
	// create makes a file that must not exist, 0600, and opens it for
	// writing.
	create(path string) (file, error)
	// extend opens a file for appending.
	extend(path string) (file, error)
	// cut shortens a file durably.
	cut(path string, size int64) error
	// remove deletes a file; one that is absent is no error.
	remove(path string) error
	// room proves that n bytes can be stored in dir now.
	room(dir string, n int) error
	// syncDir makes created, renamed and removed names durable.
	syncDir(dir string) error
}

type file interface {
	io.WriteCloser
	Sync() error
}

// osDisk is the operating system's.
type osDisk struct{}

func (osDisk) create(path string) (file, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
}

func (osDisk) extend(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
}

func (osDisk) cut(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

func (osDisk) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d osDisk) room(dir string, n int) error {
	path := filepath.Join(dir, ".room")
	if err := d.remove(path); err != nil {
		return err
	}
	f, err := d.create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, n))
	return errors.Join(err, f.Sync(), f.Close(), d.remove(path))
}

func (osDisk) syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
