package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/api"
	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/policy"
)

const reloadConfig = `url: https://daypass.example.com
deployment: test
broker: one
state: embedded
policies: ./policies
issuers:
  github: {profile: github}
grants: ./grants
`

// variantGrants and variantPolicy differ in all that a decision shows: what is
// made of two variants shows it.
func variantGrants(v int) string {
	return fmt.Sprintf("grants:\n  web: {kind: jwt, max_ttl: %dm, labels: {variant: \"%d\"}, params: {audience: sts.example.com}}\n", v, v)
}

func variantPolicy(v int) string {
	return fmt.Sprintf(`repos:
  shop: {issuer: github, name: acme/shop, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: rule-%d
    for: [shop]
    match: {ref: refs/heads/main}
    allow: [{grant: web}]
`, v)
}

// variantCase expects something of the job that every variant allows.
func variantCase(expect string) string {
	return fmt.Sprintf(`cases:
  - name: main is trusted
    issuer: github
    claims: {repository_id: "5678", repository_owner_id: "1234", ref: refs/heads/main}
    grant: web
    expect: %s
`, expect)
}

// shopJob is a job that every variant knows.
var shopJob = broker.Identity{Issuer: "github", Claims: broker.Claims{
	"repository": "acme/shop", "repository_id": "5678", "repository_owner_id": "1234", "ref": "refs/heads/main"}}

var wantWeb = []broker.Want{{Name: "web"}}

// reloading is a reloader on real files, a real journal and a real archive.
type reloading struct {
	*reloader
	t       *testing.T
	dir     string
	out     *syncBuffer
	journal *audit.Journal
}

func newReloading(t *testing.T) *reloading {
	t.Helper()
	l := &reloading{t: t, dir: t.TempDir(), out: &syncBuffer{}}
	l.put("daypass.yaml", reloadConfig)
	l.variant(1)
	l.open()
	return l
}

// open makes a reloader as a start of the broker does.
func (l *reloading) open() {
	l.t.Helper()
	c, err := loadConfig(filepath.Join(l.dir, "daypass.yaml"))
	if err != nil {
		l.t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(l.out, nil))
	set, err := openIssuers(c, "", log)
	if err != nil {
		l.t.Fatal(err)
	}
	targets, err := openTargets(c, process{env: os.LookupEnv}, noSigner{})
	if err != nil {
		l.t.Fatal(err)
	}
	l.journal, err = audit.Open(audit.Config{Dir: filepath.Join(c.DataDir, "journal"), Deployment: c.Deployment, Broker: c.Broker, Now: time.Now, Log: log})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = l.journal.Close(context.Background()) })
	g, err := newGates(time.Now)
	if err != nil {
		l.t.Fatal(err)
	}
	g.issuers, g.targets = set.Issuers(), targets
	l.reloader = &reloader{
		gates:  g,
		config: c, current: &policy.Current{}, keep: archive{dataDir: c.DataDir, journal: l.journal, now: time.Now},
		metrics: api.NewMetrics(api.MetricsConfig{}), log: log, each: time.Hour, settle: 20 * time.Millisecond, watcher: newWatch,
	}
}

// restart closes the journal and starts again, with whatever is on disk now.
func (l *reloading) restart() error {
	l.t.Helper()
	if err := l.journal.Close(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	l.open()
	return l.start(l.t.Context())
}

// put writes a file as an editor does: whole, under another name, and renamed.
func (l *reloading) put(name, text string) {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *reloading) variant(v int) {
	l.t.Helper()
	l.put("grants/web.yaml", variantGrants(v))
	l.put("policies/shop.yaml", variantPolicy(v))
}

// decides fails the test unless exactly variant v decides.
func (l *reloading) decides(v int) {
	l.t.Helper()
	if err := decidesBy(l.current, v); err != nil {
		l.t.Error(err)
	}
}

func decidesBy(current *policy.Current, v int) error {
	d, err := current.Decide(shopJob, wantWeb, time.Now())
	switch {
	case err != nil:
		return err
	case !d.Allowed:
		return fmt.Errorf("denied under %s", d.Version)
	case d.Permits[0].Rule != fmt.Sprintf("shop/rule-%d", v), d.Permits[0].TTL != time.Duration(v)*time.Minute,
		d.Permits[0].Grant.Labels["variant"] != fmt.Sprint(v):
		return fmt.Errorf("%+v is not as variant %d decides", d.Permits[0], v)
	}
	return nil
}

// failing fails the test unless the last reload was refused, and says why.
func (l *reloading) failing(why string) {
	l.t.Helper()
	if !l.measured().Failed || l.ready(l.t.Context()) == nil {
		l.t.Errorf("neither metrics nor readiness tell of %s", why)
	}
	lines := strings.Split(strings.TrimSpace(l.out.String()), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, "reload failed") && !strings.Contains(last, "review_by") || !strings.Contains(l.out.String(), why) {
		l.t.Errorf("the log says nothing of %q but %s", why, last)
	}
}

func (l *reloading) well() {
	l.t.Helper()
	if err := l.ready(l.t.Context()); err != nil || l.measured().Failed {
		l.t.Errorf("it is not well: %v\n%s", err, l.out)
	}
}

// policyRecords are the journal's records of versions, in order.
func (l *reloading) policyRecords() []broker.Record {
	l.t.Helper()
	var all []broker.Record
	for r, err := range records(filepath.Join(l.config.DataDir, "journal")) {
		if err != nil {
			l.t.Fatal(err)
		}
		if r.Event == broker.EventPolicy {
			all = append(all, r)
		}
	}
	return all
}

func TestNothingThatIsBrokenTakesEffect(t *testing.T) {
	l := newReloading(t)
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.decides(1)
	path := func(name string) string { return filepath.Join(l.dir, name) }
	for _, c := range []struct {
		what, why string
		do        func() error
		undo      func() error
	}{
		{"half a file", "cannot be read as YAML", func() error { l.put("policies/shop.yaml", "rules: ["); return nil }, nil},
		{"a rule for everybody", "pin repository_owner_id", func() error {
			l.put("policies/shop.yaml", "rules: [{name: all, issuer: github, match: {ref: x}, allow: [{grant: web}]}]\n")
			return nil
		}, nil},
		{"a grant that no rule can name", "no grant is called", func() error {
			l.put("policies/more.yaml", strings.Replace(variantPolicy(2), "grant: web", "grant: wob", 1))
			return nil
		},
			func() error { return os.Remove(path("policies/more.yaml")) }},
		{"a grant without its target", "is not configured", func() error { l.put("grants/db.yaml", "grants: {db: {target: pg, max_ttl: 1h}}\n"); return nil },
			func() error { return os.Remove(path("grants/db.yaml")) }},
		{"a grant that cannot be planned", "is our own URL", func() error {
			l.put("grants/own.yaml", "grants: {own: {kind: jwt, max_ttl: 1h, params: {audience: https://daypass.example.com}}}\n")
			return nil
		}, func() error { return os.Remove(path("grants/own.yaml")) }},
		{"a grant twice", "stands in", func() error { l.put("grants/again.yaml", variantGrants(2)); return nil },
			func() error { return os.Remove(path("grants/again.yaml")) }},
		{"a finding that nobody may waive", "DP014", func() error {
			l.put("policies/shop.yaml", strings.Replace(variantPolicy(2), "    match: {ref: refs/heads/main}\n", "", 1))
			return nil
		}, nil},
		{"a test case that fails", `case \"main is trusted\" fails`, func() error {
			l.put("policies/shop_test.yaml", variantCase("deny"))
			return nil
		}, func() error { return os.Remove(path("policies/shop_test.yaml")) }},
		{"a test case that is none", "unknown key", func() error { l.put("policies/shop_test.yaml", "casses: []\n"); return nil },
			func() error { return os.Remove(path("policies/shop_test.yaml")) }},
		{"a file that cannot be read", "cannot be read: no such file", func() error { return os.Symlink("nowhere", path("policies/link.yaml")) },
			func() error { return os.Remove(path("policies/link.yaml")) }},
		{"a pipe", "pipe.yaml: is not a regular file", func() error { return syscall.Mkfifo(path("policies/pipe.yaml"), 0o600) },
			func() error { return os.Remove(path("policies/pipe.yaml")) }},
		{"a pipe among grants", "pipe.yaml: is not a regular file", func() error { return syscall.Mkfifo(path("grants/pipe.yaml"), 0o600) },
			func() error { return os.Remove(path("grants/pipe.yaml")) }},
		{"a pipe in place of the configuration", "daypass.yaml is not a regular file", func() error {
			return errors.Join(os.Remove(path("daypass.yaml")), syscall.Mkfifo(path("daypass.yaml"), 0o600))
		}, func() error { return os.Remove(path("daypass.yaml")) }},
		{"a device", "path escapes", func() error { return os.Symlink("/dev/zero", path("policies/zero.yaml")) },
			func() error { return os.Remove(path("policies/zero.yaml")) }},
		{"a file of ten mebibytes", "is larger than 1048576 bytes", func() error { l.put("policies/huge.yaml", strings.Repeat("# x\n", 10<<20/4)); return nil },
			func() error { return os.Remove(path("policies/huge.yaml")) }},
		{"a sparse file of a tebibyte", "is larger than 1048576 bytes", func() error {
			return errors.Join(os.WriteFile(path("grants/huge.yaml"), nil, 0o600), os.Truncate(path("grants/huge.yaml"), 1<<40))
		}, func() error { return os.Remove(path("grants/huge.yaml")) }},
		{"a configuration that is none", "unknown key", func() error { l.put("daypass.yaml", reloadConfig+"grnats: {}\n"); return nil }, nil},
		{"no configuration", "no such file", func() error { return os.Remove(path("daypass.yaml")) }, nil},
		{"no policies", "is not a folder that can be read", func() error { return os.RemoveAll(path("policies")) }, nil},
		{"no grants", "is not a folder that can be read", func() error { return os.RemoveAll(path("grants")) }, nil},
		{"empty policies", "without any rule", func() error { return os.Remove(path("policies/shop.yaml")) }, nil},
		{"empty grants", "grants is missing", func() error { return os.Remove(path("grants/web.yaml")) }, nil},
	} {
		l.variant(2) // what is beside it is sound, and must not take effect alone
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		l.out.buf.Reset()
		l.check(t.Context())
		l.decides(1)
		l.failing(c.why)
		if t.Failed() {
			t.Fatalf("under %s", c.what)
		}
		if c.undo != nil {
			if err := c.undo(); err != nil {
				t.Fatal(err)
			}
		}
		l.put("daypass.yaml", reloadConfig)
		l.variant(1)
		l.check(t.Context())
		l.well()
	}
	if all := l.policyRecords(); len(all) != 1 {
		t.Errorf("the journal tells of %d versions, but only one ever decided: %+v", len(all), all)
	}
	l.variant(2)
	l.put("policies/shop_test.yaml", variantCase("allow"))
	l.check(t.Context())
	l.decides(2)
	l.well()
}

func TestAVersionThatCannotBeKeptOrJournalledDoesNotDecideAndIsTriedAgain(t *testing.T) {
	for what, c := range map[string]struct{ harm, mend func(l *reloading) error }{
		"no room for the version": {
			func(l *reloading) error {
				versions := filepath.Join(l.config.DataDir, "versions")
				return errors.Join(os.Rename(versions, versions+".away"), os.WriteFile(versions, nil, 0o600))
			},
			func(l *reloading) error {
				versions := filepath.Join(l.config.DataDir, "versions")
				return errors.Join(os.Remove(versions), os.Rename(versions+".away", versions))
			},
		},
		"no journal": {
			func(l *reloading) error { return l.journal.Close(t.Context()) },
			func(l *reloading) error {
				running := l.reloader
				l.open()
				running.keep = l.reloader.keep
				l.reloader = running
				return nil
			},
		},
	} {
		t.Run(what, func(t *testing.T) {
			l := newReloading(t)
			if err := l.start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(l); err != nil {
				t.Fatal(err)
			}
			l.variant(2)
			for range 2 {
				l.check(t.Context())
				l.decides(1)
				l.failing("policy version")
			}
			if err := c.mend(l); err != nil {
				t.Fatal(err)
			}
			l.check(t.Context()) // as each minute does, though no file has changed
			l.decides(2)
			l.well()
		})
	}
}

func TestAConfigurationThatNeedsARestartIsNotTakenUpByHalves(t *testing.T) {
	l := newReloading(t)
	inline := strings.Replace(reloadConfig, "grants: ./grants\n", strings.Replace(variantGrants(1), "1m", "1h", 1), 1)
	l.put("daypass.yaml", strings.Replace(inline, "1h", "1m", 1))
	l.open2()
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.put("daypass.yaml", inline+"limits: {live_leases: 5}\n")
	l.check(t.Context())
	l.decides(1)
	l.well()
	if m := l.measured(); !m.Restart || !strings.Contains(l.out.String(), `"keys":["limits"]`) {
		t.Errorf("nobody is told that a restart is needed: %+v\n%s", m, l.out)
	}
	l.put("daypass.yaml", strings.Replace(inline, `variant: "1"`, `variant: "2"`, 1))
	l.put("policies/shop.yaml", strings.Replace(variantPolicy(2), "allow: [{grant: web}]", "allow: [{grant: web, ttl: 2m}]", 1))
	l.check(t.Context())
	l.decides(2)
	if l.measured().Restart {
		t.Error("a restart is still asked for")
	}
}

// open2 begins anew on a configuration that was written after the first start.
func (l *reloading) open2() {
	l.t.Helper()
	if err := l.journal.Close(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	l.open()
}

// TestAFileThatIsBeingWrittenIsNotTakenByHalves writes a policy in pieces, each
// of which is sound alone.
func TestAFileThatIsBeingWrittenIsNotTakenByHalves(t *testing.T) {
	l := newReloading(t)
	l.settle = 200 * time.Millisecond
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	whole := variantPolicy(1) + "  - {name: more, for: [shop], match: {ref: refs/heads/x}, allow: [{grant: web}]}\n"
	f, err := os.OpenFile(filepath.Join(l.dir, "policies/shop.yaml"), os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error)
	go func() {
		defer close(written)
		for _, piece := range strings.SplitAfter(whole, "\n") {
			if _, err := f.WriteString(piece); err != nil {
				written <- err
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	time.Sleep(25 * time.Millisecond)
	l.check(t.Context())
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if all := l.policyRecords(); len(all) != 2 || !bytes.Equal(l.current.Book().Sources()["shop.yaml"], []byte(whole)) {
		t.Errorf("%d versions decided, and now\n%s\n%s", len(all), l.current.Book().Sources()["shop.yaml"], l.out)
	}
}

func TestOnlyWhatIsSeenTwiceIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := byte(0)
		until := func(last byte) func() look {
			seen = 0
			return func() look {
				seen = min(seen+1, last)
				return look{sum: [32]byte{seen}}
			}
		}
		began := time.Now()
		if l, err := steady(t.Context(), time.Second, until(3)); err != nil || l.sum != [32]byte{3} || time.Since(began) != 3*time.Second {
			t.Errorf("got %v, %v after %v", l.sum, err, time.Since(began))
		}
		if _, err := steady(t.Context(), time.Second, until(255)); !errors.Is(err, errRestless) {
			t.Errorf("what changes all the time: %v", err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		if _, err := steady(ctx, time.Second, until(255)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("beyond its time: %v", err)
		}
	})
}

func TestAReviewThatBecomesDueIsToldOnceAndMeasured(t *testing.T) {
	l := newReloading(t)
	l.put("policies/shop.yaml", "owner: team-shop\nreview_by: 2027-03-01\n"+variantPolicy(1))
	now := time.Date(2027, 2, 28, 12, 0, 0, 0, time.UTC)
	l.now = func() time.Time { return now }
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for day, want := range []int{0, 0, 1, 1, 1} { // its last day is one of it
		l.daily(t.Context())
		if got := l.measured().Overdue; got != want {
			t.Errorf("day %d: %d files are overdue, want %d", day, got, want)
		}
		now = now.Add(24 * time.Hour)
	}
	if n := strings.Count(l.out.String(), "past its review_by"); n != 1 {
		t.Errorf("it is told %d times", n)
	}
	all := l.policyRecords()
	if len(all) != 5 || all[4].Policy != l.current.Version() || all[4].Reason != "in_force" {
		t.Errorf("what still decides is not journalled each day: %+v", all)
	}
}

func TestAPanicInAGateRefusesTheReload(t *testing.T) {
	err := guarded(func() error { panic("out of claims") })
	if err == nil || !strings.Contains(err.Error(), "a fault of daypassd's own: out of claims") {
		t.Errorf("got %v", err)
	}
}

// waitFor tries until it succeeds, for ten seconds.
func waitFor(t *testing.T, try func() error) {
	t.Helper()
	(&rig{t: t}).eventually(10*time.Second, try)
}

// TestChangesAreFoundWhereNothingCanBeWatched has only the look that is taken
// each minute, made quicker.
func TestChangesAreFoundWhereNothingCanBeWatched(t *testing.T) {
	l := newReloading(t)
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.each = 50 * time.Millisecond
	l.watcher = func(p []place) (*watch, error) { return &watch{places: p}, syscall.ENOSPC }
	hangup, done := make(chan os.Signal), make(chan error)
	ctx, stop := context.WithCancel(t.Context())
	go func() { done <- l.run(ctx, hangup) }()
	for v := 2; v < 5; v++ {
		l.variant(v)
		waitFor(t, func() error { return decidesBy(l.current, v) })
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(l.out.String(), "not all files can be watched"); n != 1 {
		t.Errorf("that nothing is watched is told %d times", n)
	}
}

func TestHangupReadsAgainWhatHasNotChanged(t *testing.T) {
	l := newReloading(t)
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	hangup, done := make(chan os.Signal), make(chan error)
	ctx, stop := context.WithCancel(t.Context())
	go func() { done <- l.run(ctx, hangup) }()
	hangup <- syscall.SIGHUP
	waitFor(t, func() error {
		if !strings.Contains(l.out.String(), "policy unchanged") {
			return errors.New("nobody says that nothing has changed")
		}
		return nil
	})
	l.variant(2)
	waitFor(t, func() error { return decidesBy(l.current, 2) }) // by watching alone
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
