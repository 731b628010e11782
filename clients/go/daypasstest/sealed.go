package daypasstest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Token makes a CI token with this id (jti) that nobody signed, for a
// [Broker]: answers are sealed with a token's issuer and id, so a text that is
// no JWT will not do.
func Token(id string) string {
	part := base64.RawURLEncoding.EncodeToString
	claims, err := json.Marshal(map[string]string{"iss": "https://ci.example.com", "jti": id})
	if err != nil {
		panic(err) // a string that cannot be one in JSON there is not
	}
	return part([]byte(`{"alg":"none"}`)) + "." + part(claims) + "." + part([]byte("no-signature"))
}

// answerLife is how long a sealed answer can be fetched again.
const answerLife = 2 * time.Minute

// sealTo is whom one answer is for.
type sealTo struct {
	key     []byte // X25519; nil: nobody, in clear
	aad     [sha256.Size]byte
	keep    bool   // it can be fetched again
	request string // the answer's request id, where it is fixed already
}

type keptKey struct {
	aad [sha256.Size]byte
	key [32]byte
}

type kept struct {
	sealed map[string]string
	until  time.Time
}

func (t sealTo) name() keptKey { return keptKey{t.aad, [32]byte(t.key)} }

// recipientOf reads whom the answer to an exchange is for.
func recipientOf(body wants, token string) (sealTo, *Problem) {
	if body.Recipient == nil {
		return sealTo{}, nil
	}
	bad := &Problem{Status: 400, Code: "bad_request", Detail: "recipient_key must be an X25519 public key in base64url"}
	key, err := base64.RawURLEncoding.Strict().DecodeString(*body.Recipient)
	if err != nil || len(key) != 32 {
		return sealTo{}, bad
	}
	aad, ok := ofToken(token)
	if !ok {
		return sealTo{}, &Problem{Status: 401, Code: "token_invalid", Detail: "the token is not a JWT with iss and jti"}
	}
	to := sealTo{key: key, aad: aad, keep: true}
	if _, err := seal(to, nil); err != nil { // of low order
		return sealTo{}, bad
	}
	return to, nil
}

// ofToken is a token's name: its issuer and id under SHA-256.
func ofToken(token string) ([sha256.Size]byte, bool) {
	parts := strings.Split(token, ".")
	var claims struct{ Iss, Jti string }
	if len(parts) != 3 {
		return [32]byte{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Iss == "" || claims.Jti == "" {
		return [32]byte{}, false
	}
	return hash(claims.Iss, claims.Jti), true
}

// onSession is the name of a request on a session.
func onSession(session, name string) [sha256.Size]byte {
	id := sha256.Sum256([]byte("daypass session\x00" + session))
	return hash("daypass session "+hex.EncodeToString(id[:]), name)
}

func hash(parts ...string) [sha256.Size]byte {
	var b []byte
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	return sha256.Sum256(b)
}

// again gives an answer that was given before to the same token and key.
func (b *Broker) again(w http.ResponseWriter, to sealTo) bool {
	if to.key == nil || !to.keep {
		return false
	}
	k, ok := b.kept[to.name()]
	if !ok || !b.now().Before(k.until) {
		return false
	}
	b.answer(w, map[string]any{"sealed": k.sealed})
	return true
}

// give sends an answer, sealed where there is somebody to seal it to.
func (b *Broker) give(w http.ResponseWriter, answer map[string]any, to sealTo) {
	if to.key == nil {
		b.answer(w, answer)
		return
	}
	if to.request == "" {
		to.request = b.request()
	}
	answer["request_id"] = to.request
	plain, err := json.Marshal(answer)
	if err != nil {
		panic(err) // a test gave a value that JSON has not
	}
	sealed, err := seal(to, plain)
	if err != nil {
		panic(err) // it was tried when the key came
	}
	if to.keep {
		if b.kept == nil {
			b.kept = map[keptKey]kept{}
		}
		b.kept[to.name()] = kept{sealed, b.now().Add(answerLife)}
	}
	b.answer(w, map[string]any{"request_id": to.request, "sealed": sealed})
}

func seal(to sealTo, plain []byte) (map[string]string, error) {
	public, err := ecdh.X25519().NewPublicKey(to.key)
	if err != nil {
		return nil, err
	}
	key, err := hpke.NewDHKEMPublicKey(public)
	if err != nil {
		return nil, err
	}
	enc, sender, err := hpke.NewSender(key, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte("daypass/v1 exchange"))
	if err != nil {
		return nil, err
	}
	ciphertext, err := sender.Seal(to.aad[:], plain)
	if err != nil {
		return nil, err
	}
	text := base64.RawURLEncoding.EncodeToString
	return map[string]string{"enc": text(enc), "ciphertext": text(ciphertext)}, nil
}

// cutter keeps an answer back, to send half of it.
type cutter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (c *cutter) Header() http.Header         { return c.header }
func (c *cutter) WriteHeader(status int)      { c.status = status }
func (c *cutter) Write(b []byte) (int, error) { return c.body.Write(b) }

// off sends half of the answer and cuts the connection, as [http.Handler]s do.
func (c *cutter) off(w http.ResponseWriter) {
	for name, values := range c.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(c.body.Len()))
	w.WriteHeader(max(c.status, http.StatusOK))
	_, _ = w.Write(c.body.Bytes()[:c.body.Len()/2]) // who does not read it loses it as well
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}
