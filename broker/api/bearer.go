package api

import (
	"net/http"
	"strings"

	"github.com/daypass-dev/daypass/broker"
)

// maxToken bounds a token, wherever it comes in.
const maxToken = 16 << 10

const reasonNoToken = "no_token"

// bearerOf reads the one Authorization header (RFC 6750, section 2.1). Two of
// them are refused: a proxy and we might not mean the same one.
func bearerOf(h http.Header) (broker.Secret, error) {
	values := h.Values("Authorization")
	switch {
	case len(values) == 0:
		return broker.Secret{}, badToken(reasonNoToken, "there is no Authorization header; send Authorization: Bearer <token>")
	case len(values) > 1:
		return broker.Secret{}, badToken("two_tokens", "there is more than one Authorization header")
	case len(values[0]) > maxToken+len("Bearer "):
		return broker.Secret{}, badToken("token_too_long", "the Authorization header is longer than 16 KiB")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || !isToken68(token) {
		return broker.Secret{}, badToken("token_malformed", "the Authorization header is not of the form Bearer <token>")
	}
	return broker.NewSecret(token), nil
}

func badToken(reason, public string) *broker.Error {
	return &broker.Error{Code: broker.TokenInvalid, Reason: reason, Public: public}
}

// isToken68 holds the alphabet of RFC 7235: it has no control characters, no
// blanks and no quotes, so that a token cannot leave the place it is put in.
func isToken68(s string) bool {
	body := strings.TrimRight(s, "=")
	if body == "" || len(s) > maxToken {
		return false
	}
	for i := range len(body) {
		c := body[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~+/", c) >= 0) {
			return false
		}
	}
	return true
}
