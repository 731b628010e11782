package fromsub

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/policy"
)

// meaning is what a subject, and what stands beside it, says of claims.
type meaning struct {
	provider *provider
	context  string // for the rule's name: main, production, pull-request
	claims   []policy.Condition
	ids      map[string]string // pinned by the original
	notes    []string
}

// read understands a subject's pattern. A pattern without text says nothing of
// the subject.
func read(name string, p Pattern) (*meaning, error) {
	if strings.Contains(p.Text, "${") {
		return nil, errors.New("it has a variable of a policy language in it")
	}
	if strings.ContainsFunc(p.Text, func(r rune) bool { return r < 0x20 || r > 0x7E }) {
		return nil, errors.New("it holds a character outside printable ASCII, which no glob or id matches")
	}
	if !p.Wild && strings.ContainsAny(p.Text, "*?") {
		return nil, errors.New("it is compared exactly, and no subject holds * or ?: it never matched a job")
	}
	whose, err := forSubject(name, p.Text)
	if err != nil {
		return nil, err
	}
	m := &meaning{provider: whose, ids: map[string]string{}}
	if p.Text == "" {
		m.context = "any"
		return m, nil
	}
	parts := strings.Split(p.Text, ":")
	if whose.name == "github" && parts[0] == "repo" {
		return m, m.github(parts, p.Wild)
	}
	return m, m.pairs(parts, p.Wild)
}

// github reads repo:OWNER/NAME:CONTEXT, and the form with ids behind an @.
func (m *meaning) github(parts []string, wild bool) error {
	if len(parts) < 2 {
		return errors.New("repo: stands before no repository")
	}
	if err := m.githubRepo(parts[1], wild); err != nil {
		return err
	}
	rest := parts[2:]
	open := wild && strings.HasSuffix(parts[1], "*") && len(rest) == 0
	switch {
	case open || wild && slices.Equal(rest, []string{"*"}):
		m.context = "any"
		m.notes = append(m.notes, "the original admits any branch, tag, environment and pull request; so does the rule, until you say which")
		return nil
	case len(rest) == 0:
		return errors.New("it ends after the repository, as no subject does")
	case rest[0] == "pull_request" && len(rest) == 1:
		m.context = "pull-request"
		m.one("event_name", "pull_request")
		m.claims = append(m.claims, policy.Condition{Claim: "environment", Op: policy.Absent})
		m.notes = append(m.notes, "whoever can open a pull request writes the code that runs in it")
		return nil
	case rest[0] == "ref" && len(rest) == 2:
		m.context = last(rest[1])
		// A subject names the ref only outside of environments and pull requests.
		m.claims = append(m.claims,
			policy.Condition{Claim: "environment", Op: policy.Absent},
			policy.Condition{Claim: "event_name", Op: policy.NoneOf, Any: texts("pull_request", "pull_request_target")})
		m.notes = append(m.notes, "a job in an environment has another subject, so the rule is not for one")
		return m.text("ref", rest[1], wild)
	case rest[0] == "environment" && len(rest) == 2:
		m.context = rest[1]
		m.notes = append(m.notes, "the subject of a job in an environment does not say its branch; add ref if only one may deploy")
		return m.text("environment", rest[1], wild)
	}
	return m.pairs(rest, wild)
}

// githubRepo reads OWNER/NAME or OWNER@ID/NAME@ID.
func (m *meaning) githubRepo(text string, wild bool) error {
	owner, name, ok := strings.Cut(text, "/")
	if !ok {
		return errors.New("the repository is OWNER/NAME; a wildcard in an owner's name admits whoever registers a fitting one")
	}
	owner, ownerID, byID := strings.Cut(owner, "@")
	if special(owner) || special(ownerID) || owner == "" || byID && ownerID == "" {
		return errors.New("a wildcard in an owner's name or id admits whoever registers a fitting one")
	}
	if byID {
		m.ids["repository_owner_id"] = ownerID
	}
	name, repoID, nameByID := strings.Cut(name, "@")
	switch {
	case nameByID && !special(repoID) && repoID != "":
		m.ids["repository_id"] = repoID
	case nameByID && repoID != "*":
		return errors.New("an id cannot be matched in part")
	}
	if byID != nameByID && !(byID && strings.HasSuffix(name, "*")) {
		return errors.New("one of owner and repository has an id and the other none, as in no subject")
	}
	if name == "" {
		return errors.New("the repository has no name")
	}
	return m.text("repository", owner+"/"+name, wild)
}

// pairs reads claim:value:claim:value.
func (m *meaning) pairs(parts []string, wild bool) error {
	if wild && parts[len(parts)-1] == "*" && len(parts)%2 == 1 {
		parts = parts[:len(parts)-1]
		m.notes = append(m.notes, "the original ends in *, which admits any rest of the subject; so does the rule, until you say more")
	}
	if len(parts)%2 != 0 {
		return errors.New("it is no list of claims and values, and does not begin with repo")
	}
	m.context = last(parts[len(parts)-1])
	for i := 0; i < len(parts); i += 2 {
		claim, value := parts[i], parts[i+1]
		if !slices.Contains(m.provider.keys, claim) {
			return fmt.Errorf("%s is no claim of %s that a subject is made of", visible(claim), m.provider.name)
		}
		if slices.Contains(m.provider.ids, claim) {
			if special(value) {
				return errors.New("an id cannot be matched in part")
			}
			m.ids[claim] = value
			continue
		}
		if err := m.text(claim, value, wild); err != nil {
			return err
		}
	}
	return nil
}

// text is a condition on a claim as a subject writes it: colons are escaped.
func (m *meaning) text(claim, value string, wild bool) error {
	for _, colon := range []string{"%3A", "%3a"} {
		value = strings.ReplaceAll(value, colon, ":")
	}
	p, ok, err := pattern(Pattern{Text: value, Wild: wild})
	if err != nil {
		return err
	}
	c := policy.Condition{Claim: claim, Op: policy.Exists}
	if ok {
		c = policy.Condition{Claim: claim, Any: []policy.Pattern{p}}
	}
	m.claims = append(m.claims, c)
	return nil
}

func (m *meaning) one(claim, value string) {
	m.claims = append(m.claims, policy.Condition{Claim: claim, Any: texts(value)})
}

// and adds what the original says of other claims.
func (m *meaning) and(rest []Condition) error {
	for _, c := range rest {
		if c.Claim == "aud" {
			m.notes = append(m.notes, "its audience is not taken over: tokens for Daypass name Daypass")
			continue
		}
		var any []policy.Pattern
		for _, p := range c.Any {
			one, ok, err := pattern(p)
			if err != nil {
				return fmt.Errorf("%s: %w", visible(c.Claim), err)
			}
			if !ok { // anything will do, as long as the claim is there
				any = nil
				m.claims = append(m.claims, policy.Condition{Claim: c.Claim, Op: policy.Exists})
				break
			}
			any = append(any, one)
		}
		if slices.Contains(m.provider.ids, c.Claim) && len(any) == 1 && any[0].Kind == policy.ExactText {
			if had := m.ids[c.Claim]; had != "" && had != any[0].Text {
				return fmt.Errorf("it wants two values of %s at once", c.Claim)
			}
			m.ids[c.Claim] = any[0].Text
			continue
		}
		if any != nil {
			m.claims = append(m.claims, policy.Condition{Claim: c.Claim, Any: any})
		}
	}
	return nil
}

// sound refuses what would admit strangers, or cannot be written as a rule.
func (m *meaning) sound() error {
	seen := map[string]bool{}
	for _, c := range m.claims {
		if seen[c.Claim] {
			return fmt.Errorf("it has two conditions on %s, of which both must hold", visible(c.Claim))
		}
		seen[c.Claim] = true
		if slices.Contains(m.provider.ids, c.Claim) {
			return fmt.Errorf("%s: an id has to be matched by one value", c.Claim)
		}
		for _, p := range c.Any {
			if c.Claim != m.provider.repository || p.Kind != policy.GlobOfText {
				continue
			}
			if owner, _, ok := strings.Cut(p.Text, "/"); !ok || special(owner) {
				return errors.New("a wildcard in an owner's name admits whoever registers a fitting one")
			}
		}
	}
	for _, claim := range m.provider.whose {
		if seen[claim] {
			return nil
		}
	}
	if len(m.ids) == 0 {
		return errors.New("it names neither a repository nor its owner: it admits jobs of every tenant of its provider")
	}
	return nil
}

// match returns the conditions that are no pinned ids.
func (m *meaning) match() policy.Match { return slices.Clone(policy.Match(m.claims)) }

// pins returns the ids to be pinned. Those that the original does not say are
// empty, and have to be filled in before the rule loads. Of a wildcard over
// repositories only the owner's id can be said.
func (m *meaning) pins() policy.Match {
	wanted := m.provider.ids
	switch _, exact := m.repository(); {
	case !exact:
		wanted = wanted[:1]
	case m.provider.enough:
		wanted = wanted[1:]
	}
	var pins policy.Match
	for _, id := range m.provider.ids {
		if m.ids[id] != "" || slices.Contains(wanted, id) {
			pins = append(pins, policy.Condition{Claim: id, Any: texts(m.ids[id])})
		}
	}
	if _, exact := m.repository(); !exact && m.ids[wanted[0]] == "" {
		m.notes = append(m.notes, fmt.Sprintf("fill in %s; %s", wanted[0], m.provider.find[wanted[0]]))
	}
	return pins
}

// repository returns the one that is meant, if it is one.
func (m *meaning) repository() (string, bool) {
	for _, c := range m.claims {
		if c.Claim == m.provider.repository && len(c.Any) == 1 && c.Any[0].Kind == policy.ExactText {
			return c.Any[0].Text, true
		}
	}
	return "", false
}

// owner is the beginning of what repositories are called, for a name.
func (m *meaning) owner() string {
	for _, c := range m.claims {
		if c.Claim == m.provider.repository && len(c.Any) > 0 {
			owner, _, _ := strings.Cut(c.Any[0].Text, "/")
			return owner
		}
	}
	return m.provider.name
}

// pattern writes what a wildcard pattern means as a glob; not ok if it means
// anything at all. A * of the original crosses / and :, as ** does; a ? of
// ours stands for less.
func pattern(p Pattern) (policy.Pattern, bool, error) {
	if !p.Wild || !special(p.Text) {
		if p.Text == "" {
			return policy.Pattern{}, false, errors.New("an empty value names nothing")
		}
		return policy.Pattern{Kind: policy.ExactText, Text: p.Text}, true, nil
	}
	if strings.ContainsAny(p.Text, `[]{}\`) {
		return policy.Pattern{}, false, errors.New(`[ ] { } \ beside a wildcard cannot be matched`)
	}
	glob := p.Text
	for strings.Contains(glob, "**") {
		glob = strings.ReplaceAll(glob, "**", "*")
	}
	if glob == "*" {
		return policy.Pattern{}, false, nil
	}
	return policy.Pattern{Kind: policy.GlobOfText, Text: strings.ReplaceAll(glob, "*", "**")}, true, nil
}

func special(text string) bool { return strings.ContainsAny(text, "*?") }

func texts(values ...string) []policy.Pattern {
	all := make([]policy.Pattern, len(values))
	for i, v := range values {
		all[i] = policy.Pattern{Kind: policy.ExactText, Text: v}
	}
	return all
}

func last(ref string) string { return ref[strings.LastIndex(ref, "/")+1:] }
