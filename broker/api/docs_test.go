package api

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
)

func apiPage(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTheJSONInTheDocumentationIsTheJSONOnTheWire(t *testing.T) {
	page, all := apiPage(t), vectors(t)
	found := regexp.MustCompile("(?s)<!-- wire: ([a-z-]+) (request|response) -->\n```json\n(.*?)```").FindAllStringSubmatch(page, -1)
	if len(found) < 4 || len(found) != strings.Count(page, "```json") {
		t.Fatalf("%d snippets are tied to vectors, %d are there", len(found), strings.Count(page, "```json"))
	}
	for _, m := range found {
		v, known := all[m[1]]
		if !known {
			t.Errorf("there is no vector %s", m[1])
			continue
		}
		want := v.Response.Body
		if m[2] == "request" {
			want = v.Request.Body
		}
		if !json.Valid([]byte(m[3])) {
			t.Errorf("%s %s is not JSON", m[1], m[2])
			continue
		}
		sameShape(t, want, []byte(m[3]))
	}
}

func TestTheDocumentationKnowsEveryCodeRouteAndSeries(t *testing.T) {
	page := apiPage(t)
	for code, v := range verdicts() {
		if !strings.Contains(page, fmt.Sprintf("| `%s` | %d |", code, v.status)) {
			t.Errorf("no row says that %s is %d", code, v.status)
		}
	}
	for _, rt := range jobRoutes(t) {
		if rt.path != "/v1/exchange" && !strings.Contains(page, "| `"+rt.String()+"` |") {
			t.Errorf("no row for %s", rt)
		}
	}
	m := NewMetrics(MetricsConfig{})
	m.WatchJournal(func() error { return nil })
	m.Exchanged("github", "issued") // a vector without series is not gathered
	m.Minted("postgres", "ok", 1)
	m.Revoked("postgres", "ok")
	m.Reported("trial/less", broker.EffectDeny)
	m.Reached("orders-pg", 0)
	m.Found("orders-pg", "orphan")
	m.served("GET /healthz", 200, 1)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "daypass_") {
			continue
		}
		ours++
		if !strings.Contains(page, "`"+f.GetName()) {
			t.Errorf("%s is not mentioned", f.GetName())
		}
	}
	if ours != 14 {
		t.Errorf("%d series of ours, want 14", ours)
	}
}
