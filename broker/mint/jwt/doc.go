// Package jwt makes tokens that Daypass signs itself, for targets that trust
// it as an OIDC issuer (AWS web identity, Azure and Google federation, Vault).
//
// It guarantees that a token speaks for one grant only: its subject is built
// from deployment and grant,
//
//	dp:<deployment>:grant:<grant>[:<repository id>]
//
// and never configured, so that no grant can speak for another, nor for the
// broker itself (dp:<deployment>:broker:…); its audience is fixed by the
// grant, and is never our own URL, so that no token of ours can be shown to
// us.
//
// It refuses what does not fit (a subject has at most 127 bytes) or could be
// read in two ways, and never cuts it. A token cannot be taken back; it ends
// at its expiry.
package jwt
