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
	seen := make(map[string]Key, len(values))
	for i, v := range values {
		k, ok := p.key(n, v)
		if i == 0 && n.Col > k.Col && n.Line == k.Line { // a mapping without braces stands where its first key does
			n.Line, n.Col = k.Line, k.Col
		}
		if first, twice := seen[k.Name]; twice && ok {
			p.faults = append(p.faults, n.KeyFault(k, "is here twice; first on line %d", first.Line))
			ok = false
		}
		k.Value = p.node(v.Value, n, k.Name)
		if ok {
			seen[k.Name] = k
			n.Keys = append(n.Keys, k)
		}
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
	case text == "true" || text == "false":
		return Bool, ""
	case number.MatchString(text):
		return Number, ""
	case doubtful.MatchString(text):
		return Text, "is text to some readers and something else to others: put text in quotes, and write numbers and booleans plainly"
	}
	return Text, ""
}
