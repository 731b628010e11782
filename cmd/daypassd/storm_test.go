package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// TestEveryDecisionUnderTenThousandReloadsIsOfOneVersion reloads while jobs are
// decided. Grants and policies of each variant stand in two folders, which one
// link swaps together; every fifth is broken in one of several ways.
func TestEveryDecisionUnderTenThousandReloadsIsOfOneVersion(t *testing.T) {
	const reloads, variants, deciders = 10_000, 7, 8
	l := newReloading(t)
	l.prepareStorm(variants)
	l.swap("variant-1")
	if err := l.restart(); err != nil {
		t.Fatal(err)
	}
	s := &storm{variantOf: map[string]int{}}
	for v := 1; v <= variants; v++ { // learn the versions, one by one
		l.swap(fmt.Sprintf("variant-%d", v))
		l.reload(t.Context(), 0)
		l.decides(v)
		s.variantOf[l.current.Version()] = v
	}
	s.begun.Store(variants)
	s.inForce.Store(variants)
	var all sync.WaitGroup
	for range deciders {
		all.Go(func() { s.decide(l) })
	}
	loaded, now := 0, variants
	for i := range reloads {
		if i%5 == 4 {
			l.swap(fmt.Sprintf("broken-%d", i/5%len(brokenVariants)))
			l.reload(t.Context(), 0)
			if l.ready(t.Context()) == nil {
				t.Fatalf("reload %d: what is broken was taken", i)
			}
			continue
		}
		next := now%variants + 1
		s.begun.Store(int64(next))
		l.swap(fmt.Sprintf("variant-%d", next))
		l.reload(t.Context(), 0)
		s.inForce.Store(int64(next))
		loaded, now = loaded+1, next
		if i%1000 == 0 {
			l.well()
		}
	}
	s.done.Store(true)
	all.Wait()
	if fault := s.fault.Load(); fault != nil {
		t.Error(*fault)
	}
	if n := len(l.policyRecords()); n != loaded+variants {
		t.Errorf("the journal tells of %d versions put in force, but %d were", n, loaded+variants)
	}
	t.Logf("%d decisions, %d of them across a reload, under %d reloads", s.decisions.Load(), s.across.Load(), reloads)
	if s.decisions.Load() < reloads || s.across.Load() == 0 {
		t.Error("too few decisions to tell anything")
	}
}

// brokenVariants are what a folder of its own is broken by.
var brokenVariants = []struct{ name, text string }{
	{"policies/shop.yaml", "rules: ["},
	{"policies/more.yaml", "rules: [{name: all, issuer: github, match: {ref: x}, allow: [{grant: web}]}]\n"},
	{"grants/web.yaml", "grants: {web: {kind: jwt, max_ttl: 99h, params: {audience: sts.example.com}}}\n"},
	{"grants/more.yaml", "grants: {db: {target: pg, max_ttl: 1h}}\n"},
	{"policies/link.yaml", "->nowhere"},
	{"policies/shop_test.yaml", "cases: [{name: x, issuer: github, claims: {}, grant: web, expect: allow}]\n"},
	{"policies/open.yaml", "rules: [{name: open, for: [shop], allow: [{grant: web}]}]\n"}, // lint
}

// prepareStorm writes a folder for each variant, and for each way to break one
// whose decisions nobody must ever see.
func (l *reloading) prepareStorm(variants int) {
	l.t.Helper()
	for v := 1; v <= variants; v++ {
		l.put(fmt.Sprintf("variant-%d/grants/web.yaml", v), variantGrants(v))
		l.put(fmt.Sprintf("variant-%d/policies/shop.yaml", v), variantPolicy(v))
	}
	for i, b := range brokenVariants {
		dir := fmt.Sprintf("broken-%d/", i)
		l.put(dir+"grants/web.yaml", variantGrants(50+i))
		l.put(dir+"policies/shop.yaml", variantPolicy(50+i))
		if b.text == "->nowhere" {
			if err := os.Symlink("nowhere", filepath.Join(l.dir, dir+b.name)); err != nil {
				l.t.Fatal(err)
			}
			continue
		}
		l.put(dir+b.name, b.text)
	}
	for _, name := range []string{"grants", "policies"} {
		removeAll(l.t, filepath.Join(l.dir, name))
		if err := os.Symlink("now/"+name, filepath.Join(l.dir, name)); err != nil {
			l.t.Fatal(err)
		}
	}
}

// swap makes another folder the one that is read, at once.
func (l *reloading) swap(to string) {
	l.t.Helper()
	next := filepath.Join(l.dir, "next")
	if err := os.Symlink(to, next); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(l.dir, "now")); err != nil {
		l.t.Fatal(err)
	}
}

// storm is what deciders and the one who reloads know of each other.
type storm struct {
	variantOf         map[string]int // by version; not changed once deciders run
	begun             atomic.Int64   // the variant that is being put in force, or is
	inForce           atomic.Int64   // the variant that is surely in force, or was until begun
	done              atomic.Bool
	decisions, across atomic.Int64
	fault             atomic.Pointer[string]
}

func (s *storm) decide(l *reloading) {
	for i := 0; !s.done.Load() && s.fault.Load() == nil; i++ {
		begunBefore, before := s.begun.Load(), s.inForce.Load()
		d, err := l.current.Decide(shopJob, wantWeb, time.Now())
		after, begunAfter := s.inForce.Load(), s.begun.Load()
		if i%16 == 0 { // the one who reloads needs its turns, too
			time.Sleep(5 * time.Millisecond)
		}
		if fault := s.judge(d, err); fault != "" {
			s.fault.Store(&fault)
			return
		}
		s.decisions.Add(1)
		v := int64(s.variantOf[d.Version])
		switch {
		case begunBefore != begunAfter || before != after:
			s.across.Add(1) // too much has happened to say which it had to be
		case v != before && v != begunBefore:
			fault := fmt.Sprintf("variant %d decided, while %d gave way to %d", v, before, begunBefore)
			s.fault.Store(&fault)
		}
	}
}

// judge says what of a decision is not as the version it names decides.
func (s *storm) judge(d broker.Decision, err error) string {
	v, known := s.variantOf[d.Version]
	switch {
	case err != nil:
		return err.Error()
	case !known:
		return "an unknown version decided: " + d.Version
	case !d.Allowed || len(d.Permits) != 1:
		return fmt.Sprintf("variant %d denied", v)
	case d.Permits[0].Rule != fmt.Sprintf("shop/rule-%d", v), d.Permits[0].TTL != time.Duration(v)*time.Minute,
		d.Permits[0].Grant.Labels["variant"] != fmt.Sprint(v):
		return fmt.Sprintf("a mix: variant %d decided %+v", v, d.Permits[0])
	}
	return ""
}
