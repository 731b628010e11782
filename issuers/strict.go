package issuers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of the JSON we read from strangers.
const (
	maxDepth  = 16
	maxNumber = 32 // bytes of a number's text
)

var errNotObject = errors.New("not one JSON object")

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
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := decodeValue(d, 1)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, errNotObject
	}
	return object, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, errNotObject
	}
	switch t := token.(type) {
	case json.Delim:
		if depth > maxDepth {
			return nil, fmt.Errorf("nested deeper than %d", maxDepth)
		}
		if t == '{' {
			return decodeMembers(d, depth)
		}
		return decodeItems(d, depth)
	case string:
		return t, checkText(t)
	case json.Number:
		if len(t) > maxNumber {
			return nil, errors.New("a number is too long")
		}
	}
	return token, nil
}

func decodeMembers(d *json.Decoder, depth int) (map[string]any, error) {
	object := make(map[string]any)
	folded := make(map[string]bool)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, errNotObject
		}
		name, _ := token.(string)
		if err := checkName(name); err != nil {
			return nil, err
		}
		lower := strings.ToLower(name)
		if folded[lower] {
			return nil, errors.New("two members have the same name, or names that differ only in case")
		}
		folded[lower] = true
		if object[name], err = decodeValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token() // the closing brace
	return object, err
}

func decodeItems(d *json.Decoder, depth int) ([]any, error) {
	items := []any{}
	for d.More() {
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		items = append(items, v)
	}
	_, err := d.Token() // the closing bracket
	return items, err
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
