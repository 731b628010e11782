package audit

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Bounds of one write, of the time that records which are not urgent wait for
// others, and of the pauses between attempts at repair.
const (
	maxBatch   = 512
	maxBytes   = 4 << 20
	notesAside = 16 // notes that ride along while others wait
	patience   = 3 * time.Millisecond
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
)

// run is the one goroutine that writes.
func (j *Journal) run() {
	defer close(j.done)
	minute := time.NewTicker(noteWindow)
	defer minute.Stop()
	j.retry = time.NewTimer(0)
	j.retry.Stop()
	defer j.retry.Stop()
	due := make(chan struct{})
	close(due)
	for {
		var notesDue chan struct{} // nil: never ready
		if len(j.outbox) > 0 && j.sick.Load() == nil {
			notesDue = due
		}
		select {
		case p := <-j.queue:
			j.commit(j.gather(p), notesAside)
		case <-notesDue:
			select {
			case p := <-j.queue: // select is fair, and notes are to be behind
				j.commit(j.gather(p), notesAside)
			default:
				j.commit(nil, maxBatch)
			}
		case <-minute.C:
			if len(j.outbox) == 0 { // otherwise they go on being gathered, within bounds
				j.outbox = j.notes.take(j.Now())
			}
		case <-j.retry.C:
			j.repair()
		case <-j.closing:
			j.closed = j.finish()
			return
		}
	}
}

// gather takes along what else is queued, without waiting for more: while one
// batch is being synced, the next gathers by itself. Only a batch in which
// nothing is urgent waits, for company or for its time to be up.
func (j *Journal) gather(first pending) []pending {
	batch, size, hurry := []pending{first}, len(first.body), first.urgent
	var timeUp <-chan time.Time
	if !hurry {
		t := time.NewTimer(patience)
		defer t.Stop()
		timeUp = t.C
	}
	for len(batch) < maxBatch && size < maxBytes {
		var p pending
		select {
		case p = <-j.queue:
		default:
			if hurry {
				return batch
			}
			select {
			case p = <-j.queue:
			case <-timeUp:
				return batch
			}
		}
		batch, size, hurry = append(batch, p), size+len(p.body), hurry || p.urgent
	}
	return batch
}

// commit writes a batch, and up to n notes behind it, and answers everybody.
func (j *Journal) commit(batch []pending, n int) {
	err := j.suspended()
	if err == nil {
		err = j.write(batch, n)
	}
	if s := j.sick.Load(); s != nil {
		s.refused.Add(int64(len(batch)))
	}
	for _, p := range batch {
		p.done <- err
	}
	// They go on first: the next write holds this processor until the disk has
	// it, and what they append next is then written with it.
	runtime.Gosched()
}

func (j *Journal) suspended() error {
	if s := j.sick.Load(); s != nil {
		return s.err
	}
	return nil
}

func (j *Journal) write(batch []pending, n int) error {
	bodies := make([][]byte, 0, len(batch)+min(n, len(j.outbox)))
	for _, p := range batch {
		bodies = append(bodies, p.body)
	}
	n = min(n, len(j.outbox))
	for _, r := range j.outbox[:n] {
		b, err := encodeBody(r)
		if err != nil { // it was encoded when it was noted
			j.Log.Error("a note cannot be encoded", "event", r.Event, "err", err)
			continue
		}
		bodies = append(bodies, b)
	}
	if len(bodies) > 0 {
		if err := j.store(bodies); err != nil {
			return err
		}
	}
	j.outbox = j.outbox[n:]
	return nil
}

// store writes, and suspends the journal if that fails.
func (j *Journal) store(bodies [][]byte) error {
	j.busy.Store(max(j.Now().UnixNano(), 1))
	err := j.out.write(bodies)
	j.busy.Store(0)
	if err != nil {
		j.suspend(err)
		return err
	}
	j.backoff = 0
	j.moved()
	return nil
}

// moved publishes the new end of the chain.
func (j *Journal) moved() {
	j.head.Store(&Head{j.Deployment, j.Broker, j.out.seq, j.out.head})
}

// suspend refuses everything from now on, until a repair succeeds; the first
// is tried at once.
func (j *Journal) suspend(err error) {
	j.sick.Store(&suspension{err: err, since: j.Now()})
	j.Log.Error("the audit journal cannot be written: nothing is issued until it can", "dir", j.Dir, "err", err)
	j.retryLater()
}

func (j *Journal) retryLater() {
	j.retry.Reset(j.backoff)
	j.backoff = min(max(2*j.backoff, minBackoff), maxBackoff)
}

// repair goes on in a new file, whose first record says for how long and why
// nothing could be written.
func (j *Journal) repair() {
	s := j.sick.Load()
	now := j.Now()
	refused := s.refused.Load()
	body, err := encodeBody(broker.Record{
		Event: broker.EventSuspended, At: now, Reason: "write_failed", Count: int(refused),
		Detail: fmt.Sprintf("nothing could be written since %s: %v", s.since.UTC().Format(time.RFC3339), s.err),
	})
	if err == nil {
		j.busy.Store(max(now.UnixNano(), 1))
		err = j.out.repair(body)
		j.busy.Store(0)
	}
	if err != nil {
		j.Log.Debug("the audit journal still cannot be written", "dir", j.Dir, "err", err)
		j.retryLater()
		return
	}
	j.moved()
	j.sick.Store(nil)
	j.Log.Info("the audit journal is written again", "dir", j.Dir, "refused", refused)
}

// finish writes all that is left and gives the folder free.
func (j *Journal) finish() error {
	for more := true; more; {
		select {
		case p := <-j.queue:
			j.commit(j.gather(p), 0)
		default:
			more = false
		}
	}
	j.outbox = append(j.outbox, j.notes.take(j.Now())...)
	j.outbox = append(j.outbox, broker.Record{Event: broker.EventStopped, At: j.Now()})
	if j.sick.Load() != nil {
		j.repair()
	}
	var err error
	for len(j.outbox) > 0 && err == nil {
		if err = j.suspended(); err == nil {
			err = j.write(nil, maxBatch)
		}
	}
	if err != nil {
		err = fmt.Errorf("close journal: %d records could not be written: %w", len(j.outbox), err)
	}
	return errors.Join(err, j.out.close(), j.lock.Unlock())
}
