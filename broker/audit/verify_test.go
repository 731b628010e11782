package audit

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
)

// tampered is a journal in memory: the lines of its files, in order.
type tampered struct {
	dir   string
	names []string
	lines [][][]byte // by file, each with its newline
}

func loadTampered(t *testing.T, dir string) *tampered {
	t.Helper()
	j := &tampered{dir: dir}
	for _, f := range glob(t, dir, "*.jsonl") {
		j.names = append(j.names, f)
		j.lines = append(j.lines, bytes.SplitAfter(bytes.TrimSuffix(read(t, f), []byte("\n")), []byte("\n")))
		last := j.lines[len(j.lines)-1]
		last[len(last)-1] = append(last[len(last)-1], '\n')
	}
	return j
}

// place is where a fault must be named. line 0 is the file as a whole; file -1
// is nowhere: the edit is one that a chain cannot show.
type place struct{ file, line int }

var nowhere = place{-1, 0}

// after is where the chain goes on behind line i of file f.
func (j *tampered) after(f, i int) place {
	switch {
	case i+1 < len(j.lines[f]):
		return place{f, i + 2}
	case f+1 < len(j.lines):
		return place{f + 1, 1}
	}
	return nowhere
}

// edit changes a copy of the lines in one random way.
func (j *tampered) edit(rnd *rand.Rand) (what string, lines [][][]byte, want place) {
	lines = make([][][]byte, len(j.lines))
	for i := range lines {
		lines[i] = slices.Clone(j.lines[i])
	}
	f := rnd.IntN(len(lines))
	i := rnd.IntN(len(lines[f]))
	g := rnd.IntN(len(lines))
	k := rnd.IntN(len(lines[g]))
	switch rnd.IntN(5) {
	case 0:
		line := slices.Clone(lines[f][i])
		at := rnd.IntN(len(line))
		line[at] ^= 1 << rnd.IntN(8)
		lines[f][i] = line
		return fmt.Sprintf("flip a bit of byte %d of %d:%d", at, f, i+1), lines, place{f, i + 1}
	case 1:
		want = place{f, i + 1}
		if i == len(lines[f])-1 {
			want = place{f + 1, 0}
			if f+1 == len(lines) {
				want = nowhere
			}
		}
		lines[f] = slices.Delete(lines[f], i, i+1)
		return fmt.Sprintf("delete %d:%d", f, i+1), lines, want
	case 2:
		want = place{g, k + 1}
		if f == g && i == k {
			want.line++
		}
		lines[g] = slices.Insert(lines[g], k, j.lines[f][i])
		return fmt.Sprintf("insert %d:%d before %d:%d", f, i+1, g, k+1), lines, want
	case 3:
		if f == g && i == k {
			return j.edit(rnd)
		}
		if g < f || g == f && k < i {
			f, i, g, k = g, k, f, i
		}
		lines[f][i], lines[g][k] = lines[g][k], lines[f][i]
		return fmt.Sprintf("swap %d:%d and %d:%d", f, i+1, g, k+1), lines, place{f, i + 1}
	default:
		h, err := parseLine(bytes.TrimSuffix(lines[f][i], []byte("\n")))
		if err != nil {
			panic(err)
		}
		lines[f][i], _ = appendLine(nil, h.chain, h.seq, h.prev, []byte(`"event":"forged","at":"2026-01-01T00:00:00Z"`))
		return fmt.Sprintf("forge %d:%d with a hash that fits", f, i+1), lines, j.after(f, i)
	}
}

func (j *tampered) store(t *testing.T, lines [][][]byte, was [][][]byte) {
	t.Helper()
	for f := range lines {
		if was == nil || !slices.EqualFunc(lines[f], was[f], bytes.Equal) {
			overwrite(t, j.names[f], bytes.Join(lines[f], nil))
		}
	}
}

// overwrite replaces what is in a file in place: some file systems flush a file
// that was emptied first, which ten thousand edits would wait for.
func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, 0)
	if err := errors.Join(err, f.Truncate(int64(len(b))), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyNamesTheRecordOfEveryEdit(t *testing.T) {
	j := loadTampered(t, sample(t, 16, 3000))
	if len(j.lines) != 3 {
		t.Fatalf("%d files", len(j.lines))
	}
	whole, err := verify(j.dir)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	before := j.lines
	for n := range 10_000 {
		what, lines, want := j.edit(rnd)
		j.store(t, lines, before)
		before = lines
		r, err := verify(j.dir)
		if want == nowhere {
			cut := strings.HasPrefix(what, "delete") && r.Chains[0].Seq == whole.Chains[0].Seq-1
			forged := strings.HasPrefix(what, "forge") && r.Chains[0].Hash != whole.Chains[0].Hash
			if err != nil || !cut && !forged {
				t.Fatalf("seed %d, edit %d, %s: the head does not tell: %+v %v", seed, n, what, r, err)
			}
			continue
		}
		var fault *Fault
		if !errors.As(err, &fault) {
			t.Fatalf("seed %d, edit %d, %s: not found: %v", seed, n, what, err)
		}
		if fault.File != j.names[want.file] || fault.Line != want.line || fault.Seq == 0 {
			t.Fatalf("seed %d, edit %d, %s: want %+v, got %v", seed, n, what, want, fault)
		}
	}
}

func TestVerifySaysWhatIsWrong(t *testing.T) {
	edit := func(j *tampered, f, i int, old, replacement string) {
		j.lines[f][i] = []byte(strings.Replace(string(j.lines[f][i]), old, replacement, 1))
	}
	for why, c := range map[string]struct {
		spoil func(t *testing.T, j *tampered)
		kind  FaultKind
		line  int
		seq   uint64
	}{
		"a changed word": {func(_ *testing.T, j *tampered) { edit(j, 0, 2, "issued", "denied") }, HashMismatch, 3, 3},
		"another version, whatever its hash": {func(_ *testing.T, j *tampered) { edit(j, 0, 2, `{"v":1`, `{"v":2`) },
			UnknownVersion, 3, 3},
		"a number that was made smaller": {func(_ *testing.T, j *tampered) { edit(j, 0, 2, `"seq":3`, `"seq":2`) },
			HashMismatch, 3, 3},
		"upper-case digits": {func(_ *testing.T, j *tampered) {
			l := j.lines[0][2]
			tail := len(l) - hashTail - 1
			j.lines[0][2] = append(slices.Clone(l[:tail+9]), bytes.ToUpper(l[tail+9:])...)
		}, Malformed, 3, 3},
		"white space": {func(_ *testing.T, j *tampered) { edit(j, 0, 2, `{"v"`, `{ "v"`) }, Malformed, 3, 3},
		"a deleted record": {func(_ *testing.T, j *tampered) { j.lines[0] = slices.Delete(j.lines[0], 2, 3) },
			MissingRecord, 3, 3},
		"two records in the wrong order": {func(_ *testing.T, j *tampered) {
			j.lines[0][1], j.lines[0][2] = j.lines[0][2], j.lines[0][1]
		}, Reordered, 2, 2},
		"a record twice": {func(_ *testing.T, j *tampered) { j.lines[0] = slices.Insert(j.lines[0], 2, j.lines[0][1]) },
			Repeated, 3, 3},
		"the first file cut short": {func(_ *testing.T, j *tampered) { j.lines[0] = j.lines[0][:2] }, MissingRecord, 0, 3},
		"a record of another broker": {func(_ *testing.T, j *tampered) {
			h, _ := parseLine(bytes.TrimSpace(j.lines[0][2]))
			j.lines[0][2], _ = appendLine(nil, chainID{"test", "b9"}, h.seq, h.prev, h.body)
		}, Foreign, 3, 3},
		"a record that is not one, chained well": {func(_ *testing.T, j *tampered) {
			h, _ := parseLine(bytes.TrimSpace(j.lines[0][2]))
			j.lines[0][2], _ = appendLine(nil, h.chain, h.seq, h.prev, []byte(`"at":7`))
		}, Malformed, 3, 3},
		"a first record that has a past": {func(_ *testing.T, j *tampered) {
			h, _ := parseLine(bytes.TrimSpace(j.lines[0][0]))
			j.lines[0][0], _ = appendLine(nil, h.chain, 1, Hash{1}, h.body)
		}, BrokenLink, 1, 1},
		"a line beyond all measure": {func(_ *testing.T, j *tampered) {
			j.lines[0][2] = append(bytes.Repeat([]byte("x"), 3<<20), '\n')
		}, Malformed, 3, 3},
		"a copy of a file under another number": {func(t *testing.T, j *tampered) {
			write(t, filepath.Join(j.dir, "test-b0-0000000002.jsonl"), bytes.Join(j.lines[0], nil))
		}, Duplicate, 0, 2},
		"the same file under a longer number": {func(t *testing.T, j *tampered) {
			write(t, filepath.Join(j.dir, "test-b0-00000000001.jsonl"), bytes.Join(j.lines[0], nil))
		}, Duplicate, 0, 1},
		"a file that took another's place": {func(_ *testing.T, j *tampered) { j.lines[1] = j.lines[0] }, Repeated, 1, 0},
		"a file that follows no naming": {func(t *testing.T, j *tampered) {
			write(t, filepath.Join(j.dir, "old.jsonl"), []byte("x\n"))
		}, WrongName, 0, 0},
	} {
		t.Run(why, func(t *testing.T) {
			j := loadTampered(t, sample(t, 16, 2200))
			c.spoil(t, j)
			j.store(t, j.lines, nil)
			_, err := verify(j.dir)
			var fault *Fault
			if !errors.As(err, &fault) {
				t.Fatalf("got %v", err)
			}
			if fault.Kind != c.kind || fault.Line != c.line || c.seq != 0 && fault.Seq != c.seq {
				t.Errorf("got %v (%s, line %d, seq %d)", fault, fault.Kind, fault.Line, fault.Seq)
			}
		})
	}
}

func TestVerifyKeepsBrokersApart(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b0", "b1", "b1-0000000001"} {
		c := config(dir)
		c.Broker = name
		j := open(t, c)
		mustAppend(t, j, broker.Record{Event: broker.EventIssued})
		mustClose(t, j)
	}
	bad := filepath.Join(dir, "test-b1-0000000001.jsonl")
	write(t, bad, bytes.Replace(read(t, bad), []byte("issued"), []byte("denied"), 1))
	var out strings.Builder
	r, err := Verify(&out, dir)
	var fault *Fault
	if !errors.As(err, &fault) || fault.File != bad || fault.Seq != 2 {
		t.Errorf("got %v", err)
	}
	if len(r.Chains) != 3 || r.Chains[0].Records != 3 || r.Chains[1].Records != 1 || r.Chains[2].Records != 3 {
		t.Errorf("report %+v", r)
	}
	if !strings.Contains(out.String(), "BAD: "+bad+":2: seq 2: hash mismatch") {
		t.Errorf("printed %s", out.String())
	}
	for _, err := range Read(dir) {
		if err != nil && !errors.As(err, &fault) {
			t.Errorf("read: %v", err)
		}
	}
}

func TestVerifyTakesFilesAndFolders(t *testing.T) {
	dir := sample(t, 16, 2200)
	files := glob(t, dir, "*.jsonl")
	if _, err := verify(append(files, dir)...); err != nil {
		t.Errorf("the same files named twice: %v", err)
	}
	if r, err := verify(files[1:]...); err != nil || r.Chains[0].First == 1 {
		t.Errorf("the later files alone: %+v %v", r, err)
	}
	elsewhere := filepath.Join(t.TempDir(), filepath.Base(files[1]))
	write(t, elsewhere, read(t, files[1]))
	var fault *Fault
	if _, err := verify(dir, elsewhere); !errors.As(err, &fault) || fault.Kind != Duplicate {
		t.Errorf("a copy elsewhere: %v", err)
	}
	if _, err := verify(t.TempDir()); err == nil {
		t.Error("nothing to check is not well")
	}
	if _, err := verify(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestReadEndsAtTheFirstFault(t *testing.T) {
	dir := sample(t, 10, 1<<20)
	f := glob(t, dir, "*.jsonl")[0]
	write(t, f, bytes.Replace(read(t, f), []byte("req_4"), []byte("req_5"), 1))
	good, faults := 0, 0
	for _, err := range Read(dir) {
		if err != nil {
			faults++
		} else {
			good++
		}
	}
	if good != 5 || faults != 1 {
		t.Errorf("%d records, %d faults", good, faults)
	}
	for range Read(dir) {
		break // a caller may stop
	}
}
