package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestADeniedJobGetsARuleFromTheJournalOfARunningBroker: the way from a 403 to a
// reviewed rule, with nothing but what the broker wrote down.
func TestADeniedJobGetsARuleFromTheJournalOfARunningBroker(t *testing.T) {
	r := newRig(t)
	b := r.broker("daypass-0", "embedded")
	b.fresh()
	started := time.Now().UTC().Add(time.Second).Format(time.RFC3339)
	time.Sleep(1100 * time.Millisecond)
	release := map[string]any{"ref": "refs/heads/release", "job_workflow_ref": "acme/shop/.github/workflows/go.yml@refs/heads/release"}
	var request string
	r.eventually(30*time.Second, func() error {
		status, a := b.exchange(r.token(b, release))
		if request, _ = a.body["request_id"].(string); status != http.StatusForbidden || request == "" {
			return fmt.Errorf("%d %v", status, a.body)
		}
		return nil
	})

	policies := filepath.Join(r.dir, "policies")
	daypassd := func(args ...string) (string, int) {
		return r.command(nil, "daypassd", append([]string{"policy", args[0], "--config", b.config}, args[1:]...)...)
	}
	out, code := daypassd("suggest", "--request-id", request, "--output", "json")
	var made struct {
		Rule  string
		Files []struct{ File, Text string }
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || code != exitOK || len(made.Files) != 1 || made.Files[0].File != "shop.yaml" {
		t.Fatalf("exit code %d, %v:\n%s", code, err, out)
	}
	if out, code := daypassd("report", "--fail-on-flip"); code != exitOK {
		t.Errorf("the policy in force flips what it decided: exit code %d\n%s", code, out)
	}
	copied := filepath.Join(r.dir, "candidate")
	if err := os.CopyFS(copied, os.DirFS(policies)); err != nil {
		t.Fatal(err)
	}
	r.write("candidate/release.yaml", made.Files[0].Text)
	if out, code := daypassd("report", "--policies", copied, "--fail-on-flip"); code != exitFailed || !strings.Contains(out, "1 flip") || !strings.Contains(out, request) {
		t.Errorf("the rule flips something else: exit code %d\n%s", code, out)
	}

	r.write("policies/release.yaml", made.Files[0].Text)
	hangup(t, b)
	r.eventually(30*time.Second, func() error {
		status, a := b.exchange(r.token(b, release))
		if status != http.StatusOK {
			return fmt.Errorf("%d %v\n%s", status, a.body, b.out)
		}
		return nil
	})
	if status, a := b.exchange(r.token(b, map[string]any{"ref": "refs/heads/other"})); status != http.StatusForbidden {
		t.Errorf("another branch gets it too: %d %v", status, a.body)
	}
	out, code = daypassd("access", "--from", started, "--grant", "orders-db")
	if code != exitOK || !strings.Contains(out, "under 2 versions") || !strings.Contains(out, "release/suggested-orders-db") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	b.stop()
}
