package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Explanation says how one grant is decided for one identity, and by what. It
// shows expressions, rules that deny, and rules that are for others: it is for
// operators, and never for a caller. What a caller may read is in a
// [broker.Decision].
type Explanation struct {
	Version string    `json:"version"` // of the book
	Issuer  string    `json:"issuer"`
	Grant   string    `json:"grant"`
	At      time.Time `json:"at"`
	Allowed bool      `json:"allowed"`
	Why     Why       `json:"why"`
	Known   bool      `json:"known"`          // a rule's pinned ids match: the caller is told which claims failed
	Trimmed bool      `json:"trimmed"`        // claims are missing that the token had
	Rule    string    `json:"rule,omitempty"` // that gives it
	Life    *Life     `json:"life,omitempty"` // where a rule gives it

	// Rules are those that give the grant and whose pinned ids match; where
	// there is none, the nearest of the others, three at most. The one that
	// gives it comes first, then those of whose conditions the fewest are
	// in the way.
	Rules    []Ruling `json:"rules"`
	Denied   []Ruling `json:"denied"`   // rules that deny the grant and mean this identity, or may
	Spared   []Ruling `json:"spared"`   // rules that deny the grant to the same repositories, or to all, and do not mean this identity
	Reported []Ruling `json:"reported"` // rules that only report, whose pinned ids match
}

// Why is the reason of a decision, in one word.
type Why string

// The reasons of decisions.
const (
	Given         Why = "given"          // a rule gives it and none denies it
	DeniedByRule  Why = "denied_by_rule" // a rule denies it, whatever others say
	InTheWay      Why = "conditions"     // rules for this identity would give it, and conditions are in the way
	Ended         Why = "ended"          // rules for this identity gave it until their last day
	NotGiven      Why = "not_given"      // no rule for this identity gives it
	Stranger      Why = "stranger"       // no rule's pinned ids match
	NoSuchGrant   Why = "unknown_grant"
	NoSuchIssuer  Why = "unknown_issuer"
	NotAskedRight Why = "bad_request" // the ttl is below a second
)

// Life says how long a credential lives, and which of the bounds is the least.
type Life struct {
	TTL     string `json:"ttl"`   // empty: as long as the grant, which is not known
	Bound   string `json:"bound"` // asked, rule, ceiling or grant
	Asked   string `json:"asked,omitempty"`
	Rule    string `json:"rule,omitempty"`    // what the rule says
	Ceiling string `json:"ceiling,omitempty"` // what the folder's ceilings leave of it, where they take something
	Grant   string `json:"grant"`             // the grant's max_ttl; empty: not known
}

// Ruling is what one rule says of the grant.
type Ruling struct {
	Rule       string        `json:"rule"` // its id
	File       string        `json:"file"`
	Line       int           `json:"line"`
	Owner      string        `json:"owner,omitempty"`
	Effect     broker.Effect `json:"effect"`
	Mode       string        `json:"mode"`          // enforce or report
	Holds      Truth         `json:"holds"`         // all that it asks for
	TTL        string        `json:"ttl,omitempty"` // the longest life it gives, of a rule that allows
	Until      string        `json:"until,omitempty"`
	Over       bool          `json:"over,omitempty"` // past its last day: it counts for nothing
	Pins       Pins          `json:"pins"`
	Conditions []Check       `json:"conditions"`
	When       *Check        `json:"when,omitempty"`

	failing int // how many conditions are in the way
}

// Pins are the place whose ids match, or come nearest.
type Pins struct {
	Repo   string  `json:"repo,omitempty"`   // its name under repos
	Issuer string  `json:"issuer,omitempty"` // empty: every issuer
	Match  Truth   `json:"match"`
	Checks []Check `json:"checks"`
}

// Check is one condition beside what the token says.
type Check struct {
	Claim   string `json:"claim"` // when, for the expression
	Wanted  any    `json:"wanted"`
	Saw     any    `json:"saw"`               // shortened, and escaped where it is not printable ASCII
	Absent  bool   `json:"absent,omitempty"`  // the token does not have the claim
	Unknown bool   `json:"unknown,omitempty"` // whether it has the claim is not known: claims are missing
	Holds   Truth  `json:"holds"`
}

// Truth is what can be said of a condition. What cannot be said counts against
// the job: as a no in rules that allow, as a yes in rules that deny.
type Truth string

// The truths.
const (
	Holds     Truth = "yes"
	Fails     Truth = "no"
	CannotSay Truth = "cannot_say"
)

func shownTruth(t truth) Truth {
	return [...]Truth{no: Fails, undecided: CannotSay, yes: Holds}[t]
}

// Explain says how [Book.Decide] answers a request for one grant, and what each
// rule that matters has to do with it. The answer is Decide's own, and what is
// said of conditions comes from the functions that it decides with.
func (b *Book) Explain(id broker.Identity, want broker.Want, at time.Time) Explanation {
	e := b.Trace(id, want, at)
	if len(e.Rules) == 0 {
		x := explaining{choosing: choosing{book: b, id: id}, want: want, at: at}
		e.Rules = append(e.Rules, x.nearest()...)
	}
	return e
}

// Trace is [Book.Explain] without the rules of others: what it costs does not
// grow with them.
func (b *Book) Trace(id broker.Identity, want broker.Want, at time.Time) Explanation {
	d, err := b.Decide(id, []broker.Want{want}, at)
	e := Explanation{
		Version: b.version, Issuer: id.Issuer, Grant: b.known(want.Name), At: at.UTC(), Allowed: err == nil && d.Allowed,
		Known: d.Known, Trimmed: id.Trimmed, Rules: []Ruling{}, Denied: []Ruling{}, Spared: []Ruling{}, Reported: []Ruling{},
	}
	x := explaining{choosing: choosing{book: b, id: id}, want: want, at: at}
	x.collect(&e)
	if len(d.Permits) == 1 {
		e.Rule = d.Permits[0].Rule
		e.Life = b.life(d.Permits[0], want)
	}
	slices.SortStableFunc(e.Rules, func(a, b Ruling) int {
		return cmp.Or(first(a.Rule == e.Rule, b.Rule == e.Rule), first(!a.Over, !b.Over),
			cmp.Compare(a.failing, b.failing), strings.Compare(a.Rule, b.Rule))
	})
	slices.SortStableFunc(e.Denied, func(a, b Ruling) int { return first(a.Holds == Holds, b.Holds == Holds) })
	e.Why = b.why(e, id, err)
	return e
}

// first orders what is before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// why finds the word for a decision.
func (b *Book) why(e Explanation, id broker.Identity, err error) Why {
	_, issuer := b.madeFor.Issuers[id.Issuer]
	pinned := slices.ContainsFunc(e.Rules, func(r Ruling) bool { return r.Pins.Match == Holds && !r.Over })
	ended := slices.ContainsFunc(e.Rules, func(r Ruling) bool { return r.Holds == Holds && r.Over })
	switch {
	case err != nil:
		return NotAskedRight
	case e.Allowed:
		return Given
	case !issuer:
		return NoSuchIssuer
	case e.Grant == broker.UnknownGrant:
		return NoSuchGrant
	case len(e.Denied) > 0:
		return DeniedByRule
	case ended:
		return Ended
	case pinned:
		return InTheWay
	case e.Known:
		return NotGiven
	}
	return Stranger
}

// explaining is one explanation under way.
type explaining struct {
	choosing
	want broker.Want
	at   time.Time
}

// collect looks at the rules that the index finds, as a decision does.
func (x *explaining) collect(e *Explanation) {
	for _, i := range x.book.index.find(x.id, nil) {
		r := x.book.rules[i]
		if !r.names(x.want.Name) {
			continue
		}
		switch ruling := x.ruling(r); {
		case ruling.Pins.Match == Fails, ruling.Pins.Match == CannotSay && !r.denies:
		case r.reports:
			e.Reported = append(e.Reported, ruling)
		case !r.denies:
			e.Rules = append(e.Rules, ruling)
		case ruling.Holds != Fails && !ruling.Over:
			e.Denied = append(e.Denied, ruling)
		default:
			e.Spared = append(e.Spared, ruling)
		}
	}
}

// nearest are rules that give the grant to others at the identity's issuer, of
// whose pinned ids and conditions the fewest are in the way. Expressions of
// others are not evaluated to find them.
func (x *explaining) nearest() []Ruling {
	type far struct {
		*rule
		over bool
		by   int
	}
	var near []far
	for _, r := range x.book.rules {
		if r.denies || r.reports || !r.names(x.want.Name) || !r.at(x.id.Issuer) {
			continue
		}
		near = append(near, far{r, !r.live(x.at), x.distance(r)})
		slices.SortStableFunc(near, func(a, b far) int { return cmp.Or(first(!a.over, !b.over), cmp.Compare(a.by, b.by)) })
		near = near[:min(len(near), maxNearest)]
	}
	var rulings []Ruling
	for _, r := range near {
		rulings = append(rulings, x.ruling(r.rule))
	}
	return rulings
}

// distance is how many pinned ids and conditions are in the way.
func (x *explaining) distance(r *rule) int {
	n := x.failing(r.others)
	if p := x.place(r); p != nil {
		n += x.failing(p.pins)
	}
	return n
}

// names reports whether the rule gives or denies a grant.
func (r *rule) names(grant string) bool {
	_, denied := slices.BinarySearch(r.deny, grant)
	return denied || slices.ContainsFunc(r.allow, func(a allowance) bool { return a.grant == grant })
}

// at reports whether one of the rule's places is at an issuer.
func (r *rule) at(issuer string) bool {
	return slices.ContainsFunc(r.places, func(p place) bool { return p.issuer == anyIssuer || p.issuer == issuer })
}

// ruling says what one rule makes of the grant.
func (x *explaining) ruling(r *rule) Ruling {
	out := Ruling{
		Rule: r.id, File: r.file.Path, Line: r.ast.Node.Line, Owner: r.file.Owner, Effect: broker.EffectAllow,
		Mode: modeEnforce, Until: r.ast.Until.String(), Over: !r.live(x.at), Conditions: []Check{},
	}
	if r.denies {
		out.Effect = broker.EffectDeny
	}
	if r.reports {
		out.Mode = modeReport
	}
	var match truth
	out.Pins, match = x.pins(r)
	for i := range r.others {
		out.Conditions = append(out.Conditions, x.check(&r.others[i]))
	}
	c := candidate{rule: r}
	holds := match.both(x.conditions(&c))
	life := x.lifeSeen(r)
	if !r.denies && life > 0 {
		out.TTL = shownLife(life)
	}
	if r.when != nil {
		t := x.when(r, x.want.Name, life)
		out.When = &Check{Claim: "when", Wanted: r.ast.When, Holds: shownTruth(t)}
		holds = holds.both(t)
	}
	out.Holds = shownTruth(holds)
	out.failing = x.distance(r)
	if out.When != nil && out.When.Holds != Holds {
		out.failing++
	}
	return out
}

// lifeSeen is the life that the rule's expression sees.
func (x *explaining) lifeSeen(r *rule) time.Duration {
	life, _ := r.given(x.want)
	if r.denies {
		life, _ = x.book.asked(x.want)
	}
	return life
}

// pins shows the place whose ids match, or of which the fewest are in the way.
func (x *explaining) pins(r *rule) (Pins, truth) {
	p := x.place(r)
	if p == nil { // all are at other issuers
		return Pins{Match: Fails, Checks: []Check{}}, no
	}
	t := all(p.pins, x.id)
	out := Pins{Repo: p.repo, Issuer: p.shownIssuer(), Match: shownTruth(t), Checks: []Check{}}
	for i := range p.pins {
		out.Checks = append(out.Checks, x.check(&p.pins[i]))
	}
	return out, t
}

func (x *explaining) place(r *rule) *place {
	var best *place
	for i := range r.places {
		p := &r.places[i]
		if p.issuer != anyIssuer && p.issuer != x.id.Issuer {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(all(best.pins, x.id), all(p.pins, x.id)),
			cmp.Compare(x.failing(p.pins), x.failing(best.pins))) < 0 {
			best = p
		}
	}
	return best
}

// check looks at one condition.
func (x *explaining) check(c *Condition) Check {
	out := Check{Claim: c.Claim, Wanted: c.wanted(allWanted), Holds: shownTruth(c.truth(x.id))}
	if saw, there := x.id.Claims.Lookup(c.Claim); there {
		out.Saw = shown(saw)
	} else {
		out.Absent, out.Unknown = !x.id.Trimmed, x.id.Trimmed
	}
	return out
}

// life says what bounds a permit. What is less than rule and grant say was
// taken by a ceiling.
func (b *Book) life(p broker.Permit, w broker.Want) *Life {
	l := &Life{TTL: shownLife(p.TTL), Bound: "grant", Grant: shownLife(p.Grant.MaxTTL)}
	i, _ := slices.BinarySearchFunc(b.rules, p.Rule, func(r *rule, id string) int { return strings.Compare(r.id, id) })
	r := b.rules[i]
	written, least := time.Duration(0), p.Grant.MaxTTL.Truncate(time.Second)
	for _, a := range r.ast.Allow {
		if a.Grant == w.Name {
			written = a.TTL
		}
	}
	if written > 0 {
		l.Rule = short(written)
		if written < least {
			least, l.Bound = written, "rule"
		}
	}
	if given, _ := r.given(broker.Want{Name: w.Name}); given < least {
		least, l.Bound, l.Ceiling = given, "ceiling", short(given)
	}
	if w.TTL > 0 {
		l.Asked = short(w.TTL)
		if w.TTL < least {
			l.Bound = "asked"
		}
	}
	return l
}

// shownLife is empty where grants are not known, and so how long they may live.
func shownLife(d time.Duration) string {
	if d == anyLife {
		return ""
	}
	return short(d)
}
