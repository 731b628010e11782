package cases

import (
	"fmt"
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// Coverage says what the cases have shown. Of each rule there is to be a case
// that it decides, and of each of its conditions one where it holds and one
// where it does not, for a job whose pinned ids match. A rule that only reports
// decides where it would.
type Coverage struct {
	Rules      int   `json:"rules"`
	Conditions int   `json:"conditions"`
	Percent    int   `json:"percent"` // of rules, and of conditions twice; rounded down
	Gaps       []Gap `json:"gaps"`
}

// Gap is something that no case has shown.
type Gap struct {
	Rule      string `json:"rule"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	Condition string `json:"condition,omitempty"` // a claim, or when; empty: the rule has decided no case
	Never     string `json:"never"`               // decided, held or failed
}

// String says what is missing, in one line.
func (g Gap) String() string {
	where := fmt.Sprintf("%s:%d: rule %s", g.File, g.Line, g.Rule)
	switch g.Never {
	case neverHeld:
		return where + ": no case made " + g.Condition + " hold"
	case neverFailed:
		return where + ": no case made " + g.Condition + " fail"
	}
	return where + ": no case was decided by it"
}

const (
	neverDecided = "decided"
	neverHeld    = "held"
	neverFailed  = "failed"
)

// counts are what has been seen so far.
type counts struct {
	rules []ruleCount // by id
}

type ruleCount struct {
	info       policy.RuleInfo
	decided    bool
	conditions []conditionCount
}

type conditionCount struct {
	claim        string
	line         int
	held, failed bool
}

func newCounts(book *policy.Book) *counts {
	c := &counts{}
	for info := range book.Rules() {
		r := ruleCount{info: info}
		for _, cond := range info.Conditions {
			r.conditions = append(r.conditions, conditionCount{claim: cond.Claim, line: cond.Node.Line})
		}
		if info.Rule.When != "" {
			r.conditions = append(r.conditions, conditionCount{claim: "when", line: info.Rule.Node.At("when").Line})
		}
		c.rules = append(c.rules, r)
	}
	return c
}

func (c *counts) find(id string) *ruleCount {
	i, ok := slices.BinarySearchFunc(c.rules, id, func(r ruleCount, id string) int {
		return strings.Compare(r.info.ID, id)
	})
	if !ok {
		return nil
	}
	return &c.rules[i]
}

func (c *counts) knows(id string) bool { return c.find(id) != nil }

func (c *counts) ids() []string {
	var ids []string
	for _, r := range c.rules {
		ids = append(ids, r.info.ID)
	}
	return ids
}

// count adds what one decision has shown.
func (c *counts) count(e policy.Explanation) {
	if r := c.find(e.Rule); r != nil {
		r.decided = true
	}
	for _, list := range [][]policy.Ruling{e.Rules, e.Denied, e.Spared, e.Reported} {
		for _, ruling := range list {
			if r := c.find(ruling.Rule); r != nil && ruling.Pins.Match != policy.Fails {
				r.count(ruling)
			}
		}
	}
}

func (r *ruleCount) count(ruling policy.Ruling) {
	strikes := ruling.Holds == policy.Holds || ruling.Effect == broker.EffectDeny && ruling.Holds == policy.CannotSay
	if strikes && !ruling.Over && (ruling.Effect == broker.EffectDeny || r.info.Rule.Reports()) {
		r.decided = true
	}
	checks := slices.Clone(ruling.Conditions)
	if ruling.When != nil {
		checks = append(checks, *ruling.When)
	}
	for i, check := range checks {
		r.conditions[i].held = r.conditions[i].held || check.Holds == policy.Holds
		r.conditions[i].failed = r.conditions[i].failed || check.Holds != policy.Holds
	}
}

func (c *counts) coverage() Coverage {
	out := Coverage{Rules: len(c.rules), Gaps: []Gap{}, Percent: 100}
	for i := range c.rules {
		r := &c.rules[i]
		gap := Gap{Rule: r.info.ID, File: r.info.File, Line: r.info.Line, Never: neverDecided}
		if !r.decided {
			out.Gaps = append(out.Gaps, gap)
		}
		for _, cond := range r.conditions {
			out.Conditions++
			gap.Condition, gap.Line = cond.claim, cond.line
			if !cond.held {
				gap.Never = neverHeld
				out.Gaps = append(out.Gaps, gap)
			}
			if !cond.failed {
				gap.Never = neverFailed
				out.Gaps = append(out.Gaps, gap)
			}
		}
	}
	if all := out.Rules + 2*out.Conditions; all > 0 {
		out.Percent = 100 * (all - len(out.Gaps)) / all
	}
	return out
}
