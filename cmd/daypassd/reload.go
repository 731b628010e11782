package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/api"
	"github.com/daypass-dev/daypass/policy"
)

// How a reload waits, and how often it looks without being told.
const (
	lookEach    = time.Minute
	settleFor   = 250 * time.Millisecond // files have to stay the same for this long
	settleTries = 40
	keepWithin  = time.Minute
)

// reloader puts grants and policies in force, together and under one version,
// or keeps those that are. Everything it reads passes the same gates, and is
// stored and journalled before it decides anything.
type reloader struct {
	gates
	config  *Config // what runs, with the folders that were last good
	fixed   bool    // the configuration was no file, and cannot be read again
	current *policy.Current
	keep    keeper
	metrics *api.Metrics
	log     *slog.Logger
	each    time.Duration
	settle  time.Duration
	watcher func([]place) (*watch, error)

	// Owned by the goroutine that runs.
	tried     [sha256.Size]byte // what was last read to the end; zero: try again
	places    []place
	parsed    *Config // of text, the configuration that was sound last
	text      []byte
	named     string // the version that the journal was told of last
	blind     string // why not all places are watched, as it was logged
	overdue   map[string]bool
	confirmed time.Time // when the version in force was last journalled

	mu    sync.Mutex // guards state
	state policyState
}

// keeper makes versions durable, and finds them again.
type keeper interface {
	// adopt stores a version and journals it; only then may it decide.
	adopt(ctx context.Context, book *policy.Book, why string) error
	// confirm journals that a version still decides.
	confirm(ctx context.Context, version string) error
	// lastGood is the version that was adopted last, as it was kept.
	lastGood() (string, *policy.Folder, policy.Known, error)
}

// policyState is what operators are told.
type policyState struct {
	loaded  time.Time
	failed  error    // why what is on disk is not in force
	restart []string // keys of the configuration that wait for a restart
	overdue int
}

// check reloads if anything has changed since it last looked.
func (r *reloader) check(ctx context.Context) {
	if l := r.look(); l.sum == r.tried {
		r.places = l.places
		return
	}
	r.reload(ctx, r.settle)
}

// reload reads everything again. What passes is put in force, or the version
// that is stays, and everybody who watches is told.
func (r *reloader) reload(ctx context.Context, settle time.Duration) {
	l, err := steady(ctx, settle, r.look)
	r.places = l.places
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.tried = [sha256.Size]byte{}
		r.ended(api.ReloadFailed, l, err)
		return
	}
	r.tried = l.sum
	book, verdicts := r.pass(l.material)
	if err := errors.Join(l.fault, faultsOf(verdicts)); err != nil {
		r.ended(api.ReloadRefused, l, err)
		return
	}
	if version := book.Version(); version == r.current.Version() && version == r.named {
		r.config = l.config
		r.ended(api.ReloadUnchanged, l, nil)
		return
	}
	if err := r.adopt(ctx, book, ""); err != nil {
		r.tried = [sha256.Size]byte{}
		r.ended(api.ReloadFailed, l, err)
		return
	}
	r.config = l.config
	r.enforce(book)
	r.ended(api.ReloadLoaded, l, nil)
}

// adopt makes a version durable. After an error the journal may name it all the
// same, and then has to be told again what decides.
func (r *reloader) adopt(ctx context.Context, book *policy.Book, why string) error {
	ctx, done := context.WithTimeout(ctx, keepWithin)
	defer done()
	r.named = book.Version()
	return r.keep.adopt(ctx, book, why)
}

// enforce puts a version in force that has been adopted.
func (r *reloader) enforce(book *policy.Book) {
	was := r.current.Swap(book)
	now := r.now()
	r.mu.Lock()
	r.state.loaded = now
	r.mu.Unlock()
	r.confirmed = now
	attrs := []any{"version", book.Version(), "folder", r.config.Policies}
	if was != nil {
		attrs = append(attrs, "was", was.Version())
	}
	r.log.Info("policy loaded", attrs...)
	r.overdue = nil
	r.review(now)
}

// ended tells how a reload went.
func (r *reloader) ended(outcome api.Reload, l look, err error) {
	r.metrics.Reloaded(outcome)
	r.mu.Lock()
	r.state.failed, r.state.restart = err, l.restart
	r.mu.Unlock()
	if len(l.restart) > 0 {
		r.log.Warn("the configuration has changed beyond grants and policies; nothing of it is taken up before a restart", "keys", l.restart)
	}
	switch {
	case err != nil:
		faults, more := firstFaults(err)
		r.log.Error("reload failed; the policy that was loaded stays", "version", r.current.Version(), "faults", faults, "more", more)
	case outcome == api.ReloadUnchanged:
		r.log.Info("policy unchanged", "version", r.current.Version())
	}
}

// shownFaults is how many faults one line of the log holds.
const shownFaults = 20

// firstFaults takes faults apart for the log, where a line each would be lost
// among others.
func firstFaults(err error) (first []string, more int) {
	all := strings.Split(err.Error(), "\n")
	n := min(len(all), shownFaults)
	return all[:n], len(all) - n
}

// run reloads on hangup, when files change, and each minute if they have, until
// ctx ends.
func (r *reloader) run(ctx context.Context, hangup <-chan os.Signal) error {
	minute := time.NewTicker(r.each)
	defer minute.Stop()
	var w *watch
	defer func() { w.close() }()
	act := r.check // what changed before anything was watched
	for {
		// A place that is only now found was not watched when it was read.
		for range 3 {
			w = r.watchAnew(w)
			act(ctx)
			if act = r.check; slices.Equal(w.places, r.places) {
				break
			}
		}
		if act = r.wait(ctx, w, hangup, minute.C); act == nil {
			return nil
		}
	}
}

// wait returns what to do when something happens; nil when ctx ends.
func (r *reloader) wait(ctx context.Context, w *watch, hangup <-chan os.Signal, minute <-chan time.Time) func(context.Context) {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			return func(ctx context.Context) { r.reload(ctx, 0) }
		case <-minute:
			r.daily(ctx)
			return r.check
		case <-w.errors(): // some events are lost
			return r.check
		case e, open := <-w.events():
			if !open {
				w.close()
				w.watcher = nil
			} else if w.matters(e) {
				r.quiet(ctx, w)
				return r.check
			}
		}
	}
}

// quiet waits until nothing more happens, for a while.
func (r *reloader) quiet(ctx context.Context, w *watch) {
	enough := time.After(8 * r.settle)
	for {
		select {
		case <-ctx.Done():
			return
		case <-enough:
			return
		case <-time.After(r.settle):
			return
		case _, open := <-w.events():
			if !open {
				return
			}
		}
	}
}

// watchAnew watches where the last look found something, instead of what w
// watches: what was replaced since is watched as it is now.
func (r *reloader) watchAnew(w *watch) *watch {
	fresh, err := r.watcher(r.places)
	w.close()
	why := ""
	if err != nil {
		why = err.Error()
	}
	if why != r.blind && why != "" {
		r.log.Warn("not all files can be watched; changes are found once a minute", "err", why)
	}
	r.blind = why
	return fresh
}

// daily journals that a version still decides, so that the newest records name
// it however long it has, and looks for reviews that have become due.
func (r *reloader) daily(ctx context.Context) {
	now := r.now()
	if now.Sub(r.confirmed) < 24*time.Hour {
		return
	}
	if err := r.keep.confirm(ctx, r.current.Version()); err != nil {
		r.log.Warn("the policy in force could not be journalled again", "err", err)
		return // the next minute tries again
	}
	r.confirmed = now
	r.review(now)
}

// review tells of files that are past their review_by, each once.
func (r *reloader) review(now time.Time) {
	overdue := map[string]bool{}
	for rule := range r.current.Book().Rules() {
		if overdue[rule.File] || !rule.ReviewBy.Over(now) {
			continue
		}
		overdue[rule.File] = true
		if !r.overdue[rule.File] {
			r.log.Warn("policy file is past its review_by; its owner should look at it again",
				"file", rule.File, "owner", rule.Owner, "review_by", rule.ReviewBy.String())
		}
	}
	r.overdue = overdue
	r.mu.Lock()
	r.state.overdue = len(overdue)
	r.mu.Unlock()
}

// ready is told to whoever asks for /readyz: the broker is of use, but not as
// somebody meant it to be.
func (r *reloader) ready(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.failed == nil {
		return nil
	}
	return &broker.Error{Code: broker.Unavailable, Err: errors.New("the last reload failed"),
		Public: "grants or policies could not be reloaded; an earlier version is in force"}
}

// measured is what the metrics show.
func (r *reloader) measured() api.PolicyState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return api.PolicyState{
		Version: r.current.Version(), Loaded: r.state.loaded, Failed: r.state.failed != nil,
		Restart: len(r.state.restart) > 0, Overdue: r.state.overdue,
	}
}
