package jwt

import (
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
func parseParams(raw json.RawMessage) (params, []error) {
	p := params{PerRepository: true}
	faults := broker.DecodeParams(raw, map[string]any{
		"audience": &p.Audience, "include": &p.Include, "per_repository": &p.PerRepository,
	})
	if len(faults) == 0 { // what could not be read would be complained of twice
		faults = p.check()
	}
	return p, faults
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
			faults = append(faults, fmt.Errorf("include: no such field %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(jobFields)), ", ")))
		}
		if slices.Contains(p.Include[:i], name) {
			faults = append(faults, fmt.Errorf("include: %q is named twice", name))
		}
	}
	return faults
}
