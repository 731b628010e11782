package audit

import (
	"errors"
	"path/filepath"
	"time"
)

// writer appends lines to a chain's newest file. It is used by one goroutine.
//
// What a file holds up to acked was fsynced without an error. After an error
// nothing else in it is trusted: the kernel may report a lost write once and
// then call the page clean.
type writer struct {
	disk   disk
	dir    string
	chain  chainID
	max    int64 // bytes after which a new file is begun
	synced func(took time.Duration)
	now    func() time.Time

	file  file   // nil after an error, until repaired
	path  string // the file's; empty before the first
	acked int64  // its bytes that are known to be durable
	seq   uint64 // of the last durable record
	head  Hash   // its hash
	buf   []byte
}

// errShut: an earlier error has not been repaired yet.
var errShut = errors.New("the journal file was given up after an error")

// write appends records as one write and one fsync, all or none as far as the
// caller may rely on it. After an error only repair may be called.
func (w *writer) write(bodies [][]byte) error {
	if w.file == nil {
		return errShut
	}
	buf, seq, head := w.buf[:0], w.seq, w.head
	for _, b := range bodies {
		seq++
		buf, head = appendLine(buf, w.chain, seq, head, b)
	}
	if w.acked > 0 && w.acked+int64(len(buf)) > w.max {
		if err := w.roll(); err != nil {
			return err
		}
	}
	if _, err := w.file.Write(buf); err != nil {
		return err
	}
	start := w.now()
	if err := w.file.Sync(); err != nil {
		return err
	}
	w.synced(w.now().Sub(start))
	w.acked, w.seq, w.head = w.acked+int64(len(buf)), seq, head
	w.buf = nil
	if cap(buf) <= maxLine {
		w.buf = buf
	}
	return nil
}

// roll goes on in a new file. The old one is durable as it is.
func (w *writer) roll() error {
	path := filepath.Join(w.dir, fileName(w.chain, w.seq+1))
	f, err := w.disk.create(path)
	if err != nil {
		return err
	}
	_ = w.close()
	w.file, w.path, w.acked = f, path, 0
	return w.disk.syncDir(w.dir)
}

// reserve is the room that must be free before a journal that failed is used
// again; without it a nearly full disk would be tried and given up in turns.
const reserve = 1 << 20

// repair leaves the file that failed with what is known to be durable, and
// goes on in a new file that begins with the given record.
func (w *writer) repair(body []byte) error {
	_ = w.close() // it has failed already
	if err := w.giveUp(); err != nil {
		return err
	}
	if err := w.disk.room(w.dir, reserve); err != nil {
		return err
	}
	if err := w.roll(); err != nil {
		return err
	}
	return w.write([][]byte{body})
}

// giveUp takes away what was never acknowledged, so that the chain does not
// fork. A file without any acknowledged record goes altogether.
func (w *writer) giveUp() error {
	switch {
	case w.path == "":
		return nil
	case w.acked > 0:
		return w.disk.cut(w.path, w.acked)
	}
	return errors.Join(w.disk.remove(w.path), w.disk.syncDir(w.dir))
}

func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}
