package policy

import (
	_ "embed"
	"slices"
)

//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of policy files, for editors.
// It knows the form of a file and nothing of other files: what it refuses is
// refused when a folder is loaded, and not the other way round.
func Schema() []byte { return slices.Clone(schema) }
