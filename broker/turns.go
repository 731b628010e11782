package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// errBusy says that a revocation did not come to its turn: nothing was tried.
var errBusy = errors.New("the target is busy with other revocations")

// turns lets so many revocations of one target run at once. A revocation can take
// as long as it may, again at every try, and whose it is decides that: a job may
// leave much behind, in each of its credentials. So turns are shared:
//
//   - no place (see [Identity.Place]) has the last one;
//   - what has failed before never has the last one either, and waits for what has
//     not, but for one turn;
//   - places that wait are served one after the other.
//
// Where there is only one turn the first two cannot be. Safe for concurrent use.
type turns struct {
	most int // at once

	mu     sync.Mutex // guards what follows
	held   map[string]int
	all    int // held
	again  int // of these, by what has failed before
	first  queue
	second queue // of what has failed before
}

// turn is one that somebody waits for, or has.
type turn struct {
	place string
	again bool          // what it is for has failed before
	mine  chan struct{} // closed when it is had
}

func newTurns(most int) *turns { return &turns{most: most, held: make(map[string]int)} }

// take waits for a turn for a lease, until ctx ends, and returns how to give it
// back.
func (t *turns) take(ctx context.Context, l Lease) (giveBack func(), err error) {
	own := &turn{place: l.Place, again: l.Attempts > 0, mine: make(chan struct{})}
	t.mu.Lock()
	t.line(own).add(own)
	t.hand()
	t.mu.Unlock()
	select {
	case <-own.mine:
		return func() { t.giveBack(own) }, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	waits := t.line(own).remove(own)
	t.mu.Unlock()
	if !waits { // it came in the same moment
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
	t.all--
	if own.again {
		t.again--
	}
	if t.held[own.place]--; t.held[own.place] == 0 {
		delete(t.held, own.place)
	}
	t.hand()
}

// hand gives out the turns that are free. The caller holds the lock.
func (t *turns) hand() {
	for t.all < t.most {
		next := t.next()
		if next == nil {
			return
		}
		t.all++
		t.held[next.place]++
		if next.again {
			t.again++
		}
		close(next.mine)
	}
}

// next is whose turn it is.
func (t *turns) next() *turn {
	butOne := max(1, t.most-1)
	fits := func(place string) bool { return t.held[place] < butOne }
	if t.again == 0 {
		if next := t.second.pop(fits); next != nil {
			return next
		}
	}
	if next := t.first.pop(fits); next != nil {
		return next
	}
	if t.again < butOne {
		return t.second.pop(fits)
	}
	return nil
}

// queue is who waits: places in the order in which they are served, and in each
// who came first.
type queue struct {
	places []string
	turns  map[string][]*turn
}

func (q *queue) add(t *turn) {
	if q.turns == nil {
		q.turns = make(map[string][]*turn)
	}
	if len(q.turns[t.place]) == 0 {
		q.places = append(q.places, t.place)
	}
	q.turns[t.place] = append(q.turns[t.place], t)
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
		q.places = slices.Delete(q.places, slices.Index(q.places, t.place), slices.Index(q.places, t.place)+1)
	}
	return true
}
