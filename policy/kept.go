package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/broker"
)

// Where a kept version has its parts.
const (
	keptPolicies = "policies/"
	keptGrants   = "grants.json"
	keptIssuers  = "issuers.json"
)

// Keep returns all that the version was made of, as files that [Restore] reads:
// the policy files below policies/, grants.json and issuers.json.
func (b *Book) Keep() (map[string][]byte, error) {
	files := make(map[string][]byte, len(b.sources)+2)
	for name, text := range b.sources {
		files[keptPolicies+name] = text
	}
	for name, v := range map[string]any{keptGrants: b.madeFor.Grants, keptIssuers: b.madeFor.Issuers} {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("keep policy version: %s: %w", name, err)
		}
		files[name] = append(text, '\n')
	}
	return files, nil
}

// Restore reads what [Book.Keep] wrote, and refuses it unless its version is
// the one given: what was changed since has another, and so has what an earlier
// release kept in another form. The grants and issuers are those that the
// version was decided by, which need not be those of today.
func Restore(version string, files map[string][]byte) (*Folder, Known, error) {
	f := &Folder{files: map[string][]byte{}}
	known := Known{Issuers: map[string]Issuer{}, Grants: map[string]broker.Grant{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var err error
		path, isPolicy := strings.CutPrefix(name, keptPolicies)
		switch {
		case isPolicy:
			f.files[path] = files[name]
		case name == keptGrants:
			err = json.Unmarshal(files[name], &known.Grants)
		case name == keptIssuers:
			err = json.Unmarshal(files[name], &known.Issuers)
		default:
			err = errors.New("is not part of a kept version")
		}
		if err != nil {
			return nil, Known{}, fmt.Errorf("kept policy version: %s: %w", name, err)
		}
	}
	if got := versionOf(f.files, known); got != version {
		return nil, Known{}, fmt.Errorf("kept policy version %s is not what it was: it has become %s", version, got)
	}
	return f, known, nil
}
