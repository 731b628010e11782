package issuers

import (
	"context"
	"slices"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/daypass-dev/daypass/broker"
)

// keepMargin is how much longer than it is accepted a token is remembered: the
// clocks of broker and store differ by seconds.
const keepMargin = time.Minute

// Verify implements [broker.Verifier]. Each rung has its own internal reason;
// the public text is fixed. It does not check whether the token was used
// before, nor what its job may have.
func (s *Set) Verify(ctx context.Context, raw broker.Secret) (broker.Identity, error) {
	t, err := parse(raw.Reveal())
	if err != nil {
		return broker.Identity{}, err
	}
	// Exact, and before anything is fetched: a stranger's iss must not make us dial.
	is, ok := s.byURL[t.issuer]
	if !ok {
		return broker.Identity{}, refuseSaying("issuer_unknown", publicIssuer)
	}
	// The profile says how its tokens are signed, never the token alone.
	if !slices.Contains(is.profile.Algorithms, t.alg) {
		return broker.Identity{}, refuse("alg_refused")
	}
	if err := s.checkSignature(ctx, is, t); err != nil {
		return broker.Identity{}, err
	}
	// From here on the issuer has said what the token says.
	if t.audience != s.audience {
		return broker.Identity{}, refuseSaying("audience_mismatch", s.publicAudience)
	}
	if err := s.checkTimes(is, t); err != nil {
		return broker.Identity{}, err
	}
	// One key signs more than ID tokens of jobs: GitHub's runtime token and
	// GitLab's login tokens verify under it as well.
	if err := is.profile.checkClaims(t); err != nil {
		return broker.Identity{}, err
	}
	return s.identity(is, t), nil
}

// checkSignature lets go-oidc verify the token with the one key that the
// issuer has for its kid. Times and audience are left to our own, stricter
// rungs: go-oidc grants nbf five minutes and takes a list of audiences.
func (s *Set) checkSignature(ctx context.Context, is *issuer, t *token) error {
	check := &keyCheck{keys: is.keys, token: t}
	verified, err := oidc.NewVerifier(is.url, check, is.oidc).Verify(ctx, t.raw)
	switch {
	case check.err != nil:
		return check.err
	case err != nil:
		return refuse("malformed") // go-oidc's text quotes the token
	case !agrees(verified, t):
		return refuse("ambiguous") // two readers of one token must see one token
	}
	return nil
}

// agrees reports whether go-oidc read what we read. Its times have no
// fractions.
func agrees(v *oidc.IDToken, t *token) bool {
	audience := ""
	if len(v.Audience) == 1 {
		audience = v.Audience[0]
	}
	return v.Issuer == t.issuer && v.Subject == t.subject && len(v.Audience) <= 1 && audience == t.audience &&
		v.IssuedAt.Unix() == t.issued.Unix() && v.Expiry.Unix() == t.expires.Unix()
}

// checkTimes holds the token to its times, with the leeway for clocks that
// differ.
func (s *Set) checkTimes(is *issuer, t *token) error {
	now := s.now()
	switch {
	case t.issued.IsZero():
		return refuse("iat_missing")
	case t.expires.IsZero():
		return refuse("exp_missing")
	case !t.expires.After(t.issued):
		return refuse("exp_before_iat")
	// Before the expiry, so that an operator sees why a token that lives for hours is refused.
	case t.expires.Sub(t.issued) > is.life:
		return refuseSaying("lives_too_long", publicLife)
	case t.issued.After(now.Add(s.leeway)):
		return refuseSaying("iat_in_future", publicEarly)
	case t.validAt.After(now.Add(s.leeway)):
		return refuseSaying("nbf_in_future", publicEarly)
	case !now.Before(t.expires.Add(s.leeway)):
		return &broker.Error{Code: broker.TokenExpired, Public: publicExpired, Reason: "expired"}
	}
	return nil
}

// identity is what the broker gets to know.
func (s *Set) identity(is *issuer, t *token) broker.Identity {
	id := t.id
	if is.profile.ReplayKey == ReplaySignedPart {
		id = string(t.signed)
	}
	return broker.Identity{
		Issuer: is.name, URL: is.url, Subject: t.subject,
		Token:    broker.NewTokenID(is.url, id),
		IssuedAt: t.issued, Expires: t.expires,
		KeepUntil: t.expires.Add(s.leeway + keepMargin),
		Claims:    t.claims,
		Listed:    is.profile.Journal,
		Job:       is.profile.Job.fill(t.claims, is.web),
	}
}
