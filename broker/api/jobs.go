package api

import (
	"context"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// jobs serves what a CI job asks for.
type jobs struct {
	exchanger Exchanger
	holder    Holder
	buying    chan struct{} // one element for each request that is buying
}

func (j *jobs) exchange(c *call) (reply, error) {
	return j.buy(c, func(ctx context.Context, token broker.Secret, r broker.Request) (broker.Answer, error) {
		if r.Idempotency != "" {
			return broker.Answer{}, badRequest("Idempotency-Key is for requests on a job session; here recipient_key does that")
		}
		return j.exchanger.Exchange(ctx, token, r)
	})
}

func (j *jobs) more(c *call) (reply, error) {
	return j.buy(c, func(ctx context.Context, token broker.Secret, r broker.Request) (broker.Answer, error) {
		if r.Recipient != nil {
			return broker.Answer{}, badRequest("recipient_key is given when the session is opened, and holds for all its answers")
		}
		return j.exchanger.More(ctx, token, r)
	})
}

// buy is both ways to get credentials: they differ in what the token is.
func (j *jobs) buy(c *call, from func(context.Context, broker.Secret, broker.Request) (broker.Answer, error)) (reply, error) {
	body, err := j.body(c)
	if err != nil {
		return reply{}, err
	}
	r, err := decodeWants(body)
	if err != nil {
		return reply{}, err
	}
	if r.Idempotency, err = decodeIdempotency(c.http.Header); err != nil {
		return reply{}, err
	}
	r.ID = c.id
	leave, err := j.enter(c.ctx())
	if err != nil {
		return reply{}, err
	}
	defer leave()
	a, err := from(c.ctx(), c.bearer, r)
	c.issuer = a.Session.For.Issuer
	switch {
	case err != nil && a.Sealed != nil:
		sealed := showCiphertext(*a.Sealed)
		return reply{}, &sessionError{error: err, sealed: &sealed}
	case err != nil && !a.Token.IsZero():
		session := showSession(a)
		return reply{}, &sessionError{error: err, session: &session}
	case err != nil:
		return reply{}, err
	case a.DryRun != r.DryRun: // an answer to another question
		return reply{}, &broker.Error{Code: broker.Internal, Reason: "dry_run_mixed_up"}
	case a.DryRun:
		return replyJSON(showDryRun(c.id, a))
	case a.Sealed != nil:
		return replyJSON(showSealed(c.id, *a.Sealed))
	}
	return replyJSON(showAnswer(c.id, a))
}

func (j *jobs) extend(c *call) (reply, error) {
	body, err := j.body(c)
	if err != nil {
		return reply{}, err
	}
	token, err := decodeFreshToken(body)
	if err != nil {
		return reply{}, err
	}
	c.hide = append(c.hide, token)
	leave, err := j.enter(c.ctx())
	if err != nil {
		return reply{}, err
	}
	defer leave()
	s, err := j.exchanger.Extend(c.ctx(), c.bearer, token, c.id)
	c.issuer = s.For.Issuer
	if err != nil {
		return reply{}, err
	}
	return replyJSON(struct {
		RequestID string      `json:"request_id"`
		Session   sessionJSON `json:"session"`
	}{c.id, sessionJSON{Expires: showTime(s.Expires)}})
}

func (j *jobs) whoami(c *call) (reply, error) {
	if err := noQuery(c); err != nil {
		return reply{}, err
	}
	s, leases, err := j.holder.Whoami(c.ctx(), c.bearer)
	c.issuer = s.For.Issuer
	if err != nil {
		return reply{}, err
	}
	return replyJSON(showWhoami(c.id, s, leases))
}

func (j *jobs) giveBack(c *call) (reply, error) {
	if err := noQuery(c); err != nil {
		return reply{}, err
	}
	outcomes, err := j.holder.GiveBack(c.ctx(), c.bearer, c.id)
	if err != nil {
		return reply{}, err
	}
	return replyJSON(showOutcomes(c.id, outcomes...))
}

func (j *jobs) giveBackLease(c *call) (reply, error) {
	if err := noQuery(c); err != nil {
		return reply{}, err
	}
	id, err := leaseIDOf(c.param)
	if err != nil {
		return reply{}, err
	}
	outcome, err := j.holder.GiveBackLease(c.ctx(), c.bearer, id, c.id)
	c.issuer = outcome.Lease.Issuer
	if err != nil {
		return reply{}, err
	}
	return replyJSON(showOutcomes(c.id, outcome))
}

func (j *jobs) body(c *call) ([]byte, error) {
	if err := noQuery(c); err != nil {
		return nil, err
	}
	return readBody(c.writer, c.http)
}

// noQuery refuses what would otherwise be silently ignored: who sends
// ?dry_run=true does not want the token spent, and a token in a query is in
// some proxy's log already.
func noQuery(c *call) error {
	if c.http.URL.RawQuery != "" || c.http.URL.ForceQuery {
		return badRequest("this path takes no query parameters")
	}
	return nil
}

// patience is how long a request waits for room before it is sent away.
const patience = 2 * time.Second

// enter waits for room among those that are buying. The token has not been
// looked at by then, and is not consumed.
func (j *jobs) enter(ctx context.Context) (func(), error) {
	leave := func() { <-j.buying }
	select {
	case j.buying <- struct{}{}:
		return leave, nil
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case j.buying <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
	case <-timer.C:
	}
	return nil, &broker.Error{Code: broker.RateLimited, Reason: "busy",
		Public: "the broker has its hands full; the token was not used, try again shortly"}
}
