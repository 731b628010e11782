package fromsub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// maxFile bounds what [Read] takes: far above any trust policy.
const maxFile = 1 << 20

// Read understands a file of another system: an IAM role's trust policy, an
// Entra federated credential, a JWT role of Vault or OpenBao, or a workload
// identity pool's provider of Google Cloud, all in JSON. The error says what
// is expected where the file is none of these, has a key twice or more than
// 1 MiB.
func Read(data []byte) ([]Trust, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes, which no trust policy has", maxFile)
	}
	if err := noTwins(json.NewDecoder(bytes.NewReader(data))); err != nil {
		return nil, err
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	has := func(key string) bool { _, ok := keys[key]; return ok }
	switch {
	case has("Statement"):
		return readAWS(data)
	case has("subject") || has("claimsMatchingExpression"):
		return readAzure(data)
	case has("bound_subject") || has("bound_claims"):
		return readVault(data)
	case has("attributeMapping") || has("attributeCondition"):
		return readGoogle(data)
	case has("data"): // as vault read -format=json prints it
		return Read(keys["data"])
	}
	return nil, errors.New("neither an IAM trust policy (Statement), an Entra federated credential (subject), " +
		"a Vault role (bound_subject, bound_claims) nor a provider of a workload identity pool (attributeMapping)")
}

// noTwins refuses a key that is there twice: one of the two would be lost.
func noTwins(d *json.Decoder) error {
	type level struct {
		object, key bool
		seen        map[string]bool
	}
	var levels []level
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("not JSON: %w", err)
		}
		top := len(levels) - 1
		switch token {
		case json.Delim('{'), json.Delim('['):
			if top >= 0 {
				levels[top].key = true
			}
			object := token == json.Delim('{')
			levels = append(levels, level{object: object, key: true, seen: map[string]bool{}})
			continue
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:top]
			continue
		}
		if top < 0 || !levels[top].object {
			continue
		}
		if name, ok := token.(string); ok && levels[top].key {
			if folded := strings.ToLower(name); levels[top].seen[folded] {
				return fmt.Errorf("the key %q is there twice", visible(name))
			} else {
				levels[top].seen[folded] = true
			}
		}
		levels[top].key = !levels[top].key
	}
}

// oneOrMany is a text, or a list of texts.
type oneOrMany []string

// UnmarshalJSON implements [json.Unmarshaler].
func (l *oneOrMany) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err == nil {
		*l = oneOrMany{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(data, &many); err != nil {
		return errors.New("must be a text or a list of texts")
	}
	if len(many) == 0 {
		return errors.New("is an empty list, which nothing matches")
	}
	*l = many
	return nil
}

// readAWS reads a role's trust policy.
func readAWS(data []byte) ([]Trust, error) {
	var doc struct{ Statement json.RawMessage }
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	var statements []statement
	if err := json.Unmarshal(doc.Statement, &statements); err != nil {
		statements = make([]statement, 1)
		if err := json.Unmarshal(doc.Statement, &statements[0]); err != nil {
			return nil, fmt.Errorf("the list under Statement cannot be read: %w", err)
		}
	}
	trusts := make([]Trust, len(statements))
	for i := range statements {
		trusts[i] = statements[i].trust(fmt.Sprintf("statement %d", i+1))
	}
	return trusts, nil
}

// statement is one of a trust policy of AWS.
type statement struct {
	Sid                               string
	Effect                            string
	Action                            oneOrMany
	Principal                         json.RawMessage
	Condition                         map[string]map[string]oneOrMany
	NotPrincipal, NotAction, Resource json.RawMessage
}

func (s *statement) trust(from string) Trust {
	t := Trust{From: from}
	if s.Sid != "" {
		t.From += " (" + s.Sid + ")"
	}
	var principal struct{ Federated oneOrMany }
	if err := json.Unmarshal(s.Principal, &principal); err != nil || len(principal.Federated) != 1 {
		t.Refused = "its principal is not one OpenID Connect provider"
		return t
	}
	_, host, found := strings.Cut(principal.Federated[0], ":oidc-provider/")
	switch {
	case s.Effect != "Allow":
		t.Refused = "it denies, and what it takes from others is for you to write as a deny rule"
	case s.NotPrincipal != nil || s.NotAction != nil:
		t.Refused = "it says who or what is not meant"
	case !slices.Contains(s.Action, "sts:AssumeRoleWithWebIdentity"):
		t.Refused = "it is not about tokens of a provider"
	case !found:
		t.Refused = "its principal is not an OpenID Connect provider"
	}
	if t.Refused != "" {
		return t
	}
	t.Provider = forHost(host)
	for _, operator := range slices.Sorted(maps.Keys(s.Condition)) {
		wild, known := awsOperators[operator]
		for _, key := range slices.Sorted(maps.Keys(s.Condition[operator])) {
			claim, ours := strings.CutPrefix(key, host+":")
			if !known || !ours {
				t.Refused = fmt.Sprintf("its condition %s on %s cannot be said of claims", visible(operator), visible(key))
				return t
			}
			t.Claims = append(t.Claims, condition(claim, s.Condition[operator][key], wild))
		}
	}
	return t
}

// awsOperators are those that say what a claim is, and whether with wildcards.
// Never changed.
var awsOperators = map[string]bool{
	"StringEquals": false, "ForAnyValue:StringEquals": false,
	"StringLike": true, "ForAnyValue:StringLike": true,
}

func condition(claim string, values []string, wild bool) Condition {
	c := Condition{Claim: claim}
	for _, v := range values {
		c.Any = append(c.Any, Pattern{Text: v, Wild: wild && special(v)})
	}
	return c
}

// readVault reads a JWT role of Vault or OpenBao. With bound_claims_type glob,
// only * is special there.
func readVault(data []byte) ([]Trust, error) {
	var role struct {
		BoundSubject    string               `json:"bound_subject"`
		BoundClaims     map[string]oneOrMany `json:"bound_claims"`
		BoundClaimsType string               `json:"bound_claims_type"`
	}
	if err := json.Unmarshal(data, &role); err != nil {
		return nil, fmt.Errorf("not a role that can be read: %w", err)
	}
	t := Trust{From: "role"}
	if kind := role.BoundClaimsType; kind != "" && kind != "string" && kind != "glob" {
		t.Refused = "its bound_claims_type is " + visible(kind)
	}
	if role.BoundSubject != "" {
		t.Claims = append(t.Claims, condition("sub", []string{role.BoundSubject}, false))
	}
	for _, claim := range slices.Sorted(maps.Keys(role.BoundClaims)) {
		for _, v := range role.BoundClaims[claim] {
			if role.BoundClaimsType == "glob" && strings.Contains(v, "?") {
				t.Refused = "a ? stands for itself in a glob of Vault, and cannot be matched beside a wildcard"
			}
		}
		t.Claims = append(t.Claims, condition(claim, role.BoundClaims[claim], role.BoundClaimsType == "glob"))
	}
	// Without a subject, the claims have to tell whose token it is.
	for claim := range role.BoundClaims {
		for _, p := range providers {
			if t.Provider == "" && claim == p.repository {
				t.Provider = p.name
			}
		}
	}
	return []Trust{t}, nil
}
