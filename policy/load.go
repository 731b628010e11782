package policy

import (
	"io/fs"
	"math"
	"regexp"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Names are shown in answers and written to the journal. Compiled once, never
// changed.
var nameRE = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z`)

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

// LoadDir is [Load] for a folder of the file system, as [ReadDir] reads it.
// Faults name files by path joined with their name in the folder.
func LoadDir(dir string, known Known) (*Book, error) {
	f, err := ReadDir(dir)
	if err != nil {
		return nil, err
	}
	return f.Book(known)
}

// Load reads a policy folder: all files that end in .yaml or .yml, in folders
// within it too. Names that begin with a dot are passed over, and names that
// end in _test.yaml are policy's own test cases, not rules. The error is
// [strictyaml.Faults] with everything that is wrong; there is no book then.
// Nothing of fsys is used after Load has returned.
func Load(fsys fs.FS, known Known) (*Book, error) { return read(fsys).Book(known) }
