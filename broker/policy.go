package broker

import "time"

// Want is one grant asked for.
type Want struct {
	Name string        `json:"name"`
	TTL  time.Duration `json:"ttl,omitempty"` // 0: as long as policy gives; above what policy gives it is clamped
}

// Request is what a job asks for.
type Request struct {
	ID     string // the request's id, for the journal, the log and the answer
	Wants  []Want // no wants: only a job session
	DryRun bool   // decide, and do nothing

	// Recipient is the client's ephemeral X25519 key: the answer is sealed to
	// it, and can be fetched again. Nil: a plain answer, strictly once.
	Recipient []byte
	// Idempotency names a request on a job session, so that it can be made
	// again: at most 255 visible ASCII characters. It needs a session that
	// was opened with a Recipient.
	Idempotency string
}

// Permit is one grant that policy gives.
type Permit struct {
	Grant Grant         `json:"-"`
	Rule  string        `json:"rule"` // file/name
	TTL   time.Duration `json:"ttl"`  // asked for, clamped by rule and grant; whole seconds, above 0

	// MaxLive is how many leases that the rule gave may live at a time, over
	// all its grants and jobs; 0: no cap.
	MaxLive int `json:"-"`

	// Takeback is what giving back would achieve, in the answer to a dry run;
	// empty where the kind does not say. Policy does not know it.
	Takeback Takeback `json:"takeback,omitempty"`
}

// Mismatch is one claim that kept a rule from matching.
type Mismatch struct {
	Claim  string `json:"claim"`
	Saw    any    `json:"saw"`              // nil: the token has no such claim
	Wanted any    `json:"wanted,omitempty"` // only where the rule says explain: full
}

// Denial is why one grant was refused, for a caller whose pinned ids matched
// the rule. A stranger gets none.
type Denial struct {
	Grant  string     `json:"grant"`
	Rule   string     `json:"rule"`
	Failed []Mismatch `json:"failed"`
}

// Effect is what a rule does about a grant.
type Effect string

// The effects of rules.
const (
	EffectAllow Effect = "allow"
	EffectDeny  Effect = "deny"
)

// Reported is what one rule says of one grant. It is for the journal and for
// operators, never for a caller.
type Reported struct {
	Grant  string `json:"grant"`
	Rule   string `json:"rule"`
	Effect Effect `json:"effect"`
}

// UnknownGrant stands in a [Decision] for every name that no grant has.
const UnknownGrant = "(unknown)"

// Decision is policy's answer to one request, all of it made under one version.
type Decision struct {
	Version string   // hash of the policy and grants it was made under
	Allowed bool     // every want is permitted; false is the zero value
	Known   bool     // the identity's pinned ids match a rule: not a stranger
	Permits []Permit // one for each want, in order; only where Allowed
	Denied  []string // names of the grants refused, or [UnknownGrant]
	Denials []Denial // what may be told to the caller

	DeniedBy []Reported // rules that deny what is in Denied: a caller is not told of them
	Reported []Reported // what rules that only report would have done; nothing follows from it
}

// Policy says who may have what. Deciding is pure: no clock, no I/O.
type Policy interface {
	// Decide answers a request under one version of the policy. With no
	// wants it allows whom a rule's pinned ids know. An error is a refusal.
	// Safe for concurrent use with a reload.
	Decide(id Identity, wants []Want, at time.Time) (Decision, error)
	// Offer permits every grant that Decide would permit if it were asked for
	// alone and without a ttl, by name, under one version. Whom no rule's
	// pinned ids know is refused; who is known and gets nothing is allowed,
	// without permits. Pure, and safe, as Decide is.
	Offer(id Identity, at time.Time) (Decision, error)
}
