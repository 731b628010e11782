package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

var (
	// errBusy says that a revocation did not come to its turn: nothing was tried.
	errBusy = errors.New("the target is busy with other revocations")
	// errGaveWay says that the credential works no more, and that what is left of
	// it was put off.
	errGaveWay = errors.New("it works no more; what it leaves behind is removed later, for others are overdue")
)

// disarmed is the key of who wants to hear it.
type disarmed struct{}

// OnDisarmed has tell called when a [Minter.Revoke] under ctx calls [Disarmed].
func OnDisarmed(ctx context.Context, tell func()) context.Context {
	return context.WithValue(ctx, disarmed{}, tell)
}

// Disarmed is for a [Minter.Revoke] to call when the credential that it takes back
// works no more: nobody can log in with it, and no session of it goes on. What is
// left to do may take long. So ctx may end then, for others that still work to be
// taken back first, and the rest is left to another attempt. A minter that never
// calls it is not disturbed. It returns at once, and does nothing where ctx is not
// a broker's.
func Disarmed(ctx context.Context) {
	if tell, ok := ctx.Value(disarmed{}).(func()); ok {
		tell()
	}
}

const (
	lateAfter = 2 * sweepEvery         // what is due for longer, and was never tried, is waited for
	yieldLook = 250 * time.Millisecond // between two looks whether it is
)

// turns lets so many revocations of one target run at once. A revocation can take
// as long as it may, again at every try, and whose it is decides that: a job may
// leave much behind, in each of its credentials. So turns are shared:
//
//   - no place (see [Identity.Place]) has the last one;
//   - what has failed before never has the last one either, nor has a place all
//     that such may have, and it waits for what has not, but for one turn;
//   - places that wait are served one after the other, and in each what is due
//     first;
//   - while what was never tried waits too long, a first try gives way as soon as
//     its credential works no more (see [Disarmed]); what has failed before, or has
//     given way, does not.
//
// Where there are too few turns for that, one is enough for each. Safe for
// concurrent use.
type turns struct {
	most int // at once
	now  func() time.Time

	mu      sync.Mutex // guards what follows
	held    map[string]share
	all     share // held
	leaving int   // of these, who was told to give way
	first   queue
	second  queue // of what has failed before
}

// share is how many turns are held, and how many of these by what has failed
// before.
type share struct{ all, again int }

// turn is one that somebody waits for, or has.
type turn struct {
	place   string
	again   bool // what it is for has failed before
	due     time.Time
	mine    chan struct{} // closed when it is had
	leaving bool
}

func newTurns(most int, now func() time.Time) *turns {
	return &turns{most: most, now: now, held: make(map[string]share)}
}

// take waits for a turn for a lease, until ctx ends. After that it gives none.
func (t *turns) take(ctx context.Context, l Lease) (*turn, error) {
	own := &turn{place: l.Place, again: l.Attempts > 0, due: l.Due, mine: make(chan struct{})}
	t.mu.Lock()
	t.line(own).add(own)
	t.hand()
	t.mu.Unlock()
	select {
	case <-own.mine:
	case <-ctx.Done():
	}
	if ctx.Err() == nil {
		return own, nil
	}
	t.mu.Lock()
	waits := t.line(own).remove(own)
	t.mu.Unlock()
	if !waits { // it has come
		t.giveBack(own)
	}
	return nil, fmt.Errorf("%w: %w", errBusy, ctx.Err())
}

func (t *turns) line(of *turn) *queue {
	if of.again {
		return &t.second
	}
	return &t.first
}

func (t *turns) giveBack(own *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(own, -1)
	if own.leaving {
		t.leaving--
	}
	t.hand()
}

// hand gives out the turns that are free. The caller holds the lock.
func (t *turns) hand() {
	for t.all.all < t.most {
		next := t.next()
		if next == nil {
			return
		}
		t.count(next, 1)
		close(next.mine)
	}
}

func (t *turns) count(of *turn, n int) {
	place := t.held[of.place]
	place.all, t.all.all = place.all+n, t.all.all+n
	if of.again {
		place.again, t.all.again = place.again+n, t.all.again+n
	}
	t.held[of.place] = place
	if place.all == 0 {
		delete(t.held, of.place)
	}
}

// most but one, but for one.
func butOne(n int) int { return max(1, n-1) }

// fits reports whether a place may have one more turn.
func (t *turns) fits(place string) bool { return t.held[place].all < butOne(t.most) }

// fitsAgain reports whether it may for what has failed before.
func (t *turns) fitsAgain(place string) bool {
	return t.fits(place) && t.held[place].again < butOne(butOne(t.most)) && len(t.first.turns[place]) == 0
}

// next is whose turn it is.
func (t *turns) next() *turn {
	if t.all.again == 0 {
		if next := t.second.pop(t.fitsAgain); next != nil {
			return next
		}
	}
	if next := t.first.pop(t.fits); next != nil {
		return next
	}
	if t.all.again < butOne(t.most) {
		return t.second.pop(t.fitsAgain)
	}
	return nil
}

// untilWanted calls leave once if, now or later, the turn is found to be wanted for
// what waits too long. It stops looking when stop is called.
func (t *turns) untilWanted(own *turn, leave func()) (stop func()) {
	if own.again {
		return func() {}
	}
	if t.wanted(own) {
		leave()
		return func() {}
	}
	var mu sync.Mutex // guards timer and stopped
	var timer *time.Timer
	stopped := false
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case stopped:
		case t.wanted(own):
			leave()
		default:
			timer.Reset(yieldLook)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(yieldLook, look)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// gaveWay reports whether a turn was wanted for somebody else.
func (t *turns) gaveWay(own *turn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return own.leaving
}

// wanted reports whether somebody waits too long to whom it would help if a turn
// were given back, and who is not helped already; then that is counted on.
func (t *turns) wanted(own *turn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	late := t.now().Add(-lateAfter)
	helped := 0
	for place, waiting := range t.first.turns {
		if place != own.place && (t.all.all < t.most || !t.fits(place)) {
			continue
		}
		for _, w := range waiting {
			if w.due.After(late) {
				break // so are all behind it
			}
			helped++
		}
	}
	if helped <= t.leaving {
		return false
	}
	own.leaving = true
	t.leaving++
	return true
}

// queue is who waits: places in the order in which they are served, and in each
// what is due first.
type queue struct {
	places []string
	turns  map[string][]*turn
}

func (q *queue) add(t *turn) {
	if q.turns == nil {
		q.turns = make(map[string][]*turn)
	}
	waiting := q.turns[t.place]
	if len(waiting) == 0 {
		q.places = append(q.places, t.place)
	}
	i, _ := slices.BinarySearchFunc(waiting, t, func(w, t *turn) int { return cmp.Or(w.due.Compare(t.due), -1) })
	q.turns[t.place] = slices.Insert(waiting, i, t)
}

// pop takes out the first of the first place that fits, and puts that place last;
// nil if there is none.
func (q *queue) pop(fits func(place string) bool) *turn {
	i := slices.IndexFunc(q.places, fits)
	if i < 0 {
		return nil
	}
	place := q.places[i]
	next := q.turns[place][0]
	q.places = append(slices.Delete(q.places, i, i+1), place)
	q.remove(next)
	return next
}

// remove takes out one, and reports whether it was there.
func (q *queue) remove(t *turn) bool {
	waiting := q.turns[t.place]
	i := slices.Index(waiting, t)
	if i < 0 {
		return false
	}
	q.turns[t.place] = slices.Delete(waiting, i, i+1)
	if len(waiting) == 1 {
		delete(q.turns, t.place)
		i := slices.Index(q.places, t.place)
		q.places = slices.Delete(q.places, i, i+1)
	}
	return true
}
