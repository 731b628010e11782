// Package access says who may have what: each permission that a policy gives, with
// whom it is for, what it asks for, and what takes it away again; now, or at any
// time of a span, and whether it was ever used.
//
// It guarantees that whatever a policy could have given to anybody is listed: by
// the rule that gives it, for the repository or ids that it is for, at least as
// long. A rule that only reports gives nothing, and neither does what another rule
// surely denies to all of them; that is listed too, and said. What may be denied to
// some is said as a condition.
//
// It decides nothing, knows no clock and reads no files: who has the journal and
// the versions beside it hands them over.
package access
