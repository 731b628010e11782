package strictyaml

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// node turns a node of the library's into ours.
func (p *parsing) node(from ast.Node, parent *Node, step string) *Node {
	n := &Node{doc: p.doc, parent: parent, step: step}
	n.place(from.GetToken())
	switch from := from.(type) {
	case *ast.MappingNode:
		p.mapping(n, from.Values)
	case *ast.MappingValueNode:
		p.mapping(n, []*ast.MappingValueNode{from})
	case *ast.SequenceNode:
		n.Kind = List
		n.Items = make([]*Node, 0, len(from.Values))
		for i, item := range from.Values {
			n.Items = append(n.Items, p.node(item, n, "["+strconv.Itoa(i)+"]"))
		}
	case *ast.LiteralNode:
		n.Kind, n.Text = Text, from.Value.Value
		p.used[from.Value.GetToken()] = true
	case ast.ScalarNode:
		p.scalar(n, from.GetToken())
	default:
		p.faults = append(p.faults, n.Fault("cannot be read as YAML"))
	}
	return n
}

func (n *Node) place(tk *token.Token) {
	if tk != nil && tk.Position != nil {
		n.Line, n.Col = tk.Position.Line, tk.Position.Column
	}
}

func (p *parsing) mapping(n *Node, values []*ast.MappingValueNode) {
	n.Kind = Map
	n.Keys = make([]Key, 0, len(values))
	seen := keyFinder{n: n}
	for i, v := range values {
		k, ok := p.key(n, v)
		if i == 0 && n.Col > k.Col && n.Line == k.Line { // a mapping without braces stands where its first key does
			n.Line, n.Col = k.Line, k.Col
		}
		if line := seen.line(k.Name); line > 0 && ok {
			p.faults = append(p.faults, n.KeyFault(k, "is here twice; first on line %d", line))
			ok = false
		}
		k.Value = p.node(v.Value, n, k.Name)
		if ok {
			n.Keys = append(n.Keys, k)
			seen.add(k)
		}
	}
}

// keyFinder finds keys of a mapping that is being built: of a small one, as
// most are, without a table.
type keyFinder struct {
	n     *Node
	table map[string]int // line by key; nil while there are few
}

const fewKeys = 16

// line returns the line of a key, or 0 if there is none.
func (f *keyFinder) line(key string) int {
	if f.table != nil {
		return f.table[key]
	}
	for i := range f.n.Keys {
		if f.n.Keys[i].Name == key {
			return f.n.Keys[i].Line
		}
	}
	return 0
}

func (f *keyFinder) add(k Key) {
	if f.table == nil && len(f.n.Keys) > fewKeys {
		f.table = make(map[string]int, cap(f.n.Keys))
		for _, k := range f.n.Keys {
			f.table[k.Name] = k.Line
		}
	}
	if f.table != nil {
		f.table[k.Name] = k.Line
	}
}

// key reads a key, and reports false if it is none that is allowed.
func (p *parsing) key(n *Node, v *ast.MappingValueNode) (Key, bool) {
	tk := v.Key.GetToken()
	p.used[tk] = true
	k := Key{Name: tk.Value}
	if tk.Position != nil {
		k.Line, k.Col = tk.Position.Line, tk.Position.Column
	}
	switch kind, msg := plain(tk); {
	case msg != "":
		p.faults = append(p.faults, n.KeyFault(k, "%s", msg))
	case kind != Text:
		p.faults = append(p.faults, n.KeyFault(k, "a key must be text, not %s: put it in quotes", kind))
	default:
		return k, true
	}
	return k, false
}

func (p *parsing) scalar(n *Node, tk *token.Token) {
	p.used[tk] = true
	kind, msg := plain(tk)
	if msg != "" {
		p.faults = append(p.faults, n.Fault("%s", msg))
		n.faulty = true
	}
	n.Kind = kind
	if kind != Null {
		n.Text = tk.Value
	}
}

// Compiled once, never changed.
var (
	number = regexp.MustCompile(`\A-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\z`)
	// what YAML 1.1 or 1.2, or a reader of either, takes for a number or a boolean
	doubtful = regexp.MustCompile(`(?i)\A(?:yes|no|on|off|true|false|null|` +
		`[-+]?\.(?:inf|nan)|[-+]?0[xob][0-9a-f_]+|[-+]?[0-9][0-9_]*(?::[0-9_]+)+(?:\.[0-9_]*)?|` +
		`[-+]?[0-9][0-9_]*\.?[0-9_]*(?:e[-+]?[0-9]+)?|[-+]?\.[0-9][0-9_]*(?:e[-+]?[0-9]+)?)\z`)
)

// mayBeOther reports whether a word begins as numbers and doubtful words do:
// most do not, and need no further look.
func mayBeOther(text string) bool {
	return text != "" && strings.IndexByte("+-.0123456789yYnNoOtTfF", text[0]) >= 0
}

// plain says what a scalar is: what is quoted is text, and what is not must be
// the same to every reader.
func plain(tk *token.Token) (kind Kind, msg string) {
	text := tk.Value
	switch {
	case tk.Type == token.SingleQuoteType || tk.Type == token.DoubleQuoteType:
		return Text, ""
	case tk.Type == token.NullType || tk.Type == token.ImplicitNullType:
		return Null, ""
	case strings.Contains(strings.TrimSpace(tk.Origin), "\n"):
		return Text, "text over several lines must be quoted, or begin with | or >"
	case !mayBeOther(text):
		return Text, ""
	case text == "true" || text == "false":
		return Bool, ""
	case number.MatchString(text):
		return Number, ""
	case doubtful.MatchString(text):
		return Text, "is text to some readers and something else to others: put text in quotes, and write numbers and booleans plainly"
	}
	return Text, ""
}
