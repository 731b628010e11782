package signing

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
)

// state is one reading of the folder. It is immutable.
type state struct {
	keys   []*key // by the time they begin to sign
	secret [secretSize]byte
}

// signer is the key that is due for signing. A clock that is behind the one
// that made the ring finds none; the first is the right one then.
func (s *state) signer(now time.Time) *key {
	due := s.keys[0]
	for _, k := range s.keys {
		if !k.signsFrom.After(now) {
			due = k
		}
	}
	return due
}

// over reports whether no valid token of key i can be left.
func (s *state) over(i int, now time.Time, longest time.Duration) bool {
	return i+1 < len(s.keys) && !now.Before(s.keys[i+1].signsFrom.Add(longest+lateness))
}

// nextFrom says when the next key should begin to sign, if it is time to
// publish it.
func (s *state) nextFrom(now time.Time) (time.Time, bool) {
	newest := s.keys[len(s.keys)-1]
	if now.Before(newest.retires.Add(-publishAhead)) {
		return time.Time{}, false
	}
	if from := now.Add(publishAhead); from.After(newest.retires) {
		return from, true // we are late: the old one signs on meanwhile
	}
	return newest.retires, true
}

// errNew: there is no ring in the folder yet.
var errNew = errors.New("no key ring")

// read takes a fresh reading of the folder, or leaves the ring as it is.
func (r *Ring) read() error {
	info, err := os.Stat(r.Dir)
	if errors.Is(err, fs.ErrNotExist) && r.state.Load() == nil {
		return errNew
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", r.Dir)
	}
	if err := checkPrivate(r.Dir, info); err != nil {
		return err
	}
	before := r.state.Load()
	var known []*key
	if before != nil {
		known = before.keys
	}
	keys, err := readKeys(r.Dir, known)
	if err != nil {
		return err
	}
	secret, err := readSecret(r.Dir)
	if err != nil {
		return err
	}
	path := filepath.Join(r.Dir, secretName)
	switch {
	case len(keys) == 0 && before == nil:
		return errNew // with a secret, its maker crashed in between
	case len(keys) == 0:
		return fmt.Errorf("the keys in %s are gone: restore them", r.Dir)
	case secret == nil:
		return fmt.Errorf("%s is gone, but there are keys: restore it; to start anew, remove the keys as well", path)
	case before != nil && *secret != before.secret:
		return fmt.Errorf("%s was replaced while in use: restore it, or restart every broker", path)
	}
	slices.SortFunc(keys, func(a, b *key) int { return a.signsFrom.Compare(b.signsFrom) })
	r.state.Store(&state{keys, *secret})
	return nil
}

// tend reads the folder and does what is due. A folder in which nothing is due
// need not be writable.
func (r *Ring) tend(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remember(r.look(ctx))
}

func (r *Ring) look(ctx context.Context) error {
	err := r.read()
	if err != nil && !errors.Is(err, errNew) {
		return err
	}
	if err == nil && !r.due() {
		return nil
	}
	if err := r.makeFolder(); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(r.Dir, lockName), flock.SetFlag(os.O_CREATE|os.O_RDWR))
	ctx, done := context.WithTimeout(ctx, 30*time.Second)
	defer done()
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("lock the key ring in %s: %w", r.Dir, err)
	}
	return errors.Join(r.change(), lock.Unlock())
}

func (r *Ring) makeFolder() error {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(r.Dir)
	if err != nil {
		return err
	}
	return checkPrivate(r.Dir, info)
}

// due reports whether a key is to be made or deleted.
func (r *Ring) due() bool {
	s, now := r.state.Load(), r.Now()
	_, next := s.nextFrom(now)
	return next || s.over(0, now, r.LongestToken)
}

// change does what is due, under the lock. Another broker may have done it
// since we looked, so it looks again.
func (r *Ring) change() error {
	err := r.read()
	if errors.Is(err, errNew) {
		if err = r.begin(); err == nil {
			err = r.read()
		}
	}
	if err != nil {
		return err
	}
	s, now := r.state.Load(), r.Now()
	if from, due := s.nextFrom(now); due {
		if err := makeKey(r.Dir, r.Rand, now, from); err != nil {
			return fmt.Errorf("make the next key in %s: %w", r.Dir, err)
		}
		r.Log.Info("the next signing key is published", "signs_from", from)
	}
	for i, k := range s.keys {
		if s.over(i, now, r.LongestToken) {
			if err := os.Remove(k.path); err != nil {
				return fmt.Errorf("delete a key that is over: %w", err)
			}
			r.Log.Info("a signing key is over and was deleted", "kid", k.id)
		}
	}
	return r.read()
}

// begin makes a new ring: the secret first, so that keys without one are
// always a loss and never a crash.
func (r *Ring) begin() error {
	secret, err := readSecret(r.Dir)
	if err == nil && secret == nil {
		err = makeSecret(r.Dir, r.Rand)
	}
	if err != nil {
		return err
	}
	now := r.Now()
	if err := makeKey(r.Dir, r.Rand, now, now); err != nil {
		return fmt.Errorf("make the first key in %s: %w", r.Dir, err)
	}
	r.Log.Info("a new key ring was made", "dir", r.Dir)
	return nil
}
