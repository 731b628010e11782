package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func grants(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":"g%d"}`, i)
	}
	return `{"grants":[` + b.String() + `]}`
}

func TestABodyThatIsNotExactlyTheContractIsRefused(t *testing.T) {
	for name, row := range map[string]struct{ body, says string }{
		"empty":                                {" \n", "the body is empty"},
		"not JSON":                             {`{"grants":`, "the body is not JSON"},
		"a trailing comma":                     {`{"grants":[],}`, "the body is not JSON"},
		"single quotes":                        {`{'grants':[]}`, "the body is not JSON"},
		"a comment":                            {`{/* */"grants":[]}`, "the body is not JSON"},
		"a byte order mark":                    {"\ufeff{}", "the body is not JSON"},
		"not UTF-8":                            {"{\"grants\":[{\"name\":\"a\xff\"}]}", "the body is not UTF-8"},
		"something after the object":           {`{"grants":[]} x`, "something after the JSON object"},
		"a second object":                      {`{"grants":[]}{"grants":[{"name":"prod-db"}]}`, "something after the JSON object"},
		"a NUL after the object":               {"{}\x00", "something after the JSON object"},
		"a list":                               {`[{"grants":[]}]`, "the body must be a JSON object"},
		"null":                                 {`null`, "the body must be a JSON object"},
		"a string":                             {`"{}"`, "the body must be a JSON object"},
		"an unknown member":                    {`{"grants":[],"rule":"x"}`, "unknown member rule"},
		"a member in another case":             {`{"Grants":[{"name":"prod-db"}]}`, "unknown member Grants"},
		"a member that folds to ours":          {`{"grantſ":[{"name":"prod-db"}]}`, "unknown member (not a name)"},
		"dry_run in another case":              {`{"grants":[],"Dry_Run":true}`, "unknown member Dry_Run"},
		"a member twice":                       {`{"grants":[],"grants":[{"name":"prod-db"}]}`, "member grants is there twice"},
		"a member twice, once escaped":         {`{"grants":[],"\u0067rants":[{"name":"prod-db"}]}`, "member grants is there twice"},
		"dry_run twice":                        {`{"dry_run":true,"dry_run":false}`, "member dry_run is there twice"},
		"a prototype":                          {`{"__proto__":{"dry_run":true}}`, "unknown member __proto__"},
		"a recipient_key of three bytes":       {`{"grants":[],"recipient_key":"AAAA"}`, "recipient_key must be an X25519 public key: 32 bytes in base64url without padding"},
		"a recipient_key that is null":         {`{"recipient_key":null}`, "recipient_key must be an X25519 public key: 32 bytes in base64url without padding"},
		"a recipient_key that is padded":       {`{"recipient_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`, "recipient_key must be an X25519 public key: 32 bytes in base64url without padding"},
		"a recipient_key with spare bits":      {`{"recipient_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"}`, "recipient_key must be an X25519 public key: 32 bytes in base64url without padding"},
		"a recipient_key of 33 bytes":          {`{"recipient_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`, "recipient_key must be an X25519 public key: 32 bytes in base64url without padding"},
		"dry_run that is a string":             {`{"dry_run":"true"}`, "dry_run must be true or false"},
		"dry_run that is a number":             {`{"dry_run":1}`, "dry_run must be true or false"},
		"dry_run that is null":                 {`{"dry_run":null}`, "dry_run must be true or false"},
		"grants that are null":                 {`{"grants":null}`, "grants must be a list"},
		"grants that are an object":            {`{"grants":{"name":"a"}}`, "grants must be a list"},
		"grants that are a string":             {`{"grants":"a"}`, "grants must be a list"},
		"a grant that is a string":             {`{"grants":["a"]}`, "grants[0] must be a JSON object"},
		"a grant that is null":                 {`{"grants":[{"name":"a"},null]}`, "grants[1] must be a JSON object"},
		"a grant with an unknown member":       {`{"grants":[{"name":"a","role":"admin"}]}`, "unknown member grants[0].role"},
		"a grant with a name twice":            {`{"grants":[{"name":"a","name":"b"}]}`, "member grants[0].name is there twice"},
		"a grant with a name in another case":  {`{"grants":[{"name":"a","Name":"b"}]}`, "unknown member grants[0].Name"},
		"a grant without a name":               {`{"grants":[{"ttl":"15m"}]}`, "grants[0].name must be"},
		"a grant with an empty name":           {`{"grants":[{"name":""}]}`, "grants[0].name must be"},
		"a grant with a number for a name":     {`{"grants":[{"name":7}]}`, "grants[0].name must be"},
		"a grant in upper case":                {`{"grants":[{"name":"Orders"}]}`, "grants[0].name must be"},
		"a grant with a line break":            {`{"grants":[{"name":"a\n"}]}`, "grants[0].name must be"},
		"a grant with a NUL":                   {`{"grants":[{"name":"a\u0000"}]}`, "grants[0].name must be"},
		"a grant with SQL":                     {`{"grants":[{"name":"a'; DROP ROLE postgres;--"}]}`, "grants[0].name must be"},
		"a grant that is a path":               {`{"grants":[{"name":"../orders"}]}`, "grants[0].name must be"},
		"a grant of 64 letters":                {`{"grants":[{"name":"` + strings.Repeat("a", 64) + `"}]}`, "grants[0].name must be"},
		"a grant that looks like another":      {`{"grants":[{"name":"оrders"}]}`, "grants[0].name must be"},
		"a grant twice":                        {`{"grants":[{"name":"a"},{"name":"b"},{"name":"a","ttl":"1m"}]}`, "grants[2].name: a grant is asked for twice"},
		"seventeen grants":                     {grants(17), "at most 16"},
		"a ttl that is a number":               {`{"grants":[{"name":"a","ttl":900}]}`, `grants[0].ttl must be a duration`},
		"a ttl that is null":                   {`{"grants":[{"name":"a","ttl":null}]}`, `grants[0].ttl must be a duration`},
		"an empty ttl":                         {`{"grants":[{"name":"a","ttl":""}]}`, `grants[0].ttl must be a duration`},
		"a ttl without a unit":                 {`{"grants":[{"name":"a","ttl":"15"}]}`, `grants[0].ttl must be a duration`},
		"a ttl in days":                        {`{"grants":[{"name":"a","ttl":"1d"}]}`, `grants[0].ttl must be a duration`},
		"a ttl that overflows":                 {`{"grants":[{"name":"a","ttl":"9223372036855s"}]}`, `grants[0].ttl must be a duration`},
		"a ttl of nothing":                     {`{"grants":[{"name":"a","ttl":"0s"}]}`, "grants[0].ttl must be above zero"},
		"a negative ttl":                       {`{"grants":[{"name":"a","ttl":"-15m"}]}`, "grants[0].ttl must be above zero"},
		"a ttl of half a second":               {`{"grants":[{"name":"a","ttl":"500ms"}]}`, "grants[0].ttl must be whole seconds"},
		"a ttl of a second and a nanosecond":   {`{"grants":[{"name":"a","ttl":"1s1ns"}]}`, "grants[0].ttl must be whole seconds"},
		"lists nested deeper than a stack":     {strings.Repeat("[", 60000), "the body is not JSON"},
		"deep nesting that is valid":           {`{"grants":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, "grants[0] must be a JSON object"},
		"deep nesting in an unknown member":    {`{"x":` + strings.Repeat(`{"x":`, 5000) + "1" + strings.Repeat("}", 5001), "unknown member x"},
		"a member whose name is a mistake":     {`{"dps_N4vQ0y3mZr1uXkTt7c8WlJpB5sEoHqGfYdAaKi2RbDM":1}`, "unknown member (not a name)"},
		"a member with a line break":           {`{"a\r\nSet-Cookie: x":1}`, "unknown member (not a name)"},
		"a huge body":                          {`{"grants":[],"x":"` + strings.Repeat("a", 1<<20) + `"}`, "larger than 64 KiB"},
		"a body of one byte more than 64 KiB":  {"{}" + strings.Repeat(" ", maxBody-1), "larger than 64 KiB"},
		"a string with an unpaired surrogate":  {`{"grants":[{"name":"\ud800"}]}`, "grants[0].name must be"},
		"a number that no machine holds":       {`{"dry_run":1e999999}`, "dry_run must be true or false"},
		"two top-level members of one meaning": {`{"dry_run":true,"DRY_RUN":false}`, "unknown member DRY_RUN"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/v1/exchange", "/v1/credentials"} {
				f := &fakeBroker{answer: anAnswer()}
				w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: path, bearer: ciToken, body: row.body})
				var p problem
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
					t.Fatal(err)
				}
				if w.Code != 400 || p.Code != broker.BadRequest || !strings.Contains(p.Detail, row.says) {
					t.Errorf("%s: %d %q, want 400 with %q", path, w.Code, p.Detail, row.says)
				}
				if len(f.calls()) != 0 {
					t.Errorf("%s: the broker heard of it", path)
				}
			}
		})
	}
}

func TestABodyOfTheContractIsUnderstood(t *testing.T) {
	sixteen := broker.Request{}
	for i := range 16 {
		sixteen.Wants = append(sixteen.Wants, broker.Want{Name: fmt.Sprintf("g%d", i)})
	}
	for name, row := range map[string]struct {
		body string
		want broker.Request
	}{
		"nothing asked":       {`{}`, broker.Request{}},
		"no grants":           {` {"grants" : [ ] , "dry_run" : false } ` + "\n", broker.Request{Wants: []broker.Want{}}},
		"one grant":           {`{"grants":[{"name":"orders-db"}]}`, broker.Request{Wants: []broker.Want{{Name: "orders-db"}}}},
		"a dry run with ttls": {`{"dry_run":true,"grants":[{"ttl":"1h30m","name":"a"},{"name":"0","ttl":"90s"}]}`, broker.Request{DryRun: true, Wants: []broker.Want{{Name: "a", TTL: 90 * time.Minute}, {Name: "0", TTL: 90 * time.Second}}}},
		"sixteen grants":      {grants(16), sixteen},
		"the longest name":    {`{"grants":[{"name":"` + strings.Repeat("a", 63) + `"}]}`, broker.Request{Wants: []broker.Want{{Name: strings.Repeat("a", 63)}}}},
		"exactly 64 KiB":      {"{}" + strings.Repeat(" ", maxBody-2), broker.Request{}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeBroker{answer: broker.Answer{DryRun: row.want.DryRun}}
			w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: "/v1/exchange", bearer: ciToken, body: row.body})
			row.want.ID = fixedID
			if w.Code != 200 || len(f.calls()) != 1 || !reflect.DeepEqual(f.calls()[0].want, row.want) || f.calls()[0].token != ciToken {
				t.Errorf("%d %s, asked %+v", w.Code, w.Body, f.calls())
			}
		})
	}
}

func TestAnExtensionTakesATokenAndNothingElse(t *testing.T) {
	for name, body := range map[string]string{
		"no token":              `{}`,
		"an empty token":        `{"token":""}`,
		"null":                  `{"token":null}`,
		"a list":                `{"token":["` + ciToken + `"]}`,
		"a token with a blank":  `{"token":"a b"}`,
		"a token with a header": `{"token":"a\r\nX: y"}`,
		"a token twice":         `{"token":"a","token":"b"}`,
		"a token of 17 KiB":     `{"token":"` + strings.Repeat("a", 17<<10) + `"}`,
		"Token":                 `{"Token":"` + ciToken + `"}`,
		"more than a token":     `{"token":"` + ciToken + `","grants":[]}`,
	} {
		f := &fakeBroker{}
		w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: "/v1/session/extend", bearer: sessionToken, body: body})
		if w.Code != 400 || len(f.calls()) != 0 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

func TestOnlyPlainJSONIsRead(t *testing.T) {
	for name, row := range map[string]struct {
		header http.Header
		status int
	}{
		"with a charset":             {http.Header{"Content-Type": {"application/json; charset=UTF-8"}}, 200},
		"no content type":            {http.Header{"Content-Type": nil}, 400},
		"a form, as browsers send":   {http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, 400},
		"text, as browsers send":     {http.Header{"Content-Type": {"text/plain"}}, 400},
		"another JSON":               {http.Header{"Content-Type": {"application/problem+json"}}, 400},
		"another charset":            {http.Header{"Content-Type": {"application/json; charset=utf-16"}}, 400},
		"a parameter we do not know": {http.Header{"Content-Type": {"application/json; profile=x"}}, 400},
		"two content types":          {http.Header{"Content-Type": {"application/json", "text/plain"}}, 400},
		"a broken content type":      {http.Header{"Content-Type": {"application/json; ="}}, 400},
		"compressed":                 {http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, 400},
	} {
		f := &fakeBroker{answer: anAnswer()}
		w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "POST", path: "/v1/exchange", bearer: ciToken, body: `{}`, header: row.header})
		if w.Code != row.status || (len(f.calls()) == 1) != (row.status == 200) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

func TestWhatTakesNoBodyRefusesOne(t *testing.T) {
	for _, s := range surfaces() {
		for _, rt := range s.routes {
			if rt.method == http.MethodPost {
				continue
			}
			a := requestFor(rt)
			a.body = `{"grants":[]}`
			a.header = http.Header{"Host": {"127.0.0.1:8081"}}
			if w := send(s.handler(), a); w.Code != 400 {
				t.Errorf("%s with a body: %d %s", rt, w.Code, w.Body)
			}
		}
	}
}

func TestAQueryIsRefusedAndNotIgnored(t *testing.T) {
	for _, rt := range jobRoutes(t) {
		for _, query := range []string{"?dry_run=true", "?", "?access_token=" + ciToken} {
			f := &fakeBroker{answer: anAnswer()}
			a := requestFor(rt)
			a.path += query
			if w := send(NewPublic(publicConfig(f, &logBook{})), a); w.Code != 400 || len(f.calls()) != 0 {
				t.Errorf("%s%s: %d, the broker was called %d times", rt, query, w.Code, len(f.calls()))
			}
		}
	}
}

func TestNoHeaderTurnsARequestIntoAnother(t *testing.T) {
	f := &fakeBroker{answer: anAnswer()}
	h := NewPublic(publicConfig(f, &logBook{}))
	for _, name := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url"} {
		w := send(h, ask{method: "POST", path: "/v1/exchange", bearer: ciToken, body: `{}`, header: http.Header{name: {"DELETE"}}})
		if w.Code != 200 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	for _, c := range f.calls() {
		if c.method != "Exchange" {
			t.Errorf("became %s", c.method)
		}
	}
}

func TestALeaseThatCannotBeOneIsNotFound(t *testing.T) {
	for _, id := range []string{"x", "dpl_", "dpl_short", strings.ToUpper(string(leaseA)), string(leaseA) + "a", string(leaseA) + "/x", "..%2f" + string(leaseA),
		string(leaseA)[:29] + "%00", string(leaseA)[:29] + "%0a", "dpl_0000000000000000000000001%27"} {
		f := &fakeBroker{}
		w := send(NewPublic(publicConfig(f, &logBook{})), ask{method: "DELETE", path: "/v1/leases/" + id, bearer: sessionToken})
		if w.Code != 404 || len(f.calls()) != 0 {
			t.Errorf("%s: %d %s", id, w.Code, w.Body)
		}
	}
}

// FuzzDecodeWants holds our decoder against encoding/json, which is laxer: what
// we accept it accepts, and understands alike.
func FuzzDecodeWants(f *testing.F) {
	for _, s := range []string{`{}`, `{"grants":[]}`, `{"grants":[{"name":"a","ttl":"15m"}],"dry_run":true}`, `{"Grants":[]}`, `{"grants":[],"grants":[]}`,
		`{"grants":[{"name":"a"}]} `, `{"grants":null}`, "{\"\\u0067rants\":[{\"name\":\"b\"}]}", `[[[[`, `{"recipient_key":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeWants(body)
		if err != nil {
			if broker.CodeOf(err) != broker.BadRequest {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		var lax struct {
			Grants []struct{ Name, TTL string }
			DryRun bool `json:"dry_run"`
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&lax); err != nil || len(lax.Grants) != len(r.Wants) || lax.DryRun != r.DryRun || len(r.Wants) > maxGrants {
			t.Fatalf("%q: we understand %+v, encoding/json %+v, %v", body, r, lax, err)
		}
		for i, w := range r.Wants {
			if w.Name != lax.Grants[i].Name || !grantRE.MatchString(w.Name) || w.TTL < 0 || w.TTL%time.Second != 0 {
				t.Fatalf("%q: grant %d is %+v", body, i, w)
			}
		}
	})
}
