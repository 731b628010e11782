package issuers

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/daypass-dev/daypass/broker"
)

//go:embed profiles/*/testdata/*.claims.json
var fixtureFiles embed.FS

const fixtureEnd = ".claims.json"

// Fixtures returns what tokens of each provider say, for tests of policy: by
// profile and case, such as github/pull-request, and by profile alone for the
// one that its profile names. They are the claims that the profiles themselves
// are tested with, so a provider that changes changes both. Callers may change
// the maps, but not what is in them.
func Fixtures() (map[string]broker.Claims, error) {
	profiles, err := Profiles()
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(fixtureFiles, "profiles/*/testdata/*"+fixtureEnd)
	if err != nil {
		return nil, fmt.Errorf("issuers: list fixtures: %w", err)
	}
	all := make(map[string]broker.Claims, len(files)+len(profiles))
	for _, file := range files {
		raw, err := fixtureFiles.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("issuers: read fixture: %w", err)
		}
		claims, err := ReadClaims(raw)
		if err != nil {
			return nil, fmt.Errorf("issuers: %s: %w", file, err)
		}
		profile, name := path.Base(path.Dir(path.Dir(file))), strings.TrimSuffix(path.Base(file), fixtureEnd)
		all[profile+"/"+name] = claims
		if name == profiles[profile].Fixture {
			all[profile] = claims
		}
	}
	return all, nil
}

// ReadClaims reads a JSON object as strictly as the claims of a token: names
// compare exactly, none is there twice, and numbers keep their type. Nobody has
// signed what it returns.
func ReadClaims(raw []byte) (broker.Claims, error) {
	claims, err := decodeObject(raw)
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	return claims, nil
}

// ReadUnverified returns what a token says, whoever made it: neither signature
// nor issuer, audience or times are looked at. It is for showing an operator
// what policy would say, and for nothing else. Its errors do not repeat the
// token.
func ReadUnverified(raw broker.Secret) (broker.Claims, error) {
	t, err := parse(raw.Reveal())
	if err != nil {
		return nil, err
	}
	return t.claims, nil
}
