package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// badDisk is the operating system's disk with a limit on what it holds, fsyncs
// that fail, and fsyncs that take their time.
type badDisk struct {
	osDisk
	mu       sync.Mutex
	full     bool          // no byte more can be written
	partial  int           // when full: bytes of a write that still fit
	syncs    int           // so many coming fsyncs fail
	slow     time.Duration // how long an fsync takes
	noCreate bool
}

func (d *badDisk) set(change func(*badDisk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *badDisk) create(path string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.noCreate {
		return nil, syscall.EROFS
	}
	f, err := d.osDisk.create(path)
	return badFile{f, d}, err
}

func (d *badDisk) extend(path string) (file, error) {
	f, err := d.osDisk.extend(path)
	return badFile{f, d}, err
}

func (d *badDisk) room(dir string, n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return syscall.ENOSPC
	}
	return d.osDisk.room(dir, n)
}

type badFile struct {
	file
	disk *badDisk
}

func (f badFile) Write(b []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.full {
		n, _ := f.file.Write(b[:min(f.disk.partial, len(b))])
		return n, syscall.ENOSPC
	}
	return f.file.Write(b)
}

func (f badFile) Sync() error {
	f.disk.mu.Lock()
	slow, fails := f.disk.slow, f.disk.syncs > 0
	if fails {
		f.disk.syncs--
	}
	f.disk.mu.Unlock()
	time.Sleep(slow)
	if fails {
		return syscall.EIO
	}
	return f.file.Sync()
}

func onBadDisk(t *testing.T) (*Journal, *badDisk, string) {
	t.Helper()
	d := &badDisk{}
	c := config(t.TempDir())
	c.disk = d
	return open(t, c), d, c.Dir
}

func issued(n int) broker.Record {
	return broker.Record{Event: broker.EventIssued, Request: fmt.Sprint(n)}
}

func TestAFullDiskRefusesAndRecoversWhenThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d, dir := onBadDisk(t)
		mustAppend(t, j, issued(1))
		d.set(func(d *badDisk) { d.full, d.partial = true, 100 }) // half a line gets there
		err := j.Append(t.Context(), issued(2))
		if broker.CodeOf(err) != broker.Unavailable || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("got %v", err)
		}
		time.Sleep(10 * time.Minute)
		if err := j.Append(t.Context(), issued(3)); err == nil {
			t.Fatal("appended to a full disk")
		}
		if err := j.Healthy(); err == nil || !strings.Contains(err.Error(), "suspended") {
			t.Fatalf("healthy on a full disk: %v", err)
		}
		d.set(func(d *badDisk) { d.full = false })
		time.Sleep(maxBackoff + time.Second)
		if err := j.Healthy(); err != nil {
			t.Fatalf("room is back: %v", err)
		}
		mustAppend(t, j, issued(4))
		mustClose(t, j)

		all := history(t, dir)
		if got := events(t, dir); got != "started issued suspended issued stopped " {
			t.Fatalf("journal says %s", got)
		}
		if s := all[2]; s.Line != 1 || s.Count != 2 || !strings.Contains(s.Detail, "no space left") {
			t.Errorf("suspended says %+v", s)
		}
		if all[1].Request != "1" || all[3].Request != "4" {
			t.Errorf("the wrong records are there")
		}
		if r, err := verify(dir); err != nil || r.Torn != 0 {
			t.Errorf("%+v %v", r, err)
		}
	})
}

func TestAfterAFailedFsyncTheFileIsNotTrustedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d, dir := onBadDisk(t)
		mustAppend(t, j, issued(1))
		before := j.out.path
		d.set(func(d *badDisk) { d.syncs = 3 }) // the write, and two repairs
		if err := j.Append(t.Context(), issued(2)); !errors.Is(err, syscall.EIO) {
			t.Fatalf("got %v", err)
		}
		synctest.Wait() // the first repair has failed too
		if err := j.Append(t.Context(), issued(10)); !errors.Is(err, syscall.EIO) {
			t.Fatalf("before a repair was synced: %v", err)
		}
		time.Sleep(maxBackoff)
		mustAppend(t, j, issued(3))
		mustClose(t, j)
		for _, e := range history(t, dir) {
			if e.Request == "2" {
				t.Error("a record that was refused is in the journal")
			}
			if e.Request == "3" && e.File == before {
				t.Error("the file whose fsync failed was written again")
			}
		}
		if got := events(t, dir); !strings.Contains(got, "issued suspended issued") {
			t.Errorf("journal says %s", got)
		}
	})
}

func TestEveryWaiterOfAFailedBatchIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d, dir := onBadDisk(t)
		d.set(func(d *badDisk) { d.syncs, d.slow = 1, time.Second })
		var failed, fine int
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				err := j.Append(context.Background(), issued(i))
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
				} else {
					fine++
				}
			})
		}
		all.Wait()
		if failed == 0 || failed+fine != 100 {
			t.Errorf("%d failed, %d fine", failed, fine)
		}
		time.Sleep(time.Minute)
		mustClose(t, j)
		kept := strings.Count(events(t, dir), "issued")
		if kept != fine {
			t.Errorf("%d records are there, %d were acknowledged", kept, fine)
		}
	})
}

func TestAJournalThatFailsToBeginANewFileRefusesAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &badDisk{}
		c := config(t.TempDir())
		c.disk, c.MaxFile = d, 900
		j := open(t, c)
		mustAppend(t, j, issued(1))
		d.set(func(d *badDisk) { d.noCreate = true })
		var err error
		for n := 2; err == nil && n < 10; n++ {
			err = j.Append(t.Context(), issued(n))
		}
		if !errors.Is(err, syscall.EROFS) {
			t.Fatalf("got %v", err)
		}
		d.set(func(d *badDisk) { d.noCreate = false })
		time.Sleep(maxBackoff)
		mustAppend(t, j, issued(99))
		mustClose(t, j)
		if got := events(t, c.Dir); !strings.Contains(got, "suspended issued stopped") {
			t.Errorf("journal says %s", got)
		}
	})
}

func TestAJournalClosedWhileSickSaysWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d, dir := onBadDisk(t)
		d.set(func(d *badDisk) { d.full, d.partial = true, 50 })
		if err := j.Append(t.Context(), issued(1)); err == nil {
			t.Fatal("appended")
		}
		if err := j.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "could not be written") {
			t.Errorf("got %v", err)
		}
		mustClose(t, open(t, config(dir)))
		if got := events(t, dir); got != "started started stopped " && got != "started torn_tail started stopped " {
			t.Errorf("journal says %s", got)
		}
	})
}

func TestAppendHonoursItsContextWhileTheDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d, dir := onBadDisk(t)
		d.set(func(d *badDisk) { d.slow = time.Minute })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		err := j.Append(ctx, issued(1))
		if !errors.Is(err, context.DeadlineExceeded) || broker.CodeOf(err) != broker.Unavailable {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("waited %s", took)
		}
		time.Sleep(hung)
		if err := j.Healthy(); err == nil || !strings.Contains(err.Error(), "has not returned") {
			t.Errorf("a hung disk is called healthy: %v", err)
		}
		canceled, cancel2 := context.WithCancel(t.Context())
		cancel2()
		if err := j.Append(canceled, issued(2)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		d.set(func(d *badDisk) { d.slow = 0 })
		mustClose(t, j)
		if got := events(t, dir); got != "started issued stopped " { // the first was queued, so it is there
			t.Errorf("journal says %s", got)
		}
	})
}

func TestAFullQueueHonoursTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d, _ := onBadDisk(t)
		d.set(func(d *badDisk) { d.slow = time.Hour })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		errs := make(chan error, queueLen+200)
		for n := range cap(errs) {
			go func() { errs <- j.Append(ctx, issued(n)) }()
		}
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
		}
		mustClose(t, j)
	})
}

func TestNotesNeverKeepAppendWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d, dir := onBadDisk(t)
		const sync = 10 * time.Millisecond
		for n := range maxNotes {
			j.Note(broker.Record{Event: broker.EventRefused, Reason: fmt.Sprint(n)})
		}
		d.set(func(d *badDisk) { d.slow = sync })
		time.Sleep(noteWindow - time.Millisecond)
		for range 20 { // across the moment at which the notes are due
			start := time.Now()
			mustAppend(t, j, issued(1))
			if took := time.Since(start); took > 2*sync {
				t.Errorf("an append waited %s behind notes", took)
			}
		}
		mustClose(t, j)
		if n := strings.Count(events(t, dir), "refused"); n != maxNotes {
			t.Errorf("%d notes were written, want %d", n, maxNotes)
		}
	})
}

func TestManyOfTheSameBecomeOneCountedRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, _, dir := onBadDisk(t)
		note := func(owner, repo, reason string) broker.Record {
			return broker.Record{Event: broker.EventDenied, Reason: reason, Issuer: "github",
				Token: broker.NewTokenID("github", repo), Job: &broker.Job{OwnerID: owner, RepositoryID: repo}}
		}
		for n := range 500 { // one owner with many repositories is one stranger
			j.Note(note("666", fmt.Sprint(n), "denied_stranger"))
		}
		j.Note(note("777", "1", "denied_stranger"))
		j.Note(note("777", "1", "rate_limited"))
		for _, id := range []string{"a", "a", "b"} {
			j.Note(broker.Record{Event: broker.EventReused, Reason: "token_reused", Issuer: "github",
				Token: broker.NewTokenID("github", id), Job: &broker.Job{OwnerID: "1"}})
		}
		time.Sleep(noteWindow + time.Second)
		j.Note(note("666", "1", "denied_stranger")) // a new minute, a new record
		mustClose(t, j)
		var counts []int
		for _, e := range history(t, dir) {
			if e.Event == broker.EventDenied || e.Event == broker.EventReused {
				counts = append(counts, e.Count)
			}
		}
		if fmt.Sprint(counts) != "[500 0 0 2 0 0]" {
			t.Errorf("counts %v", counts)
		}
	})
}

func TestNotesPastTheBoundAreCountedInOneRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, _, dir := onBadDisk(t)
		huge := strings.Repeat("x", maxNote)
		many := slices.Repeat([]broker.Reported{{Grant: "db", Rule: "trial/less", Effect: broker.EffectDeny}}, maxNote/10)
		j.Note(broker.Record{Event: broker.EventRefused, Reason: "big", // kept, slimmed
			Claims: broker.Claims{"x": huge}, DeniedBy: many, Reported: many})
		j.Note(broker.Record{Event: broker.EventRefused, Reason: "huge", Detail: huge}) // dropped
		for n := range maxNotes + 99 {
			j.Note(broker.Record{Event: broker.EventRefused, Reason: fmt.Sprint(n)})
		}
		j.Note(broker.Record{Event: broker.EventRefused, Reason: "7"}) // known: still counted where it belongs
		if n := len(j.notes.kept); n != maxNotes {
			t.Errorf("%d notes are kept in memory", n)
		}
		mustClose(t, j)
		all := history(t, dir)
		last := all[len(all)-2]
		if last.Event != broker.EventDropped || last.Count != 101 {
			t.Errorf("%s, count %d", last.Event, last.Count)
		}
		if all[9].Reason != "7" || all[9].Count != 2 {
			t.Errorf("%+v", all[9])
		}
	})
}

func TestNotesSurviveASuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d, dir := onBadDisk(t)
		d.set(func(d *badDisk) { d.full = true })
		j.Note(broker.Record{Event: broker.EventRefused, Reason: "first"})
		time.Sleep(noteWindow + time.Second) // due, and fails
		if j.Healthy() == nil {
			t.Error("a note that cannot be written leaves the journal healthy")
		}
		j.Note(broker.Record{Event: broker.EventRefused, Reason: "second"})
		time.Sleep(5 * noteWindow)
		d.set(func(d *badDisk) { d.full = false })
		time.Sleep(2 * noteWindow)
		mustClose(t, j)
		if got := events(t, dir); got != "started suspended refused refused stopped " {
			t.Errorf("journal says %s", got)
		}
	})
}
