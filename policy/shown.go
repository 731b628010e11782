package policy

import "time"

// Wanted returns what the condition asks for, as explanations show it: a value
// or a list of values, or a mapping that says how it is compared.
func (c *Condition) Wanted() any { return c.wanted(allWanted) }

// Short writes a duration as people do: 1h30m, not 1h30m0s. Nothing is said of
// the life of a grant that is not known.
func Short(d time.Duration) string { return shownLife(d) }

// Describe writes what Wanted returned, or a claim, as JSON on one line of
// printable ASCII.
func Describe(v any) string { return oneLine(v) }

// Shown makes a token's claim fit to be shown: shortened, and escaped where it is
// not printable ASCII.
func Shown(claim any) any { return shown(claim) }
