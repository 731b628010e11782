// Package postgres makes PostgreSQL users that live for minutes.
//
// It guarantees that
//
//   - a user appears whole or not at all: one transaction makes it, with its
//     rights, its expiry and a comment that says whose it is;
//   - the clear password never reaches the server, only a SCRAM verifier that
//     is computed here;
//   - what a migration creates belongs to the grant's owner, not to the user
//     that is dropped minutes later;
//   - taking back ends logins first, then sessions, then memberships, and
//     each step can be repeated; what was half done is finished;
//   - only roles whose name is in full one of this deployment's are touched;
//   - nothing of the admin URL is in an error, and nothing of a CI token in a
//     statement but as a quoted comment.
//
// It refuses to mint or revoke on a server that is a replica, to count "not
// found" on another server as revoked, and to give out membership of a role
// that could make its own users. It does not look into what a group role may
// do otherwise: that is the operator's.
package postgres
