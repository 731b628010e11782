package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Bounds of an expression. The cost is what the evaluator counts, about one
// for each step and each ten bytes of text it looks at.
const (
	maxWhen     = 2048 // bytes
	maxWhenDeep = 32   // parentheses and operators within each other
	maxWhenCost = 10_000
)

// whenCompiler compiles the `when` expressions of one folder. Rules that say
// the same share a program.
type whenCompiler struct {
	env      *cel.Env
	programs map[string]cel.Program // by expression
}

// newWhenCompiler defines what an expression may use: CEL's own operators,
// functions and macros, but not what [leftOut] names.
func newWhenCompiler() (*whenCompiler, error) {
	e, err := cel.NewCustomEnv(
		cel.StdLib(cel.StdLibSubset(env.NewLibrarySubset().AddExcludedFunctions(leftOut()...))),
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("issuer", cel.StringType),
		cel.Variable("grant", cel.StringType),
		cel.Variable("ttl", cel.DurationType),
		cel.ParserExpressionSizeLimit(maxWhen),
		cel.ParserRecursionLimit(maxWhenDeep),
		cel.ASTValidators(
			cel.ValidateComprehensionNestingLimit(2),
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
		),
	)
	if err != nil {
		return nil, fmt.Errorf("policy: prepare expressions: %w", err)
	}
	return &whenCompiler{env: e, programs: map[string]cel.Program{}}, nil
}

// leftOut are the functions that expressions do without: matches, since a
// regular expression that is not anchored lets more pass than it seems to, and
// those that look at time zones, which are files that a name in a token would
// open and that differ from one broker to another.
func leftOut() []*env.Function {
	out := []*env.Function{env.NewFunction("matches")}
	for name, zoned := range map[string]string{
		overloads.TimeGetFullYear:     overloads.TimestampToYearWithTz,
		overloads.TimeGetMonth:        overloads.TimestampToMonthWithTz,
		overloads.TimeGetDayOfYear:    overloads.TimestampToDayOfYearWithTz,
		overloads.TimeGetDayOfMonth:   overloads.TimestampToDayOfMonthZeroBasedWithTz,
		overloads.TimeGetDate:         overloads.TimestampToDayOfMonthOneBasedWithTz,
		overloads.TimeGetDayOfWeek:    overloads.TimestampToDayOfWeekWithTz,
		overloads.TimeGetHours:        overloads.TimestampToHoursWithTz,
		overloads.TimeGetMinutes:      overloads.TimestampToMinutesWithTz,
		overloads.TimeGetSeconds:      overloads.TimestampToSecondsWithTz,
		overloads.TimeGetMilliseconds: overloads.TimestampToMillisecondsWithTz,
	} {
		out = append(out, env.NewFunction(name, &env.Overload{ID: zoned}))
	}
	return out
}

// compile returns the program, or all faults of the expression at n.
func (w *whenCompiler) compile(n *strictyaml.Node, expression string) (cel.Program, error) {
	if expression == "" {
		return nil, n.Fault("is empty: give an expression, or leave when out")
	}
	if len(expression) > maxWhen {
		return nil, n.Fault("is longer than %d bytes", maxWhen)
	}
	if program, ok := w.programs[expression]; ok {
		return program, nil
	}
	ast, issues := w.env.Compile(expression)
	if issues.Err() != nil {
		var faults strictyaml.Faults
		for _, e := range issues.Errors() {
			faults = append(faults, n.Fault("at %d:%d of the expression: %s",
				e.Location.Line(), e.Location.Column()+1, e.Message))
		}
		return nil, faults.Err()
	}
	if ast.OutputType() != cel.BoolType {
		return nil, n.Fault("must say true or false, not %s: compare it with something", ast.OutputType())
	}
	program, err := w.env.Program(ast, cel.CostTracking(pricing{}), cel.CostLimit(maxWhenCost))
	if err != nil {
		return nil, n.Fault("cannot be evaluated: %s", err)
	}
	w.programs[expression] = program
	return program, nil
}

// whenVars are the variables of one evaluation. It implements
// [cel.Activation].
type whenVars struct {
	claims map[string]any
	issuer string
	grant  string
	ttl    time.Duration // as long as the rule would give; for one that denies, as long as was asked
}

// ResolveName implements [cel.Activation].
func (v *whenVars) ResolveName(name string) (any, bool) {
	switch name {
	case "claims":
		return v.claims, true
	case "issuer":
		return v.issuer, true
	case "grant":
		return v.grant, true
	case "ttl":
		return v.ttl, true
	}
	return nil, false
}

// Parent implements [cel.Activation].
func (v *whenVars) Parent() cel.Activation { return nil }

// truthOfWhen evaluates the program: an error, a cost above the limit or
// anything else than true and false is undecided.
func truthOfWhen(program cel.Program, vars *whenVars) truth {
	out, _, err := program.Eval(vars)
	switch {
	case err == nil && out == types.True:
		return yes
	case err == nil && out == types.False:
		return no
	}
	return undecided
}

// whenClaims turns claims into what CEL understands. It reports false where a
// number cannot be held without rounding: what is compared must be what the
// token says, so no expression decides anything about such a token.
func whenClaims(claims broker.Claims) (map[string]any, bool) {
	v, ok := whenValue(map[string]any(claims))
	m, isMap := v.(map[string]any)
	return m, ok && isMap
}

func whenValue(v any) (any, bool) {
	switch v := v.(type) {
	case nil, bool, string:
		return v, true
	case json.Number:
		return whenNumber(v)
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			x, ok := whenValue(item)
			if !ok {
				return nil, false
			}
			list[i] = x
		}
		return list, true
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, item := range v {
			x, ok := whenValue(item)
			if !ok {
				return nil, false
			}
			m[key] = x
		}
		return m, true
	}
	return nil, false
}

// whenNumber gives whole numbers as int and others as double, if the value
// that comes out is the one that went in.
func whenNumber(n json.Number) (any, bool) {
	same, ok := canonical(n.String())
	if !ok {
		return nil, false
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, false
	}
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return i, true
	}
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		i := int64(f)
		back, _ := canonical(strconv.FormatInt(i, 10))
		return i, back == same
	}
	back, _ := canonical(strconv.FormatFloat(f, 'g', -1, 64))
	return f, back == same
}
