// Package policy says which CI jobs may have which grants. The security team
// writes it as a folder of YAML files; [LoadDir] reads the folder into a
// [Book], and [Book.Decide] answers requests. docs/policy.md describes the
// language.
//
// It guarantees that
//
//   - what no rule allows is denied; adding a rule that allows takes nothing
//     away, and adding one that denies gives nothing;
//   - what cannot be decided counts against the job: a rule that allows does
//     not match then, and one that denies does;
//   - the files of a folder give no more than the ceilings of it and of all
//     folders above it, and deny no more;
//   - a decision depends on the identity, the request, the time given and one
//     version of the folder, the grants and what is known of the issuers, and
//     on nothing else: deciding is pure;
//   - a rule for an issuer that strangers share pins immutable ids, or the
//     folder is not loaded;
//   - a number never equals text, and text that is not plain ASCII matches no
//     glob;
//   - an expression that fails, or costs too much, is undecided;
//   - a job whose pinned ids match no rule learns nothing about any rule, and
//     no job learns of rules that deny or only report.
//
// It refuses a folder with any fault in it, and reports all faults at once: a
// broker then keeps the book it has. It refuses keys that it does not honour,
// rather than to read them and do nothing.
//
// One function decides, for rules found by the index or otherwise, so that
// explaining, testing and dry runs cannot come to another answer than the
// exchange.
package policy
