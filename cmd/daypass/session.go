package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	daypass "github.com/daypass-dev/daypass/clients/go"
)

// giveBackTime bounds giving back: a CI runner that cancels a job does not wait
// for long, and expiry does the rest.
const giveBackTime = 10 * time.Second

// held is what an exchange gave and what has to go back.
type held struct {
	client  *daypass.Client
	answer  *daypass.Answer
	session daypass.Session
	shared  bool // the session is in a file, and other commands go on with it
}

// giveBack returns credentials within [giveBackTime], even if ctx is done. Of a
// shared session only one's own leases go back.
func (h *held) giveBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTime)
	defer cancel()
	if !h.shared {
		_, err := h.client.GiveBack(ctx, h.session.Token)
		return gone(err)
	}
	var errs []error
	for _, c := range h.answer.Credentials {
		_, err := h.client.Revoke(ctx, h.session.Token, c.LeaseID)
		errs = append(errs, gone(err))
	}
	return errors.Join(errs...)
}

// gone forgives that what is to go is gone.
func gone(err error) error {
	switch daypass.CodeOf(err) {
	case daypass.SessionExpired, daypass.NotFound:
		return nil
	}
	return err
}

// returnOrWarn gives back, or says until when the credentials live on.
func (a *app) returnOrWarn(ctx context.Context, h *held) {
	if err := h.giveBack(ctx); err != nil {
		until := ""
		for _, c := range h.answer.Credentials {
			until += fmt.Sprintf("; %s lives until %s", clean(c.Grant), c.ExpiresAt.UTC().Format(time.RFC3339))
		}
		a.note("warning: not given back: %s%s", clean(err.Error()), until)
	}
}

// open gets credentials: on the session in path if there is one, otherwise for
// the job's CI token, and then path, if given, keeps the session.
func (a *app) open(ctx context.Context, grants []daypass.Grant, path string) (*held, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if path != "" {
		s, err := loadSession(path)
		if err == nil {
			return a.openOn(ctx, s, grants)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	source, err := daypass.Detect(a.getenv)
	if err != nil {
		return nil, err
	}
	client, err := a.client(a.url, source)
	if err != nil {
		return nil, err
	}
	keep, err := reserveSession(path)
	if err != nil {
		return nil, err // before the token is spent
	}
	waited := a.sayIfSlow()
	answer, err := client.Exchange(ctx, grants...)
	waited()
	if err != nil {
		return nil, a.salvage(ctx, client, keep, err)
	}
	h := &held{client, answer, answer.Session, path != ""}
	if err := keep.store(client.URL(), answer.Session); err != nil {
		h.shared = false
		a.returnOrWarn(ctx, h)
		return nil, err
	}
	return h, nil
}

// patience is how long nothing is said while the broker is asked.
const patience = 5 * time.Second

// sayIfSlow tells after a while that the broker is still being asked, once, so
// that a log that stands still explains itself. What it returns is called when
// an answer is there; nothing is said after that.
func (a *app) sayIfSlow() (answered func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-stop:
		case <-timer.C:
			a.note("still asking the broker at %s; giving up after %s in all (--timeout)", clean(a.asked), a.timeout)
		}
	}()
	return func() { close(stop); <-ended }
}

// openOn asks for more on a session from a file. One that mints no more is
// extended, where the CI provider gives a fresh token to do it with.
func (a *app) openOn(ctx context.Context, s storedSession, grants []daypass.Grant) (*held, error) {
	source, err := daypass.Detect(a.getenv)
	fresh := err == nil && source.Fresh() // no source is no fault here
	client, err := a.sessionClient(s, source)
	if err != nil {
		return nil, err
	}
	defer a.sayIfSlow()()
	answer, err := client.Credentials(ctx, s.session(), grants...)
	if daypass.CodeOf(err) == daypass.SessionExpired && fresh {
		if _, err = client.Extend(ctx, s.secret()); err == nil {
			answer, err = client.Credentials(ctx, s.session(), grants...)
		}
	}
	if daypass.CodeOf(err) == daypass.SessionExpired {
		return nil, fmt.Errorf("%w: the session in the session file mints no more: %w", daypass.ErrNewJob, err)
	}
	if err != nil {
		return nil, err
	}
	return &held{client, answer, s.session(), true}, nil
}

// sessionClient makes a client for the broker that a session is of: its token
// is shown to no other. source may be nil.
func (a *app) sessionClient(s storedSession, source daypass.Source) (*daypass.Client, error) {
	client, err := a.client(s.URL, source)
	if err != nil || a.url == "" {
		return client, err
	}
	meant, err := a.client(a.url, nil)
	if err != nil {
		return nil, err
	}
	if meant.URL() != client.URL() {
		return nil, usage("the session file is for another broker than --url or DAYPASS_URL names")
	}
	return client, nil
}

// salvage deals with the session of an exchange that got no credentials: it is
// kept for the next command where there is a file for it, and ended otherwise.
func (a *app) salvage(ctx context.Context, client *daypass.Client, keep *sessionFile, err error) error {
	e, ok := errors.AsType[*daypass.Error](err)
	if !ok || e.Session == nil {
		return errors.Join(err, keep.drop())
	}
	if keep != nil {
		return errors.Join(err, keep.store(client.URL(), *e.Session))
	}
	a.returnOrWarn(ctx, &held{client: client, answer: &daypass.Answer{}, session: *e.Session})
	return err
}

// sessionFormat is the version of what a session file holds. Files from before
// there were versions have no key: their sessions get their answers in clear.
const sessionFormat = 2

// storedSession is what a session file holds.
type storedSession struct {
	Version   int       `json:"version"`
	URL       string    `json:"url"`
	Token     string    `json:"token"`
	Key       string    `json:"key,omitempty"` // private: it opens the session's answers
	ExpiresAt time.Time `json:"expires_at"`
}

func (s storedSession) secret() daypass.Secret { return daypass.NewSecret(s.Token) }

func (s storedSession) session() daypass.Session {
	return daypass.Session{Token: s.secret(), Key: daypass.NewSecret(s.Key), ExpiresAt: s.ExpiresAt}
}

// loadSession reads a session file. It refuses one that others can read or
// that is a link: somebody else may have put it there.
func loadSession(path string) (storedSession, error) {
	f, err := openNoFollow(path, os.O_RDONLY)
	if err != nil {
		return storedSession{}, fmt.Errorf("session file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return storedSession{}, fmt.Errorf("session file: %w", err)
	}
	if err := private(info); err != nil {
		return storedSession{}, fmt.Errorf("session file %s: %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return storedSession{}, fmt.Errorf("session file: %w", err)
	}
	var s storedSession
	if json.Unmarshal(b, &s) != nil || s.Token == "" || s.URL == "" {
		return storedSession{}, fmt.Errorf("session file %s holds no session: another command is opening it, or was killed while it did; if so, remove it", path)
	}
	if s.Version != 0 && (s.Version != sessionFormat || s.Key == "") {
		return storedSession{}, fmt.Errorf("session file %s is not one that this daypass can read: it was written by another version; use the same one in the whole job, or remove the file", path)
	}
	return s, nil
}

// sessionFile is a session file that is ours to fill. A nil one keeps nothing.
type sessionFile struct{ f *os.File }

// reserveSession creates the file, so that a fault shows before the CI token is
// spent. It never takes over what is there.
func reserveSession(path string) (*sessionFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := openNoFollow(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, fmt.Errorf("session file: %w", err)
	}
	return &sessionFile{f}, nil
}

func (s *sessionFile) store(url string, session daypass.Session) error {
	if s == nil {
		return nil
	}
	b, err := json.Marshal(storedSession{sessionFormat, url, session.Token.Reveal(), session.Key.Reveal(), session.ExpiresAt})
	if err == nil {
		_, err = s.f.Write(append(b, '\n'))
	}
	if err = errors.Join(err, s.f.Close()); err != nil {
		return fmt.Errorf("session file: %w", errors.Join(err, os.Remove(s.f.Name())))
	}
	return nil
}

func (s *sessionFile) drop() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.f.Close(), os.Remove(s.f.Name()))
}

// warnOfArtifacts says where a session file, if there is one, may end up.
func (a *app) warnOfArtifacts(sessionFile string) {
	if sessionFile != "" && a.inWorkspace(sessionFile) {
		a.note("warning: the session file is in the workspace, from where artifacts are collected")
	}
}

// inWorkspace says whether a path is where CI jobs collect artifacts from.
func (a *app) inWorkspace(path string) bool {
	full, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	for _, key := range []string{"GITHUB_WORKSPACE", "CI_PROJECT_DIR"} {
		if root := a.getenv(key); root != "" {
			if rel, err := filepath.Rel(root, full); err == nil && filepath.IsLocal(rel) {
				return true
			}
		}
	}
	return false
}
