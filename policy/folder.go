package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Bounds of a folder.
const (
	maxFiles   = 10_000
	maxBytes   = 128 << 20 // of all files together
	maxEntries = 100_000   // files and folders looked at, through all links
	maxFolders = 16        // folders within each other
)

// Names are shown in answers and written to the journal. Compiled once, never
// changed.
var pathRE = regexp.MustCompile(`\A[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\z`)

// Folder is what a folder of YAML files held when it was read: all files that
// end in .yaml or .yml, in folders within it too, except names that begin with
// a dot. Nothing is read later, so that what is looked at, tried and loaded is
// the same. It is immutable and safe for concurrent use.
type Folder struct {
	dir     string // before the names in faults; empty where they stand alone
	files   map[string][]byte
	cases   map[string][]byte
	folders []string
	faults  strictyaml.Faults
	partial bool // a bound was passed, and the rest was not read
}

// ReadDir reads a folder of the file system, which may itself be a link. Links
// in it are followed, but not out of it. What cannot be read, or is no regular
// file, is a fault of the folder; the error is for one that is not there, or is
// none. It does not wait for pipes, and reads at most 128 MiB.
func ReadDir(dir string) (*Folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("policy folder: %w", err)
	}
	defer root.Close()
	f := read(rootFS{root})
	f.dir = dir
	return f, nil
}

// rootFS opens without waiting: opening a pipe otherwise lasts until somebody
// writes to it.
type rootFS struct{ root *os.Root }

func (r rootFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return r.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

func (r rootFS) Stat(name string) (fs.FileInfo, error) { return r.root.Stat(name) }

// Files returns the files by their path in the folder, without test cases. They
// are not to be changed.
func (f *Folder) Files() map[string][]byte { return maps.Clone(f.files) }

// Cases returns the files that end in _test.yaml or _test.yml, by their path in
// the folder. They are not to be changed.
func (f *Folder) Cases() map[string][]byte { return maps.Clone(f.cases) }

// Folders returns the folders that were looked at, links by their own names:
// what has to be watched for changes. The folder itself is ".".
func (f *Folder) Folders() []string { return slices.Clone(f.folders) }

// Name is a file's name for people: its path, and the folder's before it.
func (f *Folder) Name(file string) string {
	if f.dir == "" {
		return file
	}
	return filepath.Join(f.dir, filepath.FromSlash(file))
}

// Faults are what could not be read.
func (f *Folder) Faults() strictyaml.Faults { return f.placed(f.faults) }

// placed names the files of faults by [Folder.Name].
func (f *Folder) placed(faults strictyaml.Faults) strictyaml.Faults {
	placed := make(strictyaml.Faults, len(faults))
	for i, fault := range faults {
		there := *fault
		there.File = f.Name(fault.File)
		placed[i] = &there
	}
	return placed
}

// Sum tells folders apart by all that was read, and by what could not be.
func (f *Folder) Sum() [sha256.Size]byte {
	h := sha256.New()
	for _, files := range []map[string][]byte{f.files, f.cases} {
		add(h, fmt.Append(nil, len(files)))
		for _, name := range slices.Sorted(maps.Keys(files)) {
			add(h, []byte(name))
			add(h, files[name])
		}
	}
	for _, fault := range f.faults {
		add(h, []byte(fault.Error()))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Book is what [Load] makes of the folder. One that is too large is not looked
// at further.
func (f *Folder) Book(known Known) (*Book, error) {
	if f.partial {
		return nil, f.Faults().Err()
	}
	c := &checker{known: known, sources: f.files, faults: slices.Clone(f.faults)}
	book, err := c.book()
	if faults, ok := errors.AsType[strictyaml.Faults](err); ok {
		return nil, f.placed(faults).Err()
	}
	return book, err
}

// With returns the folder as it would be if a file in it, by its path, had this
// text. The folder itself stays as it is.
func (f *Folder) With(file string, text []byte) *Folder {
	other := *f
	other.files = f.Files()
	other.files[file] = text
	return &other
}

func read(fsys fs.FS) *Folder {
	r := reading{fsys: fsys, Folder: &Folder{files: map[string][]byte{}, cases: map[string][]byte{}}}
	r.read(".", nil)
	return r.Folder
}

// reading collects the files of a file system.
type reading struct {
	*Folder
	fsys    fs.FS
	entries int
	bytes   int
}

func (f *reading) fault(name, format string, args ...any) {
	f.faults = append(f.faults, &strictyaml.Fault{File: name, Msg: fmt.Sprintf(format, args...)})
}

func (f *reading) read(dir string, above []fs.FileInfo) {
	info, err := fs.Stat(f.fsys, dir)
	if err != nil {
		f.fault(dir, "cannot be read: %s", reason(err))
		return
	}
	if len(above) >= maxFolders || slices.ContainsFunc(above, func(up fs.FileInfo) bool { return os.SameFile(up, info) }) {
		f.fault(dir, "leads back to a folder above it, or is more than %d folders deep", maxFolders)
		return
	}
	f.folders = append(f.folders, dir)
	entries, err := fs.ReadDir(f.fsys, dir)
	if err != nil {
		f.fault(dir, "cannot be read: %s", reason(err))
	}
	above = append(above, info)
	for _, e := range entries {
		if f.full(dir) {
			return
		}
		if !strings.HasPrefix(e.Name(), ".") {
			f.entry(path.Join(dir, e.Name()), above)
		}
	}
}

// full counts an entry, and reports once that there are too many.
func (f *reading) full(dir string) bool {
	f.entries++
	switch {
	case f.partial:
	case f.entries > maxEntries || len(f.files)+len(f.cases) > maxFiles:
		f.fault(dir, "more than %d policy files, or %d files in all", maxFiles, maxEntries)
		f.partial = true
	case f.bytes > maxBytes:
		f.fault(dir, "more than %d MiB of policy files", maxBytes>>20)
		f.partial = true
	}
	return f.partial
}

func (f *reading) entry(name string, above []fs.FileInfo) {
	info, err := fs.Stat(f.fsys, name) // through links
	switch lower := strings.ToLower(name); {
	case err != nil:
		f.fault(name, "cannot be read: %s", reason(err))
	case info.IsDir():
		f.read(name, above)
	case !strings.HasSuffix(lower, ".yaml") && !strings.HasSuffix(lower, ".yml"):
	case !info.Mode().IsRegular():
		f.fault(name, "is not a regular file")
	case strings.HasSuffix(lower, "_test.yaml") || strings.HasSuffix(lower, "_test.yml"):
		f.file(f.cases, name)
	case !pathRE.MatchString(name):
		f.fault(name, "rules are named after their file: use letters, digits, dot, dash and underscore only")
	default:
		f.file(f.files, name)
	}
}

// file reads one file once: what is hashed is what is parsed.
func (f *reading) file(into map[string][]byte, name string) {
	file, err := f.fsys.Open(name)
	if err != nil {
		f.fault(name, "cannot be read: %s", reason(err))
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() { // it was one a moment ago
		f.fault(name, "is not a regular file")
		return
	}
	// One byte more than is allowed, so that the parser refuses it.
	var data bytes.Buffer
	_, readErr := data.ReadFrom(io.LimitReader(file, int64(strictyaml.DefaultLimits().Bytes)+1))
	if err := cmp.Or(err, readErr); err != nil {
		f.fault(name, "cannot be read: %s", reason(err))
		return
	}
	f.bytes += data.Len()
	into[name] = data.Bytes()
}

// reason leaves out the path, which the fault names already.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
