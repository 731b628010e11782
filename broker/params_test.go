package broker_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
)

func TestParamsAreReadExactlyOrAllTheirFaultsNamed(t *testing.T) {
	for name, tt := range map[string]struct {
		raw    string
		faults []string // beginnings, in order
	}{
		"params that are absent have no fault":        {raw: ""},
		"no settings are no fault":                    {raw: `{}`},
		"all settings are read":                       {raw: `{"owner": "app", "roles": ["a", "b"], "limit": 3}`},
		"a list is no object":                         {`["owner"]`, []string{"params are not an object"}},
		"null is no object":                           {`null`, []string{"params are not an object"}},
		"what is no JSON is no object":                {`{"owner":`, []string{"params are not an object"}},
		"a second object after the first is not read": {`{} {"owner": "app"}`, []string{"params are not an object"}},
		"a name that differs in case is another":      {`{"Owner": "app"}`, []string{"Owner: no such setting; there are limit, owner, roles"}},
		"null is not a value":                         {`{"owner": null}`, []string{"owner: is empty"}},
		"a number is not a text":                      {`{"owner": 5}`, []string{"owner: has the wrong type"}},
		"every fault is named, sorted by the field": {`{"x": 1, "roles": "secret-value", "limit": null, "a": 2}`,
			[]string{"a: no such setting", "limit: is empty", "roles: has the wrong type", "x: no such setting"}},
	} {
		t.Run(name, func(t *testing.T) {
			var owner string
			var roles []string
			var limit int
			faults := broker.DecodeParams(json.RawMessage(tt.raw), map[string]any{"owner": &owner, "roles": &roles, "limit": &limit})
			if len(faults) != len(tt.faults) {
				t.Fatalf("faults are %v, want %q", faults, tt.faults)
			}
			for i, want := range tt.faults {
				if !strings.HasPrefix(faults[i].Error(), want) {
					t.Errorf("fault %d is %q, want %q", i, faults[i], want)
				}
			}
			if text := errors.Join(faults...); text != nil && strings.Contains(text.Error(), "secret-value") {
				t.Errorf("a value is repeated: %v", text)
			}
			if name == "all settings are read" && (owner != "app" || len(roles) != 2 || limit != 3) {
				t.Errorf("read %q, %q and %d", owner, roles, limit)
			}
		})
	}
}
