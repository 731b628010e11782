package lint

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"

	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// maxAlternatives bounds the ways through one expression that are looked at one
// by one.
const maxAlternatives = 64

// expressions reads `when` into the alternatives it has: each a list of
// conditions that hold together. What it does not understand becomes a
// condition of its own that admits everything, and so vouches for nothing.
type expressions struct {
	parser *parser.Parser
	known  map[string]formula // by text: many rules say the same
}

func newExpressions() (*expressions, error) {
	// Macros stay calls: has and exists are easier to read that way.
	p, err := parser.NewParser(parser.MaxRecursionDepth(64), parser.ExpressionSizeCodePointLimit(4096))
	if err != nil {
		return nil, fmt.Errorf("policy/lint: prepare expressions: %w", err)
	}
	return &expressions{parser: p, known: map[string]formula{}}, nil
}

// formula is alternatives of conditions.
type formula [][]condition

// read returns the alternatives of the expression at n; without one there is a
// single alternative that asks for nothing.
func (e *expressions) read(n *strictyaml.Node) formula {
	if n == nil {
		return formula{nil}
	}
	f, ok := e.known[n.Text]
	if !ok {
		f = e.parse(n.Text)
		e.known[n.Text] = f
	}
	placed := make(formula, len(f))
	for i, conditions := range f {
		placed[i] = slices.Clone(conditions)
		for j := range placed[i] {
			placed[i][j].node = n
		}
	}
	return placed
}

func (e *expressions) parse(text string) formula {
	parsed, errs := e.parser.Parse(common.NewTextSource(text))
	if len(errs.GetErrors()) > 0 {
		return formula{{{op: notRead, dynamic: true, excerpt: "it is not CEL"}}}
	}
	f := walk(parsed.Expr(), true)
	if len(f) > maxAlternatives {
		return tooMany(nil)
	}
	return f
}

// tooMany is an expression that is not looked at in parts.
func tooMany(n *strictyaml.Node) formula {
	return formula{{{op: notRead, dynamic: true, excerpt: "more alternatives than are looked at", node: n}}}
}

// walk turns an expression, or its negation, into alternatives.
func walk(e ast.Expr, yes bool) formula {
	if e.Kind() != ast.CallKind {
		return formula{{truth(e, yes)}}
	}
	c := e.AsCall()
	args := c.Args()
	switch c.FunctionName() {
	case operators.LogicalNot:
		return walk(args[0], !yes)
	case operators.LogicalAnd, operators.LogicalOr:
		var parts []formula
		for _, a := range args {
			parts = append(parts, walk(a, yes))
		}
		if (c.FunctionName() == operators.LogicalAnd) == yes {
			return both(parts)
		}
		return either(parts)
	case operators.Conditional:
		return either([]formula{
			both([]formula{walk(args[0], true), walk(args[1], yes)}),
			both([]formula{walk(args[0], false), walk(args[2], yes)}),
		})
	}
	return formula{{atom(e, yes)}}
}

func both(parts []formula) formula {
	all := formula{nil}
	for _, p := range parts {
		var next formula
		for _, a := range all {
			for _, b := range p {
				if next = append(next, slices.Concat(a, b)); len(next) > maxAlternatives {
					return next
				}
			}
		}
		all = next
	}
	return all
}

// either joins alternatives. Those that say each what one same claim may be
// become one that lists it all, as a list under match would.
func either(parts []formula) formula {
	all := slices.Concat(parts...)
	merged := all[0]
	for _, next := range all[1:] {
		if len(merged) != 1 || len(next) != 1 || merged[0].claim != next[0].claim || merged[0].op != isOne || next[0].op != isOne {
			return all
		}
		one := merged[0]
		one.any = slices.Concat(one.any, next[0].any)
		merged = []condition{one}
	}
	return formula{merged}
}

// truth reads a word that is true or false by itself.
func truth(e ast.Expr, yes bool) condition {
	if claim, ok := claimOf(e); ok {
		word := map[bool]string{true: "true", false: "false"}[yes]
		return condition{claim: claim, op: isOne, any: []pattern{{kind: policy.ExactBool, text: word}}}
	}
	return unread(e)
}

// atom reads a call that is no operator of logic.
func atom(e ast.Expr, yes bool) condition {
	c := e.AsCall()
	args := c.Args()
	positive := map[bool]op{true: isOne, false: isNone}[yes]
	switch name := c.FunctionName(); {
	case name == operators.Equals && len(args) == 2:
		return compared(e, args[0], args[1], positive)
	case name == operators.NotEquals && len(args) == 2:
		return compared(e, args[0], args[1], isOne+isNone-positive)
	case name == operators.In && len(args) == 2:
		return contained(e, args[0], args[1], positive)
	case name == operators.Has && len(args) == 1:
		if claim, ok := claimOf(args[0]); ok {
			return condition{claim: claim, op: map[bool]op{true: isThere, false: isAbsent}[yes]}
		}
	case c.IsMemberFunction() && len(args) == 1 && slices.Contains([]string{"startsWith", "endsWith", "contains"}, name):
		claim, ok := claimOf(c.Target())
		text, isText := textOf(args[0])
		if ok && isText {
			return condition{claim: claim, op: positive, any: []pattern{called(name, text)}}
		}
	case slices.Contains([]string{operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals}, name):
		for i, a := range args {
			claim, ok := claimOf(a)
			if p, isValue := valueOf(args[1-i]); ok && isValue && p.kind == policy.ExactNum {
				return condition{claim: claim, op: isNumber}
			}
		}
	case name == operators.Index:
		return truth(e, yes)
	}
	return unread(e)
}

// compared reads a == b, for a claim and a value or two claims.
func compared(e, a, b ast.Expr, how op) condition {
	left, leftClaim := claimOf(a)
	right, rightClaim := claimOf(b)
	switch {
	case leftClaim && rightClaim && how == isOne:
		return condition{claim: left, op: isSame, other: right}
	case leftClaim && !rightClaim:
		if p, ok := valueOf(b); ok {
			return condition{claim: left, op: how, any: []pattern{p}}
		}
	case rightClaim && !leftClaim:
		if p, ok := valueOf(a); ok {
			return condition{claim: right, op: how, any: []pattern{p}}
		}
	}
	return unread(e)
}

// contained reads claims.x in ["a", "b"], and "a" in claims.list.
func contained(e, a, b ast.Expr, how op) condition {
	if claim, ok := claimOf(a); ok && b.Kind() == ast.ListKind {
		c := condition{claim: claim, op: how}
		for _, item := range b.AsList().Elements() {
			p, ok := valueOf(item)
			if !ok {
				return unread(e)
			}
			c.any = append(c.any, p)
		}
		return c
	}
	if claim, ok := claimOf(b); ok {
		if p, ok := valueOf(a); ok {
			p.call = "in"
			return condition{claim: claim, op: how, any: []pattern{p}}
		}
	}
	return unread(e)
}

// claimOf reads claims.x, claims["x"] and what lies within, and the words grant
// and issuer.
func claimOf(e ast.Expr) (string, bool) {
	if e.Kind() == ast.IdentKind {
		switch e.AsIdent() {
		case "grant":
			return theGrant, true
		case "issuer":
			return theIssuer, true
		}
		return "", false
	}
	steps, ok := stepsOf(e)
	if !ok || len(steps) == 0 {
		return "", false
	}
	return pointer(steps), true
}

func stepsOf(e ast.Expr) ([]string, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return nil, e.AsIdent() == "claims"
	case ast.SelectKind:
		s := e.AsSelect()
		steps, ok := stepsOf(s.Operand())
		return append(steps, s.FieldName()), ok
	case ast.CallKind:
		c := e.AsCall()
		if c.FunctionName() != operators.Index || len(c.Args()) != 2 {
			return nil, false
		}
		name, isText := textOf(c.Args()[1])
		steps, ok := stepsOf(c.Args()[0])
		return append(steps, name), ok && isText
	}
	return nil, false
}

func textOf(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

func valueOf(e ast.Expr) (pattern, bool) {
	if e.Kind() != ast.LiteralKind {
		return pattern{}, false
	}
	switch v := e.AsLiteral().(type) {
	case types.String:
		return exactly(string(v)), true
	case types.Bool:
		return pattern{kind: policy.ExactBool, text: fmt.Sprint(bool(v))}, true
	case types.Int, types.Uint, types.Double:
		return pattern{kind: policy.ExactNum, text: fmt.Sprint(v.Value())}, true
	}
	return pattern{}, false
}

// unread names what is not understood: which claims it reads, and which
// functions it calls.
func unread(e ast.Expr) condition {
	c := condition{op: notRead}
	var functions []string
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(x ast.Expr) {
		steps, ok := stepsOf(x)
		switch {
		case ok && len(steps) > 0:
			c.reads = append(c.reads, pointer(steps[:1]), pointer(steps))
		case x.Kind() == ast.CallKind && !strings.ContainsAny(x.AsCall().FunctionName(), "_@"):
			functions = append(functions, x.AsCall().FunctionName())
		}
	}))
	c.dynamic = wholeClaims(e)
	slices.Sort(c.reads)
	c.reads = slices.Compact(c.reads)
	slices.Sort(functions)
	c.excerpt = strings.Join(slices.Compact(functions), ", ")
	return c
}

// wholeClaims reports whether claims is used other than by the name of a claim:
// claims.exists(…), "x" in claims, [claims].
func wholeClaims(e ast.Expr) bool {
	uses, named := 0, 0
	isClaims := func(x ast.Expr) bool { return x.Kind() == ast.IdentKind && x.AsIdent() == "claims" }
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(x ast.Expr) {
		switch {
		case isClaims(x):
			uses++
		case x.Kind() == ast.SelectKind && isClaims(x.AsSelect().Operand()):
			named++
		case x.Kind() == ast.CallKind && x.AsCall().FunctionName() == operators.Index && isClaims(x.AsCall().Args()[0]):
			if _, isText := textOf(x.AsCall().Args()[1]); isText {
				named++
			}
		}
	}))
	return uses > named
}
