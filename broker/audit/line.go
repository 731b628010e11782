package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/daypass-dev/daypass/broker"
)

// version of the line format; see the package comment.
const version = 1

// maxLine bounds a record's line in bytes, newline included. A record is some
// kilobytes: a CI token is at most 16 KiB.
const maxLine = 1 << 20

// Hash is the SHA-256 that chains a record to the next.
type Hash [sha256.Size]byte

// String returns 64 hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// Entry is one record as it stands in a journal.
type Entry struct {
	Deployment string
	Broker     string
	Seq        uint64 // 1 is the broker's first
	Hash       Hash
	File       string // path of the file it was read from
	Line       int    // 1 is the file's first
	broker.Record
}

// header is a line taken apart: everything but the record itself.
type header struct {
	chain chainID
	seq   uint64
	prev  Hash
	hash  Hash
	body  []byte // the record's members, without braces
}

// chainID names one broker's history.
type chainID struct{ deployment, broker string }

func (c chainID) String() string { return c.deployment + "-" + c.broker }

// Parts of a line, in order. The names of a chain need no escaping: see
// [Config].
const (
	partVersion    = `{"v":`
	partDeployment = `,"deployment":"`
	partBroker     = `","broker":"`
	partSeq        = `","seq":`
	partPrev       = `,"prev":"`
	partBody       = `",`
	partHash       = `,"hash":"`
	partEnd        = `"}`
	hashTail       = len(partHash) + 2*sha256.Size + len(partEnd)
)

// encodeBody returns the record's members as JSON, without braces: what
// callers do in parallel, before the writer numbers and chains the line.
func encodeBody(r broker.Record) ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode %s record: %w", r.Event, err)
	}
	if len(b) > maxLine/2 {
		return nil, fmt.Errorf("encode %s record: %d bytes are more than a record may have", r.Event, len(b))
	}
	return b[1 : len(b)-1], nil
}

// appendLine appends a whole line to dst and returns its hash.
func appendLine(dst []byte, c chainID, seq uint64, prev Hash, body []byte) ([]byte, Hash) {
	start := len(dst)
	dst = strconv.AppendInt(append(dst, partVersion...), version, 10)
	dst = append(append(dst, partDeployment...), c.deployment...)
	dst = append(append(dst, partBroker...), c.broker...)
	dst = strconv.AppendUint(append(dst, partSeq...), seq, 10)
	dst = hex.AppendEncode(append(dst, partPrev...), prev[:])
	dst = append(append(dst, partBody...), body...)
	sum := Hash(sha256.Sum256(dst[start:]))
	dst = hex.AppendEncode(append(dst, partHash...), sum[:])
	return append(append(dst, partEnd...), '\n'), sum
}

// These tell three faults of a line from all others.
var (
	errVersion    = errors.New("unknown format version")
	errHash       = errors.New("the hash does not fit the line")
	errUnreadable = errors.New("the record is not readable") // its own members, in a good line
)

// parseLine takes a line, without its newline, apart and checks its hash. The
// form is exact: no other spacing, order or spelling of the frame is accepted.
func parseLine(line []byte) (header, error) {
	h, err := parseFrame(line)
	if err != nil {
		return header{}, err
	}
	if Hash(sha256.Sum256(line[:len(line)-hashTail])) != h.hash {
		return h, errHash
	}
	return h, nil
}

// parseFrame is parseLine without the hash.
func parseFrame(line []byte) (header, error) {
	var h header
	rest, ok := bytes.CutPrefix(line, []byte(partVersion))
	v, rest, found := bytes.Cut(rest, []byte(partDeployment))
	if !ok || !found {
		return h, errors.New("not a journal record")
	}
	if string(v) != strconv.Itoa(version) {
		if _, err := strconv.ParseUint(string(v), 10, 32); err != nil {
			return h, errors.New("not a journal record")
		}
		return h, fmt.Errorf("%w %s; this program knows %d", errVersion, v, version)
	}
	deployment, rest, ok1 := bytes.Cut(rest, []byte(partBroker))
	name, rest, ok2 := bytes.Cut(rest, []byte(partSeq))
	seq, rest, ok3 := bytes.Cut(rest, []byte(partPrev))
	if !ok1 || !ok2 || !ok3 {
		return h, errors.New("not a journal record: its head is incomplete")
	}
	h.chain = chainID{string(deployment), string(name)}
	n, err := strconv.ParseUint(string(seq), 10, 63)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != string(seq) {
		return h, errors.New("not a journal record: seq is not a number above 0")
	}
	h.seq = n
	prev, rest, ok := bytes.Cut(rest, []byte(partBody))
	if !ok || !parseHash(&h.prev, prev) {
		return h, errors.New("not a journal record: prev is not a hash")
	}
	if len(rest) <= hashTail {
		return h, errors.New("not a journal record: it has no hash")
	}
	body, tail := rest[:len(rest)-hashTail], rest[len(rest)-hashTail:]
	tail, ok1 = bytes.CutPrefix(tail, []byte(partHash))
	tail, ok2 = bytes.CutSuffix(tail, []byte(partEnd))
	if !ok1 || !ok2 || !parseHash(&h.hash, tail) {
		return h, errors.New("not a journal record: it does not end in a hash")
	}
	h.body = body
	return h, nil
}

// parseHash reads 64 lower-case hexadecimal digits; other spellings would let
// a line change without its hash changing.
func parseHash(h *Hash, b []byte) bool {
	if len(b) != hex.EncodedLen(len(h)) {
		return false
	}
	if _, err := hex.Decode(h[:], b); err != nil {
		return false
	}
	return h.String() == string(b)
}

// record decodes the record itself. Numbers in claims stay [json.Number], as
// the verifier of tokens gave them. Members that this program does not know
// are left out: they come from a later release of the same format version.
func (h header) record() (broker.Record, error) {
	dec := json.NewDecoder(io.MultiReader(
		bytes.NewReader([]byte("{")), bytes.NewReader(h.body), bytes.NewReader([]byte("}"))))
	dec.UseNumber()
	var r broker.Record
	if err := dec.Decode(&r); err != nil {
		return r, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return r, fmt.Errorf("%w: text follows it", errUnreadable)
	}
	return r, nil
}
