// Package recorded looks at policy beside what a journal recorded: what other
// policy would have decided ([Replay]), and which rule would have given a job
// what it was denied ([Suggest]).
//
// It guarantees that
//
//   - whatever it says was decided comes from [policy.Book.Decide];
//   - a claim that was not journalled is never guessed: what depends on one cannot
//     be said, and is counted as such;
//   - a rule that it suggests was loaded and decided before it is shown, gives the
//     recorded request what it asked for, and asks for the value of each claim that
//     tells such jobs apart; what a token said cannot become anything but a value.
//
// It refuses to suggest a rule for a grant that there is not, for a request whose
// claims were not journalled, and for one that a rule denies. It reads no files
// and knows no clock: who has the journal hands its records over.
package recorded
