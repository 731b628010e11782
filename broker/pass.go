package broker

import (
	"context"
	"sync"
	"time"
)

// A shift is who works, and until when.
type shift struct {
	crew *sync.WaitGroup
	over <-chan time.Time // nil: until all is done
}

// result is what came of one piece of work.
type result int

const (
	gone result = iota
	failed
	skipped
)

// work does it to each of several, in order, as many at once as the target
// takes, and returns how many are gone. It stops early where the target is
// lost: where it was lost before, after the first that fails. Where the shift is
// over before all is done it says so at once, with some of the crew at work still.
func work[T any](ctx context.Context, b *Broker, ln *lane, s shift, all []T, do func(T) result) (n int, ended bool) {
	p := &pass{b: b, ln: ln, over: s.over, patience: lostAfter}
	todo, done := make(chan T), make(chan struct{})
	var own sync.WaitGroup
	for range min(crewFactor*ln.info.Revokers, len(all)) {
		own.Add(1)
		s.crew.Go(func() {
			defer own.Done()
			for one := range todo {
				p.count(do(one))
			}
		})
	}
	ended = handOut(ctx, p, all, todo, do)
	close(todo)
	if ended {
		go func() { own.Wait(); close(done) }()
		select {
		case <-done:
		case <-s.over:
			ended = false
		}
	}
	return p.goneBy(), ended
}

// handOut hands out work, and reports whether the shift lasts as long as that.
func handOut[T any](ctx context.Context, p *pass, all []T, todo chan<- T, do func(T) result) bool {
	for _, one := range all {
		if ctx.Err() != nil || !p.goesOn(ctx) {
			return true
		}
		if !p.ln.lost().IsZero() { // one at a time
			r := do(one)
			if r == failed {
				return true
			}
			p.count(r)
			continue
		}
		select {
		case todo <- one:
		case <-p.over:
			return false
		}
	}
	return true
}

// pass is one pass over a target, and what came of it so far.
type pass struct {
	b    *Broker
	ln   *lane
	over <-chan time.Time

	mu       sync.Mutex // guards what is below
	gone     int
	inRow    int // failures
	patience int // how many of them in a row before the target is asked whether it is there
}

func (p *pass) count(r result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r {
	case gone:
		p.gone++
		p.inRow = 0
	case failed:
		p.inRow++
	}
}

func (p *pass) goneBy() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone
}

// tired reports whether so many failed in a row that the target may be lost,
// and takes twice as many to say so again.
func (p *pass) tired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inRow < p.patience {
		return false
	}
	p.inRow, p.patience = 0, 2*p.patience
	return true
}

// goesOn reports whether a pass should. What fails may do so for reasons of its
// own, and many such must not keep the rest waiting; so after some failures in
// a row the target is asked for a sign of life. One that cannot list has no way
// to give any, and is left alone until the next pass.
func (p *pass) goesOn(ctx context.Context) bool {
	if !p.tired() {
		return true
	}
	held, err := p.b.held(ctx, p.ln)
	return err == nil && held != nil
}
