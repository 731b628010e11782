// Package strictyaml reads one YAML document into Go values, and refuses
// whatever two readers could understand differently.
//
// It guarantees that
//
//   - every fault of a document is reported at once, each as
//     file:line:column: field: what is wrong, with the nearest known key where
//     a key is misspelt;
//   - no value from the document is repeated in a fault, since configuration
//     files sometimes hold what should not be printed; keys are;
//   - reading takes time and memory in proportion to the document, whose size
//     and depth are capped.
//
// It refuses unknown and duplicate keys, keys without a value, anchors,
// aliases, merge keys, tags, directives, explicit keys, more than one document,
// invalid UTF-8, control characters, characters that change the direction of
// text or cannot be seen, plain text over several lines, and plain words that
// some YAML reader takes for a number or a boolean: yes, on, 0x1F, 012, 1_000,
// 12:30. A number stays as it was written: nothing is rounded, and text is not
// turned into a number or back.
//
// [Decode] is all that most callers need. [Parse] keeps the positions, for
// faults that only the caller can see: a struct field of type *[Node] with the
// tag `yaml:",node"` remembers where the struct was written.
package strictyaml
