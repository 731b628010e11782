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
	// memberSize is about what a claim takes: it sizes the outermost map, up to maxHint.
	memberSize = 40
	maxHint    = 64
)

var (
	errNotObject = errors.New("not one JSON object")
	errTooDeep   = errors.New("nested deeper than 16")
	errSameName  = errors.New("two members have the same name, or names that differ only in case")
	errName      = errors.New("a name is not printable ASCII")
	errText      = errors.New("text has control characters or is not Unicode")
	errNumber    = errors.New("a number is too long")
)

// decodeObject reads one JSON object (RFC 8259) the way a security check has
// to: names are printable ASCII and compare exactly, two that are equal or
// differ only in case refuse the object, as do control characters, broken UTF-8
// or lone surrogates, and more than 16 levels. Numbers stay [json.Number].
//
// encoding/json alone takes the last of two equal names, and "ISS" for "iss":
// with it, two readers of one token can see two tokens. Here one pass both
// checks the form and builds what is returned, so nothing is read in two ways.
// Texts without escapes are cut out of one copy of raw. Errors never repeat the
// input.
func decodeObject(raw []byte) (map[string]any, error) {
	r := reader{text: string(raw)}
	if !utf8.ValidString(r.text) {
		return nil, errNotObject
	}
	r.space()
	if r.peek() != '{' {
		return nil, errNotObject
	}
	object, err := r.members(1)
	if err != nil {
		return nil, err
	}
	if r.space(); r.at != len(r.text) {
		return nil, errNotObject
	}
	return object, nil
}

// reader reads JSON from left to right and looks at each byte once. Its text is
// valid UTF-8.
type reader struct {
	text string
	at   int
}

// peek returns the next byte. At the end it returns NUL, which begins nothing.
func (r *reader) peek() byte {
	if r.at < len(r.text) {
		return r.text[r.at]
	}
	return 0
}

func (r *reader) space() {
	for r.at < len(r.text) {
		switch r.text[r.at] {
		case ' ', '\t', '\r', '\n':
			r.at++
		default:
			return
		}
	}
}

// value reads one value; depth is that of a list or object which it may be.
func (r *reader) value(depth int) (any, error) {
	switch r.peek() {
	case '{':
		return r.members(depth)
	case '[':
		return r.items(depth)
	case '"':
		return r.string()
	case 't':
		return true, r.word("true")
	case 'f':
		return false, r.word("false")
	case 'n':
		return nil, r.word("null")
	}
	return r.number()
}

func (r *reader) word(word string) error {
	if !strings.HasPrefix(r.text[r.at:], word) {
		return errNotObject
	}
	r.at += len(word)
	return nil
}

func (r *reader) members(depth int) (map[string]any, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	room := 0
	if depth == 1 { // a document of many small objects would cost a hundred times its size
		room = min(maxHint, len(r.text)/memberSize)
	}
	object := make(map[string]any, room)
	var folded map[string]bool // names that have capitals, in lower case
	for first := true; ; first = false {
		if more, err := r.more('}', first); err != nil || !more {
			return object, err
		}
		name, err := r.name()
		if err != nil {
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
		if object[name], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
}

func (r *reader) items(depth int) ([]any, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	items := []any{}
	for first := true; ; first = false {
		if more, err := r.more(']', first); err != nil || !more {
			return items, err
		}
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, v)
	}
}

// more steps over the opening bracket (first) or a comma to the next element
// and reports true, or over the closing bracket and reports false. A comma
// promises an element: whoever reads that one finds a bracket in its place.
func (r *reader) more(end byte, first bool) (bool, error) {
	if first {
		r.at++
	}
	r.space()
	switch c := r.peek(); {
	case c == end:
		r.at++
		return false, nil
	case first:
		return true, nil
	case c != ',':
		return false, errNotObject
	}
	r.at++
	r.space()
	return true, nil
}

// name reads a member's name and the colon behind it. Names are kept to
// printable ASCII: other letters can fold into ASCII ones (the Kelvin sign is a
// k).
func (r *reader) name() (string, error) {
	name, err := r.string()
	if err != nil {
		return "", err
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] > '~' {
			return "", errName
		}
	}
	if r.space(); r.peek() != ':' {
		return "", errNotObject
	}
	r.at++
	r.space()
	return name, nil
}

// string reads a text. Most are plain ASCII, and cut out as they stand.
func (r *reader) string() (string, error) {
	if r.peek() != '"' {
		return "", errNotObject
	}
	start, plain := r.at+1, true
	for at := start; at < len(r.text); at++ {
		switch c := r.text[at]; {
		case c == '"':
			r.at = at + 1
			if plain {
				return r.text[start:at], nil
			}
			return unescape(r.text[start-1 : r.at])
		case c == '\\':
			at++ // whatever it escapes does not end the text
			plain = false
		case c < ' ':
			return "", errNotObject
		case c > '~':
			plain = false
		}
	}
	return "", errNotObject
}

// unescape reads a text that is not plain, and refuses what no claim needs and
// some log, terminal or database trips over. A lone surrogate becomes U+FFFD.
func unescape(quoted string) (string, error) {
	s := quoted[1 : len(quoted)-1]
	if strings.Contains(s, `\`) {
		if err := json.Unmarshal([]byte(quoted), &s); err != nil {
			return "", errNotObject
		}
	}
	for _, c := range s {
		if unicode.IsControl(c) || c == utf8.RuneError {
			return "", errText
		}
	}
	return s, nil
}

// number reads a number by the letter of RFC 8259, 6, and keeps its text.
func (r *reader) number() (any, error) {
	start := r.at
	if r.peek() == '-' {
		r.at++
	}
	switch c := r.peek(); {
	case c == '0':
		r.at++
	case !r.digits():
		return nil, errNotObject
	}
	if r.peek() == '.' {
		if r.at++; !r.digits() {
			return nil, errNotObject
		}
	}
	if c := r.peek(); c == 'e' || c == 'E' {
		r.at++
		if c := r.peek(); c == '+' || c == '-' {
			r.at++
		}
		if !r.digits() {
			return nil, errNotObject
		}
	}
	if r.at-start > maxNumber {
		return nil, errNumber
	}
	return json.Number(r.text[start:r.at]), nil
}

// digits steps over digits and reports whether there was one.
func (r *reader) digits() bool {
	start := r.at
	for c := r.peek(); c >= '0' && c <= '9'; c = r.peek() {
		r.at++
	}
	return r.at > start
}
