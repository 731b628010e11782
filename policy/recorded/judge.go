package recorded

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// Claims is what has to be known of an issuer's claims beside what policy knows.
type Claims struct {
	Journalled []string // those that the journal keeps; a name that ends in * is all that begin so
	Influenced []string // those that whoever may push a branch or open a pull request chooses
}

// keeps reports whether the journal holds a claim if the token had it.
func (c Claims) keeps(claim string) bool {
	return slices.ContainsFunc(c.Journalled, func(name string) bool {
		prefix, open := strings.CutSuffix(name, "*")
		return claim == name || open && strings.HasPrefix(claim, prefix)
	})
}

// identity is the job of a record as far as it was journalled.
func identity(r broker.Record) broker.Identity {
	if r.Session != nil {
		id := r.Session.For
		id.Trimmed = true
		return id
	}
	id := broker.Identity{Issuer: r.Issuer, Subject: r.Subject, Claims: r.Claims, Trimmed: true}
	if r.Job != nil {
		id.Job = *r.Job
	}
	return id
}

// judge decides recorded requests under one book.
type judge struct {
	book   *policy.Book
	claims map[string]Claims              // by issuer
	reads  map[string]policy.Reads        // by rule
	pins   map[string]map[string][]string // claims that rules which give a grant pin, by issuer and grant
}

func newJudge(book *policy.Book, claims map[string]Claims) *judge {
	j := &judge{book: book, claims: claims, reads: map[string]policy.Reads{}, pins: map[string]map[string][]string{}}
	for r := range book.Rules() {
		j.reads[r.ID] = r.Reads()
		if r.Rule.Denies() || r.Rule.Reports() {
			continue
		}
		for _, p := range r.Places {
			for _, grant := range r.Grants {
				j.pinned(p, grant)
			}
		}
	}
	return j
}

func (j *judge) pinned(p policy.Place, grant string) {
	if j.pins[p.Issuer] == nil {
		j.pins[p.Issuer] = map[string][]string{}
	}
	for i := range p.Pins {
		if name := p.Pins[i].Reads(); !slices.Contains(j.pins[p.Issuer][grant], name) {
			j.pins[p.Issuer][grant] = append(j.pins[p.Issuer][grant], name)
		}
	}
}

// question is one grant that a recorded job asked for.
type question struct {
	id    broker.Identity
	grant string
	ttl   time.Duration // that was asked for; 0: as long as policy gives
	at    time.Time

	// ttlKnown is whether ttl is what was asked for. Otherwise it stands for as
	// long or longer.
	ttlKnown bool
}

// answer is what policy says to a question, or why that cannot be said.
type answer struct {
	allowed bool
	rule    string
	ttl     time.Duration
	why     policy.Why
	denied  []string // rules that deny it

	// missing is what is not known and would have to be. Then nothing else is
	// said, but that it is allowed, where it surely is: by the rule that is
	// named, or another that gives it longer.
	missing []string
}

// ask decides a question. Claims that the journal would hold and does not were not
// in the token. Where those that it never holds could change the answer, they are
// named instead of one.
func (j *judge) ask(q question) answer {
	d, e := j.decide(q)
	missing, open := j.missing(q, e)
	switch {
	case !open:
		return refused(e)
	case len(missing) > 0 && d.Allowed:
		return answer{allowed: true, rule: d.Permits[0].Rule, ttl: d.Permits[0].TTL, why: policy.Given, missing: missing}
	case len(missing) > 0:
		return answer{missing: missing}
	}
	q.id.Trimmed = false
	if d, e = j.decide(q); !d.Allowed {
		return refused(e)
	}
	return answer{allowed: true, rule: d.Permits[0].Rule, ttl: d.Permits[0].TTL, why: policy.Given}
}

// decide decides with what is known, and says what each rule had to do with it.
func (j *judge) decide(q question) (broker.Decision, policy.Explanation) {
	want := broker.Want{Name: q.grant, TTL: q.ttl}
	d, err := j.book.Decide(q.id, []broker.Want{want}, q.at)
	if err != nil {
		d = broker.Decision{Version: j.book.Version()}
	}
	return d, j.book.Trace(q.id, want, q.at)
}

func refused(e policy.Explanation) answer {
	a := answer{why: e.Why}
	for _, r := range e.Denied {
		a.denied = append(a.denied, r.Rule)
	}
	return a
}

// surelyDenied names the rules that deny a grant whatever was not journalled.
func (j *judge) surelyDenied(q question) []string {
	var rules []string
	_, e := j.decide(q)
	for _, r := range e.Denied {
		if r.Holds == policy.Holds {
			rules = append(rules, r.Rule)
		}
	}
	return rules
}

// missing names what the answer depends on and the record does not tell, and
// reports whether the answer is open at all: it is no where a rule surely denies,
// or none may give.
func (j *judge) missing(q question, e policy.Explanation) (missing []string, open bool) {
	var unsure []policy.Ruling
	for _, r := range e.Rules {
		open = open || !r.Over && r.Holds != policy.Fails
		if !r.Over && r.Holds == policy.CannotSay {
			unsure = append(unsure, r)
		}
	}
	for _, r := range e.Denied {
		if r.Holds == policy.Holds {
			return nil, false
		}
		unsure = append(unsure, r)
	}
	names := map[string]bool{}
	for _, name := range j.pins[q.id.Issuer][q.grant] {
		if !j.tells(q.id, name) {
			names[name], open = true, true // rules that pin it were not found
		}
	}
	for _, r := range unsure {
		reads := j.reads[r.Rule]
		for _, name := range reads.Claims {
			if !j.tells(q.id, name) {
				names[name] = true
			}
		}
		if reads.All {
			names["(all claims)"] = true
		}
		if reads.TTL && !q.ttlKnown {
			names["(the ttl that was asked for)"] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), open
}

// tells reports whether it is known what a token said in a claim, or that it did
// not have it.
func (j *judge) tells(id broker.Identity, claim string) bool {
	if _, there := id.Claims[claim]; there {
		return true
	}
	known := j.claims[id.Issuer]
	if len(id.Listed) > 0 { // as it was when the request was made
		known.Journalled = id.Listed
	}
	return known.keeps(claim)
}
