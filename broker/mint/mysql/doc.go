// Package mysql makes MySQL and MariaDB users that live for minutes.
//
// It guarantees that
//
//   - the server itself ends a user at its expiry, wherever it runs events: the
//     event that drops the user is there before the user is;
//   - neither server gets to see the clear password, only what it stores of it,
//     which is computed here;
//   - what was half made, for statements on users cannot be undone together, is
//     taken back by the one name that all of it bears;
//   - taking back locks the account first, then ends sessions, then takes rights,
//     and each step can be repeated; what was half done is finished;
//   - only accounts whose name is in full one of this deployment's are touched,
//     and no job can take that name off its account;
//   - no statement of ours is prepared in the server, and none holds anything of
//     a CI token that is not letters, digits and a few harmless signs;
//   - nothing of the admin URL, and no statement, is in an error.
//
// It refuses to mint or revoke on a read-only server, to count "not found" on
// another server as revoked, and to give out a role, or rights on the server's
// own schemas, with which a job could make users, hand on what it has, write what
// this package keeps, or on MariaDB hold the table of accounts by reading it. It
// does not look into what a role may do otherwise: that is the operator's.
package mysql
