package main

import (
	"context"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// grace is how long past its expiry, by the database's clock, a credential may
// still be there: the first of the promises.
const grace = 30

// A checker judges from outside whether credentials end when they must. It
// has connections of its own, as the administrator and as whoever was issued
// something, goes by the database's clock, and shares no code with the broker:
// what names mean and what a journal says it reads for itself.
type checker struct {
	t       *testing.T
	stop    context.CancelFunc
	done    sync.WaitGroup
	servers []*watched
}

// An engine is what a checker has to know of one sort of database. Each watched
// server has one of its own.
type engine interface {
	look(ctx context.Context) (sight, error)              // as its administrator
	login(ctx context.Context, url string) (visit, error) // with a credential
	turnedAway(err error) bool                            // the server knows no such login; it is not just down, or full
}

// A visit is a session of somebody who was issued something.
type visit interface {
	clock(ctx context.Context) (int64, error) // the server's, which a session that has ended cannot say
	close()
}

// sight is what there is of ours at one moment.
type sight struct {
	now      int64           // the server's clock
	users    map[string]bool // by name; true: may log in
	sessions []string        // whose they are, with or without a user that is still there
}

// everySecond is how often a checker looks, and logs in.
const everySecond = time.Second

// watched is one database server under a checker's eyes.
type watched struct {
	engine
	c     *checker
	eager bool // log in with every credential each second, not only when it has ended

	mu      sync.Mutex // guards what follows
	known   map[string]*held
	seen    map[string]bool  // every user of ours that was ever there
	now     []string         // those that could log in at the last look
	faults  map[string]int64 // how many seconds too late something still was, at the worst
	excused int64            // by the database's clock: until then it could not be reached, or nobody was there to reach it
	looks   int
	logins  int
	lastOK  time.Time
	gap     time.Duration // the longest between two looks that succeeded
}

// held is a credential that somebody got hold of.
type held struct {
	user, url string
	expires   int64
	session   visit // left open, to see it end
	keep      bool
	over      bool // it was tried after its time, and there is nothing more to see
}

var ourName = regexp.MustCompile(`^dp_test_([0-9a-z]{6})_[a-z2-7]{12}$`)

// expiryOf reads a user's name; false: it is none of ours.
func expiryOf(name string) (int64, bool) {
	m := ourName.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	unix, err := strconv.ParseInt(m[1], 36, 64)
	return unix, err == nil
}

// watchOver starts a checker over servers.
func watchOver(t *testing.T, eager bool, engines ...engine) *checker {
	ctx, stop := context.WithCancel(context.Background())
	c := &checker{t: t, stop: stop}
	for _, e := range engines {
		w := &watched{engine: e, c: c, eager: eager, known: map[string]*held{}, seen: map[string]bool{}, faults: map[string]int64{}}
		c.servers = append(c.servers, w)
		c.done.Go(func() { every(ctx, w.watch) })
		c.done.Go(func() { every(ctx, w.tryAll); w.hangUp() })
	}
	t.Cleanup(func() { stop(); c.done.Wait() })
	return c
}

// knows tells the checker of a credential. With keep it holds a session open.
func (w *watched) knows(login string, keep bool) {
	u, err := url.Parse(login)
	if err != nil {
		w.c.t.Errorf("a credential that is no URL: %v", err)
		return
	}
	user := u.User.Username()
	expires, ours := expiryOf(user)
	if !ours {
		w.c.t.Errorf("a credential with a name that is not ours: %s", user)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[user] == nil {
		w.known[user] = &held{user: user, url: login, expires: expires, keep: keep}
	}
}

// excuse forgives what is late until the server's clock shows now + 30 s: the
// server, or the last broker, has just come back.
func (w *watched) excuse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.excused = time.Now().Unix()
}

// every does something each second until the context ends.
func every(ctx context.Context, do func(context.Context)) {
	tick := time.NewTicker(everySecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		do(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (w *watched) hangUp() {
	for _, h := range w.known {
		if h.session != nil {
			h.session.close()
		}
	}
}

// fault notes what was still there so long after the expiry.
func (w *watched) fault(what string, after int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[what] = max(w.faults[what], after)
}

// late reports whether something may not be there any more.
func (w *watched) late(expires, now int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return now > max(expires, w.excused)+grace
}

// watch reads the server's own lists. A server that cannot be asked is no fault
// by itself; what is found when it can be again may be one.
func (w *watched) watch(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if s, err := w.look(ctx); err == nil {
		w.judge(s)
	}
}

func (w *watched) judge(s sight) {
	w.mu.Lock()
	if !w.lastOK.IsZero() {
		w.gap = max(w.gap, time.Since(w.lastOK))
	}
	w.lastOK, w.looks, w.now = time.Now(), w.looks+1, nil
	for name, login := range s.users {
		w.seen[name] = true
		if login {
			w.now = append(w.now, name)
		}
	}
	may := slices.Clone(w.now)
	w.mu.Unlock()
	for _, name := range may {
		if expires, _ := expiryOf(name); w.late(expires, s.now) {
			w.fault(name+" may log in", s.now-expires)
		}
	}
	for _, name := range s.sessions {
		if expires, _ := expiryOf(name); w.late(expires, s.now) {
			w.fault(name+" has a session", s.now-expires)
		}
	}
}

// tryAll tries the credentials, some at a time.
func (w *watched) tryAll(ctx context.Context) {
	w.mu.Lock()
	all := slices.Collect(maps.Values(w.known))
	w.mu.Unlock()
	slots := make(chan struct{}, 8)
	var tries sync.WaitGroup
	for _, h := range all {
		ended := time.Now().Unix() > h.expires+grace
		if h.over || h.session == nil && !w.eager && !ended && (!h.keep || time.Now().Unix() > h.expires) {
			continue
		}
		slots <- struct{}{}
		tries.Go(func() {
			defer func() { <-slots }()
			w.try(ctx, h)
		})
	}
	tries.Wait()
}

// try uses a credential: the session that is open, and a new one.
func (w *watched) try(ctx context.Context, h *held) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	w.mu.Lock()
	w.logins++
	w.mu.Unlock()
	if h.session != nil {
		if now, err := h.session.clock(ctx); err == nil && w.late(h.expires, now) {
			w.fault("a session of "+h.user+" works", now-h.expires)
		} else if err != nil {
			h.session.close()
			h.session = nil
		}
		if !w.eager {
			return
		}
	}
	v, err := w.login(ctx, h.url)
	if err != nil {
		if w.turnedAway(err) && time.Now().Unix() > h.expires+grace {
			w.mu.Lock()
			h.over = h.session == nil
			w.mu.Unlock()
		}
		return
	}
	now, err := v.clock(ctx)
	if err == nil && w.late(h.expires, now) {
		w.fault(h.user+" logged in", now-h.expires)
	}
	if h.keep && h.session == nil && err == nil {
		h.session = v
		return
	}
	v.close()
}

// last is when the last credential that was ever seen must be gone.
func (c *checker) last() time.Time {
	var last int64
	for _, w := range c.servers {
		w.mu.Lock()
		for name := range w.seen {
			expires, _ := expiryOf(name)
			last = max(last, expires)
		}
		last = max(last, w.excused)
		w.mu.Unlock()
	}
	return time.Unix(last+grace, 0)
}

// finish waits until all must be gone, tries all once more, and reports.
func (c *checker) finish() {
	c.t.Helper()
	time.Sleep(time.Until(c.last()) + 2500*time.Millisecond)
	for _, w := range c.servers {
		for deadline := time.Now().Add(90 * time.Second); w.pending() > 0 && time.Now().Before(deadline); {
			time.Sleep(200 * time.Millisecond)
		}
		if n := w.pending(); n > 0 {
			c.t.Errorf("%d credentials could not be tried after their end", n)
		}
	}
	c.stop()
	c.done.Wait()
	for i, w := range c.servers {
		for _, f := range slices.Sorted(maps.Keys(w.faults)) {
			c.t.Errorf("server %d: %s %d s after its expiry", i, f, w.faults[f])
		}
		c.t.Logf("server %d: %d users seen, %d credentials known, %d looks, longest gap %.1f s, %d logins tried", i, len(w.seen), len(w.known), w.looks, w.gap.Seconds(), w.logins)
		if w.looks == 0 {
			c.t.Errorf("server %d was never looked at", i)
		}
	}
}

func (w *watched) pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, h := range w.known {
		if !h.over {
			n++
		}
	}
	return n
}

// users is every user of ours that was ever seen.
func (c *checker) users() map[string]bool {
	all := map[string]bool{}
	for _, w := range c.servers {
		w.mu.Lock()
		for name := range w.seen {
			all[name] = true
		}
		w.mu.Unlock()
	}
	return all
}
