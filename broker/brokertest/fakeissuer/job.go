package fakeissuer

import (
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Provider is a CI provider whose tokens the fake can imitate.
type Provider string

// The providers.
const (
	GitHub Provider = "github"
	GitLab Provider = "gitlab"
)

// Providers lists them.
func Providers() []Provider { return []Provider{GitHub, GitLab} }

// Subject is a shape of GitHub's sub claim.
type Subject string

// GitHub's shapes of sub: with immutable ids for repositories made since July
// 2026, by name for older ones and on GitHub Enterprise Server.
const (
	SubjectByID   Subject = ""
	SubjectByName Subject = "name"
)

// Job is a CI job as its token tells it. The zero Job of a provider is a push
// to the protected main branch of acme/payments-api.
type Job struct {
	Provider Provider
	// Audience is the token's aud. Empty: what the provider takes by default.
	Audience string
	// Set overrides claims, registered ones too; values are marshalled as
	// they are, so a [json.Number] or a nil stays one. Claims that follow
	// from others (sub, repository_owner, ref_path, …) follow unless set.
	Set map[string]any
	// Unset removes claims after everything else was filled in.
	Unset []string
	// Life is exp-iat; 0 means five minutes at GitHub and one hour at GitLab.
	Life time.Duration
	// Subject chooses GitHub's shape of sub.
	Subject Subject
}

//go:embed claims/*.json
var baseClaims embed.FS

// base returns the provider's own claims, before anything is overridden.
func (p Provider) base() (map[string]any, error) {
	raw, err := baseClaims.ReadFile("claims/" + string(p) + ".json")
	if err != nil {
		return nil, fmt.Errorf("unknown provider %q; there are %v", p, Providers())
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		return nil, fmt.Errorf("claims of %s: %w", p, err)
	}
	return claims, nil
}

// Claims returns all claims of one token of the job: those of the provider,
// what follows from them, fresh iat, exp and jti, and the overrides.
func (f *Fake) Claims(j Job) (map[string]any, error) {
	claims, err := j.Provider.base()
	if err != nil {
		return nil, err
	}
	maps.Copy(claims, j.Set)
	fill := func(name string, value any) {
		if _, ok := j.Set[name]; !ok {
			claims[name] = value
		}
	}
	fill("iss", f.URL(j.Provider))
	fill("aud", cmp.Or(j.Audience, defaultAudience(j.Provider, f.URL(j.Provider), claims)))
	if err := f.stamp(j, fill); err != nil {
		return nil, err
	}
	switch j.Provider {
	case GitHub:
		githubFollows(j, claims, fill)
	case GitLab:
		gitlabFollows(f.URL(GitLab), claims, fill)
	}
	maps.DeleteFunc(claims, func(name string, _ any) bool { return slices.Contains(j.Unset, name) })
	return claims, nil
}

// defaultAudience is whom a token is for when nobody says.
func defaultAudience(p Provider, issuer string, claims map[string]any) string {
	if p == GitHub {
		owner, _, _ := strings.Cut(text(claims, "repository"), "/")
		return "https://github.com/" + owner
	}
	return issuer
}

// stamp fills in what is new in every token.
func (f *Fake) stamp(j Job, fill func(string, any)) error {
	jti, err := f.uuid()
	if err != nil {
		return err
	}
	life, early := 5*time.Minute, 5*time.Minute
	if j.Provider == GitLab {
		life, early = time.Hour, 5*time.Second
	}
	if j.Life != 0 {
		life = j.Life
	}
	iat := f.now()
	fill("jti", jti)
	fill("iat", iat.Unix())
	fill("nbf", iat.Add(-early).Unix())
	fill("exp", iat.Add(life).Unix())
	return nil
}

// githubFollows fills in what GitHub computes from other claims.
func githubFollows(j Job, claims map[string]any, fill func(string, any)) {
	repository, ref := text(claims, "repository"), text(claims, "ref")
	owner, name, _ := strings.Cut(repository, "/")
	workflow := repository + "/.github/workflows/deploy.yml@" + ref
	fill("repository_owner", owner)
	fill("workflow_ref", workflow)
	fill("job_workflow_ref", workflow)

	context := "ref:" + ref
	if env := text(claims, "environment"); env != "" {
		context = "environment:" + strings.ReplaceAll(env, ":", "%3A")
	} else if text(claims, "event_name") == "pull_request" {
		context = "pull_request"
	}
	subject := "repo:" + repository + ":" + context
	if j.Subject == SubjectByID {
		subject = fmt.Sprintf("repo:%s@%s/%s@%s:%s", owner, text(claims, "repository_owner_id"), name, text(claims, "repository_id"), context)
	}
	fill("sub", subject)
}

// gitlabFollows fills in what GitLab computes from other claims.
func gitlabFollows(issuer string, claims map[string]any, fill func(string, any)) {
	project, ref, kind := text(claims, "project_path"), text(claims, "ref"), text(claims, "ref_type")
	path := "refs/heads/" + ref
	if kind == "tag" {
		path = "refs/tags/" + ref
	}
	namespace := project
	if i := strings.LastIndex(project, "/"); i >= 0 {
		namespace = project[:i]
	}
	host := issuer
	if u, err := url.Parse(issuer); err == nil {
		host = u.Host + u.Path
	}
	fill("namespace_path", namespace)
	fill("ref_path", path)
	for _, name := range []string{"project_id", "project_path", "namespace_id", "namespace_path"} {
		fill("job_"+name, claims[name])
	}
	fill("ci_config_ref_uri", host+"/"+text(claims, "job_project_path")+"//.gitlab-ci.yml@"+text(claims, "ref_path"))
	fill("sub", "project_path:"+project+":ref_type:"+kind+":ref:"+ref)
	if text(claims, "environment") != "" {
		fill("environment_protected", "true")
		fill("deployment_tier", "production")
		fill("environment_action", "start")
	}
}

// text returns a claim that is text, and nothing for any other.
func text(claims map[string]any, name string) string {
	s, _ := claims[name].(string)
	return s
}
