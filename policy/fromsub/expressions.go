package fromsub

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// readAzure reads a federated credential of Entra, with a subject or with an
// expression over claims.
func readAzure(data []byte) ([]Trust, error) {
	var credential struct {
		Name, Issuer, Subject    string
		ClaimsMatchingExpression *struct{ Value string }
	}
	if err := json.Unmarshal(data, &credential); err != nil {
		return nil, fmt.Errorf("not a federated credential that can be read: %w", err)
	}
	t := Trust{From: "credential " + credential.Name, Provider: forHost(credential.Issuer)}
	if credential.Subject != "" {
		t.Claims = append(t.Claims, condition("sub", []string{credential.Subject}, false))
	}
	if e := credential.ClaimsMatchingExpression; e != nil {
		conditions, err := conjunction(e.Value, " and ", azureTerm)
		if err != nil {
			t.Refused = err.Error()
		}
		t.Claims = append(t.Claims, conditions...)
	}
	return []Trust{t}, nil
}

// readGoogle reads a provider of a workload identity pool. What a pool's
// provider admits is narrowed by the principals that roles are given to: those
// are read by [Principal].
func readGoogle(data []byte) ([]Trust, error) {
	var pool struct {
		Name               string
		AttributeCondition string
		OIDC               struct{ IssuerURI string }
	}
	if err := json.Unmarshal(data, &pool); err != nil {
		return nil, fmt.Errorf("not a provider that can be read: %w", err)
	}
	t := Trust{
		From: "provider " + pool.Name[strings.LastIndex(pool.Name, "/")+1:], Provider: forHost(pool.OIDC.IssuerURI),
		Notes: []string{"roles are given to some of what the provider admits: the rule is for all of it, so narrow it"},
	}
	if pool.AttributeCondition == "" {
		t.Refused = "it has no condition: it admits every job of every tenant of its issuer"
		return []Trust{t}, nil
	}
	conditions, err := conjunction(pool.AttributeCondition, "&&", googleTerm)
	if err != nil {
		t.Refused = err.Error()
	}
	t.Claims = conditions
	return []Trust{t}, nil
}

// Principal reads a principal of a workload identity pool, as roles of Google
// Cloud are given to it; ok is false for any other text.
func Principal(text string) (t Trust, ok bool) {
	one, isOne := strings.CutPrefix(text, "principal://iam.googleapis.com/")
	set, isSet := strings.CutPrefix(text, "principalSet://iam.googleapis.com/")
	t = Trust{From: text}
	switch {
	case isOne:
		_, subject, found := strings.Cut(one, "/subject/")
		if !found {
			t.Refused = "it names no subject"
		}
		t.Claims = []Condition{condition("sub", []string{subject}, false)}
		t.Notes = []string{"google.subject is taken for the claim sub: see the provider's attribute mapping"}
	case isSet:
		_, rest, _ := strings.Cut(set, "/attribute.")
		name, value, found := strings.Cut(rest, "/")
		if !found {
			t.Refused = "it is everybody in the pool, or a group"
		}
		t.Claims = []Condition{condition(name, []string{value}, false)}
		t.Notes = []string{fmt.Sprintf("attribute.%s is taken for the claim %s: see the provider's attribute mapping", visible(name), visible(name))}
		for _, p := range providers {
			if name == p.repository || strings.HasPrefix(name, p.repository+"_") {
				t.Provider = p.name
			}
		}
	default:
		return Trust{}, false
	}
	return t, true
}

// The terms that are understood: one claim, and one text that it is. Compiled
// once, never changed.
var (
	azureTerm  = regexp.MustCompile(`\A\s*claims\['([A-Za-z0-9_]+)'\]\s+(eq|matches)\s+'([^'\\]*)'\s*\z`)
	googleTerm = regexp.MustCompile(`\A\s*assertion\.([A-Za-z0-9_]+)\s*(==)\s*(?:'([^'\\]*)'|"([^"\\]*)")\s*\z`)
)

// conjunction reads terms of which all must hold. Everything else is refused:
// a term that was left out would make the rule wider.
func conjunction(text, and string, term *regexp.Regexp) ([]Condition, error) {
	var all []Condition
	for one := range strings.SplitSeq(text, and) {
		m := term.FindStringSubmatch(one)
		if m == nil {
			return nil, fmt.Errorf("its condition %q is not one claim compared with one text", visible(strings.TrimSpace(one)))
		}
		value := m[3]
		if len(m) > 4 && value == "" {
			value = m[4]
		}
		if value == "" {
			return nil, errors.New("it compares with an empty text")
		}
		all = append(all, condition(m[1], []string{value}, m[2] == "matches"))
	}
	return all, nil
}
