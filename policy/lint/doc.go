// Package lint finds what a policy admits beyond what its author meant: the
// published attacks on trust in CI tokens as rules, each with the line, the
// value and a fix. docs/policy-lint.md lists them.
//
// It guarantees that
//
//   - a critical finding is never lost in an expression: what is not understood
//     vouches for nothing, and is a finding itself where it reads a claim that
//     such a finding could be about;
//   - a finding is looked for on every way through a rule: each identity it is
//     for, and each alternative of its expression;
//   - a rule that denies is counted only where it surely denies;
//   - a waiver silences one id, for one rule or one issuer, until its day has
//     passed, and never a critical finding, but where the rule says so.
//
// It refuses nothing itself: who loads a policy asks [Findings.Critical]. It
// reads no files, knows no clock and contacts nobody. What it knows of providers
// is data, in providers.yaml; the broker decides nothing by it.
package lint
