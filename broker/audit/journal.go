package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"

	"github.com/daypass-dev/daypass/broker"
)

// Config is what a [Journal] is made of. OnSync and MaxFile may be left out.
type Config struct {
	Dir        string // the journal's own folder, data_dir/journal; made if absent
	Deployment string // four lower-case letters or digits
	Broker     string // this broker's name: letters, digits, dot, dash, underscore; at most 63
	Now        func() time.Time
	Log        *slog.Logger
	OnSync     func(took time.Duration) // told of each fsync, by the goroutine that waits for the next: must be quick
	MaxFile    int64                    // bytes after which a new file is begun; default 64 MiB

	disk disk // the operating system's, unless a test gives another
}

var brokerNameRE = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z`)

func (c *Config) check() error {
	var faults []error
	if c.Dir == "" || c.Now == nil || c.Log == nil {
		faults = append(faults, errors.New("no folder, clock or log is given"))
	}
	if err := broker.CheckDeployment(c.Deployment); err != nil {
		faults = append(faults, err)
	}
	if !brokerNameRE.MatchString(c.Broker) {
		faults = append(faults, fmt.Errorf(
			"broker must be a name of letters, digits, '.', '-' and '_', at most 63; it is %q", c.Broker))
	}
	if c.OnSync == nil {
		c.OnSync = func(time.Duration) {}
	}
	if c.MaxFile <= 0 {
		c.MaxFile = 64 << 20
	}
	if c.disk == nil {
		c.disk = osDisk{}
	}
	return errors.Join(faults...)
}

// Journal implements [broker.Journal]. Safe for concurrent use.
type Journal struct {
	Config
	lock    *flock.Flock
	history History

	queue   chan pending
	notes   notes
	closing chan struct{} // closed when nothing more is taken
	done    chan struct{} // closed when the writing goroutine is gone
	once    sync.Once
	closed  error // what the last writes said; read after done

	sick atomic.Pointer[suspension] // why nothing can be appended
	busy atomic.Int64               // when the write under way began, in Unix nanoseconds; 0: none
	head atomic.Pointer[Head]

	// Owned by the goroutine that writes.
	out     writer
	outbox  []broker.Record // notes that are due
	retry   *time.Timer
	backoff time.Duration
}

var _ broker.Journal = (*Journal)(nil)

// pending is a record that somebody waits for.
type pending struct {
	body   []byte
	urgent bool
	done   chan error // buffered
}

// urgent reports whether a record is written as soon as the disk takes it. That
// a credential is gone gates nothing: such records may wait a little for each
// other. Thousands can end in one second, and a sync for each would take the
// disk from those who wait for a credential.
func urgent(e broker.Event) bool { return e != broker.EventRevoked && e != broker.EventOrphan }

// suspension is a time in which nothing can be appended.
type suspension struct {
	err     error
	since   time.Time
	refused atomic.Int64
}

// hung is how long one write may take before [Journal.Healthy] says so.
const hung = 10 * time.Second

// Append implements [broker.Journal]. Many callers share one write and one
// fsync. Once a record is queued the end of ctx no longer keeps it out: only
// the caller stops waiting. Errors are an [*broker.Error], with
// [broker.Unavailable] unless the record itself cannot be encoded.
func (j *Journal) Append(ctx context.Context, r broker.Record) error {
	if r.At.IsZero() {
		r.At = j.Now()
	}
	body, err := encodeBody(r)
	if err != nil {
		return &broker.Error{Code: broker.Internal, Reason: "journal_record",
			Public: "something went wrong on our side", Err: err}
	}
	if s := j.sick.Load(); s != nil {
		s.refused.Add(1)
		return unavailable(s.err)
	}
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	p := pending{body, urgent(r.Event), make(chan error, 1)}
	select {
	case <-j.closing:
		return unavailable(errClosed)
	default:
	}
	select {
	case j.queue <- p:
	case <-j.closing:
		return unavailable(errClosed)
	case <-ctx.Done():
		return unavailable(fmt.Errorf("waiting for room in the queue: %w", ctx.Err()))
	}
	select {
	case err = <-p.done:
	case <-ctx.Done():
		err = fmt.Errorf("waiting for the disk: %w", ctx.Err())
	case <-j.done:
		select {
		case err = <-p.done: // answered just before the writer left
		default:
			err = errClosed
		}
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

var errClosed = errors.New("the journal is closed")

func unavailable(cause error) error {
	return &broker.Error{Code: broker.Unavailable, Reason: "journal",
		Public:     "the audit journal cannot be written now",
		RetryAfter: 5 * time.Second, Err: fmt.Errorf("journal: %w", cause)}
}

// Note implements [broker.Journal]. Notes are written each minute and when the
// journal is closed; up to 1,024 kinds of them are kept meanwhile, and the rest
// is counted in one "dropped" record. The record is not to be changed after.
func (j *Journal) Note(r broker.Record) {
	if r.At.IsZero() {
		r.At = j.Now()
	}
	j.notes.add(r)
}

// Healthy implements [broker.Journal].
func (j *Journal) Healthy() error {
	select {
	case <-j.closing:
		return errClosed
	default:
	}
	if s := j.sick.Load(); s != nil {
		return fmt.Errorf("journal suspended since %s: %w", s.since.UTC().Format(time.RFC3339), s.err)
	}
	if began := j.busy.Load(); began != 0 {
		if took := j.Now().Sub(time.Unix(0, began)); took > hung {
			return fmt.Errorf("a write to the journal has not returned for %s", took.Round(time.Second))
		}
	}
	return nil
}

// Head returns the last durable record: to be kept where this broker cannot
// change it.
func (j *Journal) Head() Head { return *j.head.Load() }

// History is how far back a broker's own records reach without a gap.
type History struct {
	Began time.Time // time of the oldest record
	First uint64    // its number; 1: nothing was taken away from the beginning
}

// History returns what [Open] found, or the beginning of a new journal. A
// folder that was wiped looks like a new broker's: what came before Began is
// not known, whatever First says.
func (j *Journal) History() History { return j.history }

// Spans reports whether the intact history reaches back to since: every token
// that this broker accepted after since is in it. Where it does not, replay
// protection that is rebuilt from the journal must refuse tokens issued before
// [History].Began.
func (j *Journal) Spans(since time.Time) bool { return !j.history.Began.After(since) }

// Close writes what is queued, the notes and a "stopped" record, and gives the
// folder free. If ctx ends first it returns; the writing goroutine still ends
// as soon as the disk lets it. Further calls return the same.
func (j *Journal) Close(ctx context.Context) error {
	j.once.Do(func() { close(j.closing) })
	select {
	case <-j.done:
		return j.closed
	case <-ctx.Done():
		return fmt.Errorf("close journal: %w", ctx.Err())
	}
}
