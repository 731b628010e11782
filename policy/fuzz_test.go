package policy

import (
	"encoding/json"
	"errors"
	"testing"
	"testing/fstest"
	"time"

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

// FuzzWhen takes anything as an expression: it is refused, or it comes to an
// answer within its cost, the same one twice, and none for claims that were
// trimmed.
func FuzzWhen(f *testing.F) {
	compiler, err := newWhenCompiler()
	if err != nil {
		f.Fatal(err)
	}
	doc, err := strictyaml.Parse("p.yaml", []byte("when: x"), strictyaml.DefaultLimits())
	if err != nil {
		f.Fatal(err)
	}
	claims, whole := whenClaims(broker.Claims{"a": "b", "n": json.Number("5"), "list": []any{"a", true, nil}, "map": map[string]any{"a": "b"}})
	if !whole {
		f.Fatal("the claims cannot be held")
	}
	f.Fuzz(func(t *testing.T, expression string) {
		program, err := compiler.compile(doc.Root, expression)
		if err != nil {
			if program != nil {
				t.Fatal("a program and a fault")
			}
			return
		}
		clear(compiler.programs) // do not keep them all
		if len(expression) > maxWhen {
			t.Fatal("it is too long")
		}
		vars := &whenVars{claims: claims, issuer: "hub", grant: "a", ttl: time.Minute}
		began := time.Now()
		first, again := truthOfWhen(program, vars), truthOfWhen(program, vars)
		if first != again {
			t.Fatalf("%d, and then %d", first, again)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("it took %s", took)
		}
	})
}

// FuzzPrint reads anything as a file of the language: what can be read is
// printed, and read back the same.
func FuzzPrint(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parsed(text)
		if err != nil {
			return
		}
		printed := file.YAML()
		back, err := parsed(printed)
		if err != nil || said(file) != said(back) {
			t.Fatalf("%v\n%s", err, printed)
		}
	})
}
