package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/daypass-dev/daypass/broker"
)

const (
	lockName = "lock"
	tornMark = ".torn-"
	queueLen = 1024
)

// Open takes the folder for this process, checks every chain in it, sets
// incomplete last lines aside, and writes a "started" record before it
// returns. Any other fault stops it, with a [*Fault] that names the record.
func Open(c Config) (*Journal, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	lock, err := takeFolder(c.Dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		Config: c, lock: lock,
		queue: make(chan pending, queueLen), closing: make(chan struct{}), done: make(chan struct{}),
		out: writer{
			disk: c.disk, dir: c.Dir, chain: chainID{c.Deployment, c.Broker},
			max: c.MaxFile, synced: c.OnSync, now: c.Now,
		},
	}
	if err := j.begin(); err != nil {
		return nil, errors.Join(err, j.out.close(), lock.Unlock())
	}
	go j.run()
	return j, nil
}

// takeFolder makes the folder and locks it against other processes.
func takeFolder(dir string) (*flock.Flock, error) {
	if err := makeFolder(dir); err != nil {
		return nil, cannotWrite(dir, err)
	}
	lock := flock.New(filepath.Join(dir, lockName), flock.SetFlag(os.O_CREATE|os.O_RDWR))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, cannotWrite(dir, err)
	}
	if !ok {
		return nil, fmt.Errorf("journal: %s is in use by another daypassd: give each broker its own data_dir", dir)
	}
	return lock, nil
}

// makeFolder makes a folder and those above it durably: a journal is worth
// nothing if a power cut takes its folder.
func makeFolder(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	above := filepath.Dir(dir)
	if above != dir {
		if err := makeFolder(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return osDisk{}.syncDir(above)
}

func cannotWrite(dir string, err error) error {
	return fmt.Errorf("journal: %s cannot be written, so nothing could be issued: "+
		"data_dir must be a folder that this user may write to: %w", dir, err)
}

// begin brings the chain's end back and appends the records of this start.
func (j *Journal) begin() error {
	last, torn, err := j.restore()
	if err != nil {
		return err
	}
	if err := j.takeUp(last); err != nil {
		return cannotWrite(j.Dir, err)
	}
	now := j.Now()
	first := append(torn, broker.Record{Event: broker.EventStarted, At: now})
	var bodies [][]byte
	for _, r := range first {
		b, err := encodeBody(r)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		bodies = append(bodies, b)
	}
	if j.history.First == 0 {
		j.history = History{Began: first[0].At, First: j.out.seq + 1}
	}
	if err := j.out.write(bodies); err != nil {
		return cannotWrite(j.Dir, err)
	}
	j.moved()
	return nil
}

// takeUp opens the last file for appending, or begins a new one. What an
// earlier process wrote and did not live to sync is synced first: this run's
// records stand on it.
func (j *Journal) takeUp(last string) error {
	if last == "" {
		return j.out.roll()
	}
	f, err := j.out.disk.extend(last)
	if err != nil {
		return err
	}
	j.out.file, j.out.path = f, last
	if err := f.Sync(); err != nil {
		return err
	}
	info, err := os.Stat(last)
	if err != nil {
		return err
	}
	j.out.acked = info.Size()
	return nil
}

// restore walks every chain of the folder: an earlier name of this broker may
// have left one, and replay protection is rebuilt from all of them. It returns
// the last file of this broker's own chain, and a record for each torn tail.
func (j *Journal) restore() (string, []broker.Record, error) {
	files, _, err := listFolder(j.Dir)
	if err != nil {
		return "", nil, broken(j.Dir, err)
	}
	var torn []broker.Record
	last := ""
	for _, run := range chains(files) {
		var w walker
		own := run[0].chain == j.out.chain
		for i, f := range run {
			err := w.file(f, j.firstOf(own, &w))
			var fault *Fault
			if i == len(run)-1 && errors.As(err, &fault) && fault.Kind == TornTail {
				r, err := setAside(fault, j.Now())
				if err != nil {
					return "", nil, cannotWrite(j.Dir, err)
				}
				j.Log.Warn("an incomplete last line was set aside", "file", fault.File, "seq", fault.Seq)
				torn = append(torn, r)
				if fault.offset == 0 {
					continue // the whole file was set aside
				}
			} else if err != nil {
				return "", nil, broken(j.Dir, err)
			}
			if own {
				last = f.path
			}
		}
		if own { // even without a record the numbers go on: older files may have been archived
			j.out.seq, j.out.head = w.next-1, w.head
		}
	}
	return last, torn, nil
}

// firstOf notes when this broker's own history begins. Other records are
// checked by their hashes alone, which is quicker than decoding them.
func (j *Journal) firstOf(own bool, w *walker) visitor {
	return func(h header, _ string, _ int) error {
		if !own || w.records > 0 {
			return nil
		}
		r, err := h.record()
		if err != nil {
			return err
		}
		j.history = History{Began: r.At, First: h.seq}
		return nil
	}
}

func broken(dir string, err error) error {
	return fmt.Errorf("journal: the history in %s does not hold together, so the broker does not start: %w "+
		"(keep the folder as it is for whoever looks into it, and give the broker an empty one to start anew)", dir, err)
}

// setAside moves an incomplete last line to a file beside the journal's, and
// cuts the journal back to its last whole line.
func setAside(f *Fault, now time.Time) (broker.Record, error) {
	aside := f.File + tornMark + now.UTC().Format("20060102T150405.000000000Z")
	r := broker.Record{Event: broker.EventTornTail, At: now, Reason: "incomplete_line",
		Detail: fmt.Sprintf("what was to be seq %d of %s was set aside as %s",
			f.Seq, filepath.Base(f.File), filepath.Base(aside))}
	var d osDisk
	dir := filepath.Dir(f.File)
	if f.offset == 0 {
		return r, errors.Join(os.Rename(f.File, aside), d.syncDir(dir))
	}
	if err := copyTail(f.File, f.offset, aside); err != nil {
		return r, err
	}
	return r, errors.Join(d.syncDir(dir), d.cut(f.File, f.offset))
}

func copyTail(from string, offset int64, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if _, err := in.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	out, err := osDisk{}.create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(struct{ io.Writer }{out}, in)
	return errors.Join(err, out.Sync(), out.Close())
}
