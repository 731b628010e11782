package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// through writes input in the given chunk sizes, cyclically, and returns what
// comes out.
func through(t testing.TB, s *Set, input string, sizes ...byte) string {
	t.Helper()
	var out bytes.Buffer
	w := s.Writer(&out)
	for i := 0; input != ""; i++ {
		n := len(input)
		if len(sizes) > 0 {
			n = min(n, int(sizes[i%len(sizes)])%7+1)
		}
		if got, err := w.Write([]byte(input[:n])); got != n || err != nil {
			t.Fatalf("wrote %d of %d: %v", got, n, err)
		}
		input = input[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// naive says the same by looking for every pattern at every place.
func naive(patterns []string, input string) string {
	hide := make([]bool, len(input))
	for _, p := range patterns {
		for i := 0; i+len(p) <= len(input); i++ {
			if input[i:i+len(p)] == p {
				for j := range len(p) {
					hide[i+j] = true
				}
			}
		}
	}
	var out strings.Builder
	for i := range len(input) {
		after := i > 0 && hide[i-1]
		switch {
		case !hide[i]:
			out.WriteByte(input[i])
		case !after:
			out.WriteString(Hidden)
		}
	}
	return out.String()
}

func TestSecretsAreHidden(t *testing.T) {
	const key = "-----BEGIN PRIVATE KEY-----\nMIIBVQIBADANBgkqhkiG9w0\n  c2Vjb25kIGxpbmU=\r\nabc\n-----END PRIVATE KEY-----\n"
	for name, tc := range map[string]struct {
		secrets  []string
		in, want string
	}{
		"the value itself":                       {[]string{"hunter2"}, "password=hunter2;", "password=***;"},
		"at the very start and end":              {[]string{"hunter2"}, "hunter2", "***"},
		"twice without a gap is one":             {[]string{"hunter2"}, "hunter2hunter2!", "***!"},
		"occurrences that overlap":               {[]string{"abab"}, "xababab!", "x***!"},
		"one secret inside another":              {[]string{"inside", "all-inside-out"}, "all-inside-out inside all-inside-in", "*** *** all-***-in"},
		"a longer one that starts the same":      {[]string{"secret", "secret-longer"}, "secret-long secret-longer", "***-long ***"},
		"a false start before the real one":      {[]string{"aaab"}, "aaaaab", "aa***"},
		"three bytes are left alone":             {[]string{"abc", ""}, "abc abc", "abc abc"},
		"a key, line by line":                    {[]string{key}, "got MIIBVQIBADANBgkqhkiG9w0 and c2Vjb25kIGxpbmU= and abc", "got *** and *** and abc"},
		"the frame of a key is no secret":        {[]string{key}, "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"},
		"a key as a whole":                       {[]string{key}, "x" + key + "y", "x***y"},
		"a key inside JSON":                      {[]string{key}, `{"k":` + quoted(key) + `}`, `{"k":"***"}`},
		"the base64 of it":                       {[]string{"hunter2"}, base64.StdEncoding.EncodeToString([]byte("hunter2")) + ".", "***."},
		"the base64 of it, for URLs":             {[]string{"hu?>>nter~~"}, base64.RawURLEncoding.EncodeToString([]byte("hu?>>nter~~")), "***"},
		"in a URL's query":                       {[]string{"a b/c+d"}, url.QueryEscape("a b/c+d"), "***"},
		"in a URL's path":                        {[]string{"a b/c+d"}, url.PathEscape("a b/c+d"), "***"},
		"in a URL, in small letters":             {[]string{"a b/c?d"}, "a%20b%2fc%3fd", "***"},
		"as encodeURIComponent writes it":        {[]string{"it's (a) *b*!"}, "it's%20(a)%20*b*!", "***"},
		"in JSON":                                {[]string{"a\"b\\c<d\n"}, quoted("a\"b\\c<d\n"), `"***"`},
		"in JSON that leaves < alone":            {[]string{`a"b<c`}, `"a\"b<c"`, `"***"`},
		"in JSON that escapes slashes":           {[]string{`a/b/c`}, `"a\/b\/c"`, `"***"`},
		"in ASCII":                               {[]string{"pässword"}, `p\u00e4ssword`, "***"},
		"as set -x of a shell shows it":          {[]string{"it's me"}, `PW='it'\''s me'`, `PW='***'`},
		"bytes that are not text":                {[]string{"\xff\xfe\x00\x01"}, "a\xff\xfe\x00\x01b", "a***b"},
		"an empty set":                           {nil, "anything", "anything"},
		"what is almost a secret":                {[]string{"hunter2"}, "hunter1 hunter hunte", "hunter1 hunter hunte"},
		"nothing of a value that has a line end": {[]string{"hunter2\n"}, "pw: hunter2 (ok)", "pw: *** (ok)"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(tc.secrets)
			for _, sizes := range [][]byte{nil, {0}, {1}, {2, 0, 5}} {
				if got := through(t, s, tc.in, sizes...); got != tc.want {
					t.Errorf("chunks %v: got %q, want %q", sizes, got, tc.want)
				}
			}
		})
	}
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Basic authentication encodes user:password: of the password only what it
// decides alone can be recognised, and that must go.
func TestASecretInsideLongerBase64IsHiddenAtEveryAlignment(t *testing.T) {
	const secret = "correct-horse-battery"
	s := New([]string{secret})
	for user := range 7 {
		for tail := range 4 {
			in := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("u", user) + secret + strings.Repeat("t", tail)))
			got := through(t, s, in)
			if kept := len(in) - (len(got) - len(Hidden)); kept < len(secret)*8/6-1 || !strings.Contains(got, Hidden) {
				t.Errorf("user %d, tail %d: %q became %q", user, tail, in, got)
			}
		}
	}
}

func TestLinesOfBrokenBase64AreHidden(t *testing.T) {
	secret := strings.Repeat("0123456789abcdef", 20)
	whole := base64.StdEncoding.EncodeToString([]byte(secret))
	for _, width := range []int{64, 76} {
		var in strings.Builder
		for at := 0; at < len(whole); at += width {
			fmt.Fprintln(&in, whole[at:min(at+width, len(whole))])
		}
		if got := strings.ReplaceAll(through(t, New([]string{secret}), in.String()), Hidden+"\n", ""); got != "" {
			t.Errorf("width %d: %q got through", width, got)
		}
	}
}

func TestOnlyWhatMayBecomeASecretIsHeldBack(t *testing.T) {
	var out bytes.Buffer
	w := New([]string{"hunter2"}).Writer(&out)
	for _, step := range []struct{ in, out string }{
		{"Password: ", "Password: "}, // a prompt is seen at once
		{"hun", "Password: "},
		{"t!", "Password: hunt!"},
		{"hunter2", "Password: hunt!***"}, // as soon as it is known
		{"x", "Password: hunt!***x"},
	} {
		if _, err := w.Write([]byte(step.in)); err != nil {
			t.Fatal(err)
		}
		if out.String() != step.out {
			t.Errorf("after %q: %q, want %q", step.in, out.String(), step.out)
		}
	}
}

type broken struct{ left int }

func (b *broken) Write(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		return 0, errors.New("pipe is gone")
	}
	return len(p), nil
}

func TestAnErrorBehindIsPassedOn(t *testing.T) {
	w := New([]string{"hunter2"}).Writer(&broken{left: 1})
	if _, err := w.Write([]byte("fine")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("not fine")); err == nil {
		t.Error("the error was swallowed")
	}
	if _, err := w.Write([]byte("hunt")); err != nil {
		t.Errorf("nothing is to be written yet: %v", err)
	}
	if err := w.Close(); err == nil {
		t.Error("Close swallowed the error")
	}
}

func FuzzTheStreamSaysWhatASlowSearchSays(f *testing.F) {
	f.Add("hunter2", "correct horse", "my hunter2 is correct horsehunter2", []byte{1, 2, 3})
	f.Add("abab", "babab", "ababababab", []byte{0})
	f.Add("line one\nline two\r\n", "aaab", "aaaab line two", []byte{5})
	f.Add("it's", "a\"b\\", `it'\''s a\"b\\`, []byte{0, 6})
	f.Add("\xff\xfe\xfd\xfc", "%2Fx", "\xff\xfe\xfd\xfc%2fx", []byte{2})
	f.Fuzz(func(t *testing.T, one, two, input string, sizes []byte) {
		if len(one) > 200 || len(two) > 200 || len(input) > 2000 {
			return // the slow search is slow
		}
		secrets := []string{one, two}
		input += one + input + two
		s := New(secrets)
		got := through(t, s, input, sizes...)
		if want := naive(forms(secrets), input); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		for _, secret := range secrets {
			// A secret with asterisks may be made up by what replaces others.
			if len(secret) >= MinLength && !strings.Contains(secret, "*") && strings.Contains(got, secret) {
				t.Errorf("%q is in %q", secret, got)
			}
		}
	})
}

func FuzzWhatHasNoSecretIsUnchanged(f *testing.F) {
	f.Add("hunter2", "nothing to see here, hunter", []byte{1, 3})
	f.Fuzz(func(t *testing.T, secret, input string, sizes []byte) {
		for _, p := range forms([]string{secret}) {
			if strings.Contains(input, p) {
				return
			}
		}
		if got := through(t, New([]string{secret}), input, sizes...); got != input {
			t.Errorf("got %q, want %q", got, input)
		}
	})
}

func BenchmarkALogWithoutSecrets(b *testing.B) {
	s := New([]string{"hunter2-hunter2", strings.Repeat("0123456789abcdef\n", 100)})
	line := []byte(strings.Repeat("2026-11-23 12:00:00 compiling the package, 14 of 200 done\n", 100))
	w := s.Writer(&bytes.Buffer{})
	w.to = discard{}
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if _, err := w.Write(line); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
