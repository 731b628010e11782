package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Bounds of a policy folder.
const (
	maxFiles   = 10_000
	maxEntries = 100_000 // files and folders looked at, through all links
	maxFolders = 16      // folders within each other
)

// Names are shown in answers and written to the journal. Compiled once, never
// changed.
var (
	nameRE = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z`)
	pathRE = regexp.MustCompile(`\A[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\z`)
)

const nameForm = "letters, digits, dot, dash and underscore, at most 64, a letter or digit first"

// Known is what rules may refer to.
type Known struct {
	Issuers map[string]Issuer       // by the names that the configuration gives them
	Grants  map[string]broker.Grant // by name

	// AnyGrant takes each grant that a rule names for one that there is, of
	// any life. It is for looking at policy without a configuration; no
	// broker decides under such a book.
	AnyGrant bool
}

// anyLife is the longest that any grant can live.
const anyLife = math.MaxInt64 / time.Second * time.Second

func (k *Known) grant(name string) (broker.Grant, bool) {
	g, ok := k.Grants[name]
	if !ok && k.AnyGrant && nameRE.MatchString(name) {
		return broker.Grant{Name: name, MaxTTL: anyLife}, true
	}
	return g, ok
}

// Issuer is what policy has to know of one.
type Issuer struct {
	// Shared issuers sign tokens for strangers too: every rule has to pin
	// whose jobs it means.
	Shared bool
	// ImmutableIDs are the claims whose values are never given to another:
	// what a rule says of them are its pinned ids.
	ImmutableIDs []string
	// OwnerIDs are those of ImmutableIDs of which a rule for a shared issuer
	// must pin one at least, since a repository can change hands and keep
	// its id. Without any, each of ImmutableIDs will do.
	OwnerIDs []string
}

// LoadDir is [Load] for a folder of the file system. The folder itself may be
// a link. Links in it are followed, but not out of it: such a link is a fault.
// Faults name files by path joined with their name in the folder.
func LoadDir(dir string, known Known) (*Book, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("policy folder: %w", err)
	}
	defer root.Close()
	book, err := Load(root.FS(), known)
	if faults, ok := errors.AsType[strictyaml.Faults](err); ok {
		for _, f := range faults {
			f.File = filepath.Join(dir, filepath.FromSlash(f.File))
		}
	}
	return book, err
}

// Load reads a policy folder: all files that end in .yaml or .yml, in folders
// within it too. Names that begin with a dot are passed over, and so are names
// that end in _test.yaml, which are for policy's own test cases. The error is
// [strictyaml.Faults] with everything that is wrong; there is no book then.
// Nothing of fsys is used after Load has returned.
func Load(fsys fs.FS, known Known) (*Book, error) {
	f := folder{fsys: fsys, files: map[string][]byte{}}
	f.read(".", nil)
	c := &checker{known: known, sources: f.files, faults: f.faults}
	return c.book()
}

// folder collects the policy files of a file system.
type folder struct {
	fsys    fs.FS
	files   map[string][]byte
	entries int
	faults  strictyaml.Faults
}

func (f *folder) fault(name, format string, args ...any) {
	f.faults = append(f.faults, &strictyaml.Fault{File: name, Msg: fmt.Sprintf(format, args...)})
}

func (f *folder) read(dir string, above []fs.FileInfo) {
	info, err := fs.Stat(f.fsys, dir)
	if err != nil {
		f.fault(dir, "cannot be read: %s", reason(err))
		return
	}
	if len(above) >= maxFolders || slices.ContainsFunc(above, func(up fs.FileInfo) bool { return os.SameFile(up, info) }) {
		f.fault(dir, "leads back to a folder above it, or is more than %d folders deep", maxFolders)
		return
	}
	entries, err := fs.ReadDir(f.fsys, dir)
	if err != nil {
		f.fault(dir, "cannot be read: %s", reason(err))
	}
	above = append(above, info)
	for _, e := range entries {
		if f.entries++; f.entries > maxEntries || len(f.files) > maxFiles {
			if f.entries == maxEntries+1 || len(f.files) == maxFiles+1 {
				f.fault(dir, "more than %d policy files, or %d files in all", maxFiles, maxEntries)
				f.entries = maxEntries + 1
			}
			return
		}
		if !strings.HasPrefix(e.Name(), ".") {
			f.entry(path.Join(dir, e.Name()), above)
		}
	}
}

func (f *folder) entry(name string, above []fs.FileInfo) {
	info, err := fs.Stat(f.fsys, name) // through links
	switch lower := strings.ToLower(name); {
	case err != nil:
		f.fault(name, "cannot be read: %s", reason(err))
	case info.IsDir():
		f.read(name, above)
	case !strings.HasSuffix(lower, ".yaml") && !strings.HasSuffix(lower, ".yml"):
	case strings.HasSuffix(lower, "_test.yaml") || strings.HasSuffix(lower, "_test.yml"):
	case !info.Mode().IsRegular():
		f.fault(name, "is not a regular file")
	case !pathRE.MatchString(name):
		f.fault(name, "rules are named after their file: use letters, digits, dot, dash and underscore only")
	default:
		f.file(name)
	}
}

// file reads one file once: what is hashed is what is parsed.
func (f *folder) file(name string) {
	file, err := f.fsys.Open(name)
	if err != nil {
		f.fault(name, "cannot be read: %s", reason(err))
		return
	}
	defer file.Close()
	// One byte more than is allowed, so that the parser refuses it.
	data, err := io.ReadAll(io.LimitReader(file, int64(strictyaml.DefaultLimits().Bytes)+1))
	if err != nil {
		f.fault(name, "cannot be read: %s", reason(err))
		return
	}
	f.files[name] = data
}

// reason leaves out the path, which the fault names already.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
