package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
)

// would is what rules that only report would have done.
var would = []broker.Reported{
	{Grant: "db", Rule: "trial/less", Effect: broker.EffectDeny},
	{Grant: "db", Rule: "trial/more", Effect: broker.EffectAllow},
}

func reporting(d broker.Decision) broker.Decision {
	d.Reported = would
	return d
}

// TestWhatRulesWouldHaveDoneIsJournalledAndCounted with what was decided, and
// changes nothing.
func TestWhatRulesWouldHaveDoneIsJournalledAndCounted(t *testing.T) {
	for name, c := range map[string]struct {
		repo, grant string
		event       broker.Event
	}{
		"who is given something":   {"1", "db", broker.EventIntent},
		"who is known and refused": {"1", "nothing", broker.EventDenied},
		"who is a stranger":        {"99", "db", broker.EventDenied},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.statute.answer = reporting
			a, err := r.Exchange(context.Background(), r.token(job(c.repo, "job-1")), ask(c.grant))
			if (err == nil) != (c.event == broker.EventIntent) {
				t.Fatalf("%+v, %v", a, err)
			}
			rec := r.journal.of(c.event)
			if len(rec) != 1 || !slices.Equal(rec[0].Reported, would) {
				t.Errorf("journalled as %+v", rec)
			}
			if issued := r.journal.of(broker.EventIssued); len(issued) == 1 && issued[0].Reported != nil {
				t.Errorf("it is journalled twice: %+v", issued)
			}
			if r.tally.of("reported trial/less deny") != 1 || r.tally.of("reported trial/more allow") != 1 {
				t.Errorf("counted as %v", r.tally.counts)
			}
			if err != nil && strings.Contains(fmt.Sprintf("%+v", err), "trial") {
				t.Errorf("the caller is told: %+v", err)
			}
		})
	}
}

func TestWhatRulesWouldHaveDoneIsKeptWithARefusalThatFollows(t *testing.T) {
	r := newRig(t, func(c *broker.Config) { c.Limits.ExchangesPerMinute = 1 })
	r.statute.answer = reporting
	for i := range 2 {
		_, _ = r.Exchange(context.Background(), r.token(job("1", fmt.Sprintf("job-%d", i))), ask("db"))
	}
	rec := r.journal.of(broker.EventRefused)
	if len(rec) != 1 || !slices.Equal(rec[0].Reported, would) || r.tally.of("reported trial/less deny") != 2 {
		t.Errorf("journalled as %+v, counted as %v", rec, r.tally.counts)
	}
}

func TestADryRunCountsNoReport(t *testing.T) {
	r := newRig(t, nil)
	r.statute.answer = reporting
	q := ask("db")
	q.DryRun = true
	if _, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), q); err != nil {
		t.Fatal(err)
	}
	if n := r.tally.of("reported trial/less deny"); n != 0 {
		t.Errorf("counted %d times", n)
	}
}

// TestTheRuleThatDeniesIsForTheJournalAlone: neither a stranger nor somebody
// known hears of it.
func TestTheRuleThatDeniesIsForTheJournalAlone(t *testing.T) {
	by := []broker.Reported{{Grant: "db", Rule: "secret/deny", Effect: broker.EffectDeny}}
	for _, repo := range []string{"1", "99"} {
		r := newRig(t, nil)
		r.statute.answer = func(d broker.Decision) broker.Decision {
			d.Allowed, d.Permits, d.Denied, d.Denials, d.DeniedBy = false, nil, []string{"db"}, nil, by
			return d
		}
		_, err := r.Exchange(context.Background(), r.token(job(repo, "job-1")), ask("db"))
		e := r.refused(err, broker.Denied)
		if len(e.Denials) != 0 || strings.Contains(fmt.Sprintf("%+v", e), "secret") {
			t.Errorf("repository %s is told %+v", repo, e)
		}
		if rec := r.journal.of(broker.EventDenied); len(rec) != 1 || !slices.Equal(rec[0].DeniedBy, by) {
			t.Errorf("journalled as %+v", rec)
		}
	}
}

// TestManyRulesDoNotMakeAStrangersNoteLong: strangers can cause many notes.
func TestManyRulesDoNotMakeAStrangersNoteLong(t *testing.T) {
	r := newRig(t, nil)
	r.statute.answer = func(d broker.Decision) broker.Decision {
		for i := range 1000 {
			one := broker.Reported{Grant: "db", Rule: fmt.Sprintf("r/%d", i), Effect: broker.EffectDeny}
			d.Reported, d.DeniedBy = append(d.Reported, one), append(d.DeniedBy, one)
		}
		return d
	}
	_, err := r.Exchange(context.Background(), r.token(job("99", "job-1")), ask("db"))
	r.refused(err, broker.Denied)
	rec := r.journal.of(broker.EventDenied)
	if len(rec) != 1 || len(rec[0].Reported) == 0 || len(rec[0].Reported) > 10 || len(rec[0].DeniedBy) == 0 || len(rec[0].DeniedBy) > 10 {
		t.Errorf("the note names %d and %d rules", len(rec[0].Reported), len(rec[0].DeniedBy))
	}
}

// TestManyRulesThatOnlyReportBindNobody: an intent that were longer than the
// journal takes would end the exchange, with the token spent.
func TestManyRulesThatOnlyReportBindNobody(t *testing.T) {
	const many = 10_000
	for name, c := range map[string]struct {
		grant string
		event broker.Event
	}{
		"who is given something": {"db", broker.EventIntent},
		"who is refused":         {"nothing", broker.EventDenied},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.statute.answer = func(d broker.Decision) broker.Decision {
				for i := range many {
					d.Reported = append(d.Reported, broker.Reported{Grant: "db", Rule: fmt.Sprintf("trial/%d", i), Effect: broker.EffectDeny})
				}
				if !d.Allowed {
					d.DeniedBy = d.Reported
				}
				return d
			}
			_, _ = r.Exchange(context.Background(), r.token(job("1", "job-1")), ask(c.grant))
			rec := r.journal.of(c.event)
			if len(rec) != 1 || len(rec[0].Reported) != 64 || len(rec[0].DeniedBy) > 64 {
				t.Fatalf("%d records", len(rec))
			}
			if r.tally.of("reported trial/9999 deny") != 1 {
				t.Error("a rule that the record does not name is not counted either")
			}
		})
	}
}
