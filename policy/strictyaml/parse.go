package strictyaml

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits bound what a document may cost.
type Limits struct {
	Bytes int // size of the document
	Depth int // lists and mappings within each other
	Keys  int // keys of one mapping, and items of one list
}

// DefaultLimits are 1 MiB, 32 levels, and 10,000 keys of one mapping or items of
// one list.
func DefaultLimits() Limits { return Limits{Bytes: 1 << 20, Depth: 32, Keys: 10_000} }

// Parse reads a document without giving it a type. name is the file's name for
// faults. The error is [Faults]; the document is nil only where its text could
// not be read, so that a caller can look for more faults in what could.
func Parse(name string, data []byte, limits Limits) (*Doc, error) {
	p := parsing{doc: &Doc{File: name}, limits: limits}
	if len(data) > limits.Bytes {
		return nil, p.refuse(0, 0, "is larger than %d bytes", limits.Bytes)
	}
	if err := p.checkText(string(data)); err != nil {
		return nil, err
	}
	// As YAML has it, a line ends the same way however it was written; the
	// library counts some of these endings twice.
	err := p.read(strings.ReplaceAll(string(data), "\r\n", "\n"))
	if p.doc.Root == nil {
		return nil, err
	}
	return p.doc, err
}

// parsing is one document on its way from text to nodes.
type parsing struct {
	doc    *Doc
	limits Limits
	faults Faults
	used   map[*token.Token]bool // scalar tokens that became nodes
}

func (p *parsing) fault(line, col int, format string, args ...any) {
	p.faults = append(p.faults, &Fault{File: p.doc.File, Line: line, Col: col, Msg: fmt.Sprintf(format, args...)})
}

func (p *parsing) refuse(line, col int, format string, args ...any) error {
	p.fault(line, col, format, args...)
	return p.faults.Err()
}

// checkText refuses what a reviewer would not see, or see differently.
func (p *parsing) checkText(text string) error {
	line, col := 1, 0
	for i, r := range text {
		col++
		switch {
		case r == '\n':
			line, col = line+1, 0
		case r == '\r':
			if i+1 == len(text) || text[i+1] != '\n' {
				return p.refuse(line, col, "a carriage return that ends no line")
			}
		case r == utf8.RuneError && text[i] != 0xEF: // not U+FFFD itself
			return p.refuse(line, col, "is not valid UTF-8")
		case hidden(r):
			return p.refuse(line, col, "character %U cannot be seen; in double quotes write it as \\u%04X", r, r)
		}
	}
	return nil
}

// hidden reports characters that have no glyph, end lines for some readers
// only, or change the direction of the text around them.
func hidden(r rune) bool {
	switch {
	case r < 0x20 && r != '\t', r >= 0x7F && r <= 0x9F: // controls
		return true
	case r == 0xAD, r == 0x034F, r == 0x061C, r == 0xFEFF:
		return true
	case r == 0x115F, r == 0x1160, r == 0x3164, r == 0xFFA0, r == 0x2800: // blanks that are no spaces
		return true
	case r == 0x17B4, r == 0x17B5, r >= 0x180B && r <= 0x180F, r >= 0xFE00 && r <= 0xFE0F:
		return true
	case r >= 0x200B && r <= 0x200F, r >= 0x2028 && r <= 0x202E, r >= 0x2060 && r <= 0x206F:
		return true
	case r >= 0xFFF0 && r <= 0xFFFB, r&0xFFFE == 0xFFFE, r >= 0xE0000 && r <= 0xE0FFF:
		return true
	}
	return false
}

// read turns text into nodes. The library that reads YAML is kept from input
// that would take it long, and should it fail on some other, the document is
// refused: a bad file must not end the process that reloads it.
func (p *parsing) read(text string) (err error) {
	defer func() {
		if recover() != nil {
			p.doc.Root = nil
			err = p.refuse(1, 1, "cannot be read as YAML")
		}
	}()
	tokens := lexer.Tokenize(text)
	if p.scan(tokens); len(p.faults) > 0 {
		return p.faults.Err()
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return p.syntax(err)
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return p.refuse(1, 1, "is empty")
	}
	p.used = make(map[*token.Token]bool, len(tokens))
	p.doc.Root = p.node(file.Docs[0].Body, nil, "")
	p.checkAllRead(tokens)
	return p.faults.Err()
}

// syntax puts the library's message, without its excerpt of the document, into
// our form.
func (p *parsing) syntax(err error) error {
	var at interface {
		GetMessage() string
		GetToken() *token.Token
	}
	if !errors.As(err, &at) {
		return p.refuse(1, 1, "cannot be read as YAML")
	}
	line, col := 1, 1
	if tk := at.GetToken(); tk != nil && tk.Position != nil {
		line, col = tk.Position.Line, tk.Position.Column
	}
	why, _, _ := strings.Cut(at.GetMessage(), `"`) // what follows may be text of the document
	return p.refuse(line, col, "cannot be read as YAML: %s", strings.TrimRight(why, ": "))
}

// checkAllRead makes sure that no text was passed over.
func (p *parsing) checkAllRead(tokens token.Tokens) {
	for _, tk := range tokens {
		if isScalar(tk.Type) && !p.used[tk] {
			p.fault(tk.Position.Line, tk.Position.Column, "cannot be read as YAML: it is not clear what this belongs to")
		}
	}
}

func isScalar(t token.Type) bool {
	switch t {
	case token.StringType, token.SingleQuoteType, token.DoubleQuoteType, token.IntegerType, token.BinaryIntegerType,
		token.OctetIntegerType, token.HexIntegerType, token.FloatType, token.BoolType, token.NullType,
		token.InfinityType, token.NanType:
		return true
	}
	return false
}
