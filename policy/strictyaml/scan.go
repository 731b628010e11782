package strictyaml

import "github.com/goccy/go-yaml/token"

// scan looks at the tokens before they are parsed: it reports what is not
// allowed, and refuses what would take the parser long. The parser recurses
// once for each level and for each key of a mapping, and gives every value the
// keys that lead to it as a text of its own.
func (p *parsing) scan(tokens token.Tokens) {
	s := scanning{p: p}
	for i, tk := range tokens {
		at := tk.Position
		if what := refused(tk.Type); what != "" {
			p.fault(at.Line, at.Column, "%s", what)
		}
		if tk.Type == token.DocumentHeaderType && !firstOf(tokens[:i]) {
			p.fault(at.Line, at.Column, "a second document is not allowed: one file holds one")
		}
		if !s.step(tk) {
			return
		}
	}
}

func refused(t token.Type) string {
	switch t {
	case token.AnchorType:
		return "an anchor (&) is not allowed: write the value where it is meant, or quote it"
	case token.AliasType:
		return "an alias (*) is not allowed: write the value where it is meant, or quote it"
	case token.MergeKeyType:
		return "a merge key (<<) is not allowed: write the keys where they are meant"
	case token.TagType:
		return "a tag (!) is not allowed: quote text, and leave numbers unquoted"
	case token.DirectiveType:
		return "a directive (%) is not allowed"
	case token.MappingKeyType:
		return "an explicit key (?) is not allowed: write key: value"
	case token.DocumentEndType:
		return "an end of document (...) is not allowed: one file holds one document"
	}
	return ""
}

func firstOf(before token.Tokens) bool {
	for _, tk := range before {
		if tk.Type != token.CommentType {
			return false
		}
	}
	return true
}

// level is an open list or mapping.
type level struct {
	flow  bool
	col   int // where it starts, if it is not in brackets
	keys  int
	items int // of the list that is open
	key   int // length of the key that is open
}

// scanning follows how deep the tokens are nested.
type scanning struct {
	p     *parsing
	open  []level
	flows int
	path  int // length of all open keys
	cost  int // sum of the paths of all tokens so far
}

// pathBudget bounds the memory for the paths that the parser builds.
const pathBudget = 64 << 20

// step takes one token, and returns false where a limit is passed.
func (s *scanning) step(tk *token.Token) bool {
	at := tk.Position
	switch tk.Type {
	case token.SequenceStartType, token.MappingStartType:
		s.open = append(s.open, level{flow: true})
		s.flows++
	case token.SequenceEndType, token.MappingEndType:
		if s.flows > 0 {
			s.pop()
			s.flows--
		}
	case token.SequenceEntryType, token.MappingKeyType:
		if s.flows == 0 {
			s.block(at.Column)
			s.item()
		}
	case token.CollectEntryType:
		s.item()
	case token.MappingValueType:
		s.colon(tk)
	}
	s.cost += s.path + len(s.open)*len("[100000]")
	switch limits := s.p.limits; {
	case len(s.open) > limits.Depth:
		s.p.fault(at.Line, at.Column, "is nested deeper than %d levels", limits.Depth)
	case len(s.open) > 0 && s.open[len(s.open)-1].keys > limits.Keys:
		s.p.fault(at.Line, at.Column, "a mapping has more than %d keys", limits.Keys)
	case len(s.open) > 0 && s.open[len(s.open)-1].items > limits.Keys:
		s.p.fault(at.Line, at.Column, "a list has more than %d items", limits.Keys)
	case s.cost > pathBudget:
		s.p.fault(at.Line, at.Column, "has too many values below long keys")
	default:
		return true
	}
	return false
}

// colon counts the key before a colon.
func (s *scanning) colon(tk *token.Token) {
	key, col := 0, tk.Position.Column
	if prev := tk.Prev; prev != nil && isScalar(prev.Type) {
		key = len(prev.Value)
		if prev.Position.Line == tk.Position.Line {
			col = prev.Position.Column
		}
	}
	if s.flows == 0 {
		s.block(col)
	}
	if len(s.open) == 0 {
		return
	}
	top := &s.open[len(s.open)-1]
	s.path += key - top.key
	top.key = key
	top.keys++
	if !top.flow {
		top.items = 0 // a list below a key may stand as far left as the key
	}
}

// item counts an item of the list that is open, or what a comma ends.
func (s *scanning) item() {
	if len(s.open) > 0 {
		s.open[len(s.open)-1].items++
	}
}

// block closes the levels that stand to the right of col, and opens one there
// if none is.
func (s *scanning) block(col int) {
	for len(s.open) > 0 && s.open[len(s.open)-1].col > col {
		s.pop()
	}
	if len(s.open) == 0 || s.open[len(s.open)-1].col < col {
		s.open = append(s.open, level{col: col})
	}
}

func (s *scanning) pop() {
	if len(s.open) == 0 {
		return
	}
	s.path -= s.open[len(s.open)-1].key
	s.open = s.open[:len(s.open)-1]
}
