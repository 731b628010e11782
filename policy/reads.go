package policy

import (
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/parser"
)

// Reads is what the truth of a rule depends on: for who knows a part of a token
// only, and has to know whether it is enough.
type Reads struct {
	Claims []string // names of claims, sorted; of a JSON Pointer the first
	All    bool     // its expression reads claims that cannot be named
	TTL    bool     // its expression reads how long is asked for
}

// Reads returns what the rule looks at: its pinned ids, its conditions, and its
// expression. It names too much rather than too little.
func (r RuleInfo) Reads() Reads {
	reads := readsOf(r.Rule.When)
	for _, p := range r.Places {
		reads.conditions(p.Pins)
	}
	reads.conditions(r.Conditions)
	slices.Sort(reads.Claims)
	reads.Claims = slices.Compact(reads.Claims)
	return reads
}

func (r *Reads) conditions(all []Condition) {
	for i := range all {
		r.Claims = append(r.Claims, all[i].Reads())
	}
}

// Reads returns the name of the claim that the condition is about, or that its
// JSON Pointer begins with.
func (c *Condition) Reads() string {
	pointer, ok := strings.CutPrefix(c.Claim, "/")
	if !ok {
		return c.Claim
	}
	first, _, _ := strings.Cut(pointer, "/")
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(first)
}

// newReader makes the parser of expressions that are only read. Macros stay
// calls, so that what they are applied to is looked at as it was written.
var newReader = sync.OnceValues(func() (*parser.Parser, error) {
	return parser.NewParser(parser.MaxRecursionDepth(2*maxWhenDeep), parser.ExpressionSizeCodePointLimit(maxWhen))
})

func readsOf(expression string) Reads {
	var r Reads
	if expression == "" {
		return r
	}
	p, err := newReader()
	if err != nil {
		return Reads{All: true, TTL: true}
	}
	parsed, errs := p.Parse(common.NewTextSource(expression))
	if len(errs.GetErrors()) > 0 {
		return Reads{All: true, TTL: true}
	}
	r.expression(parsed.Expr())
	return r
}

func (r *Reads) expression(e ast.Expr) {
	switch e.Kind() {
	case ast.LiteralKind:
	case ast.IdentKind:
		r.All = r.All || isVariable(e, "claims")
		r.TTL = r.TTL || isVariable(e, "ttl")
	case ast.SelectKind:
		if s := e.AsSelect(); isVariable(s.Operand(), "claims") {
			r.Claims = append(r.Claims, s.FieldName())
		} else {
			r.expression(s.Operand())
		}
	case ast.CallKind:
		r.call(e.AsCall())
	case ast.ListKind:
		for _, item := range e.AsList().Elements() {
			r.expression(item)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			r.expression(entry.AsMapEntry().Key())
			r.expression(entry.AsMapEntry().Value())
		}
	default:
		r.All, r.TTL = true, true
	}
}

func (r *Reads) call(c ast.CallExpr) {
	args := c.Args()
	if c.FunctionName() == operators.Index && len(args) == 2 && isVariable(args[0], "claims") && args[1].Kind() == ast.LiteralKind {
		if name, ok := args[1].AsLiteral().Value().(string); ok {
			r.Claims = append(r.Claims, name)
			return
		}
	}
	if c.IsMemberFunction() {
		r.expression(c.Target())
	}
	for _, a := range args {
		r.expression(a)
	}
}

func isVariable(e ast.Expr, name string) bool {
	return e.Kind() == ast.IdentKind && strings.TrimPrefix(e.AsIdent(), ".") == name
}
