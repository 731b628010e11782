package lint

import (
	"github.com/daypass-dev/daypass/policy"
)

// waiver finds what silences a finding of r. It remembers what was of use, and
// what would have been and has expired.
func (l *linter) waiver(r *Rule, h hit, lists ...[]policy.Waiver) *policy.Waiver {
	for _, list := range lists {
		for i := range list {
			w := &list[i]
			if w.ID != r.ID || w.Node == nil {
				continue
			}
			l.used[w] = true
			if !w.Until.Over(l.config.Now) && !w.Until.IsZero() && (r.Severity != Critical || h.waivable) {
				return w
			}
		}
	}
	return nil
}

// judgeWaivers reports those that are past their day, of no use, or not
// allowed.
func (l *linter) judgeWaivers() {
	for _, v := range l.rules {
		for i := range v.rule.Waive {
			l.judge(&v.rule.Waive[i], v.id)
		}
	}
	for _, name := range l.issuerNames() {
		waivers := l.config.Issuers[name].Waive
		for i := range waivers {
			l.judge(&waivers[i], "")
		}
	}
}

// judge looks at one waiver, of a rule or, without one, of an issuer.
func (l *linter) judge(w *policy.Waiver, ruleID string) {
	if w.Node == nil {
		return // it could not be read, and has its fault
	}
	id, msg := "", ""
	switch r := l.table.byID(w.ID); {
	case r == nil:
		id, msg = idWaiverUnused, quote(w.ID)+" is the id of no finding"
	case r.Severity == Critical && r.MayWaive == "":
		id, msg = idWaiverRefused, r.ID+" "+r.Name+" is critical and cannot be waived"
	case w.Until.Over(l.config.Now):
		id, msg = idWaiverExpired, "the waiver of "+r.ID+" "+r.Name+" ended on "+w.Until.String()
	case !l.used[w]:
		id, msg = idWaiverUnused, r.ID+" "+r.Name+" is not found here"
	default:
		return
	}
	l.report(l.table.byID(id), hit{at: w.Node, msg: msg, outside: ruleID == ""}, ruleID)
}
