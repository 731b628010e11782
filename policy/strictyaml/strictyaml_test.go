package strictyaml_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

type server struct {
	At      *strictyaml.Node       `yaml:",node"`
	Name    string                 `yaml:"name,required"`
	Port    int                    `yaml:"port"`
	Small   uint8                  `yaml:"small"`
	Ratio   float64                `yaml:"ratio"`
	On      bool                   `yaml:"enabled"`
	Life    time.Duration          `yaml:"life"`
	Until   strictyaml.Date        `yaml:"until"`
	Tags    []string               `yaml:"tags"`
	Labels  map[string]string      `yaml:"labels"`
	Params  json.RawMessage        `yaml:"params"`
	Raw     *strictyaml.Node       `yaml:"raw"`
	TLS     *pair                  `yaml:"tls"`
	Backup  []pair                 `yaml:"backup"`
	Ceiling strictyaml.Unsupported `yaml:"ceiling"`
	ignored string
}

func show(f *strictyaml.Fault) string { return f.Error() }

type pair struct {
	Cert string `yaml:"cert,required"`
	Key  string `yaml:"key"`
}

func TestADocumentBecomesAStruct(t *testing.T) {
	var s server
	err := strictyaml.Decode("f.yaml", []byte(`---
# a comment
name: "5"
port: 8080
small: 255
ratio: 0.5
enabled: true
life: 1h30m
until: 2027-03-01
tags: [a, 'b', "c\u0041"]
labels: {env: prod, "a.b/c": x}
params: {n: 12345678901234567890, t: [true, "x<"], m: {}}
raw: [1]
tls:
  cert: |
    one
    two
  key: >-
    folded
    text
backup:
- cert: a
- {cert: b}
`), &s)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, got, want string }{
		{"name", s.Name, "5"},
		{"numbers", fmt.Sprint(s.Port, s.Small, s.Ratio, s.On), "8080 255 0.5 true"},
		{"life", s.Life.String(), "1h30m0s"},
		{"until", s.Until.String(), "2027-03-01"},
		{"tags", strings.Join(s.Tags, ","), "a,b,cA"},
		{"labels", s.Labels["env"] + s.Labels["a.b/c"], "prodx"},
		{"params", string(s.Params), `{"n":12345678901234567890,"t":[true,"x\u003c"],"m":{}}`},
		{"raw", s.Raw.Items[0].Text, "1"},
		{"tls", s.TLS.Cert + s.TLS.Key, "one\ntwo\nfolded text"},
		{"backup", s.Backup[0].Cert + s.Backup[1].Cert, "ab"},
		{"place of a key that is there", show(s.At.At("labels", "a.b/c").Fault("x")), `f.yaml:11:30: labels["a.b/c"]: x`},
		{"place of a list item", show(s.At.At("tags", 2).Fault("x")), "f.yaml:10:16: tags[2]: x"},
		{"place of what is missing", show(s.At.At("backup", 1, "key").Fault("x")), "f.yaml:23:3: backup[1]: x"},
		{"a field without a tag", s.ignored, ""},
	} {
		if c.got != c.want {
			t.Errorf("%s: have %s, want %s", c.what, c.got, c.want)
		}
	}
}

func TestAllFaultsAreReportedAtOnceInOrder(t *testing.T) {
	var s server
	err := strictyaml.Decode("f.yaml", []byte(`nmae: x
port: "8080"
small: 256
enabled: yes
life: 15
until: 2027-02-30
tags: a
labels: {env: 5, env: six}
params: {a: }
tls: {key: k}
backup:
  - {cert: true, kee: x}
ceiling: {max: 1}
`), &s)
	const want = `f.yaml:1:1: nmae: unknown key; did you mean "name"?
f.yaml:1:1: name is missing
f.yaml:2:7: port: must be a number, not text
f.yaml:3:8: small: must be a whole number from 0, of at most 8 bits
f.yaml:4:10: enabled: is text to some readers and something else to others: put text in quotes, and write numbers and booleans plainly
f.yaml:5:7: life: must be a duration with its unit, such as 15m, not a number
f.yaml:6:8: until: must be a date such as 2027-03-01
f.yaml:7:7: tags: must be a list, not text
f.yaml:8:15: labels.env: must be text, not a number: put it in quotes
f.yaml:8:18: labels.env: is here twice; first on line 8
f.yaml:9:12: params.a: has no value: give one, or leave the key out
f.yaml:10:6: tls: cert is missing
f.yaml:12:12: backup[0].cert: must be text, not true or false: put it in quotes
f.yaml:12:18: backup[0].kee: unknown key; did you mean "key"?
f.yaml:13:10: ceiling: is not supported by this version`
	if err == nil || err.Error() != want {
		t.Fatalf("have\n%v\nwant\n%s", err, want)
	}
	if fault, ok := errors.AsType[*strictyaml.Fault](err); !ok || fault.Line != 1 {
		t.Errorf("the first fault is not found by errors.As: %v", fault)
	}
}

func TestDocumentsThatReadersDisagreeOnAreRefused(t *testing.T) {
	for sentence, c := range map[string]struct{ doc, want string }{
		"an anchor":                           {"a: &x 1\n", "1:4: an anchor (&)"},
		"an alias":                            {"a: *x\n", "1:4: an alias (*)"},
		"a merge key":                         {"<<: {a: 1}\n", "1:1: a merge key (<<)"},
		"a merge key in braces":               {"{<<: {a: 1}}\n", "1:2: a merge key (<<)"},
		"a tag":                               {"a: !!str 1\n", "1:4: a tag (!)"},
		"a local tag":                         {"a: !secret x\n", "1:4: a tag (!)"},
		"a directive":                         {"%YAML 1.2\n---\na: 1\n", "1:1: a directive (%)"},
		"two documents":                       {"a: b\n---\nc: d\n", "2:1: a second document"},
		"an end of document":                  {"a: b\n...\n", "2:1: an end of document"},
		"an explicit key":                     {"? a\n: b\n", "1:1: an explicit key (?)"},
		"a duplicate key":                     {"a: 1\nb: 2\na: 3\n", "3:1: a: is here twice; first on line 1"},
		"a duplicate key in another writing":  {"a: 1\n\"\\u0061\": 3\n", "2:1: a: is here twice"},
		"a number as key":                     {"1: x\n", `1:1: ["1"]: a key must be text, not a number`},
		"a boolean as key":                    {"true: x\n", "1:1: true: a key must be text, not true or false"},
		"nothing as key":                      {"~: x\n", `1:1: ["~"]: a key must be text, not nothing`},
		"a list as key":                       {"[a, b]: c\n", "1:7: cannot be read as YAML"},
		"an empty document":                   {"", "1:1: is empty"},
		"only a comment":                      {"# nothing\n", "1:1: is empty"},
		"only a document header":              {"---\n", "1:1: is empty"},
		"a list for a mapping":                {"- a\n", "1:1: must be a mapping, not a list"},
		"a word for a mapping":                {"a:b\n", "1:1: must be a mapping, not text"},
		"a tab as indentation":                {"a:\n\tb: 1\n", "cannot be read as YAML"},
		"an open bracket":                     {"a: [1, 2\n", "1:4: cannot be read as YAML"},
		"a bracket too many":                  {"a: [1]]\n", "1:7: cannot be read as YAML"},
		"an open quote":                       {"a: \"x", "1:4: cannot be read as YAML"},
		"two values":                          {"a: \"x\" y\n", "cannot be read as YAML"},
		"a key in a value":                    {"a: b: c\n", "1:4: cannot be read as YAML"},
		"a list item that is indented":        {"a:\n - b\n  - c\n", "a[0]: text over several lines must be quoted"},
		"plain text over two lines":           {"a: b\n  c\n", "1:4: a: text over several lines"},
		"invalid UTF-8":                       {"a: \xff\n", "1:4: is not valid UTF-8"},
		"a NUL":                               {"a: b\x00c\n", "1:5: character U+0000"},
		"an escape sequence":                  {"# \x1b[2K\na: b\n", "1:3: character U+001B"},
		"a lone carriage return":              {"a: b # c\rd: e\n", "1:9: a carriage return that ends no line"},
		"a next-line character":               {"a: b # c\u0085d: e\n", "1:9: character U+0085"},
		"a line separator":                    {"a: b # c\u2028d: e\n", "1:9: character U+2028"},
		"text that runs backwards":            {"a: b # \u202e c\n", "1:8: character U+202E"},
		"a zero-width space":                  {"a: b\u200bc\n", "1:5: character U+200B"},
		"a byte order mark":                   {"\ufeffa: b\n", "1:1: character U+FEFF"},
		"a filler that is blank":              {"a: b\u3164\n", "1:5: character U+3164"},
		"a joiner without a glyph":            {"a: b\u034f\n", "1:5: character U+034F"},
		"a variation selector":                {"a: b\ufe0f\n", "1:5: character U+FE0F"},
		"no character":                        {"a: b\uffff\n", "1:5: character U+FFFF"},
		"no character beyond the first plane": {"a: b\U0001fffe\n", "1:5: character U+1FFFE"},
		"a tag character":                     {"a: b\U000E0041\n", "1:5: character U+E0041"},
	} {
		var v map[string]*strictyaml.Node
		err := strictyaml.Decode("f.yaml", []byte(c.doc), &v)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: have %v, want %s", sentence, err, c.want)
		}
	}
}

func TestAWordIsTheSameToEveryReader(t *testing.T) {
	const doubt = "doubtful"
	for word, want := range map[string]string{
		"main": "text", "refs/heads/main": "text", "2027-03-01": "text", "15m": "text", "v1.2.3": "text",
		"127.0.0.1:8080": "text", "https://x.example/y": "text", "-": "", "e5": "text", "y": "text", "0": "a number",
		"-0": "a number", "12": "a number", "0.5": "a number", "1e3": "a number", "1.5E-3": "a number",
		"12345678901234567890123": "a number", "true": "true or false", "false": "true or false",
		`"12"`: "text", "'yes'": "text", `"null"`: "text",
		"yes": doubt, "No": doubt, "ON": doubt, "off": doubt, "True": doubt, "FALSE": doubt,
		"0x1F": doubt, "0o17": doubt, "017": doubt, "0b1": doubt, "1_000": doubt, "+5": doubt, ".5": doubt, "5.": doubt,
		"08": doubt, ".inf": doubt, "-.Inf": doubt, ".NaN": doubt, "12:30": doubt, "1:30:00": doubt, "+1e3": doubt,
		"~": "nothing", "null": "nothing", "Null": "nothing", "": "nothing",
	} {
		doc, err := strictyaml.Parse("f", []byte("k: "+word+"\n"), strictyaml.DefaultLimits())
		have := ""
		if err == nil {
			have = doc.Root.Get("k").Kind.String()
		} else if strings.Contains(err.Error(), "to some readers") {
			have = doubt
		}
		if have != want {
			t.Errorf("%q is %q (%v), want %q", word, have, err, want)
		}
	}
}

func TestFaultsDoNotRepeatValues(t *testing.T) {
	const secret = "hunter2"
	for _, doc := range []string{
		"port: " + secret, "life: " + secret, "until: " + secret, "tls: " + secret, "tags: " + secret,
		"enabled: " + secret, "ceiling: " + secret, "name: \"" + secret, "name: [" + secret, "params: {a: , b: " + secret + "}",
		"name: " + secret + "\n  more", "name: x: " + secret, "name: &" + secret + " x", "name: !" + secret + " x",
	} {
		var s server
		err := strictyaml.Decode("f.yaml", []byte(doc+"\n"), &s)
		if err == nil {
			t.Errorf("%q is accepted", doc)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%q: the fault repeats the value: %v", doc, err)
		}
	}
}

func TestBombsAreRefusedFast(t *testing.T) {
	nested := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.Repeat(" ", i) + "a:\n")
		}
		return b.String()
	}
	var laughs strings.Builder
	laughs.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := range 20 {
		fmt.Fprintf(&laughs, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 9), ","))
	}
	keys := strings.Repeat("aaa: b\n", 140_000)
	for sentence, c := range map[string]struct{ doc, want string }{
		"10 MiB":                       {strings.Repeat("# comment\n", 1<<20), "larger than 1048576 bytes"},
		"a billion laughs":             {laughs.String(), "an anchor"},
		"brackets in brackets":         {"a: " + strings.Repeat("[", 1<<19), "deeper than 32"},
		"braces in braces":             {strings.Repeat("{a: ", 1<<17), "deeper than 32"},
		"lists in lists on one line":   {strings.Repeat("- ", 1<<19), "deeper than 32"},
		"explicit keys on one line":    {strings.Repeat("? ", 1<<19), "an explicit key"},
		"mappings in mappings":         {nested(1400), "deeper than 32"},
		"one mapping with many keys":   {keys, "more than 10000 keys"},
		"braces with many keys":        {"{" + strings.Repeat("a: b,", 200_000) + "}", "more than 10000 keys"},
		"a list of a million items":    {"a: [" + strings.Repeat("b,", 1<<20) + "b]\n", "larger than 1048576 bytes"},
		"as many items as fit":         {"a: [" + strings.Repeat("b,", 500_000) + "b]\n", "a list has more than 10000 items"},
		"as many lines as fit":         {"a:\n" + strings.Repeat("- b\n", 250_000), "a list has more than 10000 items"},
		"mappings, as many as fit":     {"a:\n" + strings.Repeat("- b: 1\n  c: 2\n", 60_000), "a list has more than 10000 items"},
		"items of a list alone":        {strings.Repeat("- b\n", 250_000), "a list has more than 10000 items"},
		"a long key above many values": {strings.Repeat("k", 1<<19) + ": [" + strings.Repeat("b,", 9_000) + "]\n", "below long keys"},
		"a long unknown key":           {strings.Repeat("k", 1<<19) + ": x\n", "unknown key"},
		"many unknown keys":            {strings.Repeat("x", 20) + ": 1\n" + unknown(9_000), "and 8902 more faults"},
	} {
		start := time.Now()
		var s pair
		err := strictyaml.Decode("f", []byte(c.doc), &s)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: have %.300v, want %s", sentence, err, c.want)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %s", sentence, took)
		}
		if err != nil && len(err.Error()) > 64<<10 {
			t.Errorf("%s: the error has %d bytes", sentence, len(err.Error()))
		}
	}
}

func unknown(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "key%d: v\n", i)
	}
	return b.String()
}

// manyLists has lists that stand as far left as the keys above them.
func manyLists(keys, items int) string {
	var b strings.Builder
	for i := range keys {
		fmt.Fprintf(&b, "key%d:\n%s", i, strings.Repeat("- b\n", items))
	}
	return b.String()
}

func TestTheLargestAllowedDocumentsAreReadFast(t *testing.T) {
	for sentence, doc := range map[string]string{
		"a mapping of 9,000 keys": unknown(9_000),
		"a long list":             "a:\n" + strings.Repeat("- b\n", 10_000),
		"a long list in brackets": "a: [" + strings.Repeat("b,", 9_999) + "c]\n",
		"many small mappings":     "a:\n" + strings.Repeat("- b: 1\n  c: 2\n", 10_000),
		"many lists":              strings.Repeat("- ["+strings.Repeat("b,", 20)+"b]\n", 10_000),
		"many lists below keys":   manyLists(9_000, 20),
		"a long text":             "a: \"" + strings.Repeat("x", 1<<20-100) + "\"\n",
		"a long block":            "a: |\n" + strings.Repeat("  x\n", 200_000),
		"comments":                strings.Repeat("#\n", 300_000) + "a: b\n",
	} {
		start := time.Now()
		if _, err := strictyaml.Parse("f", []byte(doc), strictyaml.DefaultLimits()); err != nil {
			t.Errorf("%s: %.200v", sentence, err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %s", sentence, took)
		}
	}
}

func TestADayLastsUntilItsEndInUTC(t *testing.T) {
	var v struct {
		Until strictyaml.Date `yaml:"until"`
	}
	if err := strictyaml.Decode("f", []byte("until: 2027-06-30\n"), &v); err != nil {
		t.Fatal(err)
	}
	last := time.Date(2027, 6, 30, 23, 59, 59, 999_999_999, time.UTC)
	east := time.FixedZone("east", 10*3600)
	for _, c := range []struct {
		at   time.Time
		over bool
	}{
		{last, false}, {last.Add(1), true}, {time.Date(2027, 7, 1, 9, 0, 0, 0, east), false}, {time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), false},
	} {
		if got := v.Until.Over(c.at); got != c.over {
			t.Errorf("at %s over is %v, want %v", c.at, got, c.over)
		}
	}
	if (strictyaml.Date{}).Over(last) || !strictyaml.DayOf(last).Over(last.Add(1)) {
		t.Error("the zero date ends, or the day of a time does not")
	}
}

func TestNearWordsAreFound(t *testing.T) {
	known := []string{"payments-db", "payments-ro", "orders-db", "match", "when"}
	for word, want := range map[string]string{
		"payment-db": "payments-db payments-ro", "mtach": "match", "MATCH": "match", "wehn": "when",
		"telemetry": "", "": "", "payments-db-": "payments-db payments-ro",
	} {
		if got := strings.Join(strictyaml.Nearest(word, known), " "); got != want {
			t.Errorf("%q: have %q, want %q", word, got, want)
		}
	}
}

// size reads itself, as configuration types do.
type size struct{ bytes int }

func (s *size) DecodeYAML(n *strictyaml.Node) error {
	if n.Kind == strictyaml.Map {
		var v struct {
			KiB int `yaml:"kib"`
		}
		err := n.Decode(&v)
		s.bytes = v.KiB << 10
		return err
	}
	if n.Kind != strictyaml.Text {
		return errors.New("must be a size")
	}
	s.bytes = len(n.Text)
	return nil
}

func TestATypeCanReadItself(t *testing.T) {
	var v struct {
		A size  `yaml:"a"`
		B *size `yaml:"b"`
		C size  `yaml:"c"`
		D size  `yaml:"d"`
	}
	err := strictyaml.Decode("f", []byte("a: xx\nb: {kib: 2}\nc: 1\nd: {kbi: 2}\n"), &v)
	const want = "f:3:4: c: must be a size\nf:4:5: d.kbi: unknown key; did you mean \"kib\"?"
	if err == nil || err.Error() != want {
		t.Errorf("have %v, want %s", err, want)
	}
	if v.A.bytes != 2 || v.B == nil || v.B.bytes != 2048 {
		t.Errorf("what could be read is not there: %+v", v)
	}
}
