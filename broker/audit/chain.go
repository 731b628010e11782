package audit

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// FaultKind is what is wrong with a record or a file.
type FaultKind string

// The faults that reading a journal finds.
const (
	Malformed      FaultKind = "malformed line"
	UnknownVersion FaultKind = "unknown version"
	HashMismatch   FaultKind = "hash mismatch"
	BrokenLink     FaultKind = "broken link"
	MissingRecord  FaultKind = "missing record"
	Reordered      FaultKind = "reordered record"
	Repeated       FaultKind = "repeated record"
	Foreign        FaultKind = "record of another broker"
	Duplicate      FaultKind = "duplicated file"
	WrongName      FaultKind = "wrong file name"
	TornTail       FaultKind = "torn tail"
)

// Fault names the first bad record of a chain. It is an error.
type Fault struct {
	Kind   FaultKind
	File   string
	Line   int    // 0: the file as a whole
	Seq    uint64 // number of the record that is bad, or should be there
	Detail string

	offset int64 // bytes of whole, good lines before it
}

// Error says where, which record, and what is wrong with it.
func (f *Fault) Error() string {
	where := f.File
	if f.Line > 0 {
		where += ":" + strconv.Itoa(f.Line)
	}
	return fmt.Sprintf("%s: seq %d: %s: %s", where, f.Seq, f.Kind, f.Detail)
}

// journalFile is a file whose name says that it belongs to a chain.
type journalFile struct {
	path  string
	chain chainID
	first uint64 // seq of its first record
}

const suffix = ".jsonl"

var fileNameRE = regexp.MustCompile(`\A([a-z0-9]{4})-([A-Za-z0-9][A-Za-z0-9._-]{0,62})-([0-9]{10,19})\.jsonl\z`)

func fileName(c chainID, first uint64) string {
	return fmt.Sprintf("%s-%010d%s", c, first, suffix)
}

func parseName(path string) (journalFile, error) {
	m := fileNameRE.FindStringSubmatch(filepath.Base(path))
	if m == nil {
		return journalFile{}, &Fault{Kind: WrongName, File: path,
			Detail: "a journal file is named <deployment>-<broker>-<seq>.jsonl"}
	}
	first, err := strconv.ParseUint(m[3], 10, 63)
	if err != nil || first == 0 {
		return journalFile{}, &Fault{Kind: WrongName, File: path, Detail: "the seq in its name is out of range"}
	}
	return journalFile{path, chainID{m[1], m[2]}, first}, nil
}

// listFolder finds the journal files of a folder, in order, and how many torn
// tails lie beside them. A .jsonl file of another name is a [Fault].
func listFolder(dir string) ([]journalFile, int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, err
	}
	var files []journalFile
	torn := 0
	for _, e := range entries {
		if strings.Contains(e.Name(), suffix+tornMark) {
			torn++
		}
		if e.IsDir() || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		f, err := parseName(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, 0, err
		}
		files = append(files, f)
	}
	slices.SortFunc(files, compareFiles)
	return files, torn, nil
}

func compareFiles(a, b journalFile) int {
	return cmp.Or(cmp.Compare(a.chain.deployment, b.chain.deployment),
		cmp.Compare(a.chain.broker, b.chain.broker),
		cmp.Compare(a.first, b.first), cmp.Compare(a.path, b.path))
}

// chains splits sorted files into runs of one chain each.
func chains(files []journalFile) [][]journalFile {
	var runs [][]journalFile
	for i, f := range files {
		if i == 0 || files[i-1].chain != f.chain {
			runs = append(runs, nil)
		}
		runs[len(runs)-1] = append(runs[len(runs)-1], f)
	}
	return runs
}

// walker goes along one chain and stops at the first fault. The zero walker
// takes the chain up where its first file begins.
type walker struct {
	next    uint64 // seq that must come; 0: nothing read yet
	head    Hash   // of the record before
	records uint64
}

// visitor is shown each good line; an error of its own ends the walk, and
// [errUnreadable] is a fault of the line.
type visitor func(h header, file string, line int) error

// file walks one file. Its error is a [*Fault], what the visitor returned, or
// a failure to read.
func (w *walker) file(f journalFile, visit visitor) error {
	if w.next == 0 {
		w.next = f.first
	}
	switch {
	case f.first > w.next:
		return &Fault{Kind: MissingRecord, File: f.path, Seq: w.next, Detail: fmt.Sprintf(
			"the file begins with seq %d: the records before it were cut off, or a file is missing", f.first)}
	case f.first < w.next:
		return &Fault{Kind: Duplicate, File: f.path, Seq: f.first,
			Detail: "the records from this one on have been read from another file already"}
	}
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	lines := newLineReader(in)
	for {
		at := lines.offset
		line, err := lines.next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, errTorn) {
			return &Fault{TornTail, f.path, lines.line, w.next, "the last line is incomplete: " +
				"writing it was cut off, or a broker is writing it now", at}
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", f.path, err)
		}
		if err := w.line(f, lines.line, line, visit); err != nil {
			return err
		}
	}
	if lines.line == 0 {
		return &Fault{TornTail, f.path, 0, w.next, "the file is empty", 0}
	}
	return nil
}

// line is the ladder that each record has to climb.
func (w *walker) line(f journalFile, number int, line []byte, visit visitor) error {
	fault := func(kind FaultKind, format string, args ...any) error {
		return &Fault{Kind: kind, File: f.path, Line: number, Seq: w.next, Detail: fmt.Sprintf(format, args...)}
	}
	h, err := parseLine(line)
	switch {
	case errors.Is(err, errVersion): // before the hash: another version may hash otherwise
		return fault(UnknownVersion, "%v", err)
	case errors.Is(err, errHash): // before seq and prev: what they say means nothing
		return fault(HashMismatch, "the line was changed after it was written")
	case err != nil:
		return fault(Malformed, "%v", err)
	case h.chain != f.chain: // a whole good record, moved here from another journal
		return fault(Foreign, "it belongs to %s", h.chain)
	case h.seq > w.next:
		if at := findSeq(f.path, w.next); at > 0 {
			return fault(Reordered, "seq %d stands here, and seq %d only at line %d", h.seq, w.next, at)
		}
		return fault(MissingRecord, "seq %d stands here", h.seq)
	case h.seq < w.next:
		return fault(Repeated, "seq %d stands here again", h.seq)
	case h.prev != w.head && (w.records > 0 || h.seq == 1): // what came before an archived part is not known
		return fault(BrokenLink, "prev is not the hash of the record before: that one was replaced")
	}
	if visit != nil {
		if err := visit(h, f.path, number); err != nil {
			if errors.Is(err, errUnreadable) {
				return fault(Malformed, "%v", err)
			}
			return err
		}
	}
	w.next, w.head, w.records = h.seq+1, h.hash, w.records+1
	return nil
}

// findSeq returns the line on which a file has a record of that number, or 0.
func findSeq(path string, seq uint64) int {
	in, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer func() { _ = in.Close() }()
	lines := newLineReader(in)
	for {
		line, err := lines.next()
		if err != nil {
			return 0
		}
		if h, err := parseFrame(line); err == nil && h.seq == seq {
			return lines.line
		}
	}
}

// errTorn: the input ends within a line.
var errTorn = errors.New("incomplete line")

// lineReader reads lines of bounded length and knows where they begin.
type lineReader struct {
	in     *bufio.Reader
	buf    []byte
	line   int   // number of the line that next returned
	offset int64 // where the next line begins
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{in: bufio.NewReaderSize(r, 64<<10)}
}

// next returns a line without its newline, valid until the next call. Of an
// overlong line only the first maxLine bytes are kept, which no record fits.
func (l *lineReader) next() ([]byte, error) {
	l.buf = l.buf[:0]
	for n := 0; ; {
		part, err := l.in.ReadSlice('\n')
		n += len(part)
		l.buf = append(l.buf, part[:min(len(part), maxLine-len(l.buf))]...)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF && n == 0:
			return nil, io.EOF
		case err == io.EOF:
			l.line++
			return nil, errTorn
		case err != nil:
			return nil, err
		}
		l.line++
		l.offset += int64(n)
		if n > maxLine {
			return l.buf, nil // without its end it parses as nothing
		}
		return l.buf[:n-1], nil
	}
}
