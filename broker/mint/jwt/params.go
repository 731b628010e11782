package jwt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/broker"
)

// params are what a grant says.
type params struct {
	Audience      string
	Include       []string // neutral job fields that go into the token
	PerRepository bool     // the subject ends in the repository's id
}

const maxAudience = 255

// jobFields are what a grant may include: text that the CI provider signed,
// and that outsiders may have chosen (a ref, a repository's name).
var jobFields = map[string]func(broker.Job) string{
	"repository":    func(j broker.Job) string { return j.Repository },
	"repository_id": func(j broker.Job) string { return j.RepositoryID },
	"owner_id":      func(j broker.Job) string { return j.OwnerID },
	"ref":           func(j broker.Job) string { return j.Ref },
	"environment":   func(j broker.Job) string { return j.Environment },
	"event":         func(j broker.Job) string { return j.Event },
	"run":           func(j broker.Job) string { return j.Run },
	"run_url":       func(j broker.Job) string { return j.RunURL },
}

// parseParams reads a grant's params strictly and names all faults.
func parseParams(raw json.RawMessage) (params, error) {
	p := params{PerRepository: true}
	faults := decode(raw, map[string]any{"audience": &p.Audience, "include": &p.Include, "per_repository": &p.PerRepository})
	if len(faults) == 0 { // what could not be read would be complained of twice
		faults = p.check()
	}
	return p, errors.Join(faults...)
}

func (p params) check() []error {
	var faults []error
	switch {
	case p.Audience == "":
		faults = append(faults, errors.New("audience: say who the token is for, such as sts.amazonaws.com"))
	case len(p.Audience) > maxAudience:
		faults = append(faults, fmt.Errorf("audience: longer than %d bytes", maxAudience))
	case strings.ContainsFunc(p.Audience, func(r rune) bool { return r <= ' ' || r > '~' }):
		faults = append(faults, fmt.Errorf("audience: %q holds more than printable ASCII without blanks", p.Audience))
	}
	for i, name := range p.Include {
		if jobFields[name] == nil {
			faults = append(faults, fmt.Errorf("include: no such field %q; there are %s", name, strings.Join(sortedKeys(jobFields), ", ")))
		}
		if slices.Contains(p.Include[:i], name) {
			faults = append(faults, fmt.Errorf("include: %q is named twice", name))
		}
	}
	return faults
}

// decode reads a JSON object field by field: unknown keys and wrong types are
// faults, all of them are named, and case counts.
func decode(raw json.RawMessage, fields map[string]any) []error {
	if len(raw) == 0 {
		return nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil || object == nil {
		return []error{errors.New("params are not an object")}
	}
	var faults []error
	for _, key := range sortedKeys(object) {
		into, known := fields[key]
		switch {
		case !known:
			faults = append(faults, fmt.Errorf("%s: no such setting; there are %s", key, strings.Join(sortedKeys(fields), ", ")))
		case bytes.Equal(object[key], []byte("null")):
			faults = append(faults, fmt.Errorf("%s: is empty; leave it out", key))
		case json.Unmarshal(object[key], into) != nil:
			faults = append(faults, fmt.Errorf("%s: has the wrong type", key))
		}
	}
	return faults
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
