package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/api"
	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/policy"
)

// lastGoodReason stands in the journal where a version decides because the one
// on disk has faults.
const lastGoodReason = "last_good"

// start puts the policy on disk in force, or else the last good one. Without
// either there is nothing to decide by, and no start.
func (r *reloader) start(ctx context.Context) error {
	l, err := steady(ctx, 0, r.look)
	var book *policy.Book
	if err == nil {
		var verdicts []verdict
		book, verdicts = r.pass(l.material)
		err = errors.Join(l.fault, faultsOf(verdicts))
	}
	r.tried, r.places = l.sum, l.places
	if err == nil {
		if err := r.adopt(ctx, book, ""); err != nil {
			return err
		}
		r.config = l.config
		r.enforce(book)
		r.ended(api.ReloadLoaded, l, nil)
		return nil
	}
	book, missing := r.lastGood()
	if missing != nil {
		return fmt.Errorf("grants or policies have faults:\n%w\nand no earlier version can stand in: %w", err, missing)
	}
	if err := r.adopt(ctx, book, lastGoodReason); err != nil {
		return err
	}
	r.enforce(book)
	r.log.Error("grants or policies on disk have faults; the last good version decides until they are mended", "version", book.Version())
	r.ended(api.ReloadRefused, l, err)
	return nil
}

// lastGood is the version that was adopted last, if it can still be honoured:
// under the issuers and targets of today, and with what this release asks of a
// policy. Lint and test cases are not asked again: it has passed them, and a
// date or a new rule of lint must not take a broker down that was running.
func (r *reloader) lastGood() (*policy.Book, error) {
	version, folder, kept, err := r.keep.lastGood()
	if err != nil {
		return nil, err
	}
	known := knownUnder(r.config, r.issuers)
	known.Grants = kept.Grants
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(kept.Grants)) {
		if err := r.honours(kept.Grants[name]); err != nil {
			faults = append(faults, fmt.Errorf("grant %s: %w", name, err))
		}
	}
	book, err := folder.Book(known)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, fmt.Errorf("version %s does not fit this configuration any more:\n%w", version, err)
	}
	return book, nil
}

// honours says why a grant of another day cannot be given under the
// configuration of today.
func (r *reloader) honours(g broker.Grant) error {
	kind, ok := kinds()[g.Kind]
	if !ok {
		return fmt.Errorf("%q is not a kind", g.Kind)
	}
	if target, configured := r.config.Targets[g.Target]; kind.Targeted {
		switch {
		case !configured || target.Kind != g.Kind:
			return fmt.Errorf("no target %s of kind %s is configured", g.Target, g.Kind)
		case target.Retired:
			return fmt.Errorf("target %s is retired", g.Target)
		}
	}
	if err := kind.CheckGrant(g); err != nil {
		return err
	}
	return r.plan(g)
}

// archive is a [keeper] in data_dir.
type archive struct {
	dataDir string
	journal *audit.Journal
	now     func() time.Time
}

func (a archive) versions() string { return filepath.Join(a.dataDir, "versions") }

// folderOf is the name of a version's folder.
func folderOf(version string) string { return strings.TrimPrefix(version, "sha256:") }

func (a archive) adopt(ctx context.Context, book *policy.Book, why string) error {
	files, err := book.Keep()
	if err != nil {
		return err
	}
	if err := audit.StoreVersion(a.versions(), folderOf(book.Version()), files); err != nil {
		return fmt.Errorf("keep policy version: %w", err)
	}
	return a.write(ctx, book.Version(), why)
}

func (a archive) confirm(ctx context.Context, version string) error {
	return a.write(ctx, version, "in_force")
}

func (a archive) write(ctx context.Context, version, why string) error {
	r := broker.Record{Event: broker.EventPolicy, At: a.now(), Policy: version, Reason: why}
	if err := a.journal.Append(ctx, r); err != nil {
		return fmt.Errorf("journal policy version: %w", err)
	}
	return nil
}

// lastGood asks the journal, which nobody can change unseen, and takes from disk
// only what hashes to the version that it names.
func (a archive) lastGood() (string, *policy.Folder, policy.Known, error) {
	var last broker.Record
	for r, err := range records(filepath.Join(a.dataDir, "journal")) {
		if err != nil {
			return "", nil, policy.Known{}, fmt.Errorf("find the last good version: %w", err)
		}
		if r.Event == broker.EventPolicy && !r.At.Before(last.At) {
			last = r
		}
	}
	if last.Policy == "" {
		return "", nil, policy.Known{}, errors.New("the journal names no version that was ever loaded")
	}
	files, err := audit.ReadVersion(a.versions(), folderOf(last.Policy))
	if err != nil {
		return "", nil, policy.Known{}, err
	}
	folder, known, err := policy.Restore(last.Policy, files)
	return last.Policy, folder, known, err
}
