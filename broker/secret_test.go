package broker_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	texttemplate "text/template"

	"github.com/daypass-dev/daypass/broker"
)

// planted is recognisable in clear and in every plain encoding of it.
const planted = "hunter2-Zq9"

// What code that handles secrets may look like: a secret that is named, one
// that a type keeps to itself, one behind a pointer, several.
type (
	openHolder  struct{ S broker.Secret }
	shutHolder  struct{ s broker.Secret }
	deepHolder  struct{ in *shutHolder }
	mixedHolder struct {
		Name string        `json:"name"  xml:"name,attr"`
		Pass broker.Secret `json:"pass"  xml:"pass,attr"`
		List []broker.Secret
		Map  map[string]broker.Secret `xml:"-"`
		Any  any
	}
)

func holders(s broker.Secret) map[string]any {
	return map[string]any{
		"the secret":                 s,
		"a pointer to it":            &s,
		"an exported field":          openHolder{s},
		"an unexported field":        shutHolder{s},
		"a pointer to such a struct": &shutHolder{s},
		"a field two levels down":    deepHolder{&shutHolder{s}},
		"a slice":                    []broker.Secret{s},
		"a slice of structs":         []shutHolder{{s}},
		"an array":                   [2]broker.Secret{s, s},
		"a map's value":              map[string]broker.Secret{"password": s},
		"a map's key":                map[broker.Secret]string{s: "password"},
		"a map of any":               map[string]any{"password": s},
		"a struct of all sorts":      mixedHolder{"n", s, []broker.Secret{s}, map[string]broker.Secret{"k": s}, s},
		"a credential":               broker.Credential{Fields: []broker.Field{{Name: "password", Value: s}}},
		"a secret's reading":         broker.SecretValue{Current: s, Previous: s},
		"an answer":                  broker.Answer{Token: s, Granted: []broker.Granted{{Credential: broker.Credential{Fields: []broker.Field{{Value: s}}}}}},
	}
}

// shown fails the test if the value can be read off out, plain or encoded.
func shown(t *testing.T, how, value, out string) {
	t.Helper()
	for enc, form := range map[string]string{
		"in clear": value,
		"as hex":   hex.EncodeToString([]byte(value)),
		"as HEX":   strings.ToUpper(hex.EncodeToString([]byte(value))),
		"spaced":   strings.Trim(fmt.Sprint([]byte(value)), "[]"),
		"base64":   base64.StdEncoding.EncodeToString([]byte(value)),
		"quoted":   strings.Trim(fmt.Sprintf("%+q", value), `"`),
	} {
		if strings.Contains(out, form) {
			t.Errorf("%s shows the secret %s: %q", how, enc, out)
		}
	}
}

func TestASecretIsNeverPrinted(t *testing.T) {
	var formats []string
	for verb := 'A'; verb <= 'z'; verb++ { // the real verbs, and what is none
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "30", ".2", "#+30.20"} {
			formats = append(formats, "%"+flags+string(verb))
		}
	}
	formats = append(formats, "%!", "no verb at all", "%[2]v", "%*d", "% x", "%d %d")
	for name, v := range holders(broker.NewSecret(planted)) {
		for _, format := range formats {
			shown(t, format+" of "+name, planted, fmt.Sprintf(format, v))
			shown(t, "Errorf "+format+" of "+name, planted, fmt.Errorf(format, v).Error())
		}
		shown(t, "Sprint of "+name, planted, fmt.Sprint(v))
		shown(t, "Sprintln of "+name, planted, fmt.Sprintln(v, v))
	}
}

func TestASecretIsNeverLogged(t *testing.T) {
	for name, v := range holders(broker.NewSecret(planted)) {
		var out bytes.Buffer
		for _, h := range []slog.Handler{
			slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil),
			slog.NewTextHandler(&out, &slog.HandlerOptions{AddSource: true, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				return slog.String(a.Key, a.Value.String())
			}}),
		} {
			log := slog.New(h)
			log.Info("as an attribute", "password", v)
			log.Info("in a group", slog.Group("db", slog.Any("password", v)))
			log.With("password", v).WithGroup("g").Info("from the start", "again", v)
			log.Info("as an error", "err", fmt.Errorf("connect with %v: %w", v, errors.New("refused")))
			log.Info("without a key", v)
		}
		shown(t, "a log line of "+name, planted, out.String())
		if out.Len() == 0 {
			t.Errorf("nothing was logged of %s", name)
		}
	}
}

func TestASecretIsNeverMarshalled(t *testing.T) {
	for name, v := range holders(broker.NewSecret(planted)) {
		for encoding, marshal := range map[string]func(any) ([]byte, error){
			"json": json.Marshal,
			"xml":  xml.Marshal,
			"gob": func(v any) ([]byte, error) {
				var out bytes.Buffer
				err := gob.NewEncoder(&out).Encode(v)
				return out.Bytes(), err
			},
			"text/template": func(v any) ([]byte, error) {
				var out bytes.Buffer
				err := texttemplate.Must(texttemplate.New("").Parse(`{{.}} {{printf "%p" .}} {{print .}}`)).Execute(&out, v)
				return out.Bytes(), err
			},
			"html/template": func(v any) ([]byte, error) {
				var out bytes.Buffer
				err := template.Must(template.New("").Parse(`<a title="{{.}}" href="/{{.}}">{{.}}</a><script>var x = {{.}}</script>`)).Execute(&out, v)
				return out.Bytes(), err
			},
		} {
			out, err := marshal(v)
			shown(t, encoding+" of "+name, planted, string(out))
			if err != nil {
				shown(t, "the error of "+encoding+" of "+name, planted, err.Error())
			}
		}
	}
}

func TestASecretMarshalsAsRedacted(t *testing.T) {
	s := broker.NewSecret(planted)
	asJSON, err := json.Marshal(mixedHolder{Name: "n", Pass: s})
	if err != nil || !strings.Contains(string(asJSON), `"pass":"[redacted]"`) {
		t.Errorf("json: %s, %v", asJSON, err)
	}
	asXML, err := xml.Marshal(openHolder{s})
	if err != nil || !strings.Contains(string(asXML), "<S>[redacted]</S>") {
		t.Errorf("xml: %s, %v", asXML, err)
	}
	asText, err := s.MarshalText()
	if err != nil || string(asText) != "[redacted]" {
		t.Errorf("text: %s, %v", asText, err)
	}
	if got := fmt.Sprintf("%s|%v|%q|%x|%d", s, s, s, s, s); got != strings.TrimSuffix(strings.Repeat("[redacted]|", 5), "|") {
		t.Errorf("printed: %s", got)
	}
}

func TestAnEmptySecretLooksLikeAnyOther(t *testing.T) {
	full, empty := broker.NewSecret(planted), broker.Secret{}
	if a, b := fmt.Sprintf("%v %s %q", full, full, full), fmt.Sprintf("%v %s %q", empty, empty, empty); a != b {
		t.Errorf("a full secret prints %q and an empty one %q", a, b)
	}
	a, _ := json.Marshal(full)
	b, err := json.Marshal(empty)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("a full secret marshals as %s and an empty one as %s, %v", a, b, err)
	}
}

func TestASecretIsNotStoredAsGob(t *testing.T) {
	var out bytes.Buffer
	if err := gob.NewEncoder(&out).Encode(openHolder{broker.NewSecret(planted)}); err == nil {
		t.Errorf("it was stored: %q", out.String())
	}
}

func TestASecretIsNotReadFromAMarshalledForm(t *testing.T) {
	for _, in := range []string{`"[redacted]"`, `"hunter2"`, `{"v":"hunter2"}`} {
		var h openHolder
		if err := json.Unmarshal([]byte(`{"S":`+in+`}`), &h); err == nil && !h.S.IsZero() {
			t.Errorf("%s became a secret", in)
		}
	}
}

func TestRevealIsTheOnlyWayOut(t *testing.T) {
	s := broker.NewSecret(planted)
	if s.Reveal() != planted {
		t.Errorf("Reveal gives %q", s.Reveal())
	}
	for i := range reflect.TypeFor[broker.Secret]().NumField() {
		if f := reflect.TypeFor[broker.Secret]().Field(i); f.IsExported() {
			t.Errorf("field %s is exported", f.Name)
		}
	}
	for i := range reflect.TypeFor[broker.Secret]().NumMethod() {
		m := reflect.TypeFor[broker.Secret]().Method(i)
		if m.Name == "Reveal" || m.Type.NumIn() != 1 {
			continue
		}
		for _, out := range reflect.ValueOf(s).Method(i).Call(nil) {
			shown(t, m.Name, planted, fmt.Sprint(out.Interface()))
		}
	}
}

func TestSecretsAreEqualByValue(t *testing.T) {
	for name, c := range map[string]struct {
		a, b broker.Secret
		want bool
	}{
		"the same value":                  {broker.NewSecret("a"), broker.NewSecret("a"), true},
		"another value":                   {broker.NewSecret("a"), broker.NewSecret("b"), false},
		"another length":                  {broker.NewSecret("a"), broker.NewSecret("aa"), false},
		"empty and zero":                  {broker.NewSecret(""), broker.Secret{}, true},
		"zero and a value":                {broker.Secret{}, broker.NewSecret("a"), false},
		"the same value, different bytes": {broker.NewSecret("a\x00"), broker.NewSecret("a"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.a.Equal(c.b); got != c.want {
				t.Errorf("Equal says %v", got)
			}
		})
	}
	if !broker.NewSecret("").IsZero() || broker.NewSecret(" ").IsZero() {
		t.Error("only the empty secret is zero")
	}
}

func FuzzASecretIsNeverShown(f *testing.F) {
	f.Add("hunter2-Zq9", "%v")
	f.Add("postgres://admin:pw@db/app", "%+v and %w")
	f.Add("[redacted] or not", "%#v%p%!")
	f.Add("\x00\xff\n secret", "%6.2x")
	f.Fuzz(func(t *testing.T, value, format string) {
		value += "-Zq9" // so that it can be told from what surrounds it
		s := broker.NewSecret(value)
		for name, v := range holders(s) {
			blank := holders(broker.NewSecret(""))[name]
			// What shows the value of an empty secret too was not the secret's.
			if without := fmt.Sprintf(format, blank); !strings.Contains(without, value) {
				if out := fmt.Sprintf(format, v); strings.Contains(out, value) {
					t.Errorf("%q of %s: %q", format, name, out)
				}
			}
			out, _ := json.Marshal(v)
			without, _ := json.Marshal(blank)
			if strings.Contains(string(out), value) && !strings.Contains(string(without), value) {
				t.Errorf("json of %s: %s", name, out)
			}
		}
	})
}
