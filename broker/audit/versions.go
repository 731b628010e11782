package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

var versionRE = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_-]{7,127}\z`)

// StoreVersion keeps the sources of a policy version in dir/<version>/, so that
// a journal's decisions can be read against the policy they were made under.
// dir is data_dir/versions; sources are file contents by relative path, with
// forward slashes. The version's folder appears whole or not at all, and
// durably. Storing the same again does nothing; a version that is there with
// other contents is an error, for then it no longer tells what was decided by.
//
// One process at a time may store into dir: the journal's lock sees to that.
func StoreVersion(dir, version string, sources map[string][]byte) error {
	if !versionRE.MatchString(version) {
		return fmt.Errorf("store policy version: %q cannot be a folder's name", version)
	}
	for name := range sources {
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return fmt.Errorf("store policy version: %q is not a path within it", name)
		}
	}
	final := filepath.Join(dir, version)
	if _, err := os.Stat(final); err == nil {
		return sameVersion(final, sources)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store policy version: %w", err)
	}
	if err := writeVersion(dir, final, sources); err != nil {
		return fmt.Errorf("store policy version in %s: %w", dir, err)
	}
	return nil
}

// writeVersion fills a folder of another name and renames it, which a crash
// cannot do by half.
func writeVersion(dir, final string, sources map[string][]byte) error {
	unfinished := filepath.Join(dir, ".new-"+filepath.Base(final))
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := os.MkdirAll(unfinished, 0o700); err != nil {
		return err
	}
	var d osDisk
	folders := map[string]bool{unfinished: true}
	for name, text := range sources {
		path := filepath.Join(unfinished, filepath.FromSlash(name))
		for at := filepath.Dir(path); !folders[at]; at = filepath.Dir(at) {
			folders[at] = true
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err := d.create(path)
		if err != nil {
			return err
		}
		_, err = f.Write(text)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	for folder := range folders {
		if err := d.syncDir(folder); err != nil {
			return err
		}
	}
	if err := os.Rename(unfinished, final); err != nil {
		return err
	}
	return d.syncDir(dir)
}

func sameVersion(final string, sources map[string][]byte) error {
	found := 0
	err := filepath.WalkDir(final, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(final, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		want, ok := sources[filepath.ToSlash(rel)]
		if !ok || !bytes.Equal(text, want) {
			return fmt.Errorf("%s is not what it was", path)
		}
		found++
		return nil
	})
	if err == nil && found != len(sources) {
		err = fmt.Errorf("%s has lost files", final)
	}
	if err != nil {
		return fmt.Errorf("store policy version: it is stored already, but %w", err)
	}
	return nil
}

// maxVersion bounds what is read of one version.
const maxVersion = 256 << 20

// ReadVersion returns what [StoreVersion] keeps in dir/<version>/: the contents
// by relative path, with forward slashes. Only plain files are read, and at
// most 256 MiB. Whether they are what was stored only their hash can tell.
func ReadVersion(dir, version string) (map[string][]byte, error) {
	if !versionRE.MatchString(version) {
		return nil, fmt.Errorf("read policy version: %q cannot be a folder's name", version)
	}
	from, left := filepath.Join(dir, version), int64(maxVersion)
	sources := map[string][]byte{}
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", path)
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if left -= info.Size(); left < 0 {
			return fmt.Errorf("%s is larger than %d MiB", from, maxVersion>>20)
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		sources[filepath.ToSlash(rel)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read policy version: %w", err)
	}
	return sources, nil
}
