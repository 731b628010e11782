package audit

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Head is the end of a chain: what to keep elsewhere, so that a later cut or
// rewrite shows.
type Head struct {
	Deployment string `json:"deployment"`
	Broker     string `json:"broker"`
	Seq        uint64 `json:"seq"` // 0: the chain has no record yet
	Hash       Hash   `json:"hash"`
}

// ChainReport is what [Verify] found of one broker's history.
type ChainReport struct {
	Head                // of the last good record
	Files     int       `json:"files"`
	Records   uint64    `json:"records"` // good ones
	First     uint64    `json:"first"`   // above 1: earlier files are not here
	Began     time.Time `json:"began,omitzero"`
	Ended     time.Time `json:"ended,omitzero"`
	FaultText string    `json:"fault,omitempty"`
	Fault     *Fault    `json:"-"`
}

// Report is what [Verify] found.
type Report struct {
	Chains []ChainReport `json:"chains"`
	Torn   int           `json:"torn"` // incomplete lines that brokers set aside, in the folders given
}

// Verify checks journal files, or folders of them, offline, and prints what it
// finds to w. Each broker's chain is checked up to its first bad record. The
// error joins a [*Fault] for each bad chain; it is nil only if all is well and
// there was something to check.
//
// See the package comment for what a chain cannot show.
func Verify(w io.Writer, paths ...string) (Report, error) {
	files, report, err := expand(paths)
	if err != nil {
		return report, err
	}
	if len(files) == 0 {
		return report, fmt.Errorf("no journal file in %s", strings.Join(paths, ", "))
	}
	var faults []error
	for _, run := range chains(files) {
		c, err := verifyChain(run)
		if err != nil {
			return report, err
		}
		report.Chains = append(report.Chains, c)
		if c.Fault != nil {
			faults = append(faults, c.Fault)
		}
		if err := c.print(w); err != nil {
			return report, err
		}
	}
	return report, errors.Join(faults...)
}

// expand turns paths into sorted journal files. The same file given twice is
// read once; a copy of it elsewhere is a fault of its chain.
func expand(paths []string) ([]journalFile, Report, error) {
	var files []journalFile
	var report Report
	seen := map[string]bool{}
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, report, err
		}
		var found []journalFile
		if info.IsDir() {
			var torn int
			found, torn, err = listFolder(p)
			report.Torn += torn
		} else {
			var f journalFile
			f, err = parseName(p)
			found = []journalFile{f}
		}
		if err != nil {
			return nil, report, err
		}
		for _, f := range found {
			abs, err := filepath.Abs(f.path)
			if err != nil {
				return nil, report, err
			}
			if !seen[abs] {
				seen[abs] = true
				files = append(files, f)
			}
		}
	}
	slices.SortFunc(files, compareFiles)
	return files, report, nil
}

func verifyChain(files []journalFile) (ChainReport, error) {
	c := ChainReport{
		Head:  Head{Deployment: files[0].chain.deployment, Broker: files[0].chain.broker},
		Files: len(files), First: files[0].first,
	}
	var w walker
	for _, f := range files {
		err := w.file(f, func(h header, _ string, _ int) error {
			r, err := h.record()
			if err != nil {
				return err
			}
			if c.Records == 0 {
				c.Began = r.At
			}
			c.Seq, c.Hash, c.Records, c.Ended = h.seq, h.hash, c.Records+1, r.At
			return nil
		})
		if errors.As(err, &c.Fault) {
			c.FaultText = c.Fault.Error()
			return c, nil
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c ChainReport) print(w io.Writer) error {
	files := "1 file"
	if c.Files != 1 {
		files = fmt.Sprintf("%d files", c.Files)
	}
	_, err := fmt.Fprintf(w, "%s-%s: %d good records, seq %d to %d, in %s, %s to %s, head %s\n",
		c.Deployment, c.Broker, c.Records, c.First, c.Seq, files,
		c.Began.UTC().Format(time.RFC3339), c.Ended.UTC().Format(time.RFC3339), c.Hash)
	if err == nil && c.First > 1 {
		_, err = fmt.Fprintf(w, "  begins with seq %d: earlier files are not here\n", c.First)
	}
	if err == nil && c.Fault != nil {
		_, err = fmt.Fprintf(w, "  BAD: %v\n", c.Fault)
	}
	return err
}

// Read streams all records of a journal folder, chain by chain and each chain
// in order, checking it as it goes: what to rebuild memory from at start. It
// ends at the first error, a [*Fault] among them, which means that the records
// seen must not be relied on. A folder without records yields nothing.
func Read(dir string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		files, _, err := listFolder(dir)
		if err != nil {
			yield(Entry{}, fmt.Errorf("read journal: %w", err))
			return
		}
		for _, run := range chains(files) {
			err := readChain(run, yield)
			if errors.Is(err, errStop) {
				return
			}
			if err != nil {
				yield(Entry{}, fmt.Errorf("read journal: %w", err))
				return
			}
		}
	}
}

// errStop: the caller of an iterator wants no more.
var errStop = errors.New("stop")

func readChain(files []journalFile, yield func(Entry, error) bool) error {
	var w walker
	for _, f := range files {
		err := w.file(f, func(h header, file string, line int) error {
			r, err := h.record()
			if err != nil {
				return err
			}
			if !yield(newEntry(h, file, line, r), nil) {
				return errStop
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func newEntry(h header, file string, line int, r broker.Record) Entry {
	return Entry{
		Deployment: h.chain.deployment, Broker: h.chain.broker,
		Seq: h.seq, Hash: h.hash, File: file, Line: line, Record: r,
	}
}
