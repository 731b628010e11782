// Package mask replaces secrets in a stream by "***".
//
// It guarantees that no byte of a secret, or of one of its usual encodings
// (see [New]), gets through in one piece, wherever writes are split and
// however occurrences overlap; that everything else passes unchanged; and that
// nothing is held back but what may be the beginning of a secret.
//
// It cannot see a secret that a program transforms in its own way, compresses,
// or interleaves with other text. It is a net under people, not a wall against
// programs.
package mask

import "io"

// Hidden stands for a secret, and for several without a gap.
const Hidden = "***"

// Set is an automaton (Aho and Corasick, 1975) that finds all secrets at once.
// It is immutable and safe for concurrent use.
type Set struct {
	nodes []node
	first [256]bool // the bytes that patterns start with
}

// node is a prefix of a pattern. Most have one edge, which is kept in the node:
// with a table for each, a private key alone would take megabytes.
type node struct {
	more  map[byte]int32 // edges beside the one below
	next  int32          // 0: no edge, as none leads back to the root
	fail  int32          // the longest proper suffix that is a prefix of a pattern too
	depth int32          // length of the prefix
	match int32          // length of the longest pattern that ends here; 0: none
	b     byte           // what leads to next
}

// New makes a set from secrets. Of each it hides the value, its lines, and its
// base64 (also inside other base64), URL, JSON and shell-quoted forms. Secrets
// of less than [MinLength] bytes are not hidden: they would take half of a log
// with them.
func New(secrets []string) *Set {
	s := &Set{nodes: make([]node, 1)}
	for _, p := range forms(secrets) {
		s.add(p)
	}
	s.link()
	return s
}

func (s *Set) add(pattern string) {
	at := int32(0)
	for i := range len(pattern) {
		c := pattern[i]
		to := s.edge(at, c)
		if to == 0 {
			to = int32(len(s.nodes))
			s.nodes = append(s.nodes, node{depth: int32(i + 1)})
			n := &s.nodes[at]
			switch {
			case n.next == 0:
				n.b, n.next = c, to
			case n.more == nil:
				n.more = map[byte]int32{c: to}
			default:
				n.more[c] = to
			}
		}
		at = to
	}
	s.nodes[at].match = int32(len(pattern))
	s.first[pattern[0]] = true
}

// link sets the failure links, level by level.
func (s *Set) link() {
	var queue []int32
	visit := func(parent int32, c byte, child int32) {
		if parent != 0 {
			s.nodes[child].fail = s.step(s.nodes[parent].fail, c)
		}
		n := &s.nodes[child]
		n.match = max(n.match, s.nodes[n.fail].match)
		queue = append(queue, child)
	}
	for at := int32(0); ; {
		if n := s.nodes[at]; n.next != 0 {
			visit(at, n.b, n.next)
			for c, child := range n.more {
				visit(at, c, child)
			}
		}
		if len(queue) == 0 {
			return
		}
		at, queue = queue[0], queue[1:]
	}
}

func (s *Set) edge(at int32, c byte) int32 {
	n := &s.nodes[at]
	if n.next != 0 && n.b == c {
		return n.next
	}
	return n.more[c]
}

func (s *Set) step(at int32, c byte) int32 {
	for {
		if to := s.edge(at, c); to != 0 || at == 0 {
			return to
		}
		at = s.nodes[at].fail
	}
}

// Writer hides secrets on the way to another writer. Close it to get out what
// is held back. It is not safe for concurrent use.
type Writer struct {
	set    *Set
	to     io.Writer
	at     int32  // state of the automaton after all input
	held   []byte // the end of the input, not yet passed on
	hide   []bool // which bytes of held belong to a secret
	masked bool   // the last thing passed on was Hidden
	out    []byte
}

// Writer returns a writer that passes on to w.
func (s *Set) Writer(w io.Writer) *Writer { return &Writer{set: s, to: w} }

// Write implements [io.Writer]. After an error of the writer behind it, what
// was to be written is lost.
func (w *Writer) Write(p []byte) (int, error) {
	for i := 0; i < len(p); {
		if w.at == 0 && len(w.held) == 0 {
			if n := w.plain(p[i:]); n > 0 {
				i += n
				continue
			}
		}
		w.take(p[i])
		i++
	}
	if err := w.pass(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close passes on what is held back; it turned out to be no secret. It does not
// close the writer behind it.
func (w *Writer) Close() error {
	w.at = 0
	w.settle(0)
	return w.pass()
}

// plain passes on bytes that no pattern starts with and returns how many.
func (w *Writer) plain(p []byte) int {
	n := 0
	for n < len(p) && !w.set.first[p[n]] {
		n++
	}
	if n > 0 {
		w.out = append(w.out, p[:n]...)
		w.masked = false
	}
	return n
}

func (w *Writer) take(c byte) {
	w.at = w.set.step(w.at, c)
	w.held = append(w.held, c)
	w.hide = append(w.hide, false)
	n := w.set.nodes[w.at]
	// Bytes of the match that have left already were hidden themselves.
	for i := max(0, len(w.hide)-int(n.match)); i < len(w.hide); i++ {
		w.hide[i] = true
	}
	w.settle(int(n.depth))
}

// settle passes on what is decided: hidden bytes, and those before the last
// depth ones, which no match to come can reach.
func (w *Writer) settle(depth int) {
	n := 0
	for n < len(w.held) && (w.hide[n] || len(w.held)-n > depth) {
		switch {
		case !w.hide[n]:
			w.out = append(w.out, w.held[n])
			w.masked = false
		case !w.masked:
			w.out = append(w.out, Hidden...)
			w.masked = true
		}
		n++
	}
	w.held, w.hide = w.held[n:], w.hide[n:]
}

func (w *Writer) pass() error {
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.to.Write(w.out)
	w.out = w.out[:0]
	return err
}
