package access

import (
	"fmt"
	"time"

	"github.com/daypass-dev/daypass/policy"
)

// Idling is the question which permissions of a policy nobody has used.
type Idling struct {
	Policy  *policy.Book
	Filter  Filter
	Since   time.Time // a use after it counts
	History *History
	// Book returns a version as it was: a permission that was not there at Since
	// is new, and could not have been used for all that time. May be nil.
	Book func(version string) (*policy.Book, error)
}

// Idle is the answer.
type Idle struct {
	Since time.Time `json:"since"`
	Rows  []Row     `json:"permissions"` // unused; new ones are marked
	Used  int       `json:"used"`        // how many were used
	Gaps  []string  `json:"gaps,omitempty"`
}

// List answers it. What is used is a grant by a rule; for which of a rule's
// repositories is not told apart. Permissions that give nothing are left out.
func (i Idling) List() Idle {
	out := Idle{Since: i.Since.UTC(), Rows: []Row{}, Gaps: i.History.Gaps(i.Since)}
	old, gaps := i.before()
	out.Gaps = append(out.Gaps, gaps...)
	for _, row := range List(i.Policy, i.Filter, i.History.Now) {
		if !row.Gives {
			continue
		}
		key := useKey{row.Rule, row.Grant}
		last, ever := i.History.uses[key]
		if ever && last.After(i.Since) {
			out.Used++
			continue
		}
		if ever {
			at := last.UTC()
			row.LastUsed = &at
		}
		row.New = old != nil && !old[key]
		out.Rows = append(out.Rows, row)
	}
	return out
}

// before are the permissions that there were at the beginning; nil where that is
// not known.
func (i Idling) before() (map[useKey]bool, []string) {
	versions := i.History.Versions(Period{i.Since, i.Since})
	if i.Book == nil || len(versions) == 0 {
		return nil, nil
	}
	old := map[useKey]bool{}
	for _, v := range versions {
		book, err := i.Book(v.Version)
		if err != nil {
			return nil, []string{fmt.Sprintf("version %s, which was in force then, cannot be read, so new permissions are not told from old ones: %s", v.Version, firstLine(err))}
		}
		for r := range book.Rules() {
			if r.Rule.Denies() || r.Rule.Reports() {
				continue
			}
			for _, g := range r.Grants {
				old[useKey{r.ID, g}] = true
			}
		}
	}
	return old, nil
}
