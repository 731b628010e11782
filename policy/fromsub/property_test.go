package fromsub_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/fromsub"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

var known = policy.Known{
	Issuers: map[string]policy.Issuer{
		"github": {Shared: true, ImmutableIDs: []string{"repository_owner_id", "repository_id"}, OwnerIDs: []string{"repository_owner_id"}},
		"gitlab": {Shared: true, ImmutableIDs: []string{"project_id", "namespace_id"}, OwnerIDs: []string{"project_id", "namespace_id"}},
	},
	Grants: map[string]broker.Grant{"deploy": {Name: "deploy", MaxTTL: time.Hour}},
}

func load(text string) (*policy.Book, error) {
	return policy.Load(fstest.MapFS{"p.yaml": {Data: []byte(text)}}, known)
}

// like is StringLike of AWS, done the slow way.
func like(pattern, text string) bool {
	if pattern == "" {
		return text == ""
	}
	switch pattern[0] {
	case '*':
		return like(pattern[1:], text) || text != "" && like(pattern, text[1:])
	case '?':
		return text != "" && like(pattern[1:], text[1:])
	}
	return text != "" && text[0] == pattern[0] && like(pattern[1:], text[1:])
}

// job is what GitHub would say of one.
type job struct {
	claims broker.Claims
	byID   bool
}

func (j job) sub() string {
	text := func(claim string) string {
		s, _ := j.claims[claim].(string)
		return strings.ReplaceAll(s, ":", "%3A")
	}
	owner, name, _ := strings.Cut(text("repository"), "/")
	if j.byID {
		owner, name = owner+"@"+text("repository_owner_id"), name+"@"+text("repository_id")
	}
	context := "ref:" + text("ref")
	switch {
	case j.claims["environment"] != nil:
		context = "environment:" + text("environment")
	case text("event_name") == "pull_request":
		context = "pull_request"
	}
	return "repo:" + owner + "/" + name + ":" + context
}

func jobs(t *rapid.T) job {
	owner := rapid.SampledFrom([]string{"acme", "acme-evil", "a"}).Draw(t, "owner")
	j := job{byID: rapid.Bool().Draw(t, "by id"), claims: broker.Claims{
		"repository":          owner + "/" + rapid.SampledFrom([]string{"app", "app-2", "x"}).Draw(t, "name"),
		"repository_owner_id": rapid.SampledFrom([]string{"1", "12"}).Draw(t, "owner id"),
		"repository_id":       rapid.SampledFrom([]string{"5", "56"}).Draw(t, "id"),
		"ref":                 rapid.SampledFrom([]string{"refs/heads/main", "refs/heads/main/x", "refs/tags/main", "refs/heads/mai", "refs/pull/1/merge"}).Draw(t, "ref"),
		"event_name":          rapid.SampledFrom([]string{"push", "pull_request"}).Draw(t, "event"),
	}}
	if env := rapid.SampledFrom([]string{"", "prod", "prod:eu", "ref", "main"}).Draw(t, "environment"); env != "" {
		j.claims["environment"] = env
	}
	return j
}

// patterns are a job's subject with parts of it made wild.
func patterns(t *rapid.T, sub string) string {
	for range rapid.IntRange(0, 3).Draw(t, "wild") {
		from := rapid.IntRange(0, len(sub)).Draw(t, "from")
		to := rapid.IntRange(from, len(sub)).Draw(t, "to")
		sub = sub[:from] + rapid.SampledFrom([]string{"*", "?", "**", ""}).Draw(t, "by") + sub[to:]
	}
	return sub
}

func TestARuleAdmitsNoJobThatTheSubjectDidNot(t *testing.T) {
	var made, admitted int
	rapid.Check(t, func(t *rapid.T) {
		j := jobs(t)
		subject := j.sub()
		if rapid.Bool().Draw(t, "another's") {
			subject = jobs(t).sub()
		}
		pattern := patterns(t, subject)
		r := fromsub.Translate([]fromsub.Trust{fromsub.Subject(pattern)}, fromsub.Options{Grant: "deploy"})
		if len(r.File.Rules) == 0 {
			return
		}
		made++
		// Whoever fills the ids in fills in those of the job, at the worst.
		text := string(r.YAML())
		for _, id := range []string{"repository_owner_id", "repository_id"} {
			text = strings.ReplaceAll(text, id+`: ""`, fmt.Sprintf("%s: %q", id, j.claims[id]))
		}
		book, err := load(text)
		if err != nil {
			t.Fatalf("%q does not load: %v\n%s", pattern, err, text)
		}
		d, err := book.Decide(broker.Identity{Issuer: "github", Claims: maps.Clone(j.claims)}, []broker.Want{{Name: "deploy"}}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if !d.Allowed {
			return
		}
		admitted++
		names, ids := job{claims: j.claims}, job{claims: j.claims, byID: true}
		if !like(pattern, names.sub()) && !like(pattern, ids.sub()) {
			t.Fatalf("%q admits neither %q nor %q, and the rule does:\n%s", pattern, names.sub(), ids.sub(), text)
		}
	})
	if made == 0 || admitted == 0 {
		t.Fatalf("of the patterns %d gave a rule, and %d of these admitted their job: nothing was tried", made, admitted)
	}
}

func TestAPlainSubjectStillAdmitsItsJob(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := jobs(t)
		r := fromsub.Translate([]fromsub.Trust{fromsub.Subject(j.sub())}, fromsub.Options{Grant: "deploy"})
		text := string(r.YAML())
		for _, id := range []string{"repository_owner_id", "repository_id"} {
			text = strings.ReplaceAll(text, id+`: ""`, fmt.Sprintf("%s: %q", id, j.claims[id]))
		}
		book, err := load(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		d, _ := book.Decide(broker.Identity{Issuer: "github", Claims: j.claims}, []broker.Want{{Name: "deploy"}}, time.Now())
		if !d.Allowed {
			t.Fatalf("the job of %q is refused by\n%s", j.sub(), text)
		}
	})
}

func TestARuleWithAnIDToFillInDoesNotLoad(t *testing.T) {
	for _, sub := range []string{"repo:acme/app:ref:refs/heads/main", "repo:acme/*:environment:prod", "project_path:acme/app:ref_type:branch:ref:main"} {
		text := fromsub.Translate([]fromsub.Trust{fromsub.Subject(sub)}, fromsub.Options{Grant: "deploy"}).YAML()
		_, err := load(string(text))
		if faults, ok := errors.AsType[strictyaml.Faults](err); !ok || !strings.Contains(faults.Error(), "an empty id pins nothing") {
			t.Errorf("%s: err = %v\n%s", sub, err, text)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"Statement":{"Effect":"Allow","Action":"sts:AssumeRoleWithWebIdentity","Principal":{"Federated":"a:oidc-provider/gitlab.com"},"Condition":{"StringLike":{"gitlab.com:sub":"project_path:a/b:ref_type:branch:ref:*"}}}}`))
	f.Add([]byte(`{"data":{"bound_subject":"repo:a/b:*","bound_claims":{"ref":["x"]},"bound_claims_type":"glob"}}`))
	f.Add([]byte(`{"name":"a/b","attributeCondition":"assertion.sub=='repo:a/b:pull_request'"}`))
	f.Add([]byte(`{"claimsMatchingExpression":{"value":"claims['sub'] matches 'repo:a/*:*'"},"issuer":"https://token.actions.githubusercontent.com"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		trusts, err := fromsub.Read(data)
		if err != nil {
			return
		}
		r := fromsub.Translate(trusts, fromsub.Options{Grant: "deploy"})
		if len(r.File.Rules) == 0 {
			return
		}
		if _, err := load(string(r.YAML())); err != nil && !strings.Contains(err.Error(), "an empty id pins nothing") {
			t.Fatalf("%v\n%s", err, r.YAML())
		}
	})
}
