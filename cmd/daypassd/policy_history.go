package main

import (
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/issuers"
	"github.com/daypass-dev/daypass/policy"
	history "github.com/daypass-dev/daypass/policy/recorded"
)

// journalEntries are the records of a journal's folder. A line that a broker is just
// writing ends them; any other fault is an error, and what was read before it is
// not to be relied on.
func journalEntries(dir string) iter.Seq2[audit.Entry, error] {
	return func(yield func(audit.Entry, error) bool) {
		for entry, err := range audit.Read(dir) {
			if fault, torn := errors.AsType[*audit.Fault](err); torn && fault.Kind == audit.TornTail {
				return
			}
			if err != nil {
				yield(entry, fmt.Errorf("%w; daypassd audit verify says more", err))
				return
			}
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// journalOf is the folder of a configuration's journal, unless another is named.
func (s *policySource) journalOf(named string) string {
	if named != "" {
		return named
	}
	return filepath.Join(s.config.DataDir, "journal")
}

// recordedClaims are what has to be known of issuers' claims to read a journal.
func (s *policySource) recordedClaims() (map[string]history.Claims, error) {
	profiles, err := issuers.Profiles()
	if err != nil {
		return nil, err
	}
	all := map[string]history.Claims{}
	for name, i := range s.set.Issuers() {
		p := profiles[i.Profile]
		all[name] = history.Claims{Journalled: p.Journal, Influenced: p.Influenced}
	}
	return all, nil
}

// keptVersions are the policy versions that a broker left in its data directory.
type keptVersions struct{ dir string }

// folder is a version as it was adopted, with the grants and issuers of its time.
func (v keptVersions) folder(version string) (*policy.Folder, policy.Known, error) {
	hash, ok := strings.CutPrefix(version, "sha256:")
	if !ok {
		return nil, policy.Known{}, fmt.Errorf("%q is not a policy version", version)
	}
	files, err := audit.ReadVersion(v.dir, hash)
	if err != nil {
		return nil, policy.Known{}, err
	}
	return policy.Restore(version, files)
}

func (v keptVersions) book(version string) (*policy.Book, error) {
	folder, known, err := v.folder(version)
	if err != nil {
		return nil, err
	}
	return folder.Book(known)
}

func (s *policySource) versions() keptVersions {
	return keptVersions{filepath.Join(s.config.DataDir, "versions")}
}

// parseMoment reads a time, a day in UTC, or how long ago something was: 36h, 90d.
// Nothing is the zero time.
func parseMoment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	if ago, err := parseDays(text); err == nil {
		return now.Add(-ago), nil
	}
	return time.Time{}, usageError{fmt.Errorf("--%s is %q; it must be a day such as 2026-12-01, a time such as 2026-12-01T00:00:00Z, or how long ago, such as 90d", flag, text)}
}

// parseDays reads a duration that may be in days: 90d, 36h.
func parseDays(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	d, err := time.ParseDuration(text)
	if err == nil && d < 0 {
		err = errors.New("it is negative")
	}
	return d, err
}
