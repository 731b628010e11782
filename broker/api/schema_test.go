package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/daypass-dev/daypass/broker"
)

var parseOpenAPI = sync.OnceValues(func() (map[string]any, error) {
	var doc map[string]any
	err := yaml.Unmarshal(openAPIDocument, &doc)
	return doc, err
})

// openAPIDoc is the embedded document as plain maps and lists.
func openAPIDoc(t *testing.T) map[string]any {
	t.Helper()
	doc, err := parseOpenAPI()
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	return doc
}

// at walks the document by member names.
func at(v any, path ...string) any {
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

func resolve(doc map[string]any, v any) map[string]any {
	m, _ := v.(map[string]any)
	for {
		ref, is := m["$ref"].(string)
		if !is {
			return m
		}
		m, _ = at(doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...).(map[string]any)
		if m == nil {
			panic("openapi.yaml: nothing under " + ref)
		}
	}
}

// conforms checks a decoded JSON value against the part of JSON Schema that
// openapi.yaml uses; a keyword that it does not know is a fault.
func conforms(doc map[string]any, schema, v any, where string) []string {
	s := resolve(doc, schema)
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, where+": "+fmt.Sprintf(format, args...)) }
	for keyword, arg := range s {
		switch keyword {
		case "description", "default", "format":
		case "type":
			if got := jsonType(v); got != arg && !(arg == "integer" && got == "number") {
				fault("is a %s, want %s", got, arg)
			}
		case "const":
			if v != arg {
				fault("is %v, want %v", v, arg)
			}
		case "enum":
			if !slices.Contains(arg.([]any), v) {
				fault("%v is not one of %v", v, arg)
			}
		case "pattern":
			if text, is := v.(string); is && !regexp.MustCompile(arg.(string)).MatchString(text) {
				fault("%q does not match %s", text, arg)
			}
		case "anyOf":
			var tried []string
			for _, one := range arg.([]any) {
				f := conforms(doc, one, v, where)
				if len(f) == 0 {
					tried = nil
					break
				}
				tried = append(tried, f...)
			}
			faults = append(faults, tried...)
		case "items":
			items, _ := v.([]any)
			for i, item := range items {
				faults = append(faults, conforms(doc, arg, item, where+"["+strconv.Itoa(i)+"]")...)
			}
		case "maxItems":
			if items, _ := v.([]any); len(items) > toInt(arg) {
				fault("has %d items, want at most %v", len(items), arg)
			}
		case "required", "properties", "additionalProperties":
		default:
			fault("the test does not know the keyword %q", keyword)
		}
	}
	if m, is := v.(map[string]any); is {
		faults = append(faults, conformsObject(doc, s, m, where)...)
	}
	return faults
}

func conformsObject(doc, s map[string]any, m map[string]any, where string) []string {
	var faults []string
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, there := m[name.(string)]; !there {
			faults = append(faults, fmt.Sprintf("%s.%s is missing", where, name))
		}
	}
	properties, _ := s["properties"].(map[string]any)
	for name, v := range m {
		if schema, known := properties[name]; known {
			faults = append(faults, conforms(doc, schema, v, where+"."+name)...)
		} else if more, is := s["additionalProperties"].(map[string]any); is {
			faults = append(faults, conforms(doc, more, v, where+"."+name)...)
		} else if s["additionalProperties"] == false {
			faults = append(faults, fmt.Sprintf("%s.%s is not described", where, name))
		}
	}
	return faults
}

func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case float64, json.Number:
		return "number"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	}
	return fmt.Sprintf("%T", v)
}

// checkAgainstOpenAPI checks that an answer is one that the document describes.
func checkAgainstOpenAPI(t *testing.T, method, pattern string, status int, media string, body []byte) {
	t.Helper()
	doc := openAPIDoc(t)
	op := at(doc, "paths", pattern, strings.ToLower(method))
	response := resolve(doc, at(op, "responses", strconv.Itoa(status)))
	if response == nil {
		t.Errorf("openapi.yaml does not know that %s %s answers %d", method, pattern, status)
		return
	}
	schema := at(response, "content", media, "schema")
	if schema == nil {
		t.Errorf("openapi.yaml does not know that %s %s answers %d as %s", method, pattern, status, media)
		return
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	for _, f := range conforms(doc, schema, v, "answer") {
		t.Errorf("%s %s %d: %s", method, pattern, status, f)
	}
}

func surfaces() []*surface {
	f, log := &fakeBroker{}, &logBook{}
	return []*surface{newPublic(publicConfig(f, log)), newAdmin(adminConfig(f, log))}
}

func TestEveryRouteIsDescribedAndEveryDescriptionIsARoute(t *testing.T) {
	doc := openAPIDoc(t)
	scheme := map[access]string{accessCI: "ciToken", accessSession: "jobSession", accessOperator: "adminToken"}
	routes := map[string]bool{}
	for _, s := range surfaces() {
		for _, rt := range s.routes {
			routes[rt.String()] = true
			op := at(doc, "paths", rt.path, strings.ToLower(rt.method))
			if op == nil {
				t.Errorf("%s is not in openapi.yaml", rt)
				continue
			}
			security, there := at(op, "security").([]any)
			switch {
			case !there:
				t.Errorf("%s: openapi.yaml does not say who may call it", rt)
			case rt.access == accessOpen && len(security) != 0:
				t.Errorf("%s is open, openapi.yaml says %v", rt, security)
			case rt.access != accessOpen && (len(security) != 1 || at(security[0], scheme[rt.access]) == nil):
				t.Errorf("%s needs %s, openapi.yaml says %v", rt, scheme[rt.access], security)
			}
			if (rt.method == http.MethodPost) != (at(op, "requestBody") != nil) {
				t.Errorf("%s: openapi.yaml is wrong about its body", rt)
			}
		}
	}
	for path, item := range doc["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			if name := strings.ToUpper(method) + " " + path; method != "servers" && !routes[name] {
				t.Errorf("openapi.yaml describes %s, which is no route", name)
			}
		}
	}
}

func TestTheDocumentNamesEveryCodeAndEveryReferenceLeadsSomewhere(t *testing.T) {
	doc := openAPIDoc(t)
	codes, _ := at(doc, "components", "schemas", "Problem", "properties", "code", "enum").([]any)
	if len(codes) != len(allCodes()) {
		t.Errorf("the document has %d codes, want %d", len(codes), len(allCodes()))
	}
	for _, code := range allCodes() {
		if !slices.Contains(codes, any(string(code))) {
			t.Errorf("the document does not know %s", code)
		}
	}
	refs := regexp.MustCompile(`\$ref: '#/([^']+)'`).FindAllSubmatch(openAPIDocument, -1)
	if len(refs) == 0 {
		t.Fatal("no references found")
	}
	for _, m := range refs {
		if at(doc, strings.Split(string(m[1]), "/")...) == nil {
			t.Errorf("nothing under %s", m[1])
		}
	}
}

func TestTheDocumentIsServed(t *testing.T) {
	w := send(NewPublic(publicConfig(&fakeBroker{}, &logBook{})), ask{method: "GET", path: "/openapi.yaml"})
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/yaml" || !bytes.Equal(w.Body.Bytes(), openAPIDocument) {
		t.Errorf("got %d %s", w.Code, w.Header())
	}
}

func TestEveryErrorIsDescribed(t *testing.T) {
	for _, rt := range jobRoutes(t) {
		for _, code := range allCodes() {
			f := &fakeBroker{err: &broker.Error{Code: code, Public: "words"}}
			if rt.path == "/v1/exchange" {
				f.answer = anAnswer()
			}
			if !possible(rt, code) {
				continue
			}
			w := send(NewPublic(publicConfig(f, &logBook{})), requestFor(rt))
			checkAgainstOpenAPI(t, rt.method, rt.path, w.Code, w.Header().Get("Content-Type"), w.Body.Bytes())
		}
	}
}

// possible leaves out what only a buyer, or the holder of a lease, can meet.
func possible(rt route, code broker.Code) bool {
	buys := rt.path == "/v1/exchange" || rt.path == "/v1/credentials"
	switch code {
	case broker.MintFailed:
		return buys
	case broker.NotFound:
		return rt.path == "/v1/leases/{id}"
	case broker.Denied, broker.RateLimited, broker.TokenReused, broker.Conflict:
		return buys || rt.path == "/v1/session/extend"
	}
	return true
}

func toInt(v any) int {
	n, err := strconv.Atoi(fmt.Sprint(v))
	if err != nil {
		panic(err)
	}
	return n
}
