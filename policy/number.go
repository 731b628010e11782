package policy

import (
	"regexp"
	"strconv"
	"strings"
)

// JSON's grammar, in parts. Compiled once, never changed.
var numberParts = regexp.MustCompile(`\A(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([-+]?[0-9]{1,9}))?\z`)

// canonical writes a JSON number so that equal numbers are equal text, whatever
// their size: nothing is rounded, and 1e9 costs no more than 1. It reports
// false for what is no number, or has an exponent of more than nine digits.
func canonical(number string) (string, bool) {
	m := numberParts.FindStringSubmatch(number)
	if m == nil {
		return "", false
	}
	exponent := 0
	if m[4] != "" {
		exponent, _ = strconv.Atoi(m[4]) // at most nine digits: cannot fail
	}
	digits := strings.TrimLeft(m[2]+m[3], "0")
	exponent -= len(m[3])
	short := strings.TrimRight(digits, "0")
	if short == "" {
		return "0", true
	}
	exponent += len(digits) - len(short)
	return m[1] + short + "e" + strconv.Itoa(exponent), true
}
