package issuers

import (
	"encoding/json"
	"io/fs"
	"maps"
	"slices"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// vector is one test of Wycheproof with the key of its group.
type vector struct {
	ID      int             `json:"tcId"`
	Comment string          `json:"comment"`
	JWS     json.RawMessage `json:"jws"` // compact as text, or JSON serialisation
	JWE     json.RawMessage `json:"jwe"`
	Result  string          `json:"result"`

	keys json.RawMessage // one JWK or a set
}

// token is what would be sent to us.
func (v vector) token() string {
	raw := v.JWS
	if raw == nil {
		raw = v.JWE
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// vectors reads a file of Wycheproof.
func vectors(t *testing.T, name string) []vector {
	t.Helper()
	raw, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Public  json.RawMessage `json:"public"`
			Private json.RawMessage `json:"private"`
			Tests   []vector        `json:"tests"`
		} `json:"testGroups"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	var all []vector
	for _, g := range file.Groups {
		for _, v := range g.Tests {
			if v.keys = g.Public; v.keys == nil {
				v.keys = g.Private // symmetric
			}
			all = append(all, v)
		}
	}
	return all
}

// pinned verifies a JWS as [keySet] does, with the vector's keys alone and
// every algorithm that we have. Claims are not looked at: vectors have none.
func (v vector) pinned() error {
	t, err := parseSigned(v.token())
	if err != nil {
		return err
	}
	set := v.keys
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(set, &document) == nil && document.Keys == nil {
		set = slices.Concat([]byte(`{"keys":[`), v.keys, []byte(`]}`))
	}
	keys, err := parseKeys(set, allAlgorithms)
	if err != nil {
		return err
	}
	return keys.verify(t)
}

var allAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Why we refuse what is valid.
const (
	symmetric  = "HMAC: no symmetric algorithm exists here"
	laxBase64  = "HMAC, and a character in base64 that decoders may skip: the same token in other bytes"
	wrongAlg   = "the key is published for PS256 and the token says PS384"
	unknownAlg = "the key is published for ES521, which does not exist"
	encrypted  = "JWE: no CI provider encrypts tokens"
)

func TestWycheproofIsRefusedWhereItIsInvalidAndAcceptedWhereWeAgree(t *testing.T) {
	for name, row := range map[string]struct {
		valid, invalid int
		differs        map[int]string // by tcId: valid, and refused
	}{
		"json_web_signature_test.json": {46, 355, map[int]string{
			1: symmetric, 348: symmetric, 352: symmetric, 357: symmetric, 358: symmetric, 359: symmetric, 376: symmetric, 377: symmetric,
			346: wrongAlg, 350: wrongAlg, 347: unknownAlg, 351: unknownAlg, 372: laxBase64, 373: laxBase64,
		}},
		"json_web_key_test.json":    {5, 21, map[int]string{2: symmetric, 13: symmetric, 14: symmetric, 15: symmetric}},
		"json_web_crypto_test.json": {6, 77, map[int]string{1: symmetric, 48: symmetric, 50: encrypted, 67: encrypted}},
	} {
		t.Run(name, func(t *testing.T) {
			valid, invalid := 0, 0
			for _, v := range vectors(t, name) {
				err := v.pinned()
				if v.Result != "valid" {
					if invalid++; err == nil {
						t.Errorf("%d %s: an invalid one was accepted", v.ID, v.Comment)
					}
					continue
				}
				valid++
				if _, listed := row.differs[v.ID]; listed != (err != nil) {
					t.Errorf("%d %s: %v; listed as a difference: %v", v.ID, v.Comment, err, listed)
				}
			}
			if valid != row.valid || invalid != row.invalid {
				t.Errorf("%d valid and %d invalid vectors, want %d and %d: has the file changed?", valid, invalid, row.valid, row.invalid)
			}
			for _, id := range slices.Sorted(maps.Keys(row.differs)) {
				t.Logf("%d is valid and refused: %s", id, row.differs[id])
			}
		})
	}
}

func TestEveryJWEOfWycheproofIsRefusedBeforeItIsRead(t *testing.T) {
	r := newRig(t, fakeissuer.GitHub)
	all := vectors(t, "json_web_encryption_test.json")
	if len(all) != 139 {
		t.Errorf("%d vectors, want 139: has the file changed?", len(all))
	}
	for _, v := range all {
		_, err := r.Verify(t.Context(), broker.NewSecret(v.token()))
		if reason := broker.ReasonOf(err); err == nil || reason != "not_compact" && reason != "too_large" {
			t.Errorf("%d %s: %v", v.ID, v.Comment, err)
		}
	}
}
