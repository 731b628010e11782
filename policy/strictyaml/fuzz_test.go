package strictyaml_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// FuzzParse reads anything: every refusal names a place that is in the
// document, and what is accepted has one meaning as JSON, with no key twice.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := strictyaml.Limits{Bytes: 64 << 10, Depth: 32, Keys: 1000}
		doc, err := strictyaml.Parse("f.yaml", data, limits)
		if err != nil {
			checkFaults(t, data, err)
			return
		}
		walk(t, doc.Root, 0)
		raw, err := doc.Root.JSON()
		if err != nil {
			checkFaults(t, data, err)
		} else if !json.Valid(raw) {
			t.Fatalf("not JSON: %s", raw)
		}
	})
}

func checkFaults(t *testing.T, data []byte, err error) {
	faults, ok := errors.AsType[strictyaml.Faults](err)
	if !ok || len(faults) == 0 {
		t.Fatalf("not faults: %T %v", err, err)
	}
	for _, fault := range faults {
		if fault.Line < 0 || fault.Line > bytes.Count(data, []byte("\n"))+1 || fault.Msg == "" {
			t.Fatalf("%+v is nowhere in the document", fault)
		}
	}
}

func walk(t *testing.T, n *strictyaml.Node, depth int) {
	if depth > 64 {
		t.Fatal("too deep")
	}
	seen := map[string]bool{}
	for _, k := range n.Keys {
		if seen[k.Name] {
			t.Fatalf("key %q twice", k.Name)
		}
		seen[k.Name] = true
		walk(t, k.Value, depth+1)
	}
	for _, item := range n.Items {
		walk(t, item, depth+1)
	}
}
