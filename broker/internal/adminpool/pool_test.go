package adminpool_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/internal/adminpool"
)

var (
	errRefused = errors.New("wrong password")
	errLost    = errors.New("the connection was lost")
	errReplica = errors.New("the server is a replica")
)

// server is a fake: it takes the passwords that it knows, and counts.
type server struct {
	mu      sync.Mutex // guards what follows
	accepts []string
	open    []*conn
	dialled int
	alarms  int
	secret  broker.SecretValue
	readErr error
}

// conn is a connection to it.
type conn struct {
	of     *server
	with   string
	dead   bool
	known  bool // it has answered just now
	asked  int
	closed bool
}

func (c *conn) Alive(context.Context) bool {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.known {
		return true
	}
	c.asked++
	return !c.dead
}

func (c *conn) Doubt() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.known = false
}

func (c *conn) Keep(err error) bool {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.known = err == nil
	return !errors.Is(err, errLost) && !errors.Is(err, errReplica)
}

func (c *conn) Close() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.closed = true
	c.of.open = slices.DeleteFunc(c.of.open, func(other *conn) bool { return other == c })
}

func (s *server) Read(context.Context) (broker.SecretValue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secret, s.readErr
}

// is changes what the server and the operator know.
func (s *server) is(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// secretIs is a reading of the secret.
func secretIs(current, previous string) broker.SecretValue {
	v := broker.SecretValue{Current: broker.NewSecret(current)}
	if previous != "" {
		v.Previous = broker.NewSecret(previous)
	}
	return v
}

func (s *server) dial(_ context.Context, secret broker.Secret) (*conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialled++
	if !slices.Contains(s.accepts, secret.Reveal()) {
		return nil, errRefused
	}
	c := &conn{of: s, with: secret.Reveal()}
	s.open = append(s.open, c)
	return c, nil
}

func (s *server) numbers() (open, dialled, alarms int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open), s.dialled, s.alarms
}

// newPool is a pool over a server that takes "one", as the secret says.
func newPool(size int) (*server, *adminpool.Pool[*conn]) {
	s := &server{accepts: []string{"one"}, secret: secretIs("one", "")}
	return s, adminpool.New(adminpool.Config[*conn]{
		Admin: s, Size: size, Dial: s.dial,
		Refused: func(err error) bool { return errors.Is(err, errRefused) },
		Lost:    func(err error) bool { return errors.Is(err, errLost) },
		Unfit:   func(err error) bool { return errors.Is(err, errReplica) },
		Alarm:   func() { s.is(func() { s.alarms++ }) },
	})
}

// use lends a connection for nothing, and says which secret it was made with.
func use(t *testing.T, p *adminpool.Pool[*conn]) string {
	t.Helper()
	var with string
	if err := p.With(t.Context(), func(c *conn) error { with = c.with; return nil }); err != nil {
		t.Fatal(err)
	}
	return with
}

func TestAConnectionIsUsedAgainAndNoMoreAreLentThanThereMayBe(t *testing.T) {
	s, p := newPool(3)
	var now, most atomic.Int32
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			err := p.With(t.Context(), func(c *conn) error {
				n := now.Add(1)
				for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
				}
				time.Sleep(100 * time.Microsecond)
				now.Add(-1)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if open, dialled, alarms := s.numbers(); most.Load() != 3 || open > 3 || dialled > 3 || alarms != 0 {
		t.Errorf("%d were lent at once, %d were made and %d are open, with %d alarms", most.Load(), dialled, open, alarms)
	}
	p.Close()
	if open, _, _ := s.numbers(); open != 0 {
		t.Errorf("%d are open after all", open)
	}
}

func TestWhatBreaksOffWithItsConnectionIsDoneOnceMoreOnAnother(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		calls int
		want  error
	}{
		"lost":             {errLost, 2, nil},
		"a replica":        {errReplica, 2, nil},
		"something else":   {errRefused, 1, errRefused},
		"lost, but begun":  {adminpool.Begun(errLost), 1, errLost},
		"lost, every time": {errLost, 2, errLost},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := newPool(2)
			calls, used := 0, map[*conn]bool{}
			err := p.With(t.Context(), func(on *conn) error {
				calls++
				used[on] = true
				if calls == 1 || c.want != nil {
					return c.err
				}
				return nil
			})
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || calls != c.calls || len(used) != calls {
				t.Errorf("%v after %d calls on %d connections", err, calls, len(used))
			}
			if _, _, alarms := s.numbers(); (alarms > 0) == (name == "something else") {
				t.Errorf("%d alarms", alarms)
			}
		})
	}
}

// Connections are lost together, and lead to a replica together.
func TestWithOneConnectionTheOthersAreDoubted(t *testing.T) {
	for name, failure := range map[string]error{"lost": errLost, "a replica": errReplica} {
		t.Run(name, func(t *testing.T) {
			s, p := newPool(4)
			both(t, p)
			s.is(func() { // the server is started anew
				for _, c := range s.open {
					c.dead = true
				}
			})
			calls := 0
			err := p.With(t.Context(), func(c *conn) error {
				calls++
				if c.dead {
					return failure
				}
				return nil
			})
			if err != nil || calls != 2 {
				t.Errorf("%v after %d calls: it was given a dead one twice", err, calls)
			}
			if open, _, _ := s.numbers(); open != 1 {
				t.Errorf("%d are open", open)
			}
		})
	}
}

// both has two connections made, known to be alive.
func both(t *testing.T, p *adminpool.Pool[*conn]) {
	t.Helper()
	err := p.With(t.Context(), func(*conn) error {
		return p.With(t.Context(), func(*conn) error { return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAPasswordMayChangeOnEitherSideFirst(t *testing.T) {
	s, p := newPool(2)
	s.is(func() { s.secret = secretIs("two", "one") }) // and the server is not told yet
	if with := use(t, p); with != "one" {
		t.Errorf("used one made with %q", with)
	}
	s.is(func() { s.accepts = []string{"two"} })
	if with := use(t, p); with != "one" {
		t.Error("the one that is open was not used")
	}
	s.is(func() { s.secret = secretIs("two", "") })
	if with := use(t, p); with != "two" {
		t.Errorf("used one made with %q, which is in use no more", with)
	}
	s.is(func() { s.accepts = []string{"three"} }) // and nobody has told us
	if with := use(t, p); with != "two" {
		t.Errorf("used one made with %q", with)
	}
	if open, _, _ := s.numbers(); open != 1 {
		t.Errorf("%d are open", open)
	}
}

func TestWhoeverFindsNoPasswordTakenWaitsForAConnectionOrForTheSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newPool(4)
		use(t, p)
		s.is(func() { s.accepts = []string{"two"} })
		var all sync.WaitGroup
		began := time.Now()
		for range 4 {
			all.Go(func() {
				if err := p.With(t.Context(), func(*conn) error { time.Sleep(time.Second); return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("four of a second each, on one connection, took %v", took)
		}
		// The one there is is held for long; then we are told.
		all.Go(func() { _ = p.With(t.Context(), func(*conn) error { time.Sleep(time.Minute); return nil }) })
		synctest.Wait()
		time.AfterFunc(3*time.Second, func() { s.is(func() { s.secret = secretIs("two", "one") }) })
		if with := use(t, p); with != "two" {
			t.Errorf("used one made with %q", with)
		}
		all.Wait()
	})
}

func TestARefusalStandsWhereNobodyHasAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newPool(4)
		s.is(func() { s.accepts = nil })
		began := time.Now()
		if err := p.With(t.Context(), func(*conn) error { return nil }); !errors.Is(err, errRefused) || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		s.is(func() { s.accepts = []string{"one"} })
		go func() { _ = p.With(t.Context(), func(*conn) error { time.Sleep(time.Minute); return nil }) }()
		synctest.Wait()
		s.is(func() { s.accepts = nil })
		if err := p.With(t.Context(), func(*conn) error { return nil }); !errors.Is(err, errRefused) || time.Since(began) > 6*time.Second {
			t.Errorf("%v after %v, while somebody has one", err, time.Since(began))
		}
		time.Sleep(time.Minute)
	})
}

// A connection that comes back while one waits for it may be of an admin secret
// that was replaced meanwhile, and lead to another server.
func TestNoConnectionOfAFormerSecretIsLent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newPool(4)
		var all sync.WaitGroup
		all.Go(func() { _ = p.With(t.Context(), func(*conn) error { time.Sleep(2 * time.Second); return nil }) })
		synctest.Wait()
		s.is(func() { s.secret = secretIs("elsewhere", "") })
		err := p.With(t.Context(), func(c *conn) error { return errors.New("lent one made with " + c.with) })
		if !errors.Is(err, errRefused) {
			t.Error(err)
		}
		all.Wait()
		if open, _, alarms := s.numbers(); open != 0 || alarms == 0 {
			t.Errorf("%d are open, with %d alarms", open, alarms)
		}
	})
}

func TestWhileTheSecretCannotBeReadWhatIsOpenIsUsedAndNothingIsMade(t *testing.T) {
	s, p := newPool(4)
	use(t, p)
	away := errors.New("the secret store is away")
	s.is(func() { s.readErr = away })
	use(t, p)
	s.is(func() { s.open[0].dead, s.open[0].known = true, false })
	if err := p.With(t.Context(), func(*conn) error { return nil }); !errors.Is(err, away) || !strings.HasPrefix(err.Error(), "read the admin secret: ") {
		t.Error(err)
	}
	if _, err := p.Dial(t.Context()); !errors.Is(err, away) {
		t.Error(err)
	}
	if _, dialled, _ := s.numbers(); dialled != 1 {
		t.Errorf("%d were made", dialled)
	}
}

func TestAClosedPoolLendsNothingAndKeepsNothing(t *testing.T) {
	s, p := newPool(4)
	err := p.With(t.Context(), func(*conn) error { p.Close(); return nil })
	if err != nil {
		t.Error("what was under way:", err)
	}
	if err := p.With(t.Context(), func(*conn) error { return nil }); !errors.Is(err, adminpool.ErrClosed) {
		t.Error(err)
	}
	if open, _, _ := s.numbers(); open != 0 {
		t.Errorf("%d are open", open)
	}
}

func TestWhoWaitsForAConnectionWaitsNoLongerThanHeMay(t *testing.T) {
	_, p := newPool(1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := p.With(t.Context(), func(*conn) error {
		return p.With(ctx, func(*conn) error { return nil })
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
