package issuers

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/daypass-dev/daypass/broker"
)

// JobFields map claims to the fields that every CI provider has under some
// name. Each field lists alternatives: the first that the token has is taken,
// and a field that no alternative fills stays empty.
//
// All are names of claims, save RunURL and JobKey, which are templates with
// {claim} in them. A template fills only if all its claims are there. Claims
// are escaped as URL path segments, so that none can reach into another's
// place: in RunURL a claim keeps its slashes, in JobKey it does not. {web}
// begins a RunURL and is the provider's web address.
type JobFields struct {
	Repository   Alternatives `yaml:"repository"`
	RepositoryID Alternatives `yaml:"repository_id"`
	OwnerID      Alternatives `yaml:"owner_id"`
	Ref          Alternatives `yaml:"ref"`
	Environment  Alternatives `yaml:"environment"`
	Event        Alternatives `yaml:"event"`
	Run          Alternatives `yaml:"run"`
	RunURL       Alternatives `yaml:"run_url"`
	JobKey       Alternatives `yaml:"job_key"`
}

// Alternatives are written as one text or a list.
type Alternatives []string

// UnmarshalYAML implements [yaml.BytesUnmarshaler].
func (a *Alternatives) UnmarshalYAML(raw []byte) error {
	var one string
	if err := yaml.UnmarshalWithOptions(raw, &one, yaml.Strict()); err == nil {
		*a = Alternatives{one}
		return nil
	}
	var list []string
	if err := yaml.UnmarshalWithOptions(raw, &list, yaml.Strict()); err != nil {
		return fmt.Errorf("want a text or a list of texts: %w", err)
	}
	*a = list
	return nil
}

const webPlace = "{web}"

// fill maps a verified token's claims. web is the provider's web address.
func (f JobFields) fill(claims broker.Claims, web string) broker.Job {
	return broker.Job{
		Repository:   f.Repository.claim(claims),
		RepositoryID: f.RepositoryID.claim(claims),
		OwnerID:      f.OwnerID.claim(claims),
		Ref:          f.Ref.claim(claims),
		Environment:  f.Environment.claim(claims),
		Event:        f.Event.claim(claims),
		Run:          f.Run.claim(claims),
		RunURL:       f.RunURL.expand(web, func(name string) string { return escapePath(claimText(claims, name)) }),
		Key:          f.JobKey.expand("", func(name string) string { return url.PathEscape(claimText(claims, name)) }),
	}
}

// claim returns the first claim that the token has.
func (a Alternatives) claim(claims broker.Claims) string {
	for _, name := range a {
		if text := claimText(claims, name); text != "" {
			return text
		}
	}
	return ""
}

// expand returns the first template whose places are all filled.
func (a Alternatives) expand(web string, value func(name string) string) string {
	for _, template := range a {
		if text, ok := expand(template, web, value); ok {
			return text
		}
	}
	return ""
}

func expand(template, web string, value func(name string) string) (string, bool) {
	var b strings.Builder
	b.Grow(len(web) + 2*len(template))
	if rest, ok := strings.CutPrefix(template, webPlace); ok {
		b.WriteString(web)
		template = rest
	}
	for template != "" {
		before, rest, found := strings.Cut(template, "{")
		b.WriteString(before)
		if !found {
			break
		}
		name, after, _ := strings.Cut(rest, "}")
		text := value(name)
		if text == "" {
			return "", false
		}
		b.WriteString(text)
		template = after
	}
	return b.String(), true
}

// claimText returns a claim that is text or a number; others have no one form.
func claimText(claims broker.Claims, name string) string {
	switch v := claims[name].(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// escapePath escapes all but the slashes between segments.
func escapePath(s string) string {
	return strings.ReplaceAll(url.PathEscape(s), "%2F", "/")
}

// faults reports templates and names that cannot work, and fields without
// which limits and sessions do not.
func (f JobFields) faults() []error {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf("job."+field+": "+format, args...))
	}
	for field, names := range map[string]Alternatives{
		"repository": f.Repository, "repository_id": f.RepositoryID, "owner_id": f.OwnerID, "ref": f.Ref,
		"environment": f.Environment, "event": f.Event, "run": f.Run,
	} {
		for _, name := range names {
			if name == "" || strings.ContainsAny(name, "{} ") {
				fault(field, "%q is not the name of a claim", name)
			}
		}
	}
	for field, templates := range map[string]Alternatives{"run_url": f.RunURL, "job_key": f.JobKey} {
		for _, t := range templates {
			if !balanced(strings.TrimPrefix(t, webPlace)) {
				fault(field, "%q: want text with {claim} in it", t)
			}
		}
	}
	for _, t := range f.RunURL {
		if !strings.HasPrefix(t, webPlace+"/") {
			fault("run_url", "%q must begin with %s/: the rest is what a token says", t, webPlace)
		}
	}
	if len(f.Repository) == 0 || len(f.RepositoryID) == 0 {
		fault("repository, job.repository_id", "are missing: limits count by them")
	}
	return faults
}

// balanced reports whether a template has places, each {name}.
func balanced(template string) bool {
	places := 0
	for {
		before, rest, found := strings.Cut(template, "{")
		if strings.Contains(before, "}") {
			return false
		}
		if !found {
			return places > 0
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || name == "" || strings.ContainsAny(name, "{ ") || name == "web" {
			return false
		}
		places, template = places+1, after
	}
}
