package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// MinLength is the length in bytes below which nothing is hidden.
const MinLength = 4

// forms returns the patterns that secrets may appear as, each once.
func forms(secrets []string) []string {
	var all []string
	for _, s := range secrets {
		if len(s) < MinLength {
			continue
		}
		all = append(all, textForms(s)...)
		all = append(all, base64Forms(s)...)
		for _, line := range Lines(s) {
			all = append(all, textForms(line)...)
			all = append(all, base64Forms(line)...)
		}
	}
	all = slices.DeleteFunc(all, func(f string) bool { return len(f) < MinLength })
	slices.Sort(all)
	return slices.Compact(all)
}

// Lines returns the lines of a secret that has more than one, without white
// space around them: programs print keys line by line. Short lines are left
// out, and so are those that only name what a PEM block holds.
func Lines(s string) []string {
	if !strings.ContainsAny(s, "\r\n") {
		return nil
	}
	var lines []string
	for _, line := range strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(line)
		pem := strings.HasPrefix(line, "-----BEGIN ") || strings.HasPrefix(line, "-----END ")
		if len(line) >= MinLength && !pem {
			lines = append(lines, line)
		}
	}
	return lines
}

func textForms(s string) []string {
	component := strings.NewReplacer("+", "%20", "%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*").Replace(url.QueryEscape(s))
	f := []string{
		s,
		url.QueryEscape(s), url.PathEscape(s), component,
		jsonText(s, true), jsonText(s, false), strings.ReplaceAll(jsonText(s, false), "/", `\/`),
		unquote(strconv.Quote(s)), unquote(strconv.QuoteToASCII(s)),
		strings.ReplaceAll(s, "'", `'\''`), strings.ReplaceAll(s, "'", `'"'"'`),
	}
	for _, e := range f[1:4] {
		f = append(f, lowerHex(e))
	}
	return f
}

func jsonText(s string, escapeHTML bool) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(escapeHTML)
	if e.Encode(s) != nil {
		return s
	}
	return unquote(strings.TrimSuffix(b.String(), "\n"))
}

func unquote(s string) string { return s[1 : len(s)-1] }

// lowerHex turns %2F into %2f.
func lowerHex(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// base64Forms returns the encodings of s alone, broken at 64 and 76 characters
// as tools do, and what is left of s inside the encoding of something longer,
// such as user:password, for each of the three ways it can be aligned.
func base64Forms(s string) []string {
	var f []string
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		whole := enc.EncodeToString([]byte(s))
		f = append(f, whole, strings.TrimRight(whole, "="))
		for shift := range 3 {
			e := enc.EncodeToString([]byte("\x00\x00"[:min(shift, 2)] + s))
			from := (shift*8 + 5) / 6      // the first character that s alone decides
			to := (shift + len(s)) * 8 / 6 // and the last
			if inner := e[from:to]; len(inner) >= minInner {
				f = append(f, inner)
			}
		}
		for _, width := range []int{64, 76} {
			if len(whole) <= width {
				continue
			}
			for line := range slices.Chunk([]byte(whole), width) {
				if len(line) >= minInner {
					f = append(f, string(line))
				}
			}
		}
	}
	return f
}

// minInner keeps short pieces of base64, which are common by chance, out.
const minInner = 5
