package policy

import (
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// pricing says what the calls cost that the evaluator takes for one step however
// much they look at: it prices the overload that was compiled, and of claims the
// types are known only when they are there. It implements
// [cost.ActualCostEstimator].
type pricing struct{}

// CallCost returns nil for what the evaluator prices itself.
func (pricing) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	price := uint64(1)
	switch {
	case function == operators.In && len(args) == 2 && isList(args[1]):
		price += weight(args[1].Value())
	case (function == operators.Equals || function == operators.NotEquals) && len(args) == 2 && (isAggregate(args[0]) || isAggregate(args[1])):
		price += weight(args[0].Value()) + weight(args[1].Value())
	case function == operators.Add && result != nil && !isAggregate(result):
		price += weight(result.Value())
	case function == overloads.Size && len(args) == 1 && !isAggregate(args[0]):
		price += weight(args[0].Value())
	default:
		return nil
	}
	return &price
}

func isList(v ref.Val) bool { _, ok := v.(traits.Lister); return ok }

func isAggregate(v ref.Val) bool {
	_, ok := v.(traits.Mapper)
	return ok || isList(v)
}

// weight is one for each value within v, and one for each ten bytes of text.
func weight(v any) uint64 {
	n := uint64(1)
	switch v := v.(type) {
	case string:
		n += uint64(len(v)) / 10
	case []byte:
		n += uint64(len(v)) / 10
	case []any:
		for _, item := range v {
			n += weight(item)
		}
	case map[string]any:
		for key, item := range v {
			n += weight(key) + weight(item)
		}
	case []ref.Val:
		for _, item := range v {
			n += weight(item.Value())
		}
	case map[ref.Val]ref.Val:
		for key, item := range v {
			n += weight(key.Value()) + weight(item.Value())
		}
	}
	return n
}
