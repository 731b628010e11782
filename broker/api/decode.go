package api

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/daypass-dev/daypass/broker"
)

const (
	maxBody   = 64 << 10
	maxGrants = 16
)

var (
	grantRE  = regexp.MustCompile(`\A[a-z0-9][a-z0-9-]{0,62}\z`)
	memberRE = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]{0,31}\z`)
)

// readBody returns a JSON body of at most 64 KiB, or says what is wrong with
// the way it is sent.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := strings.ToLower(params["charset"])
	delete(params, "charset")
	switch {
	case err != nil, media != mediaJSON, len(params) > 0, charset != "" && charset != "utf-8",
		len(r.Header.Values("Content-Type")) != 1:
		return nil, badRequest("Content-Type must be application/json")
	case r.Header.Get("Content-Encoding") != "":
		return nil, badRequest("Content-Encoding is not supported")
	case r.ContentLength > maxBody:
		return nil, badRequest("the body is larger than 64 KiB")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	switch {
	case err == nil:
		return body, nil
	case isTooLarge(err):
		return nil, badRequest("the body is larger than 64 KiB")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &broker.Error{Code: broker.BadRequest, Reason: "slow_body", Public: "the body did not arrive in time"}
	default:
		return nil, &broker.Error{Code: broker.BadRequest, Reason: "cut_body", Public: "the body could not be read"}
	}
}

func isTooLarge(err error) bool {
	_, is := errors.AsType[*http.MaxBytesError](err)
	return is
}

// noBody refuses what some servers ignore and others read as the next request.
func noBody(r *http.Request) error {
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return badRequest("this request takes no body")
	}
	return nil
}

// decodeWants reads the body of an exchange, or of a request on a session,
// which was bound to its recipient when it was opened.
func decodeWants(body []byte) (broker.Request, error) {
	m, err := document(body, "grants", "recipient_key", "dry_run")
	if err != nil {
		return broker.Request{}, err
	}
	var r broker.Request
	if raw, there := m["recipient_key"]; there {
		if r.Recipient, err = decodeRecipient(raw); err != nil {
			return r, err
		}
	}
	if raw, there := m["dry_run"]; there {
		if r.DryRun = string(raw) == "true"; !r.DryRun && string(raw) != "false" {
			return r, badRequest("dry_run must be true or false")
		}
	}
	if raw, there := m["grants"]; there {
		r.Wants, err = decodeGrants(raw)
	}
	return r, err
}

// decodeRecipient reads an X25519 public key (RFC 7748): 32 bytes in base64url
// without padding. The broker refuses those of low order.
func decodeRecipient(raw json.RawMessage) ([]byte, error) {
	s, ok := text(raw)
	key, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if !ok || err != nil || len(key) != 32 {
		return nil, badRequest("recipient_key must be an X25519 public key: 32 bytes in base64url without padding")
	}
	return key, nil
}

// decodeIdempotency reads the Idempotency-Key header: at most 255 visible ASCII
// characters, once.
func decodeIdempotency(h http.Header) (string, error) {
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 || len(values[0]) == 0 || len(values[0]) > 255 ||
		strings.ContainsFunc(values[0], func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", badRequest("Idempotency-Key must be there once, with 1 to 255 visible ASCII characters")
	}
	return values[0], nil
}

func decodeGrants(raw json.RawMessage) ([]broker.Want, error) {
	var items []json.RawMessage
	if raw[0] != '[' || json.Unmarshal(raw, &items) != nil {
		return nil, badRequest("grants must be a list")
	}
	if len(items) > maxGrants {
		return nil, badRequest("grants: at most 16 in one request")
	}
	wants := make([]broker.Want, 0, len(items))
	for i, item := range items {
		w, err := decodeWant(item, fmt.Sprintf("grants[%d]", i))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(wants, func(o broker.Want) bool { return o.Name == w.Name }) {
			return nil, badRequest(fmt.Sprintf("grants[%d].name: a grant is asked for twice", i))
		}
		wants = append(wants, w)
	}
	return wants, nil
}

func decodeWant(raw json.RawMessage, at string) (broker.Want, error) {
	m, err := members(raw, at, "name", "ttl")
	if err != nil {
		return broker.Want{}, err
	}
	var w broker.Want
	var ok bool
	if w.Name, ok = text(m["name"]); !ok || !grantRE.MatchString(w.Name) {
		return w, badRequest(at + ".name must be a grant's name: lower-case letters, digits and hyphens, at most 63")
	}
	if raw, there := m["ttl"]; there {
		w.TTL, err = decodeTTL(raw, at)
	}
	return w, err
}

func decodeTTL(raw json.RawMessage, at string) (time.Duration, error) {
	s, ok := text(raw)
	d, err := time.ParseDuration(s)
	switch {
	case !ok, err != nil:
		return 0, badRequest(at + `.ttl must be a duration such as "15m"`)
	case d <= 0:
		return 0, badRequest(at + ".ttl must be above zero")
	case d%time.Second != 0:
		return 0, badRequest(at + ".ttl must be whole seconds")
	}
	return d, nil
}

// decodeFreshToken reads the body of an extension.
func decodeFreshToken(body []byte) (broker.Secret, error) {
	m, err := document(body, "token")
	if err != nil {
		return broker.Secret{}, err
	}
	s, ok := text(m["token"])
	if !ok || !isToken68(s) {
		return broker.Secret{}, badRequest("token must be a CI token")
	}
	return broker.NewSecret(s), nil
}

// document reads a body that is exactly one JSON object in UTF-8.
func document(body []byte, known ...string) (map[string]json.RawMessage, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, badRequest("the body is empty; send a JSON object")
	}
	if !utf8.Valid(body) { // the decoder would replace what is not
		return nil, badRequest("the body is not UTF-8")
	}
	if !json.Valid(body) {
		var first json.RawMessage
		if json.NewDecoder(bytes.NewReader(body)).Decode(&first) == nil {
			return nil, badRequest("the body has something after the JSON object")
		}
		return nil, badRequest("the body is not JSON")
	}
	return members(body, "", known...)
}

// members splits one JSON object that is known to be valid. Unlike
// encoding/json it takes names by their exact case, and no name twice: a proxy
// or a reviewer who reads the first Grants must not see other than we do.
func members(raw []byte, at string, known ...string) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, badRequest(cmp.Or(at, "the body") + " must be a JSON object")
	}
	m := make(map[string]json.RawMessage, len(known))
	for d.More() {
		key, err := d.Token()
		name, isName := key.(string)
		if err != nil || !isName {
			return nil, badRequest("the body is not JSON")
		}
		switch _, twice := m[name]; {
		case !slices.Contains(known, name):
			return nil, badRequest("unknown member " + showName(at, name))
		case twice:
			return nil, badRequest("member " + showName(at, name) + " is there twice")
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, badRequest("the body is not JSON")
		}
		m[name] = value
	}
	return m, nil
}

// showName repeats a member's name only where it looks like one: what was put
// in a name's place by mistake may be a secret, and error texts get logged by
// clients.
func showName(at, name string) string {
	if !memberRE.MatchString(name) {
		name = "(not a name)"
	}
	if at != "" {
		return at + "." + name
	}
	return name
}

// text reads a JSON string; absent, null and other types are not one.
func text(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}
