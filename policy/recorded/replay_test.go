package recorded_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/recorded"
)

const head = `repos:
  app: {issuer: github, name: acme/app, match: {repository_owner_id: "1234", repository_id: "5678"}}
  site: {issuer: github, name: acme/site, match: {repository_owner_id: "1234", repository_id: "99"}}
rules:
`

// rules is a policy of lines of rules.
func rules(lines ...string) string { return head + "  - " + strings.Join(lines, "\n  - ") + "\n" }

// history is what a broker would have journalled under a book.
type history struct {
	t       testing.TB
	book    *policy.Book
	claims  map[string]recorded.Claims
	records []broker.Record
}

// ask decides for a whole token, and records it as a broker does.
func (h *history) ask(claims broker.Claims, wants ...broker.Want) broker.Decision {
	h.t.Helper()
	id := broker.Identity{Issuer: "github", Claims: claims, Listed: h.claims["github"].Journalled, Job: *neutral("github", claims)}
	d, err := h.book.Decide(id, wants, noon)
	if err != nil {
		h.t.Fatal(err)
	}
	r := broker.Record{
		Event: broker.EventDenied, At: noon.Add(time.Duration(len(h.records)) * time.Minute), Request: fmt.Sprintf("req_%03d", len(h.records)),
		Policy: h.book.Version(), Issuer: "github", Job: neutral("github", claims), DeniedBy: d.DeniedBy, Reported: d.Reported,
	}
	kept := journalled(h.claims["github"], claims)
	switch {
	case d.Allowed:
		r.Event, r.Claims = broker.EventIntent, kept
		session := broker.Session{For: id}
		session.For.Claims, session.For.Trimmed = kept, len(kept) < len(claims)
		r.Session = &session
		opened := r.At.Add(371 * time.Millisecond)
		for _, p := range d.Permits {
			r.Grants, r.Rules = append(r.Grants, p.Grant.Name), append(r.Rules, p.Rule)
			r.Leases = append(r.Leases, broker.Lease{Grant: p.Grant, Rule: p.Rule, Opened: opened, NotAfter: opened.Add(p.TTL).Truncate(time.Second)})
		}
	case d.Known:
		r.Claims, r.Grants, r.Reason = kept, d.Denied, "denied"
	default:
		r.Reason = "denied_stranger"
	}
	h.records = append(h.records, r)
	return d
}

func (h *history) replay(candidate *policy.Book, versions ...*policy.Book) recorded.Report {
	p := recorded.NewReplay(recorded.Replaying{Candidate: candidate, Claims: h.claims, Version: func(v string) *policy.Book {
		for _, b := range versions {
			if b.Version() == v {
				return b
			}
		}
		return nil
	}})
	for _, r := range h.records {
		text, err := json.Marshal(r) // as it comes out of a journal
		if err != nil {
			h.t.Fatal(err)
		}
		var back broker.Record
		if err := json.Unmarshal(text, &back); err != nil {
			h.t.Fatal(err)
		}
		p.Add(back)
	}
	return p.Report()
}

func newHistory(t testing.TB, text string) *history {
	t.Helper()
	return &history{t: t, book: load(t, map[string]string{"p.yaml": text}), claims: claimsOfAll(t)}
}

func TestEachDecisionThatFlipsIsListed(t *testing.T) {
	h := newHistory(t, rules(
		`{name: deploy, for: [app], match: {ref: refs/heads/main}, allow: [{grant: orders-db, ttl: 15m}]}`,
		`{name: read, for: [app, site], allow: [{grant: orders-ro}]}`,
		`{name: web, for: [site], match: {ref: refs/heads/main}, allow: [{grant: web-identity}]}`,
		`{name: never, match: {actor: mallory}, deny: ["*"]}`,
		`{name: trial, mode: report, match: {runner_environment: {not: github-hosted}}, deny: ["*"]}`,
		`{name: soon, mode: report, for: [app], allow: [{grant: web-identity}]}`))
	main := fixture(t, push)
	branch := with(main, broker.Claims{"ref": "refs/heads/dev"})
	site := with(main, broker.Claims{"repository": "acme/site", "repository_id": "99", "runner_environment": "self-hosted"})
	stranger := with(main, broker.Claims{"repository": "mallory/app", "repository_id": "666", "repository_owner_id": "666"})
	h.ask(main, broker.Want{Name: "orders-db"})
	h.ask(main, broker.Want{Name: "orders-db", TTL: 5 * time.Minute}, broker.Want{Name: "orders-ro"})
	h.ask(branch, broker.Want{Name: "orders-db"})
	h.ask(branch, broker.Want{Name: "orders-ro"})
	h.ask(branch, broker.Want{Name: "web-identity"}, broker.Want{Name: "no-such-grant"})
	h.ask(with(main, broker.Claims{"actor": "mallory"}), broker.Want{Name: "orders-db"})
	h.ask(site, broker.Want{Name: "web-identity"})
	h.ask(stranger, broker.Want{Name: "orders-db"})
	h.records[7].Count = 4
	h.records = append(h.records, broker.Record{Event: broker.EventRefused, At: noon, Policy: h.book.Version(), Issuer: "github", Reason: "rate_limited", Count: 2})
	candidate := load(t, map[string]string{"q.yaml": rules(
		`{name: deploy, for: [app], match: {ref: [refs/heads/main, refs/heads/dev]}, allow: [{grant: orders-db, ttl: 10m}]}`,
		`{name: read, for: [site], allow: [{grant: orders-ro}]}`,
		`{name: web, for: [app, site], match: {company: acme}, allow: [{grant: web-identity}]}`,
		`{name: never, match: {ref: refs/heads/dev}, deny: [orders-ro]}`)})

	for name, versions := range map[string][]*policy.Book{"with-versions": {h.book}, "without-versions": nil} {
		t.Run(name, func(t *testing.T) {
			report := h.replay(candidate, versions...)
			var text bytes.Buffer
			if err := report.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/report/"+name+".txt", replaceVersions(text.String(), candidate, h.book))
			whole, err := json.MarshalIndent(report, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/report/"+name+".json", replaceVersions(string(whole), candidate, h.book)+"\n")
		})
	}
}

func replaceVersions(text string, candidate, old *policy.Book) string {
	return strings.NewReplacer(candidate.Version(), "CANDIDATE", old.Version(), "OLD").Replace(text)
}

// Where the policy of the time is kept, it is known whether a job got less than it
// could have had.
func TestALongerLifeIsSeenWhereAsMuchAsThereWasWasAskedFor(t *testing.T) {
	h := newHistory(t, rules(`{name: deploy, for: [app], allow: [{grant: orders-db, ttl: 15m}]}`))
	h.ask(fixture(t, push), broker.Want{Name: "orders-db"})
	h.ask(fixture(t, push), broker.Want{Name: "orders-db", TTL: 10 * time.Minute})
	longer := load(t, map[string]string{"p.yaml": rules(`{name: deploy, for: [app], allow: [{grant: orders-db, ttl: 30m}]}`)})
	if r := h.replay(longer, h.book); len(r.Flips) != 1 || r.Flips[0].Request != "req_000" || r.Flips[0].Was.TTL != "15m" || r.Flips[0].Now.TTL != "30m" {
		t.Errorf("%+v", r.Flips)
	}
	if r := h.replay(longer); len(r.Flips) != 0 {
		t.Errorf("without the policy of the time: %+v", r.Flips)
	}
	shorter := load(t, map[string]string{"p.yaml": rules(`{name: deploy, for: [app], allow: [{grant: orders-db, ttl: 12m}]}`)})
	for _, versions := range [][]*policy.Book{nil, {h.book}} {
		if r := h.replay(shorter, versions...); len(r.Flips) != 1 || r.Flips[0].Now.TTL != "12m" {
			t.Errorf("%+v", r.Flips)
		}
	}
}

func TestOnlyWhatWasRecordedInTimeIsReplayed(t *testing.T) {
	h := newHistory(t, rules(`{name: deploy, for: [app], allow: [{grant: orders-db}]}`))
	for range 5 { // a minute apart
		h.ask(fixture(t, push), broker.Want{Name: "orders-db"})
	}
	p := recorded.NewReplay(recorded.Replaying{Candidate: h.book, Claims: h.claims, Since: noon.Add(time.Minute), Until: noon.Add(3 * time.Minute)})
	for _, r := range h.records {
		p.Add(r)
	}
	if r := p.Report(); r.Decisions != 2 || r.Same != 2 || !r.First.Equal(noon.Add(time.Minute)) || !r.Last.Equal(noon.Add(2*time.Minute)) {
		t.Errorf("%+v", r)
	}
}

// A record that is slim, or of another release, is not taken for what it is not.
func TestRecordsWithHolesAreNotGuessedAt(t *testing.T) {
	book := load(t, map[string]string{"p.yaml": rules(`{name: deploy, for: [app], allow: [{grant: orders-db}]}`)})
	for name, r := range map[string]broker.Record{
		"an intent without anything":       {Event: broker.EventIntent, Grants: []string{"orders-db"}, Issuer: "github"},
		"an intent without a session":      {Event: broker.EventIntent, Grants: []string{"orders-db"}, Rules: []string{"p/deploy"}, Issuer: "github", Claims: broker.Claims{}},
		"a denial without grants":          {Event: broker.EventDenied, Claims: broker.Claims{"ref": "x"}, Issuer: "github"},
		"a denial of a grant without name": {Event: broker.EventDenied, Claims: broker.Claims{"ref": "x"}, Grants: []string{broker.UnknownGrant}, Issuer: "github"},
	} {
		p := recorded.NewReplay(recorded.Replaying{Candidate: book}) // nothing is known of the issuer's claims
		p.Add(r)
		if got := p.Report(); got.NotSaid != 1 || got.Decisions != 1 || len(got.Flips) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// pool are rules that differ in how much of a token they look at.
var pool = []string{
	`{name: r0, for: [app], match: {ref: refs/heads/main}, allow: [{grant: orders-db, ttl: 15m}]}`,
	`{name: r1, for: [app, site], allow: [{grant: orders-db, ttl: 5m}]}`,
	`{name: r2, for: [app], match: {environment: {exists: false}}, allow: [{grant: orders-db, ttl: 40m}]}`,
	`{name: r3, for: [app], match: {ref: {not: {glob: "refs/pull/**"}}}, when: 'claims.event_name == "push" && ttl <= duration("20m")', allow: [{grant: orders-db}]}`,
	`{name: r4, for: [site], match: {user_email: boss@acme.example}, allow: [{grant: orders-db}]}`,
	`{name: r5, for: [app], when: 'has(claims.user_email) && claims.user_email.startsWith("boss")', allow: [{grant: orders-db, ttl: 30m}]}`,
	`{name: r6, issuer: github, match: {repository_owner_id: "1234", actor: marcela}, allow: [{grant: orders-db, ttl: 10m}]}`,
	`{name: r7, for: [app], until: 2027-02-28, allow: [{grant: orders-db, ttl: 50m}]}`,
	`{name: r8, for: [app], when: 'claims.exists(c, c == "user_email")', allow: [{grant: orders-db, ttl: 12m}]}`,
	`{name: d0, match: {event_name: [workflow_dispatch]}, deny: ["*"]}`,
	`{name: d1, match: {user_email: {not: boss@acme.example}}, deny: [orders-db]}`,
	`{name: d2, for: [app], when: 'ttl > duration("30m")', deny: [orders-db]}`,
	`{name: d3, for: [app], when: 'ttl < duration("8m")', deny: [orders-db]}`,
	`{name: d4, when: '!has(claims.environment) && issuer == "github"', deny: [orders-db]}`,
	`{name: d5, mode: report, match: {ref: refs/heads/main}, deny: [orders-db]}`,
	`{name: r9, mode: report, for: [app], allow: [{grant: orders-db}]}`,
}

// TestAReplaySaysWhatWouldHaveBeenDecidedOrThatItCannot of any token, any part of
// which the journal may not hold: what it says is what the whole token gets.
func TestAReplaySaysWhatWouldHaveBeenDecidedOrThatItCannot(t *testing.T) {
	base, about := fixture(t, push), claimsOfAll(t)
	said, unsaid, flips := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(label string) *policy.Book {
			some := []string{`{name: other, for: [site], allow: [{grant: web-identity}]}`, `{name: known, for: [app], allow: [{grant: web-identity}]}`}
			for i, r := range pool {
				if rapid.IntRange(0, 3).Draw(rt, fmt.Sprintf("%s %d", label, i)) == 0 {
					some = append(some, r)
				}
			}
			return load(t, map[string]string{"p.yaml": rules(some...)})
		}
		h := &history{t: t, book: draw("old"), claims: about}
		candidate := draw("new")
		claims := maps.Clone(base)
		for _, c := range []struct {
			name   string
			values []any
		}{
			{"repository_id", []any{"5678", "99", "1"}}, {"ref", []any{"refs/heads/main", "refs/pull/7/merge", ""}}, {"event_name", []any{"push", "workflow_dispatch"}},
			{"environment", []any{nil, "production"}}, {"user_email", []any{nil, "boss@acme.example", "mallory@acme.example"}}, {"actor", []any{"marcela", "mallory", json.Number("1")}},
		} {
			if v := rapid.SampledFrom(c.values).Draw(rt, c.name); v != nil {
				claims[c.name] = v
			} else {
				delete(claims, c.name)
			}
		}
		ttl := rapid.SampledFrom([]time.Duration{0, 4 * time.Minute, 10 * time.Minute, 35 * time.Minute, 3 * time.Hour}).Draw(rt, "ttl")
		was := h.ask(claims, broker.Want{Name: "orders-db", TTL: ttl})
		truth, err := candidate.Decide(broker.Identity{Issuer: "github", Claims: claims}, []broker.Want{{Name: "orders-db", TTL: ttl}}, noon)
		if err != nil {
			rt.Fatal(err)
		}
		var versions []*policy.Book
		if rapid.Bool().Draw(rt, "versions") {
			versions = append(versions, h.book)
		}
		r := h.replay(candidate, versions...)
		if r.Decisions != 1 || r.Same+len(r.Flips)+r.NotSaid != 1 {
			rt.Fatalf("%+v", r)
		}
		if r.NotSaid == 1 {
			unsaid++
			return
		}
		said++
		would := was.Allowed
		for _, f := range r.Flips {
			flips++
			would = f.Now.Allowed
			// How long was asked for is known where the policy of the time can be asked.
			known := len(versions) > 0 && h.replay(h.book, h.book).NotSaid == 0 && (ttl == 0 || was.Allowed && was.Permits[0].TTL == ttl)
			if known && was.Allowed && truth.Allowed && (f.Now.Rule != truth.Permits[0].Rule || f.Now.TTL != policy.Short(truth.Permits[0].TTL)) {
				rt.Fatalf("%+v, and it would have been %+v", f, truth.Permits[0])
			}
		}
		if would != truth.Allowed {
			rt.Fatalf("was %v, is said to be %v, and would have been %v: %+v\n%q", was.Allowed, would, truth.Allowed, r, claims)
		}
	})
	if said < 20 || unsaid < 5 || flips < 5 {
		t.Errorf("%d said, %d not said, %d flips: the test shows nothing", said, unsaid, flips)
	}
}

// TestTheSamePolicyFlipsNothing whatever was asked for.
func TestTheSamePolicyFlipsNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		some := slices.Clone(rapid.SliceOfNDistinct(rapid.SampledFrom(pool), 1, 8, rapid.ID).Draw(rt, "rules"))
		h := newHistory(t, rules(append(some, `{name: known, for: [app], allow: [{grant: web-identity}]}`)...))
		claims := maps.Clone(fixture(t, push))
		if rapid.Bool().Draw(rt, "mail") {
			claims["user_email"] = "boss@acme.example"
		}
		for _, ttl := range []time.Duration{0, 3 * time.Minute, 5 * time.Minute, 25 * time.Minute, 2 * time.Hour} {
			h.ask(claims, broker.Want{Name: "orders-db", TTL: ttl}, broker.Want{Name: "web-identity"})
		}
		for _, versions := range [][]*policy.Book{nil, {h.book}} {
			if r := h.replay(h.book, versions...); len(r.Flips) > 0 {
				rt.Fatalf("%+v", r.Flips)
			}
		}
	})
}
