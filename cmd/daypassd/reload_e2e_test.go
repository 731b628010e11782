package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// released is the rig's policy for another branch, as long as it is told apart.
var released = strings.Replace(rigPolicy, "refs/heads/main", "refs/heads/release", 1)

// allowsOnly waits until jobs of one branch are allowed and those of the other
// are not.
func (b *broker1) allowsOnly(branch string) {
	b.rig.t.Helper()
	other := map[string]string{"main": "release", "release": "main"}[branch]
	b.rig.eventually(20*time.Second, func() error {
		if status, a := b.exchange(b.rig.token(b, map[string]any{"ref": "refs/heads/" + branch}), map[string]any{"name": "web-identity"}); status != http.StatusOK {
			return fmt.Errorf("%s is refused: %d %v", branch, status, a.body)
		}
		if status, a := b.exchange(b.rig.token(b, map[string]any{"ref": "refs/heads/" + other}), map[string]any{"name": "web-identity"}); a.code() != "denied" {
			return fmt.Errorf("%s is not denied: %d %v", other, status, a.body)
		}
		return nil
	})
}

// policyPart is what /readyz says of the policy; the broker must be ready.
func (b *broker1) policyPart() (ready bool, reason string, err error) {
	status, body := b.call(http.MethodGet, "/readyz", "", nil)
	if status != http.StatusOK {
		return false, "", fmt.Errorf("/readyz: %d %v", status, body)
	}
	parts, _ := body["checks"].([]any)
	for _, p := range parts {
		if part, _ := p.(map[string]any); part["name"] == "policy" {
			ready, _ = part["ready"].(bool)
			reason, _ = part["reason"].(string)
			return ready, reason, nil
		}
	}
	return false, "", errors.New("/readyz says nothing of the policy")
}

// refuses waits until a reload has failed, for a reason, and everybody who
// watches is told.
func (b *broker1) refuses(seen int, why string) {
	b.rig.t.Helper()
	b.rig.eventually(20*time.Second, func() error {
		if out := b.out.String()[seen:]; !strings.Contains(out, "reload failed") || !strings.Contains(out, why) {
			return fmt.Errorf("the log says nothing of %q:\n%s", why, out)
		}
		if ready, reason, err := b.policyPart(); err != nil || ready || !strings.Contains(reason, "an earlier version is in force") {
			return fmt.Errorf("/readyz says %v %q %v", ready, reason, err)
		}
		return b.metric("daypass_policy_reload_failed 1")
	})
}

func (b *broker1) metric(line string) error {
	_, body := b.call(http.MethodGet, "/metrics", strings.TrimSpace(readAll(b.rig.t, b.data+"/admin.token")), nil)
	if text, _ := body["text"].(string); !strings.Contains(text, "\n"+line) {
		return fmt.Errorf("no %s in the metrics", line)
	}
	return nil
}

func (b *broker1) recovers() {
	b.rig.t.Helper()
	b.rig.eventually(20*time.Second, func() error {
		if ready, reason, err := b.policyPart(); err != nil || !ready {
			return fmt.Errorf("/readyz says %v %q %v", ready, reason, err)
		}
		return b.metric("daypass_policy_reload_failed 0")
	})
}

// mount writes a version as a mounted ConfigMap has it, and swaps it in.
func (r *rig) mount(version, text string) {
	r.t.Helper()
	r.write("policies/.."+version+"/shop.yaml", text)
	data, next := filepath.Join(r.dir, "policies/..data"), filepath.Join(r.dir, "policies/..data_tmp")
	if err := errors.Join(os.Symlink(".."+version, next), os.Rename(next, data)); err != nil {
		r.t.Fatal(err)
	}
}

func TestPoliciesTakeEffectHoweverTheirFilesChange(t *testing.T) {
	r := newRig(t)
	path := func(name string) string { return filepath.Join(r.dir, name) }
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.Remove(path("policies/shop.yaml")))
	r.mount("v1", rigPolicy)
	must(os.Symlink("..data/shop.yaml", path("policies/shop.yaml")))
	b := r.broker("one", "embedded")
	b.fresh()

	r.mount("v2", released) // a ConfigMap's link is swapped
	must(os.RemoveAll(path("policies/..v1")))
	b.allowsOnly("release")
	r.mount("v3", rigPolicy)
	must(os.RemoveAll(path("policies/..v2")))
	b.allowsOnly("main")

	must(os.Remove(path("policies/shop.yaml"))) // a plain file is written in place
	r.write("policies/shop.yaml", released)
	b.allowsOnly("release")
	r.write("policies/new.tmp", rigPolicy) // and replaced
	must(os.Rename(path("policies/new.tmp"), path("policies/shop.yaml")))
	b.allowsOnly("main")

	must(os.Rename(path("policies"), path("elsewhere"))) // the folder goes away

	b.refuses(0, "is not a folder that can be read")
	b.allowsOnly("main")
	must(os.Symlink("elsewhere", path("policies"))) // and a link is in its place
	b.recovers()
	r.write("elsewhere/teams/deep/more.yaml", strings.NewReplacer("shop:", "shop2:", "[shop]", "[shop2]", "name: main", "name: release", "refs/heads/main", "refs/heads/release").Replace(rigPolicy))
	r.eventually(20*time.Second, func() error { // in folders that are new
		if status, a := b.exchange(r.token(b, map[string]any{"ref": "refs/heads/release"}), map[string]any{"name": "web-identity"}); status != http.StatusOK {
			return fmt.Errorf("release is refused: %v", a.body)
		}
		return nil
	})
	must(os.RemoveAll(path("elsewhere/teams")))
	b.allowsOnly("main")

	for _, c := range []struct {
		what, why string
		do        func() error
		name      string
	}{
		{"a broken file", "cannot be read as YAML", func() error { return os.WriteFile(path("policies/odd.yaml"), []byte("rules: ["), 0o600) }, "odd.yaml"},
		{"a pipe", "is not a regular file", func() error { return syscall.Mkfifo(path("policies/odd.yaml"), 0o600) }, "odd.yaml"},
		{"a device", "path escapes", func() error { return os.Symlink("/dev/zero", path("policies/odd.yaml")) }, "odd.yaml"},
		{"a file that cannot be read", "no such file", func() error { return os.Symlink("nowhere", path("policies/odd.yaml")) }, "odd.yaml"},
		{"a huge file", "is larger than 1048576 bytes", func() error {
			return os.WriteFile(path("policies/odd.yaml"), []byte(strings.Repeat("# x\n", 10<<20/4)), 0o600)
		}, "odd.yaml"},
		{"a finding that nobody may waive", "DP014", func() error {
			return os.WriteFile(path("policies/odd.yaml"), []byte("rules: [{name: open, for: [shop], allow: [{grant: orders-db}]}]\n"), 0o600)
		}, "odd.yaml"},
		{"a test case that fails", "fails: ", func() error {
			return os.WriteFile(path("policies/odd_test.yaml"), []byte("cases: [{name: x, issuer: github, claims: {}, grant: orders-db, expect: allow}]\n"), 0o600)
		}, "odd_test.yaml"},
	} {
		seen := len(b.out.String())
		must(c.do())
		b.refuses(seen, c.why)
		b.allowsOnly("main")
		must(os.Remove(path("policies/" + c.name)))
		b.recovers()
	}
	if b.metric(`daypass_policy_reloads_total{outcome="refused"} 0`) == nil {
		t.Error("no refusal is counted")
	}
	out, code := r.command(nil, "daypassd", "audit", "verify", filepath.Join(b.data, "journal"))
	if code != exitOK {
		t.Errorf("the journal does not verify: %s", out)
	}
}

func TestAGrantThatIsChangedOrGoneStillGivesBackWhatItGave(t *testing.T) {
	r := newRig(t)
	grants := func(lines ...string) { r.write("grants/all.yaml", "grants:\n  "+strings.Join(lines, "\n  ")+"\n") }
	const db, web = "orders-db: {target: orders-pg, max_ttl: 30m, params: {roles: [orders_rw]}}", "web-identity: {kind: jwt, max_ttl: 30m, params: {audience: sts.example.com}}"
	grants(db, web)
	b := r.changed("one", "embedded", func(c string) string { return c[:strings.Index(c, "grants:\n")] + "grants: ./grants\n" })
	_, changed := b.fresh()
	_, gone := b.fresh()
	if n := len(r.users()); n != 2 {
		t.Fatalf("%d users", n)
	}
	r.sql(`CREATE ROLE orders_ro NOLOGIN`)
	grants(strings.Replace(db, "orders_rw", "orders_ro", 1), web)
	r.eventually(20*time.Second, func() error { return b.metric(`daypass_policy_reloads_total{outcome="loaded"} 2`) })
	if status, a := b.call(http.MethodDelete, "/v1/session", changed.session(), nil); status >= 300 {
		t.Errorf("under a changed grant: %d %v", status, a)
	}
	r.eventually(20*time.Second, func() error {
		if n := len(r.users()); n != 1 {
			return fmt.Errorf("%d users are left", n)
		}
		return nil
	})
	grants(web)
	r.write("policies/shop.yaml", strings.Replace(rigPolicy, "      - {grant: orders-db}\n", "", 1))
	r.eventually(20*time.Second, func() error { return b.metric(`daypass_policy_reloads_total{outcome="loaded"} 3`) })
	if status, a := b.exchange(r.token(b, nil)); a.code() != "denied" {
		t.Errorf("what is gone is still given: %d %v", status, a.body)
	}
	if status, a := b.call(http.MethodDelete, "/v1/session", gone.session(), nil); status >= 300 {
		t.Errorf("under a grant that is gone: %d %v", status, a)
	}
	r.eventually(20*time.Second, func() error {
		if users := r.users(); len(users) != 0 {
			return fmt.Errorf("%v is left", users)
		}
		return nil
	})
	seen := len(b.out.String())
	grants(web, "other-db: {target: other-pg, max_ttl: 30m, params: {roles: [orders_rw]}}")
	b.refuses(seen, `\"other-pg\" is not configured`)
}

func TestABrokerStartsOnTheLastGoodPolicyAndSaysSo(t *testing.T) {
	r := newRig(t)
	b := r.broker("one", "embedded")
	b.fresh()
	b.stop()
	r.write("policies/shop.yaml", "rules: [")
	b.start()
	b.refuses(0, "the last good version decides until they are mended")
	b.fresh()
	b.kill()
	if err := os.RemoveAll(filepath.Join(r.dir, "policies")); err != nil {
		t.Fatal(err)
	}
	b.start() // and once more, from what stood in
	b.fresh()
	r.write("policies/shop.yaml", released)
	b.recovers()
	b.allowsOnly("release")
	b.stop()

	r.write("policies/shop.yaml", "rules: [")
	two := r.prepare("two", "embedded", func(c string) string { return c })
	out, code := r.command([]string{"ORDERS_ADMIN_URL=" + r.pg.AdminURL("postgres")}, "daypassd", "serve", "--config", two.config)
	if code != exitFailed || !strings.Contains(out, "cannot be read as YAML") || !strings.Contains(out, "no earlier version can stand in") {
		t.Errorf("without a last good policy: exit %d: %s", code, out)
	}
	if out, code := r.command(nil, "daypassd", "check", "--config", b.config); code != exitFailed || !strings.Contains(out, "cannot be read as YAML") {
		t.Errorf("check, where the broker serves on: exit %d: %s", code, out)
	}
}
