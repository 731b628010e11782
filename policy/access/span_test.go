package access_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/access"
)

func day(d int) time.Time { return time.Date(2027, 3, d, 0, 0, 0, 0, time.UTC) }

// journal makes a history of lines such as "a 3 policy v1", of the day and what
// happened on it. Seqs count from 1, or from 100 in chains that begin with "late".
func journal(now time.Time, lines ...string) *access.History {
	h := &access.History{Now: now}
	seq := map[string]uint64{}
	for _, line := range lines {
		f := strings.Fields(line)
		if seq[f[0]] == 0 && strings.HasPrefix(f[0], "late") {
			seq[f[0]] = 99
		}
		seq[f[0]]++
		at, err := time.Parse("2006-01-02 15:04", "2027-03-"+f[1]+" 00:00")
		if err != nil {
			panic(err)
		}
		r := broker.Record{Event: broker.Event(f[2]), At: at}
		if len(f) > 3 {
			r.Policy = f[3]
		}
		if len(f) > 4 {
			r.Rules, r.Grants = []string{f[4]}, []string{f[5]}
		}
		h.Add(access.Entry{Chain: f[0], Seq: seq[f[0]], Record: r})
	}
	return h
}

func TestVersionsAreInForceFromLoadingToTheNext(t *testing.T) {
	for name, c := range map[string]struct {
		lines []string
		want  string // version: from-to days
		gaps  int
	}{
		"one that is still in force":  {[]string{"a 01 started", "a 01 policy v1"}, "v1: 1-20", 0},
		"one after the other":         {[]string{"a 01 started", "a 01 policy v1", "a 05 policy v2", "a 09 policy v1"}, "v1: 1-5 9-20; v2: 5-9", 0},
		"until the broker stops":      {[]string{"a 01 started", "a 01 policy v1", "a 04 stopped", "a 06 started", "a 06 policy v2"}, "v1: 1-4; v2: 6-20", 0},
		"a crash shows at the start":  {[]string{"a 01 started", "a 01 policy v1", "a 06 started", "a 08 policy v2"}, "v1: 1-6; v2: 8-20", 0},
		"two brokers":                 {[]string{"a 01 started", "a 01 policy v1", "b 03 started", "b 03 policy v2", "a 04 policy v2"}, "v1: 1-4; v2: 3-20", 0},
		"two that overlap":            {[]string{"a 01 started", "a 01 policy v1", "a 04 stopped", "b 01 started", "b 03 policy v1", "b 06 stopped"}, "v1: 1-6", 0},
		"a decision that came late":   {[]string{"a 01 started", "a 01 policy v1", "a 05 policy v2", "a 06 intent v1"}, "v1: 1-5 6-6; v2: 5-20", 0},
		"a journal without beginning": {[]string{"late 03 revoked", "late 05 denied v0", "late 08 policy v1"}, "v0: 3-8; v1: 8-20", 1},
		"nothing":                     {nil, "", 1},
		"a journal that begins later": {[]string{"a 10 started", "a 10 policy v1"}, "v1: 10-20", 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := journal(day(20), c.lines...)
			var got []string
			for _, v := range h.Versions(access.Period{From: day(1), To: day(20)}) {
				text := v.Version + ":"
				for _, p := range v.Periods {
					text += p.From.Format(" 2") + p.To.Format("-2")
				}
				got = append(got, text)
			}
			if strings.Join(got, "; ") != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if gaps := h.Gaps(day(1)); len(gaps) != c.gaps {
				t.Errorf("gaps: %q", gaps)
			}
		})
	}
	h := journal(day(20), "a 01 started", "a 01 policy v1", "a 05 policy v2")
	if got := h.Versions(access.Period{From: day(6), To: day(7)}); len(got) != 1 || got[0].Version != "v2" || !got[0].Periods[0].From.Equal(day(6)) || !got[0].Periods[0].To.Equal(day(7)) {
		t.Errorf("only a part of the span is asked for: %+v", got)
	}
}

const spanHead = `repos:
  app: {issuer: github, name: acme/app, match: {repository_owner_id: "1234", repository_id: "5678"}}
`

// versions are policies of the past by their names in the lines of a journal.
func versions(t *testing.T, texts map[string]string) func(string) (*policy.Book, error) {
	books := map[string]*policy.Book{}
	for name, text := range texts {
		books[name] = load(t, map[string]string{"p.yaml": spanHead + text})
	}
	return func(version string) (*policy.Book, error) {
		if b := books[version]; b != nil {
			return b, nil
		}
		return nil, errors.New("there is no such folder")
	}
}

func TestAnAuditorSeesWhoCouldHaveWhatAndWhen(t *testing.T) {
	book := versions(t, map[string]string{
		"v1": `owner: team-a
rules:
  - {name: deploy, for: [app], match: {ref: refs/heads/main}, allow: [{grant: orders-db, ttl: 15m}]}
  - {name: short, for: [app], until: 2027-03-02, allow: [{grant: orders-db, ttl: 5m}]}
  - {name: past, for: [app], until: 2027-02-27, allow: [{grant: orders-db}]}
`,
		"v2": `owner: team-b
rules:
  - {name: deploy, for: [app], match: {ref: refs/heads/main}, allow: [{grant: orders-db, ttl: 15m}]}
  - {name: open, for: [app], allow: [{grant: orders-db, ttl: 1h}]}
`,
		"v3": `owner: team-b
rules:
  - {name: deploy, for: [app], match: {ref: refs/heads/main}, allow: [{grant: orders-db, ttl: 15m}]}
  - {name: stop, for: [app], deny: [orders-db]}
`,
	})
	h := journal(day(20), "a 01 started", "a 01 policy v1", "a 05 policy v2", "a 06 policy v1", "b 06 started", "b 07 policy v2", "b 08 policy v1", "a 10 policy v3", "b 10 stopped", "a 12 policy gone")
	span := access.Spanning{Span: access.Period{From: day(1), To: day(15)}, Filter: access.Filter{Access: broker.Write}, History: h, Book: book}.List()
	var text bytes.Buffer
	if err := span.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/span.txt", text.String())
	data, err := json.MarshalIndent(span, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/span.json", string(data)+"\n")
	if len(span.Gaps) != 1 {
		t.Errorf("a version cannot be read, and the gaps are %q", span.Gaps)
	}
	later := access.Spanning{Span: access.Period{From: day(19), To: day(22)}, History: h, Book: book}.List()
	if len(later.Gaps) != 2 {
		t.Errorf("a span that ends in the future has the gaps %q", later.Gaps)
	}
}

func TestPermissionsThatNobodyUsedAreListed(t *testing.T) {
	const old = `rules:
  - {name: used, for: [app], allow: [{grant: orders-db}, {grant: orders-ro}]}
  - {name: idle, for: [app], allow: [{grant: orders-db}]}
  - {name: trial, mode: report, for: [app], allow: [{grant: orders-db}]}
`
	book := versions(t, map[string]string{"v1": old, "v2": old + "  - {name: fresh, for: [app], allow: [{grant: orders-db}]}\n"})
	now, err := book("v2")
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{"a 01 started", "a 01 policy v1", "a 02 issued v1 p/idle orders-db", "a 03 intent v1 p/used orders-ro", "a 12 policy v2", "a 15 issued v2 p/used orders-db"}
	idle := access.Idling{Policy: now, Since: day(10), History: journal(day(20), lines...), Book: book}.List()
	var text bytes.Buffer
	if err := idle.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/unused.txt", text.String())
	if len(idle.Rows) != 3 || idle.Used != 1 || len(idle.Gaps) != 0 {
		t.Errorf("%+v", idle)
	}
	short := access.Idling{Policy: now, Since: day(1).AddDate(0, 0, -1), History: journal(day(20), lines...), Book: book}.List()
	if len(short.Gaps) != 1 || short.Used != 2 {
		t.Errorf("the journal does not reach back so far: %+v", short)
	}
	lost := access.Idling{Policy: now, Since: day(10), History: journal(day(20), strings.Split(strings.ReplaceAll(strings.Join(lines, "\n"), "v1", "gone"), "\n")...), Book: book}.List()
	if len(lost.Gaps) != 1 || lost.Rows[0].New {
		t.Errorf("the version of then cannot be read: %+v", lost)
	}
}
