package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// place is a folder in which a change matters: of all that is in it, or only of
// one name there.
type place struct{ dir, only string }

// placesOf are where a path can be replaced: beside itself, and beside each link
// on the way to it, which is how mounts and checkouts are swapped.
func placesOf(path string) []place {
	places := []place{{filepath.Dir(path), filepath.Base(path)}}
	for at := path; filepath.Dir(at) != at; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil || info.Mode()&os.ModeSymlink == 0 {
			continue
		}
		places = append(places, place{filepath.Dir(at), filepath.Base(at)})
		if to, err := os.Readlink(at); err == nil {
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(at), to)
			}
			places = append(places, place{filepath.Dir(to), filepath.Base(to)})
		}
	}
	return places
}

// watch hints that something has changed in some places. Nothing depends on it
// but how soon a change is seen: what is there is read, and compared.
type watch struct {
	places  []place
	watcher *fsnotify.Watcher // nil where the system gives none
}

// newWatch begins to watch. The error says which places are not watched; those
// that are not there do not count.
func newWatch(places []place) (*watch, error) {
	w := &watch{places: places}
	var err error
	if w.watcher, err = fsnotify.NewWatcher(); err != nil {
		w.watcher = nil
		return w, err
	}
	var faults []error
	seen := map[string]bool{}
	for _, p := range places {
		if seen[p.dir] {
			continue
		}
		seen[p.dir] = true
		if err := w.watcher.Add(p.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	return w, errors.Join(faults...)
}

func (w *watch) close() {
	if w != nil && w.watcher != nil {
		_ = w.watcher.Close() // nothing is lost with it
	}
}

// events and errors are nil, and block for ever, where nothing is watched.
func (w *watch) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *watch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

// matters leaves out what happens beside what we read: in the folder that holds
// it, other names are of no interest, but for those that mounts are swapped by.
func (w *watch) matters(e fsnotify.Event) bool {
	dir, base := filepath.Dir(e.Name), filepath.Base(e.Name)
	return slices.ContainsFunc(w.places, func(p place) bool {
		return p.dir == e.Name || p.dir == dir && (p.only == "" || p.only == base || strings.HasPrefix(base, ".."))
	})
}
