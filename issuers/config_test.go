package issuers

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestNewReportsAllFaultsAtOnceByField(t *testing.T) {
	_, err := New(Options{
		Audience: "https://github.com/acme", URL: "https://daypass.example.com", Leeway: time.Hour,
		Issuers: []Config{
			{Name: "Git Hub", Profile: "github"},
			{Name: "again", Profile: "github"},
			{Name: "nobody", Profile: "teamcity"},
			{Name: "own", Profile: "gitlab", URL: "https://daypass.example.com"},
			{Name: "odd", Profile: "gitlab", URL: "http://gitlab.example.com", WebURL: "x", JWKSHosts: []string{"https://a/b"}, MaxTokenLife: 48 * time.Hour},
			{Name: "odd", Profile: "gitlab", URL: "https://b.example.com"},
		},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"audience: is what GitHub gives", "leeway: ", `issuers."Git Hub": a name is`, "issuers.again.url: is that of issuers.Git Hub",
		`issuers.nobody.profile: "teamcity" is not one of github, gitlab`, "issuers.own.url: is our own", "issuers.odd.url: must be https",
		"issuers.odd.web_url: ", "issuers.odd.jwks_hosts: ", "issuers.odd.max_token_life: ", "issuers.odd: is there twice",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
	_, err = New(Options{Audience: ourAudience, Issuers: []Config{
		{Name: "a", Profile: "github", JWKSFile: "/does/not/exist"},
		{Name: "b", Profile: "gitlab", CAFile: writeFile(t, []byte("no certificate"))},
		{Name: "c", Profile: "gitlab", URL: "https://c.example.com", JWKSFile: writeFile(t, []byte(`{"keys":[]}`))},
	}})
	for _, want := range []string{"issuers.a.jwks_file: ", "issuers.b.ca_file: ", "issuers.c.jwks_file: key set: none of its 0 keys"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in: %v", want, err)
		}
	}
	if _, err := New(Options{Audience: ourAudience}); err == nil || !strings.Contains(err.Error(), "issuers: at least one") {
		t.Errorf("no issuer: %v", err)
	}
}

func TestAnIssuerURLIsWrittenInOneWay(t *testing.T) {
	for _, url := range []string{
		"https://ci.example.com/", "https://CI.example.com", "HTTPS://ci.example.com", "https://ci.example.com?x=1", "https://ci.example.com?",
		"https://ci.example.com#", "https://ci.example.com#x", "https://u@ci.example.com", "https://", "https://:443", "ci.example.com", "//ci.example.com",
		"http://ci.example.com", "ftp://ci.example.com", "https://ci.example.com/a b", "https://*.example.com/\n", "https://ci.example.com/%zz", " https://ci.example.com",
	} {
		if badURL(url, false) == "" {
			t.Errorf("%q is accepted", url)
		}
	}
	for _, url := range []string{"https://ci.example.com", "https://ci.example.com:8443/a/b", "https://host.example.com/_services/token"} {
		if why := badURL(url, false); why != "" {
			t.Errorf("%q: %s", url, why)
		}
	}
	if why := badURL("http://127.0.0.1:8080/github", true); why != "" {
		t.Errorf("insecure: %s", why)
	}
}

func TestAnAudienceThatOthersUseIsRefused(t *testing.T) {
	for _, audience := range []string{
		"", "sts.amazonaws.com", "STS.amazonaws.com", "api://AzureADTokenExchange", "sigstore", "pypi", "https://github.com/acme",
		"https://GitHub.com/acme", "https://gitlab.com", "a b", "a\n", "daypaß", strings.Repeat("a", 257),
	} {
		if badAudience(audience) == "" {
			t.Errorf("%q is accepted", audience)
		}
	}
	if why := badAudience(ourAudience); why != "" {
		t.Error(why)
	}
}

func TestASharedIssuerIsKnownByItsHost(t *testing.T) {
	set, err := New(Options{Audience: ourAudience, Issuers: []Config{
		{Name: "github", Profile: "github"},
		{Name: "slug", Profile: "github", URL: "https://token.actions.githubusercontent.com/acme"},
		{Name: "ghes", Profile: "github", URL: "https://ghes.example.com/_services/token", MaxTokenLife: 5 * time.Minute},
		{Name: "gitlab", Profile: "gitlab", URL: "https://gitlab.com"},
		{Name: "own", Profile: "gitlab", URL: "https://gitlab.example.com"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	infos := set.Issuers()
	for name, shared := range map[string]bool{"github": true, "slug": true, "ghes": false, "gitlab": true, "own": false} {
		if infos[name].Shared != shared {
			t.Errorf("%s: shared %v", name, infos[name].Shared)
		}
	}
	if got := fmt.Sprint(infos["github"].OwnerIDs, infos["github"].ImmutableIDs, infos["own"].OwnerIDs, infos["ghes"].MaxTokenLife); got !=
		"[repository_owner_id] [repository_owner_id repository_id] [project_id namespace_id] 5m0s" {
		t.Error(got)
	}
	if d := set.LongestTokenLife(); d != 3*time.Hour+time.Minute {
		t.Errorf("longest life %s", d)
	}
	if err := set.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "issuers.ghes: its keys have not been fetched") {
		t.Errorf("ready before anything was fetched: %v", err)
	}
}
