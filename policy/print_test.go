package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// said writes down what an AST says: all but where it stands.
func said(v any) string {
	var b strings.Builder
	say(&b, reflect.ValueOf(v))
	return b.String()
}

func say(b *strings.Builder, v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[*strictyaml.Node]():
	case v.Type() == reflect.TypeFor[strictyaml.Date]():
		fmt.Fprintf(b, "%s", v.Interface())
	case v.Kind() == reflect.Pointer:
		say(b, v.Elem())
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Name != "Path" {
				fmt.Fprintf(b, "(%s ", f.Name)
				say(b, v.Field(i))
				b.WriteString(")")
			}
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			b.WriteString("[")
			say(b, v.Index(i))
			b.WriteString("]")
		}
	default:
		fmt.Fprintf(b, "%#v", v.Interface())
	}
}

// parsed reads a file of the language, whatever its rules say.
func parsed(text []byte) (*File, error) {
	doc, err := strictyaml.Parse("p.yaml", text, strictyaml.DefaultLimits())
	if err != nil {
		return nil, err
	}
	f := &File{Path: "p.yaml"}
	return f, doc.Root.Decode(f)
}

// someText draws text that readers of YAML differ on, or that looks like other
// things.
func someText(t *rapid.T, what string) string {
	return rapid.OneOf(
		rapid.SampledFrom([]string{"main", "1234", "yes", "NO", "true", "null", "~", "0x1F", "1_000", "12:30", "1e3", ".5", "2027-03-01",
			"- a", "a: b", "a #b", "#", "&a", "*", "!t", "%", "@a", "`", "{}", "[a]", "'", `"`, `\`, " a", "a ", "a\nb\n", "\ta", "=", "<<", "?", "|", ">",
			"größe", "mаin", "日本", "🔑", "\u200b", "\ufeff", "\u2028", "\U000e0041", "a\u0000b", "\u0085", "refs/heads/x", "-", "---", "..."}),
		rapid.StringN(0, 12, -1),
	).Draw(t, what)
}

func someName(t *rapid.T, what string) string {
	return rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._-]{0,8}`), rapid.SampledFrom([]string{"on", "1", "1.5", "null"})).Draw(t, what)
}

func somePattern(t *rapid.T) Pattern {
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return Pattern{Kind: ExactNum, Text: rapid.SampledFrom([]string{"0", "-1", "1.50", "12e-3", "9007199254740993"}).Draw(t, "number")}
	case 1:
		return Pattern{Kind: ExactBool, Text: rapid.SampledFrom([]string{"true", "false"}).Draw(t, "bool")}
	case 2:
		return Pattern{Kind: GlobOfText, Text: rapid.SampledFrom([]string{"*", "refs/heads/**", "a?", "a: *", "#*"}).Draw(t, "glob")}
	}
	text := strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7F {
			return -1
		}
		return r
	}, someText(t, "text"))
	return Pattern{Kind: ExactText, Text: text}
}

func someMatch(t *rapid.T) Match {
	var m Match
	claims := rapid.SliceOfNDistinct(rapid.OneOf(rapid.SampledFrom([]string{"ref", "/a/b~1c", "1", "a b", "on", "a:b", `"`}),
		rapid.StringMatching(`[!-.0-}]{1,8}`)), 1, 4, rapid.ID[string]).Draw(t, "claims")
	for _, claim := range claims {
		c := Condition{Claim: claim, Op: Op(rapid.IntRange(int(OneOf), int(Within)).Draw(t, "op"))}
		switch c.Op {
		case OneOf, NoneOf:
			for range rapid.IntRange(1, 3).Draw(t, "patterns") {
				c.Any = append(c.Any, somePattern(t))
			}
		case Within:
			c.Bounds = []Bound{{Is: rapid.SampledFrom([]string{"above", "at_least"}).Draw(t, "low"), Number: "-1.50"},
				{Is: rapid.SampledFrom([]string{"below", "at_most"}).Draw(t, "high"), Number: "2e3"}}[rapid.IntRange(0, 1).Draw(t, "first"):]
		}
		m = append(m, c)
	}
	return m
}

func someDay(t *rapid.T) strictyaml.Date {
	if rapid.Bool().Draw(t, "a day") {
		return strictyaml.Date{}
	}
	return strictyaml.DayOf(time.Unix(int64(rapid.IntRange(1, 1<<31).Draw(t, "day")), 0))
}

func someFile(t *rapid.T) *File {
	names := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return someName(t, "name") }), 0, 3)
	ttl := func() time.Duration { return time.Duration(rapid.IntRange(0, 100_000).Draw(t, "ttl")) * time.Second }
	f := &File{Description: someText(t, "description"), Owner: someText(t, "owner"), ReviewBy: someDay(t)}
	for i := range rapid.IntRange(0, 2).Draw(t, "repos") {
		f.Repos = append(f.Repos, Repo{ID: fmt.Sprint(i, "-r"), Issuer: someText(t, "issuer"), Name: someText(t, "name"), Match: someMatch(t)})
	}
	for range rapid.IntRange(0, 2).Draw(t, "ceilings") {
		f.Ceilings = append(f.Ceilings, Ceiling{Folder: someText(t, "folder"), Repos: names.Draw(t, "repos"), Grants: names.Draw(t, "grants"), MaxTTL: ttl()})
	}
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		r := Rule{Name: someName(t, "rule"), Description: someText(t, "description"), For: names.Draw(t, "for"), Issuer: someText(t, "issuer"),
			Mode: someText(t, "mode"), Until: someDay(t), MaxLive: rapid.IntRange(0, 3).Draw(t, "max live"), When: someText(t, "when"), Deny: names.Draw(t, "deny"),
			Explain: someText(t, "explain"), Replay: someText(t, "replay")}
		if rapid.Bool().Draw(t, "match") {
			r.Match = someMatch(t)
		}
		for range rapid.IntRange(0, 2).Draw(t, "allow") {
			r.Allow = append(r.Allow, Allow{Grant: someName(t, "grant"), TTL: ttl()})
		}
		if rapid.Bool().Draw(t, "waive") {
			r.Waive = []Waiver{{ID: "DP001", Reason: someText(t, "reason"), Until: strictyaml.DayOf(time.Unix(1e9, 0))}}
		}
		f.Rules = append(f.Rules, r)
	}
	return f
}

func TestWhatIsPrintedIsReadBackTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		file := someFile(t)
		text := file.YAML()
		back, err := parsed(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if was, is := said(file), said(back); was != is {
			t.Fatalf("printed\n%s\nwas %s\nis  %s", text, was, is)
		}
		if again := back.YAML(); string(again) != string(text) {
			t.Fatalf("printed\n%s\nand then\n%s", text, again)
		}
	})
}

func TestEveryFileOfOursIsPrintedAndReadBackTheSame(t *testing.T) {
	texts := map[string]string{}
	for _, pattern := range []string{"testdata/faulty/*.yaml", "testdata/faulty/teams/*/*.yaml", "lint/testdata/*/*/*.yaml", "lint/testdata/*/*.yaml"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			texts[name] = string(text)
		}
	}
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range regexp.MustCompile("(?s)```yaml[a-z ]*\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		texts[fmt.Sprint("snippet ", i)] = m[1]
	}
	read := 0
	for name, text := range texts {
		file, err := parsed([]byte(text))
		if err != nil { // it is one that is refused
			continue
		}
		read++
		back, err := parsed(file.YAML())
		if err != nil || said(file) != said(back) {
			t.Errorf("%s: %v\n%s", name, err, file.YAML())
		}
	}
	if read < 8 {
		t.Errorf("only %d of %d files were read: the test says too little", read, len(texts))
	}
}

func TestTheFormThatIsPrinted(t *testing.T) {
	f := &File{
		Owner: "team-shop", ReviewBy: strictyaml.DayOf(time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)),
		Repos: Repos{{ID: "shop", Issuer: "github", Name: "acme/shop", Match: Match{{Claim: "repository_owner_id", Any: []Pattern{{Kind: ExactText, Text: "1234"}}}}}},
		Rules: []Rule{{Name: "migrate", For: []string{"shop"}, Match: Match{
			{Claim: "ref", Any: []Pattern{{Kind: ExactText, Text: "refs/heads/main"}, {Kind: GlobOfText, Text: "refs/tags/*"}}},
			{Claim: "run_attempt", Op: Within, Bounds: []Bound{{Is: "at_most", Number: "3"}}},
		}, When: `claims.actor != "o'brien"`, Allow: []Allow{{Grant: "orders-db", TTL: 90 * time.Minute}}}},
	}
	const want = `owner: team-shop
review_by: 2027-03-01
repos:
  shop: {issuer: github, name: acme/shop, match: {repository_owner_id: "1234"}}
rules:
  - name: migrate
    for: [shop]
    match:
      ref: [refs/heads/main, {glob: "refs/tags/*"}]
      run_attempt: {at_most: 3}
    when: 'claims.actor != "o''brien"'
    allow:
      - {grant: orders-db, ttl: 1h30m}
`
	if got := string(f.YAML()); got != want {
		t.Errorf("printed\n%s", got)
	}
	if got := string((&File{}).YAML()); got != "{}\n" {
		t.Errorf("a file that says nothing is %q", got)
	}
}
