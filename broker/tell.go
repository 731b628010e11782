package broker

import (
	"context"
	"maps"
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
// the journal. A name that ends in * lists every claim that begins so.
func listedOnly(id Identity) Identity {
	kept := Claims{}
	for _, name := range id.Listed {
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			maps.Copy(kept, claimsWith(id.Claims, prefix))
		} else if v, ok := id.Claims[name]; ok {
			kept[name] = v
		}
	}
	id.Claims = kept
	return id
}

func claimsWith(c Claims, prefix string) Claims {
	found := Claims{}
	for name, v := range c {
		if strings.HasPrefix(name, prefix) {
			found[name] = v
		}
	}
	return found
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
	note.Reason = ReasonOf(e)
	b.journal.Note(note)
	return e
}

// denied journals policy's no. A caller whose pinned ids match a rule is
// somebody whose denials are each worth a record; strangers are counted.
func (b *Broker) denied(ctx context.Context, id Identity, r Request, d Decision) error {
	e := &Error{Code: Denied, Denials: d.Denials,
		Public: "policy does not give this job what it asks for"}
	if !d.Known {
		e.Reason = "denied_stranger"
	}
	b.meter.Exchanged(id.Issuer, ReasonOf(e))
	rec := about(EventDenied, b.now(), r.ID, id, d.Version)
	rec.Reason, rec.Grants, rec.Denials = ReasonOf(e), d.Denied, d.Denials
	if !d.Known {
		rec.Grants = nil // a stranger's words
		b.journal.Note(rec)
		return e
	}
	rec.Claims = listedOnly(id).Claims
	b.tell(ctx, rec)
	return e
}

// failed counts a request that failed after its token was spent. What was done
// about it is in the journal already, or the journal is what failed.
func (b *Broker) failed(p *plan, reason string, err error) error {
	e := asError(err, Internal, "something went wrong on our side")
	b.meter.Exchanged(p.id.Issuer, reason)
	b.log.Error("exchange failed after the token was spent",
		"request", p.request.ID, "issuer", p.id.Issuer, "reason", reason, "err", e)
	return e
}

// tell journals what has happened already: if that fails, it has still
// happened, and the log says so.
func (b *Broker) tell(ctx context.Context, r Record) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	if err := b.journal.Append(ctx, r); err != nil {
		b.log.Error("could not be journalled", "event", r.Event, "request", r.Request, "err", err)
	}
}
