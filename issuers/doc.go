// Package issuers tells whose a CI token is: it implements [broker.Verifier]
// for the CI providers that an operator has configured.
//
// It guarantees that an [broker.Identity] comes only out of a token
//
//   - in the one byte form that RFC 7515 and 7519 give it: three parts of
//     canonical base64url, JSON without duplicate or case-folded names,
//     nothing in the header that could choose a key;
//   - whose iss is, byte for byte, the URL of a configured issuer, which is
//     settled before anything is fetched: nothing in a token causes an
//     outbound connection;
//   - signed with an asymmetric algorithm that the issuer's profile lists, by
//     the one key that this issuer publishes under the token's kid;
//   - made for us alone: one audience, ours;
//   - that was issued, is not yet expired, lives no longer than the profile
//     allows, and has the claims that tell an ID token of a CI job from the
//     other tokens the same key signs.
//
// Keys come from the issuer's own host over https, without redirects, from
// public addresses unless the operator says otherwise, at most once in 30 s
// whatever is sent to us; a key the issuer drops stops working within ten
// minutes; an issuer that is down is served from its last good keys for 24
// hours and no longer.
//
// What a claim means, which differs by provider, is data: see the folders
// under profiles/. The package refuses to decide who may have what, and it does
// not remember tokens: a token verifies as often as it is shown.
package issuers
