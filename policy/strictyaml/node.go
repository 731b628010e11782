package strictyaml

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Kind says what a [Node] is.
type Kind int

// The kinds of nodes.
const (
	Null Kind = iota
	Text
	Number // in JSON's grammar, as it was written
	Bool
	List
	Map
)

// String returns the kind as a fault names it.
func (k Kind) String() string {
	return [...]string{"nothing", "text", "a number", "true or false", "a list", "a mapping"}[k]
}

// Node is one value of a document, with its place. Nodes are not changed after
// [Parse] returned, and may be read concurrently.
type Node struct {
	Kind  Kind
	Text  string  // of Text, Number and Bool
	Items []*Node // of a List
	Keys  []Key   // of a Map, in the order of the document
	Line  int
	Col   int

	doc    *Doc
	parent *Node
	faulty bool   // reported already
	step   string // how it is reached from parent: a key, or [3]
}

// Key is one entry of a mapping.
type Key struct {
	Name      string
	Line, Col int
	Value     *Node
}

// Doc is one parsed document.
type Doc struct {
	File string
	Root *Node
}

// Get returns the value of a key, or nil if n is no mapping or has no such key.
func (n *Node) Get(key string) *Node {
	if n == nil {
		return nil
	}
	for _, k := range n.Keys {
		if k.Name == key {
			return k.Value
		}
	}
	return nil
}

// At walks from the root by keys (string) and list positions (int). Where a
// step does not exist it returns the last node that does, so that a fault about
// something missing points to where it should be.
func (d *Doc) At(path ...any) *Node { return d.Root.At(path...) }

// At is like [Doc.At], from n.
func (n *Node) At(path ...any) *Node {
	for _, step := range path {
		var next *Node
		switch s := step.(type) {
		case string:
			next = n.Get(s)
		case int:
			if s >= 0 && s < len(n.Items) {
				next = n.Items[s]
			}
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// File returns the name of the document that n stands in.
func (n *Node) File() string { return n.doc.File }

// Field returns how n is reached from the root: rules[0].match["/a/b"].
func (n *Node) Field() string {
	if n.parent == nil {
		return ""
	}
	return join(n.parent.Field(), n.step)
}

var plainKey = regexp.MustCompile(`\A(?:[A-Za-z_][A-Za-z0-9_-]{0,63}|\[[0-9]+\])\z`)

func join(field, step string) string {
	if !plainKey.MatchString(step) {
		return field + "[" + quote(step) + "]"
	}
	if field == "" || strings.HasPrefix(step, "[") {
		return field + step
	}
	return field + "." + step
}

// Fault returns a fault at n.
func (n *Node) Fault(format string, args ...any) *Fault {
	return &Fault{File: n.doc.File, Line: n.Line, Col: n.Col, Field: n.Field(), Msg: message(format, args)}
}

// KeyFault returns a fault at one key of a mapping.
func (n *Node) KeyFault(k Key, format string, args ...any) *Fault {
	return &Fault{File: n.doc.File, Line: k.Line, Col: k.Col, Field: join(n.Field(), k.Name), Msg: message(format, args)}
}

// maxMessage bounds what is wrong, since names in it may be as long as a file.
const maxMessage = 1000

func message(format string, args []any) string {
	msg := fmt.Sprintf(format, args...)
	if len(msg) > maxMessage {
		return strings.ToValidUTF8(msg[:maxMessage], "") + "…"
	}
	return msg
}

// JSON returns n as JSON. Numbers stay as they were written.
func (n *Node) JSON() (json.RawMessage, error) {
	var b strings.Builder
	if faults := n.writeJSON(&b); len(faults) > 0 {
		return nil, faults.Err()
	}
	return json.RawMessage(b.String()), nil
}

func (n *Node) writeJSON(b *strings.Builder) Faults {
	switch n.Kind {
	case Text:
		b.Write(jsonText(n.Text))
	case Number, Bool:
		b.WriteString(n.Text)
	case List:
		var faults Faults
		b.WriteByte('[')
		for i, item := range n.Items {
			if i > 0 {
				b.WriteByte(',')
			}
			faults = append(faults, item.writeJSON(b)...)
		}
		b.WriteByte(']')
		return faults
	case Map:
		var faults Faults
		b.WriteByte('{')
		for i, k := range n.Keys {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(jsonText(k.Name))
			b.WriteByte(':')
			faults = append(faults, k.Value.writeJSON(b)...)
		}
		b.WriteByte('}')
		return faults
	default:
		return Faults{n.Fault("has no value: give one, or leave the key out")}
	}
	return nil
}

func jsonText(s string) []byte {
	text, err := json.Marshal(s)
	if err != nil { // a string always marshals
		panic(err)
	}
	return text
}

// quote makes a key fit for a fault: escaped, and cut at 64 bytes.
func quote(s string) string {
	if len(s) > 64 {
		return strconv.QuoteToASCII(s[:64]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
