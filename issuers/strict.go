package issuers

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of the JSON we read from strangers.
const (
	maxDepth  = 16
	maxNumber = 32 // bytes of a number's text
)

var (
	errNotObject = errors.New("not one JSON object")
	errTooDeep   = errors.New("nested deeper than 16")
	errSameName  = errors.New("two members have the same name, or names that differ only in case")
)

// decodeObject reads one JSON object the way a security check has to: names
// are printable ASCII and compare exactly, two that are equal or differ only
// in case refuse the object, as do control characters, broken UTF-8 or lone
// surrogates, and more than 16 levels. Numbers stay [json.Number].
//
// encoding/json alone takes the last of two equal names, and "ISS" for "iss":
// with it, two readers of one token can see two tokens. Errors never repeat
// the input.
func decodeObject(raw []byte) (map[string]any, error) {
	if !utf8.Valid(raw) || !json.Valid(raw) {
		return nil, errNotObject
	}
	w := walker{raw: raw}
	w.space()
	if w.raw[w.at] != '{' {
		return nil, errNotObject
	}
	return w.members(1)
}

// walker reads JSON that encoding/json has found valid: it sees to what the
// text means, and need not doubt its form.
type walker struct {
	raw []byte
	at  int
}

func (w *walker) value(depth int) (any, error) {
	w.space()
	switch w.raw[w.at] {
	case '{':
		return w.members(depth)
	case '[':
		return w.items(depth)
	case '"':
		return w.text()
	case 't':
		w.at += len("true")
		return true, nil
	case 'f':
		w.at += len("false")
		return false, nil
	case 'n':
		w.at += len("null")
		return nil, nil
	}
	return w.number()
}

func (w *walker) members(depth int) (map[string]any, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	object := make(map[string]any)
	var folded map[string]bool // names that have capitals, in lower case
	for w.more('}') {
		name, err := w.text()
		if err != nil {
			return nil, err
		}
		if err := checkName(name); err != nil {
			return nil, err
		}
		lower := strings.ToLower(name)
		if _, taken := object[lower]; taken || folded[lower] {
			return nil, errSameName
		}
		if lower != name {
			if folded == nil {
				folded = make(map[string]bool)
			}
			folded[lower] = true
		}
		w.space()
		w.at++ // the colon
		if object[name], err = w.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return object, nil
}

func (w *walker) items(depth int) ([]any, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	items := []any{}
	for w.more(']') {
		v, err := w.value(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, v)
	}
	return items, nil
}

// more steps over an opening bracket or a comma to the next element and
// reports true, or over the closing bracket and reports false.
func (w *walker) more(end byte) bool {
	w.space()
	if w.raw[w.at] != end {
		w.at++
		w.space()
	}
	if w.raw[w.at] == end {
		w.at++
		return false
	}
	return true
}

func (w *walker) text() (string, error) {
	start, escaped := w.at, false
	for w.at++; w.raw[w.at] != '"'; w.at++ {
		if w.raw[w.at] == '\\' {
			escaped = true
			w.at++
		}
	}
	w.at++
	s := string(w.raw[start+1 : w.at-1])
	if escaped {
		if err := json.Unmarshal(w.raw[start:w.at], &s); err != nil {
			return "", errNotObject
		}
	}
	return s, checkText(s)
}

func (w *walker) number() (any, error) {
	start := w.at
	for w.at < len(w.raw) && strings.IndexByte("+-.eE0123456789", w.raw[w.at]) >= 0 {
		w.at++
	}
	if w.at-start > maxNumber {
		return nil, errors.New("a number is too long")
	}
	return json.Number(w.raw[start:w.at]), nil
}

func (w *walker) space() {
	for strings.IndexByte(" \t\r\n", w.raw[w.at]) >= 0 {
		w.at++
	}
}

// checkName keeps names to printable ASCII: other letters can fold into ASCII
// ones (the Kelvin sign is a k).
func checkName(name string) error {
	for i := range len(name) {
		if name[i] < ' ' || name[i] > '~' {
			return errors.New("a name is not printable ASCII")
		}
	}
	return nil
}

// checkText refuses what no claim needs and some log, terminal or database
// trips over. A lone surrogate has become U+FFFD by now.
func checkText(s string) error {
	for _, r := range s {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return errors.New("text has control characters or is not Unicode")
		}
	}
	return nil
}
