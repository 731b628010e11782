// Package policy says which CI jobs may have which grants. The security team
// writes it as a folder of YAML files; [LoadDir] reads the folder into a
// [Book], and [Book.Decide] answers requests. docs/policy.md describes the
// language.
//
// It guarantees that
//
//   - what no rule allows is denied, and adding a rule takes nothing away;
//   - a decision depends on the identity, the request, the time given and one
//     version of the folder, the grants and what is known of the issuers, and
//     on nothing else: deciding is pure;
//   - a rule for an issuer that strangers share pins immutable ids, or the
//     folder is not loaded;
//   - a number never equals text, and text that is not plain ASCII matches no
//     pattern;
//   - an expression that fails, or costs too much, does not hold;
//   - a job whose pinned ids match no rule learns nothing about any rule.
//
// It refuses a folder with any fault in it, and reports all faults at once: a
// broker then keeps the book it has. It refuses keys that it does not honour,
// rather than to read them and do nothing.
//
// One function decides, for rules found by the index or otherwise, so that
// explaining, testing and dry runs cannot come to another answer than the
// exchange.
package policy
