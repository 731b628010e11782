// Package fromsub turns the trust that clouds and Vault put into the subject of
// a CI token into rules that match claims.
//
// It guarantees that no rule admits a token that the original did not: what
// cannot be said of claims gives no rule, and a reason; a wildcard that would
// reach across parts of a subject is kept within its part. Ids that the
// original does not name are left empty, and a rule with an empty id does not
// load. It refuses wildcards where an owner's name stands, because whoever
// registers a fitting name would be let in.
//
// Subjects are those documented by GitHub ("OpenID Connect reference": both
// the form with names and the one with ids) and GitLab ("OpenID Connect (OIDC)
// Authentication Using ID Tokens").
package fromsub
