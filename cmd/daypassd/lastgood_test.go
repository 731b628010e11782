package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

func TestABrokenPolicyAtTheStartLeavesTheLastGoodOneInForce(t *testing.T) {
	l := newReloading(t)
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.variant(2)
	l.check(t.Context())
	l.decides(2)
	for what, harm := range map[string]func() error{
		"half a file":    func() error { l.put("policies/shop.yaml", "rules: ["); return nil },
		"no policies":    func() error { return os.RemoveAll(filepath.Join(l.dir, "policies")) },
		"no grants":      func() error { return os.RemoveAll(filepath.Join(l.dir, "grants")) },
		"half a grant":   func() error { l.put("grants/web.yaml", "grants: {web: {kind: jwt"); return nil },
		"a failing case": func() error { l.put("policies/shop_test.yaml", variantCase("deny")); return nil },
		"a lint finding": func() error {
			l.put("policies/shop.yaml", strings.Replace(variantPolicy(9), "    match: {ref: refs/heads/main}\n", "", 1))
			return nil
		},
		"grants that moved": func() error {
			l.put("grants/web.yaml", strings.Replace(variantGrants(9), "web:", "other:", 1))
			return nil
		},
	} {
		l.variant(9)
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		l.out.buf.Reset()
		if err := l.restart(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		l.decides(2)
		l.failing("the last good version decides until they are mended")
		all := l.policyRecords()
		if last := all[len(all)-1]; last.Policy != l.current.Version() || last.Reason != lastGoodReason {
			t.Errorf("%s: the journal says %+v", what, last)
		}
		_ = os.Remove(filepath.Join(l.dir, "policies/shop_test.yaml"))
		l.variant(2)
		l.check(t.Context()) // mended, it is what decides already
		l.decides(2)
		l.well()
	}
}

func TestWithoutALastGoodPolicyABrokenOneStopsTheStart(t *testing.T) {
	l := newReloading(t)
	l.put("policies/shop.yaml", "rules: [")
	err := l.start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "cannot be read as YAML") || !strings.Contains(err.Error(), "the journal names no version that was ever loaded") {
		t.Errorf("got %v", err)
	}
	if d, err := l.current.Decide(shopJob, wantWeb, l.now()); err == nil || d.Allowed {
		t.Errorf("something decides: %+v", d)
	}
}

// TestALastGoodVersionThatWasTamperedWithIsNotTaken changes what is kept in
// data_dir, as somebody might who cannot change the policies themselves.
func TestALastGoodVersionThatWasTamperedWithIsNotTaken(t *testing.T) {
	for what, c := range map[string]struct {
		harm func(kept string) error
		want string
	}{
		"a policy that allows more": {func(kept string) error {
			path := filepath.Join(kept, "policies/shop.yaml")
			return os.WriteFile(path, []byte(strings.Replace(variantPolicy(1), "refs/heads/main", "refs/heads/x", 1)), 0o600)
		}, "is not what it was"},
		"a grant that lives longer": {func(kept string) error {
			path := filepath.Join(kept, "grants.json")
			text, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path, []byte(strings.Replace(string(text), "60000000000", "86400000000000", 1)), 0o600))
		}, "is not what it was"},
		"a file more": {func(kept string) error {
			return os.WriteFile(filepath.Join(kept, "policies/x.yaml"), []byte("owner: x\n"), 0o600)
		}, "is not what it was"},
		"another's": {func(kept string) error {
			return os.Rename(filepath.Join(kept, "policies/shop.yaml"), filepath.Join(kept, "policies/x.yaml"))
		}, "is not what it was"},
		"a link":        {func(kept string) error { return os.Symlink("/etc/passwd", filepath.Join(kept, "policies/x.yaml")) }, "is not a regular file"},
		"nothing there": {os.RemoveAll, "no such file"},
	} {
		t.Run(what, func(t *testing.T) {
			l := newReloading(t)
			if err := l.start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(filepath.Join(l.config.DataDir, "versions", folderOf(l.current.Version()))); err != nil {
				t.Fatal(err)
			}
			l.put("policies/shop.yaml", "rules: [")
			if err := l.restart(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if l.current.Book() != nil {
				t.Error("it decides")
			}
		})
	}
}

func TestALastGoodVersionMustFitTheConfigurationOfToday(t *testing.T) {
	for what, c := range map[string]struct{ change, want string }{
		"an issuer that is gone":   {"  github: {profile: github}\n=>  gitlab: {profile: gitlab}\n", "no issuer is called"},
		"its audience became ours": {"https://daypass.example.com=>https://sts.example.com", "fit this configuration any more"},
	} {
		t.Run(what, func(t *testing.T) {
			l := newReloading(t)
			l.put("grants/web.yaml", strings.Replace(variantGrants(1), "sts.example.com", "https://sts.example.com", 1))
			if err := l.start(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.put("policies/shop.yaml", "rules: [")
			was, now, _ := strings.Cut(c.change, "=>")
			l.put("daypass.yaml", strings.Replace(reloadConfig, was, now, 1))
			if err := l.restart(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAGrantOfAnotherDayNeedsItsTarget(t *testing.T) {
	l := newReloading(t)
	l.config.Targets = map[string]Target{"pg": {Kind: "postgres"}, "old": {Kind: "postgres", Retired: true}, "my": {Kind: "mysql"}}
	for want, g := range map[string]broker.Grant{
		"no target gone of kind postgres is configured": {Kind: "postgres", Target: "gone"},
		"no target my of kind postgres is configured":   {Kind: "postgres", Target: "my"},
		"target old is retired":                         {Kind: "postgres", Target: "old"},
		`"oracle" is not a kind`:                        {Kind: "oracle", Target: "pg"},
	} {
		if err := l.honours(g); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestAVersionThatWasStoredButNeverJournalledIsNotTheLastGood has a crash
// between the two.
func TestAVersionThatWasStoredButNeverJournalledIsNotTheLastGood(t *testing.T) {
	l := newReloading(t)
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.variant(2)
	if err := l.journal.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.check(t.Context())
	l.decides(1)
	if stored, err := filepath.Glob(filepath.Join(l.config.DataDir, "versions/*")); err != nil || len(stored) != 2 {
		t.Fatalf("stored are %v, %v", stored, err)
	}
	l.put("policies/shop.yaml", "rules: [")
	l.open()
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.decides(1)
}

// unsure writes what it is told to, and says once that it may not have.
type unsure struct {
	keeper
	unsure bool
}

func (u *unsure) adopt(ctx context.Context, book *policy.Book, why string) error {
	err := u.keeper.adopt(ctx, book, why)
	if u.unsure {
		u.unsure = false
		return errors.New("the disk does not answer")
	}
	return err
}

// TestWhatWasJournalledAndNeverDecidedIsNotTheLastGood takes a change back after
// the journal could not say whether it has it.
func TestWhatWasJournalledAndNeverDecidedIsNotTheLastGood(t *testing.T) {
	l := newReloading(t)
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.keep = &unsure{l.keep, true}
	l.variant(2)
	l.check(t.Context())
	l.decides(1)
	l.failing("the disk does not answer")
	l.variant(1)
	l.check(t.Context())
	l.decides(1)
	l.well()
	l.put("policies/shop.yaml", "rules: [")
	if err := l.restart(); err != nil {
		t.Fatal(err)
	}
	l.decides(1)
}
