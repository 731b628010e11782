package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// DecodeParams reads a grant's params (see [Grant.Params]) field by field:
// fields holds, by the exact name, a pointer to where the value goes. It
// returns every fault, each beginning with the field's name and none repeating
// a value: names that no field has, null, and values of another type. Params
// that are absent have none. A field without a fault is filled in even where
// others have one.
func DecodeParams(raw json.RawMessage, fields map[string]any) []error {
	if len(raw) == 0 {
		return nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil || object == nil {
		return []error{errors.New("params are not an object")}
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(object)) {
		into, known := fields[name]
		switch {
		case !known:
			faults = append(faults, fmt.Errorf("%s: no such setting; there are %s", name, strings.Join(slices.Sorted(maps.Keys(fields)), ", ")))
		case bytes.Equal(object[name], []byte("null")):
			faults = append(faults, fmt.Errorf("%s: is empty; leave it out", name))
		case json.Unmarshal(object[name], into) != nil:
			faults = append(faults, fmt.Errorf("%s: has the wrong type", name))
		}
	}
	return faults
}
