package broker

import (
	"context"
	"time"
)

// Event is what a journal record tells.
type Event string

// The events of the journal.
const (
	EventStarted   Event = "started"     // a broker opened the journal
	EventStopped   Event = "stopped"     // and closed it in order
	EventTornTail  Event = "torn_tail"   // an incomplete last line was set aside
	EventPolicy    Event = "policy"      // a policy version was loaded
	EventRefused   Event = "refused"     // a token was not accepted
	EventAgain     Event = "redelivered" // a client that lost its answer got the same again
	EventReused    Event = "reused"      // a used token was offered again
	EventDenied    Event = "denied"      // policy said no
	EventIntent    Event = "intent"      // about to mint: token spent, handles fixed
	EventIssued    Event = "issued"      // about to answer
	EventUndone    Event = "undone"      // a mint failed or was withheld, and was taken back
	EventExtended  Event = "extended"    // a job session got a fresh token
	EventShut      Event = "shut"        // a job session is being given back
	EventAlarm     Event = "alarm"       // a job session's token was offered by somebody else, and its grants say what to do
	EventRevoked   Event = "revoked"     // a credential is gone
	EventUnrevoked Event = "unrevoked"   // revoking failed; it is tried again
	EventOrphan    Event = "orphan"      // a credential without a lease was found overdue in a target and dropped
	EventVanished  Event = "vanished"    // a credential was gone from its target before its time, and its lease is closed
	EventOperator  Event = "operator"    // an operator's act
	EventForgotten Event = "forgotten"   // an operator gave a lost target's credentials up: they may exist, and nobody takes them back
	EventSuspended Event = "suspended"   // the journal could not be written for a while
	EventDropped   Event = "dropped"     // notes were counted instead of written
)

// Record is one entry of the journal. It never holds a secret. Zero fields are
// left out.
type Record struct {
	Event   Event     `json:"event"`
	At      time.Time `json:"at"`
	Request string    `json:"request,omitempty"`
	Policy  string    `json:"policy,omitempty"` // version the decision was made under
	Issuer  string    `json:"issuer,omitempty"`
	Subject string    `json:"subject,omitempty"`
	Token   TokenID   `json:"token,omitzero"`
	Keep    time.Time `json:"keep_until,omitzero"` // with Token: how long it must be remembered as used
	Owner   Owner     `json:"owner,omitzero"`      // with Token: whose the answer is
	Once    TokenID   `json:"once,omitzero"`       // of an intent on a job session: its Idempotency-Key there
	Job     *Job      `json:"job,omitempty"`
	Claims  Claims    `json:"claims,omitempty"` // those that the issuer's profile lists
	Session *Session  `json:"session,omitempty"`
	Leases  []Lease   `json:"leases,omitempty"`
	Rules   []string  `json:"rules,omitempty"`
	Grants  []string  `json:"grants,omitempty"`
	Denials []Denial  `json:"denials,omitempty"`

	DeniedBy []Reported `json:"denied_by,omitempty"` // rules that deny what is in Grants
	Reported []Reported `json:"reported,omitempty"`  // what rules with mode: report would have done

	Reason string `json:"reason,omitempty"` // one internal word
	Detail string `json:"detail,omitempty"` // for people; never from a token unescaped
	Count  int    `json:"count,omitempty"`  // how many of the same this record stands for; 0 is 1
}

// Claimed returns the one-time uses that a record tells of: of a CI token, and of
// an Idempotency-Key on a job session.
func (r Record) Claimed() []Claim {
	var session SessionID
	if r.Session != nil {
		session = r.Session.ID
	}
	var claims []Claim
	if !r.Token.IsZero() && !r.Keep.IsZero() {
		claims = append(claims, Claim{Token: r.Token, Until: r.Keep, Owner: r.Owner, Session: session})
	}
	if !r.Once.IsZero() {
		claims = append(claims, Claim{Token: r.Once, Until: r.At.Add(onceLife), Owner: r.Owner, Session: session})
	}
	return claims
}

// Journal is the append-only audit log.
type Journal interface {
	// Append returns when the record is durable. Nothing that depends on it
	// may happen before. After an error the record may or may not be there.
	Append(ctx context.Context, r Record) error
	// Note hands over a record that nobody waits for: refusals, denials and
	// replays. Many of the same within a minute become one counted record,
	// and notes never take the room that Append needs. What became of a
	// session or a lease, and could not be appended, is noted as well: those
	// of different ones are not the same.
	Note(r Record)
	// Healthy says why Append cannot succeed now, or nil.
	Healthy() error
}
