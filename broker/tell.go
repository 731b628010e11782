package broker

import (
	"context"
	"slices"
	"strings"
	"time"
)

// about is a record on an identity, with nothing that a journal must not hold.
func about(e Event, at time.Time, request string, id Identity, version string) Record {
	r := Record{Event: e, At: at, Request: request, Policy: version,
		Issuer: id.Issuer, Subject: id.Subject, Token: id.Token}
	if id.Job != (Job{}) {
		job := id.Job
		r.Job = &job
	}
	return r
}

// listedOnly is an identity with only the claims that its profile lists for
// the journal, and Trimmed where that left something out. A name that ends in *
// lists every claim that begins so.
func listedOnly(id Identity) Identity {
	kept := Claims{}
	for name, v := range id.Claims {
		if isListed(name, id.Listed) && !strings.HasPrefix(name, "/") {
			kept[name] = v
		}
	}
	id.Trimmed = id.Trimmed || len(kept) < len(id.Claims)
	id.Claims = kept
	return id
}

// refused counts and journals a request that got no further, and returns err
// as an [*Error]. Nobody waits for the note.
func (b *Broker) refused(r Request, id Identity, d Decision, err error) error {
	e := asError(err, Internal, "something went wrong on our side")
	b.meter.Exchanged(id.Issuer, ReasonOf(e))
	note := about(EventRefused, b.now(), r.ID, id, d.Version)
	if e.Code == TokenReused {
		note.Event = EventReused
	}
	note.Reason, note.Reported = ReasonOf(e), d.Reported
	b.journal.Note(brief(note))
	return e
}

// brief is a record that somebody we owe nothing could cause many of: it says
// who, in few words, and nothing else that came with the token. Of rules it
// names a few, however many there are.
func brief(r Record) Record {
	r.Subject = ""
	r.DeniedBy, r.Reported = few(r.DeniedBy, briefRules), few(r.Reported, briefRules)
	if r.Job != nil {
		r.Job = &Job{
			Repository:   clip(r.Job.Repository, 100),
			RepositoryID: clip(r.Job.RepositoryID, 100),
			OwnerID:      clip(r.Job.OwnerID, 100),
		}
	}
	return r
}

// How many rules a record names: an intent that is too long is not written, and
// then rules that only report would bind.
const (
	recordRules = 64
	briefRules  = 8
)

func few(rules []Reported, most int) []Reported { return rules[:min(len(rules), most)] }

// denied journals policy's no. A caller whose pinned ids match a rule is
// somebody whose denials are each worth a record, up to a point; beyond it, and
// of strangers, they are counted.
func (b *Broker) denied(ctx context.Context, id Identity, r Request, d Decision) error {
	e := &Error{Code: Denied, Public: "policy does not give this job what it asks for"}
	rec := about(EventDenied, b.now(), r.ID, id, d.Version)
	rec.DeniedBy, rec.Reported = few(d.DeniedBy, recordRules), few(d.Reported, recordRules)
	if !d.Known {
		e.Reason, rec.Reason = "denied_stranger", "denied_stranger"
		b.meter.Exchanged(id.Issuer, e.Reason)
		b.journal.Note(brief(rec)) // without a stranger's words
		return e
	}
	e.Denials = d.Denials
	rec.Reason, rec.Grants, rec.Denials = ReasonOf(e), d.Denied, listedDenials(d.Denials, id.Listed)
	rec.Claims = listedOnly(id).Claims
	b.meter.Exchanged(id.Issuer, ReasonOf(e))
	b.tellSome(ctx, id, rec)
	return e
}

// listedDenials are denials without the values of claims that the journal must
// not hold.
func listedDenials(denials []Denial, listed []string) []Denial {
	kept := make([]Denial, len(denials))
	for i, d := range denials {
		kept[i] = d
		kept[i].Failed = slices.Clone(d.Failed)
		for j, m := range kept[i].Failed {
			if m.Saw != nil && !isListed(m.Claim, listed) {
				kept[i].Failed[j].Saw = redacted
			}
		}
	}
	return kept
}

// isListed reports whether a claim, or the one that a JSON Pointer begins
// with, is listed for the journal.
func isListed(claim string, listed []string) bool {
	if pointer, ok := strings.CutPrefix(claim, "/"); ok {
		claim, _, _ = strings.Cut(pointer, "/")
		claim, _ = unescapePointer(claim)
	}
	return slices.ContainsFunc(listed, func(name string) bool {
		prefix, open := strings.CutSuffix(name, "*")
		return claim == name || (open && strings.HasPrefix(claim, prefix))
	})
}

// failed counts a request that failed after its token was spent. What was done
// about it is in the journal already, or the journal is what failed.
//
// Where a token was spent the same request will not help, whatever the code
// says: the client needs a fresh token, or goes on with its job session.
func (b *Broker) failed(p *plan, err *Error) error {
	e := *err
	if !p.token.IsZero() {
		e.RetryAfter = 0
	}
	b.meter.Exchanged(p.id.Issuer, ReasonOf(&e))
	b.log.Error("exchange failed after the token was spent",
		"request", p.request.ID, "issuer", p.id.Issuer, "reason", ReasonOf(&e), "err", &e)
	return &e
}

// toldPerMinute is how many refusals and repetitions of one place are each worth
// a record.
const toldPerMinute = 60

// tellSome journals what a job can bring about as often as it likes with one
// token, and so could fill the disk with: beyond toldPerMinute it is counted.
func (b *Broker) tellSome(ctx context.Context, id Identity, r Record) {
	if b.told.take(id.Place(), TokenID{}, b.now()) > 0 {
		b.journal.Note(r)
		return
	}
	b.tell(ctx, r)
}

// tell journals what has happened already: if that fails, it has still
// happened, and the log says so. The journal writes it when it can: a session
// that was given back while a disk was full must not open again with the next
// start.
func (b *Broker) tell(ctx context.Context, r Record) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	if err := b.journal.Append(ctx, r); err != nil {
		b.log.Error("could not be journalled yet", "event", r.Event, "request", r.Request, "err", err)
		b.journal.Note(r)
	}
}
