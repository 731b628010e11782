package issuers

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Bounds of a token.
const (
	maxToken = 16 << 10 // bytes
	maxWord  = 256      // bytes of kid, jti and other header words
	maxUnix  = 1 << 35  // seconds; the year 3058
)

// token is a CI token taken apart. Nothing of it is believed yet.
type token struct {
	raw       string
	signed    []byte // header.payload, what the signature covers
	payload   []byte
	signature []byte

	alg, kid string

	claims                   broker.Claims
	issuer, subject, id      string // id is the jti; subject and id may be empty
	audience                 string
	issued, expires, validAt time.Time // validAt is nbf; zero if there is none
}

// strictURL refuses padding, and bits that the last character does not need.
var strictURL = base64.RawURLEncoding.Strict()

// parse takes a token apart and refuses every form but one: the token that
// verifies is the only byte string that does.
func parse(raw string) (*token, error) {
	t, err := parseSigned(raw)
	if err != nil {
		return nil, err
	}
	return t, t.readClaims()
}

// parseSigned takes a JWS in compact serialisation (RFC 7515, 7.1) apart and
// reads its header. The payload may be anything.
func parseSigned(raw string) (*token, error) {
	// Size and dots come first: nothing below may allocate by an attacker's will.
	if len(raw) > maxToken {
		return nil, refuse("too_large")
	}
	// Five parts are JWE, braces are JSON serialisation: neither is a CI token.
	if strings.Count(raw, ".") != 2 {
		return nil, refuse("not_compact")
	}
	text := []byte(raw)
	first, last := strings.IndexByte(raw, '.'), strings.LastIndexByte(raw, '.')
	t := &token{raw: raw, signed: text[:last]}

	// One buffer holds all parts; each is cut off so that it cannot grow into the next.
	buffer := make([]byte, 0, len(raw))
	var head []byte
	for _, part := range []struct {
		text []byte
		into *[]byte
	}{{text[:first], &head}, {text[first+1 : last], &t.payload}, {text[last+1:], &t.signature}} {
		start := len(buffer)
		var err error
		if buffer, err = decodePart(buffer, part.text); err != nil {
			return nil, err
		}
		*part.into = buffer[start:len(buffer):len(buffer)]
	}
	if len(t.signature) == 0 {
		return nil, refuse("unsigned")
	}
	return t, t.readHeader(head)
}

// decodePart appends canonical base64url only: what it accepts is what encoding
// the result again gives. Unused bits, padding and line breaks, which the
// decoder alone would skip, would each give one signed token some twenty
// encodings.
func decodePart(into, part []byte) ([]byte, error) {
	if bytes.ContainsAny(part, "\r\n") {
		return nil, refuse("encoding")
	}
	b, err := strictURL.AppendDecode(into, part)
	if err != nil {
		return nil, refuse("encoding")
	}
	return b, nil
}

// readHeader reads alg and kid and refuses every member that could bring a key
// (jwk, jku, x5u, x5c), change what is signed (crit, b64) or nest another token
// (cty), by allowing only those that CI tokens have.
func (t *token) readHeader(raw []byte) error {
	header, err := decodeObject(raw)
	if err != nil {
		return refuseFor("header", err)
	}
	for name, value := range header {
		word, ok := value.(string)
		if !ok || len(word) > maxWord {
			return refuse("header_member")
		}
		switch name {
		case "alg":
			t.alg = word
		case "kid":
			t.kid = word
		case "x5t": // names a certificate, which nothing here trusts
		case "typ":
			// A token of another kind (at+jwt, logout+jwt) is not an ID token, RFC 8725 §3.11.
			if !strings.EqualFold(word, "JWT") {
				return refuse("typ")
			}
		default:
			return refuse("header_member")
		}
	}
	if t.kid == "" {
		return refuse("kid_missing")
	}
	return nil
}

// readClaims decodes the claims and holds the registered ones (RFC 7519, 4.1)
// to their types. What they say is checked once the signature holds.
func (t *token) readClaims() error {
	claims, err := decodeObject(t.payload)
	if err != nil {
		return refuseFor("claims", err)
	}
	t.claims = claims
	for _, word := range []struct {
		name string
		into *string
	}{{"iss", &t.issuer}, {"sub", &t.subject}, {"jti", &t.id}} {
		if value, ok := claims[word.name]; ok {
			if *word.into, ok = value.(string); !ok {
				return refuse(word.name + "_type")
			}
		}
	}
	for _, date := range []struct {
		name string
		into *time.Time
	}{{"iat", &t.issued}, {"exp", &t.expires}, {"nbf", &t.validAt}} {
		if value, ok := claims[date.name]; ok {
			if *date.into, ok = unixTime(value); !ok {
				return refuse(date.name + "_type")
			}
		}
	}
	if value, ok := claims["aud"]; ok {
		if t.audience, ok = onlyAudience(value); !ok {
			return refuse("aud_not_single")
		}
	}
	return nil
}

// unixTime reads a NumericDate: a JSON number of seconds, whole or not, after
// 1970 and before anything overflows.
func unixTime(v any) (time.Time, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil || !(f > 0 && f <= maxUnix) {
		return time.Time{}, false
	}
	whole, fraction := math.Modf(f)
	return time.Unix(int64(whole), int64(fraction*1e9)).UTC(), true
}

// onlyAudience reads an audience that is one. A token for us and others could
// be used against us by the others.
func onlyAudience(v any) (string, bool) {
	if list, ok := v.([]any); ok {
		if len(list) != 1 {
			return "", false
		}
		v = list[0]
	}
	s, ok := v.(string)
	return s, ok && s != ""
}
