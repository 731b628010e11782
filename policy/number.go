package policy

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

// JSON's grammar, in parts. Compiled once, never changed.
var numberParts = regexp.MustCompile(`\A(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([-+]?[0-9]{1,9}))?\z`)

// decimal is a JSON number of any size, of which nothing is rounded: the digits
// times ten to the exponent. Digits neither begin nor end with 0, and zero has
// none, so that equal numbers are the same decimal.
type decimal struct {
	negative bool
	digits   string
	exponent int
}

// decimalOf reads a number; 1e9 costs no more than 1. It reports false for what
// is no number, or has an exponent of more than nine digits.
func decimalOf(number string) (decimal, bool) {
	m := numberParts.FindStringSubmatch(number)
	if m == nil {
		return decimal{}, false
	}
	exponent := 0
	if m[4] != "" {
		exponent, _ = strconv.Atoi(m[4]) // at most nine digits: cannot fail
	}
	digits := strings.TrimLeft(m[2]+m[3], "0")
	exponent -= len(m[3])
	short := strings.TrimRight(digits, "0")
	if short == "" {
		return decimal{}, true
	}
	return decimal{negative: m[1] != "", digits: short, exponent: exponent + len(digits) - len(short)}, true
}

// String returns a text that equal numbers share.
func (d decimal) String() string {
	switch {
	case d.digits == "":
		return "0"
	case d.negative:
		return "-" + d.digits + "e" + strconv.Itoa(d.exponent)
	}
	return d.digits + "e" + strconv.Itoa(d.exponent)
}

// sign returns -1, 0 or 1.
func (d decimal) sign() int {
	switch {
	case d.digits == "":
		return 0
	case d.negative:
		return -1
	}
	return 1
}

// compare orders numbers by value.
func (d decimal) compare(other decimal) int {
	if order := cmp.Compare(d.sign(), other.sign()); order != 0 || d.sign() == 0 {
		return order
	}
	// Of the same sign: the place of the first digit decides, then the digits,
	// which compare as text does since none ends with 0.
	order := cmp.Or(
		cmp.Compare(d.exponent+len(d.digits), other.exponent+len(other.digits)),
		strings.Compare(d.digits, other.digits),
	)
	return order * d.sign()
}

// canonical writes a JSON number so that equal numbers are equal text.
func canonical(number string) (string, bool) {
	d, ok := decimalOf(number)
	if !ok {
		return "", false
	}
	return d.String(), true
}
