// Package fakeissuer is a toy CI provider: it signs whatever it is told, in
// the shape of GitHub Actions and GitLab CI. It is for the demo, development
// and tests only; a broker that trusts it trusts everybody who can read its
// key.
//
// It behaves as the real providers do where a verifier could notice: discovery
// and key set at the providers' own paths, realistic and complete claims, a
// fresh jti and iat for every token, and GitHub's endpoint at which a running
// job asks for ID tokens. As at GitHub, the token with which a job asks is
// signed by the same key and names the same issuer, so a verifier that takes
// any signed token for an ID token is found out.
//
// The server keeps no state: the request token carries the job. It never signs
// for somebody who does not hold a request token, and it needs no testing
// package. Signing is written on the standard library alone, so that it shares
// no code, and no mistakes, with what verifies.
package fakeissuer
