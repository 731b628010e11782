package issuers

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	jose "github.com/go-jose/go-jose/v4"
)

// maxKeys is how many keys a key set may have.
const maxKeys = 64

// parseKeys reads a JWKS document (RFC 7517) and keeps the keys that sign with
// one of algs. A key that is odd is skipped, because providers publish keys for
// other uses; a document that is ambiguous is refused whole.
func parseKeys(raw []byte, algs []string) (keys, error) {
	document, err := decodeObject(raw)
	if err != nil {
		return keys{}, fmt.Errorf("key set: %w", err)
	}
	list, ok := document["keys"].([]any)
	if !ok {
		return keys{}, errors.New("key set: no list of keys")
	}
	if len(list) > maxKeys {
		return keys{}, fmt.Errorf("key set: %d keys; more than %d are refused", len(list), maxKeys)
	}
	set := keys{byID: make(map[string]jose.JSONWebKey, len(list))}
	seen := make(map[string]bool, len(list))
	for _, item := range list {
		member, _ := item.(map[string]any)
		kid, _ := member["kid"].(string)
		if kid != "" && seen[kid] {
			return keys{}, errors.New("key set: two keys have one kid")
		}
		seen[kid] = true
		key, err := parseKey(member, algs)
		if err != nil {
			set.skipped++
			continue
		}
		set.byID[kid] = key
	}
	if len(set.byID) == 0 {
		return keys{}, fmt.Errorf("key set: none of its %d keys is of use", len(list))
	}
	return set, nil
}

// parseKey reads one key. go-jose gets to see the numbers only: certificates
// and URLs inside keys are neither parsed nor trusted.
func parseKey(member map[string]any, algs []string) (jose.JSONWebKey, error) {
	kid, _ := member["kid"].(string)
	if kid == "" || len(kid) > maxWord {
		return jose.JSONWebKey{}, errors.New("no usable kid")
	}
	for _, private := range []string{"k", "d", "p", "q", "dp", "dq", "qi", "oth", "priv"} {
		if _, ok := member[private]; ok {
			return jose.JSONWebKey{}, errors.New("it is published with its private part")
		}
	}
	if !forSignatures(member) {
		return jose.JSONWebKey{}, errors.New("it is not for signatures")
	}
	numbers := make(map[string]any, 8)
	for _, name := range []string{"kty", "kid", "alg", "crv", "n", "e", "x", "y"} {
		if v, ok := member[name]; ok {
			numbers[name] = v
		}
	}
	raw, err := json.Marshal(numbers)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(raw); err != nil {
		return jose.JSONWebKey{}, err
	}
	if !key.Valid() || !slices.ContainsFunc(algs, func(alg string) bool { return fits(alg, key) }) {
		return jose.JSONWebKey{}, errors.New("it fits none of the issuer's algorithms")
	}
	if k, ok := key.Key.(*rsa.PublicKey); ok && roca(k.N) {
		return jose.JSONWebKey{}, errors.New("its modulus can be factored")
	}
	return key, nil
}

// forSignatures reads use and key_ops (RFC 7517, 4.2 and 4.3); both may be
// absent.
func forSignatures(member map[string]any) bool {
	if use, ok := member["use"]; ok && use != "sig" {
		return false
	}
	ops, ok := member["key_ops"]
	if !ok {
		return true
	}
	list, _ := ops.([]any)
	return slices.Contains(list, any("verify"))
}
