package policy

import (
	"errors"
	"testing"
	"testing/fstest"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// FuzzLoad reads anything as a policy file: it is refused with faults, or it
// is a book that knows no stranger and decides without failing.
func FuzzLoad(f *testing.F) {
	known := someKnown()
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := Load(fstest.MapFS{"p.yaml": {Data: text}}, known)
		if err != nil {
			if faults, ok := errors.AsType[strictyaml.Faults](err); !ok || len(faults) == 0 || b != nil {
				t.Fatalf("not faults: %v", err)
			}
			return
		}
		for _, id := range []broker.Identity{
			oneOfMany(), {Issuer: "forge", Claims: broker.Claims{"repo": []any{"1"}}}, {Issuer: "hub"},
		} {
			d, err := b.Decide(id, []broker.Want{{Name: "a"}, {Name: "b"}}, midday)
			if err != nil {
				t.Fatal(err)
			}
			if id.Claims == nil && (d.Known || d.Allowed) {
				t.Fatalf("a token without claims is known: %+v", d)
			}
		}
	})
}
