package mint_test

import (
	"slices"
	"testing"

	"github.com/daypass-dev/daypass/broker/mint"
)

func TestKindsAreWholeSortedAndNamedOnce(t *testing.T) {
	var names []string
	for _, k := range mint.Kinds() {
		if k.Name == "" || k.CheckGrant == nil || k.Open == nil {
			t.Errorf("kind %q is not whole", k.Name)
		}
		names = append(names, k.Name)
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) || !slices.Contains(names, "postgres") || !slices.Contains(names, "mysql") {
		t.Errorf("kinds are %v", names)
	}
}
