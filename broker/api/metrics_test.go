package api

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	c := adminConfig(&fakeBroker{}, &logBook{})
	c.Metrics = m
	w := send(NewAdmin(c), ask{method: "GET", path: "/metrics", bearer: adminToken})
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") || w.Header().Get("X-Request-Id") == "" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	return w.Body.String()
}

func TestMetricsSayWhatOperatorsWatch(t *testing.T) {
	m := NewMetrics(MetricsConfig{Version: "v1.2.3", Outcomes: []string{"fenced"}})
	var journal error
	m.WatchJournal(func() error { return journal })
	m.Exchanged("github", "issued")
	m.Exchanged("github", "issued")
	m.Exchanged("", "token_invalid")
	m.Exchanged("github", "fenced")
	m.Minted("postgres", "ok", 30*time.Millisecond)
	m.Revoked("postgres", "failed")
	m.Revoked("", "ok")
	m.Swept(17, 90*time.Second)
	m.Reported("teams/trial/less", broker.EffectDeny)
	m.Fsynced(time.Millisecond)
	m.served("POST /v1/exchange", 200, time.Second)
	got := scrape(t, m)
	for _, line := range []string{
		`daypass_exchanges_total{issuer="github",outcome="issued"} 2`,
		`daypass_exchanges_total{issuer="none",outcome="token_invalid"} 1`,
		`daypass_exchanges_total{issuer="github",outcome="fenced"} 1`,
		`daypass_mint_seconds_count{kind="postgres",outcome="ok"} 1`,
		`daypass_mint_seconds_sum{kind="postgres",outcome="ok"} 0.03`,
		`daypass_revocations_total{kind="postgres",outcome="failed"} 1`,
		`daypass_revocations_total{kind="none",outcome="ok"} 1`,
		`daypass_live_leases 17`,
		`daypass_sweep_lag_seconds 90`,
		`daypass_policy_reported_total{effect="deny",rule="teams/trial/less"} 1`,
		`daypass_journal_fsync_seconds_count 1`,
		`daypass_journal_healthy 1`,
		`daypass_build_info{version="v1.2.3"} 1`,
		`daypass_http_request_seconds_count{route="POST /v1/exchange",status="200"} 1`,
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(got, "\n"+line) {
			t.Errorf("no line %s", line)
		}
	}
	journal = errors.New("disk full")
	if !strings.Contains(scrape(t, m), "\ndaypass_journal_healthy 0") {
		t.Error("a journal that cannot be written is healthy")
	}
}

func TestNothingThatAJobSendsMakesANewSeries(t *testing.T) {
	m := NewMetrics(MetricsConfig{})
	for i := range 1000 {
		m.Exchanged("github", fmt.Sprintf("reason from a token %d", i))
		m.Minted("postgres", fmt.Sprint("odd", i), time.Second)
		m.Revoked("postgres", fmt.Sprint("odd", i))
	}
	c := publicConfig(&fakeBroker{}, &logBook{})
	c.Metrics = m
	h := NewPublic(c)
	for i := range 1000 {
		send(h, ask{method: "GET", path: fmt.Sprintf("/v1/path/%d", i)})
		send(h, ask{method: fmt.Sprintf("M%d", i), path: "/healthz"})
		send(h, ask{method: "DELETE", path: fmt.Sprintf("/v1/leases/dpl_%d", i), bearer: sessionToken})
	}
	got := scrape(t, m)
	if n := strings.Count(got, "daypass_exchanges_total{"); n != 1 || !strings.Contains(got, `daypass_exchanges_total{issuer="github",outcome="other"} 1000`) {
		t.Errorf("%d series of exchanges", n)
	}
	if n := strings.Count(got, "daypass_http_request_seconds_count{"); n != 3 {
		t.Errorf("%d series of requests, want 3:\n%s", n, got)
	}
}

func TestMetricsAreSafeForConcurrentUse(t *testing.T) {
	m := NewMetrics(MetricsConfig{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				m.Exchanged("github", "issued")
				m.Swept(1, time.Second)
				m.Fsynced(time.Millisecond)
			}
		})
	}
	all.Wait()
	if !strings.Contains(scrape(t, m), `daypass_exchanges_total{issuer="github",outcome="issued"} 800`) {
		t.Error("lost some")
	}
}

func TestForgedRecordsAreCountedByStore(t *testing.T) {
	m := NewMetrics(MetricsConfig{})
	var replay, leases int64
	m.WatchForged("replay", func() int64 { return replay })
	m.WatchForged("leases", func() int64 { return leases })
	for range 2 {
		got := scrape(t, m)
		for store, n := range map[string]int64{"replay": replay, "leases": leases} {
			if line := fmt.Sprintf("\ndaypass_forged_records_total{store=%q} %d\n", store, n); !strings.Contains(got, line) {
				t.Errorf("no line %s", line)
			}
		}
		replay, leases = 3, 5
	}
}

func TestTwoMetricsDoNotMeet(t *testing.T) {
	a, b := NewMetrics(MetricsConfig{}), NewMetrics(MetricsConfig{})
	a.Exchanged("github", "issued")
	if strings.Contains(scrape(t, b), "daypass_exchanges_total{") {
		t.Error("they share a registry")
	}
}

func TestTheKeysOfEachIssuerAreMeasured(t *testing.T) {
	m := NewMetrics(MetricsConfig{})
	m.WatchIssuers(func() []IssuerKeys {
		return []IssuerKeys{{Issuer: "github", Usable: true, Fetched: noon}, {Issuer: "gitlab"}}
	})
	text := scrape(t, m)
	for _, want := range []string{
		`daypass_issuer_keys_usable{issuer="github"} 1`, `daypass_issuer_keys_usable{issuer="gitlab"} 0`,
		`daypass_issuer_keys_fetched_seconds{issuer="gitlab"} 0`, `daypass_issuer_keys_fetched_seconds{issuer="github"} 1.7`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// TestEveryReasonOfThePartsIsCountedAsItself reads the sources of whatever an
// exchange can be refused by: a reason that no list knows would be "other".
func TestEveryReasonOfThePartsIsCountedAsItself(t *testing.T) {
	known := knownOutcomes(nil)
	for _, part := range []string{"..", "../replay", "../lease", "../../issuers", "../../policy"} {
		files, err := filepath.Glob(filepath.Join(part, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", part, err)
		}
		found := 0
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, reason := range reasonsIn(tree) {
				found++
				if !known[reason] {
					t.Errorf("%s: the reason %q is not counted as itself", file, reason)
				}
			}
		}
		if found == 0 {
			t.Errorf("%s: no reason was found: this test looks for the wrong thing", part)
		}
	}
}

// reasonsIn finds texts given as the Reason of an Error, or to a function that
// makes one of it.
func reasonsIn(tree *ast.File) []string {
	var reasons []string
	add := func(e ast.Expr) {
		if text, ok := e.(*ast.BasicLit); ok && text.Kind == token.STRING {
			if s, err := strconv.Unquote(text.Value); err == nil {
				reasons = append(reasons, s)
			}
		}
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if nameOf(n.Type) != "Error" {
				break
			}
			for _, part := range n.Elts {
				if kv, ok := part.(*ast.KeyValueExpr); ok && nameOf(kv.Key) == "Reason" {
					add(kv.Value)
				}
			}
		case *ast.CallExpr:
			if len(n.Args) > 0 && slices.Contains([]string{"refuse", "refuseFor", "refuseSaying", "unavailable"}, nameOf(n.Fun)) {
				add(n.Args[0])
			}
		}
		return true
	})
	return reasons
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}
