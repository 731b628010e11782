package daypass

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestASecretIsNotSeen(t *testing.T) {
	s := NewSecret("hunter2")
	inside := struct {
		Open   Secret
		closed Secret
		m      map[string]Secret
		p      *Secret
	}{s, s, map[string]Secret{"k": s}, &s}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%10v"} {
		fmt.Fprintf(&shown, verb+verb+verb, s, inside, &inside)
	}
	fmt.Fprint(&shown, Answer{Session: Session{Token: s, Key: s}, Credentials: []Credential{{Fields: map[string]Secret{"password": s}}}})
	fmt.Fprint(&shown, &Error{Code: MintFailed, Session: &Session{Token: s, Key: s}})
	j, err := json.Marshal(map[string]any{"a": s, "b": &s, "c": inside, "d": map[string]Secret{"x": s}})
	if err != nil {
		t.Fatal(err)
	}
	shown.Write(j)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "inside", inside)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "inside", inside)
	shown.Write(log.Bytes())
	for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"), fmt.Sprint([]byte("hunter2"))} {
		if strings.Contains(shown.String(), leak) {
			t.Errorf("%q is to be seen in %s", leak, shown.String())
		}
	}
	if s.Reveal() != "hunter2" || s.IsZero() || !NewSecret("").IsZero() || (Secret{}).Reveal() != "" {
		t.Error("a secret is not what it was made of")
	}
}
