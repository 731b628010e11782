package jwt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// KindName is the kind's name in the configuration.
const KindName = "jwt"

// Skew is how long before its issue a token is valid, for verifiers whose
// clock is behind ours.
const Skew = 10 * time.Second

const (
	maxSubject = 127 // what Google's federation takes
	maxIDBytes = 36  // room that every grant's name must leave for a repository's id: a UUID
	maxField   = 512 // bytes of one job field
)

// Kind describes tokens that Daypass signs itself. It needs no target.
func Kind() broker.Kind {
	return broker.Kind{Name: KindName, Takeback: broker.TakebackExpiry, CheckGrant: checkGrant, Open: open}
}

// Names that cannot be read in two ways inside a subject: no colon, no slash.
var (
	grantRE = regexp.MustCompile(`\A[a-z0-9][a-z0-9._-]*\z`)
	idRE    = regexp.MustCompile(`\A[A-Za-z0-9._-]+\z`)
)

func checkGrant(g broker.Grant) error {
	p, faults := parseParams(g.Params)
	id := ""
	if p.PerRepository {
		id = strings.Repeat("x", maxIDBytes)
	}
	_, err := subject("depl", g.Name, id) // all deployments have four letters
	return errors.Join(append(faults, err)...)
}

// subject builds the one subject a grant's tokens can have.
func subject(deployment, grant, repositoryID string) (string, error) {
	if !grantRE.MatchString(grant) {
		return "", fmt.Errorf("name: %q cannot be part of a subject; lower-case letters, digits, dots and dashes can", grant)
	}
	s := "dp:" + deployment + ":grant:" + grant
	if repositoryID != "" {
		if !idRE.MatchString(repositoryID) {
			return "", errors.New("the job's repository id cannot be part of a subject")
		}
		s += ":" + repositoryID
	}
	if len(s) > maxSubject {
		return "", fmt.Errorf("name: a subject of grant %q would have %d bytes, and %d are allowed", grant, len(s), maxSubject)
	}
	return s, nil
}

// minter makes the tokens of all jwt grants.
type minter struct {
	deployment string
	issuer     string
	signer     broker.Signer
	now        func() time.Time
}

var _ broker.Minter = (*minter)(nil)

func open(c broker.TargetConfig) (broker.Minter, error) {
	err := broker.CheckDeployment(c.Deployment)
	if c.URL == "" || c.Signer == nil || c.Now == nil {
		err = errors.Join(err, errors.New("jwt: our URL, a signer and a clock are needed"))
	}
	if err != nil {
		return nil, err
	}
	return &minter{deployment: c.Deployment, issuer: c.URL, signer: c.Signer, now: c.Now}, nil
}

// claims is a token's payload.
type claims struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
	ID        string `json:"jti"`
	// Daypass holds what is ours to say, apart from registered claims, so
	// that nothing in it can be taken for one.
	Daypass map[string]string `json:"daypass"`
}

// Plan implements [broker.Minter]. It also refuses a token that cannot be
// built, before a CI token is spent on it.
func (m *minter) Plan(o broker.Order) (broker.Handle, error) {
	h, _, err := m.plan(o)
	return h, err
}

// plan fixes all of a token but the time of its issue.
func (m *minter) plan(o broker.Order) (broker.Handle, claims, error) {
	c, err := m.claims(o)
	if err != nil {
		return "", claims{}, err
	}
	h, err := broker.NewHandle(m.deployment, o.NotAfter, o.Lease)
	return h, c, err
}

// claims are what the token will say, without the time of its issue.
func (m *minter) claims(o broker.Order) (claims, error) {
	p, faults := parseParams(o.Grant.Params)
	if err := errors.Join(faults...); err != nil {
		return claims{}, fmt.Errorf("params of grant %q: %w", o.Grant.Name, err)
	}
	if sameURL(p.Audience, m.issuer) {
		return claims{}, fmt.Errorf("audience of grant %q is our own URL: its tokens could be shown to us", o.Grant.Name)
	}
	id := ""
	if p.PerRepository {
		id = o.For.Job.RepositoryID
	}
	sub, err := subject(m.deployment, o.Grant.Name, id)
	if err != nil {
		return claims{}, err
	}
	own := map[string]string{"lease": string(o.Lease), "grant": o.Grant.Name, "issuer": o.For.Issuer}
	for _, name := range p.Include {
		value := jobFields[name](o.For.Job)
		if len(value) > maxField {
			return claims{}, fmt.Errorf("the job's %s is longer than %d bytes, and is not cut", name, maxField)
		}
		if value != "" {
			own[name] = value
		}
	}
	return claims{
		Issuer: m.issuer, Subject: sub, Audience: p.Audience, Expires: o.NotAfter.Unix(), ID: string(o.Lease), Daypass: own,
	}, nil
}

// sameURL compares as carelessly as the most careless verifier.
func sameURL(a, b string) bool {
	plain := func(s string) string {
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			s = u.Host + u.EscapedPath()
			if u.Port() == "443" || u.Port() == "80" {
				s = u.Hostname() + u.EscapedPath()
			}
		}
		return strings.TrimRight(strings.ToLower(s), "/.")
	}
	return plain(a) == plain(b)
}

// Mint implements [broker.Minter].
func (m *minter) Mint(ctx context.Context, o broker.Order, h broker.Handle) (broker.Credential, error) {
	planned, c, err := m.plan(o)
	if err != nil {
		return broker.Credential{}, err
	}
	if planned != h {
		return broker.Credential{}, errors.New("the handle is not the one that was planned for this order")
	}
	now := m.now()
	if !o.NotAfter.After(now) {
		return broker.Credential{}, errors.New("the token would have expired already")
	}
	c.IssuedAt, c.NotBefore = now.Unix(), now.Add(-Skew).Unix()
	payload, err := json.Marshal(c)
	if err != nil {
		return broker.Credential{}, fmt.Errorf("encode the token: %w", err)
	}
	token, err := m.signer.Sign(ctx, "JWT", payload)
	if err != nil {
		return broker.Credential{}, fmt.Errorf("sign the token: %w", err)
	}
	return broker.Credential{
		Fields:   []broker.Field{{Name: "token", Env: []string{"DAYPASS_JWT"}, Value: token}},
		Takeback: broker.TakebackExpiry,
	}, nil
}

// Revoke implements [broker.Minter]: whoever verifies a token asks nobody.
func (m *minter) Revoke(context.Context, broker.Lease) error {
	return fmt.Errorf("jwt: %w", broker.ErrExpiresOnly)
}

// Held implements [broker.Minter]: nobody holds our tokens for us.
func (m *minter) Held(context.Context) ([]broker.Held, error) { return nil, nil }
