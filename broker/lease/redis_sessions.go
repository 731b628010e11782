package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
)

// keptAfter is how long Redis keeps a session beyond its expiry. Whether it is
// over is decided by our clock, not by that of Redis.
const keptAfter = time.Hour

func (r *Redis) mayForget(s broker.Session) time.Time {
	if now := r.Now(); s.Expires.Before(now) {
		return now.Add(keptAfter)
	}
	return s.Expires.Add(keptAfter)
}

// Start implements [broker.Sessions].
func (r *Redis) Start(ctx context.Context, s broker.Session) error {
	if s.ID == "" {
		return fault(errors.New("start: the job session has no id"))
	}
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	record, err := r.sealSession(s)
	if err != nil {
		return err
	}
	err = r.client.SetArgs(ctx, r.sessionKey(s.ID), record, redis.SetArgs{Mode: "NX", ExpireAt: r.mayForget(s)}).Err()
	if !errors.Is(err, redis.Nil) {
		return unreachable(err)
	}
	_, err = r.change(ctx, "start session", func(ctx context.Context) (string, error) { return r.tryStart(ctx, s) })
	return err
}

// tryStart starts a session that may have been told of an alarm.
func (r *Redis) tryStart(ctx context.Context, s broker.Session) (string, error) {
	kept, err := r.readSession(ctx, s.ID)
	if err != nil {
		return "", err
	}
	if s, err = started(s, kept.value); err != nil {
		return "", err
	}
	record, err := r.sealSession(s)
	if err != nil {
		return "", err
	}
	return r.run(ctx, r.scripts.extend, []string{r.sessionKey(s.ID)}, kept.raw, record, r.mayForget(s).UnixMilli())
}

// Session implements [broker.Sessions].
func (r *Redis) Session(ctx context.Context, id broker.SessionID) (broker.Session, error) {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	s, err := r.readSession(ctx, id)
	if err != nil {
		return broker.Session{}, err
	}
	return s.value, nil
}

// Extend implements [broker.Sessions].
func (r *Redis) Extend(ctx context.Context, id broker.SessionID, fresh broker.Identity, until time.Time) error {
	_, err := r.change(ctx, "extend session", func(ctx context.Context) (string, error) {
		s, err := r.openSessionOf(ctx, id)
		if err != nil {
			return "", err
		}
		later := extended(s.value, fresh, until)
		record, err := r.sealSession(later)
		if err != nil {
			return "", err
		}
		return r.run(ctx, r.scripts.extend, []string{r.sessionKey(id)}, s.raw, record, r.mayForget(later).UnixMilli())
	})
	return err
}

// Shut implements [broker.Sessions].
func (r *Redis) Shut(ctx context.Context, id broker.SessionID, at time.Time) error {
	_, err := r.change(ctx, "shut session", func(ctx context.Context) (string, error) {
		s, err := r.readSession(ctx, id)
		if err != nil {
			return "", err
		}
		return r.tryEnd(ctx, s, &broker.Session{}, ending{at: at})
	})
	return err
}

// Alarm implements [broker.Alarms].
func (r *Redis) Alarm(ctx context.Context, id broker.SessionID, until, at time.Time) (broker.Session, error) {
	var now broker.Session
	_, err := r.change(ctx, "tell session of an alarm", func(ctx context.Context) (string, error) {
		s, err := r.readSession(ctx, id)
		if errors.Is(err, broker.ErrNoSession) {
			now = told(id, until)
			if !r.Now().Before(until) { // nothing can start by it any more
				return "over", nil
			}
			return r.tryTell(ctx, now)
		}
		if err != nil {
			return "", err
		}
		return r.tryEnd(ctx, s, &now, ending{at: at, reused: true})
	})
	return now, err
}

// tryTell leaves an alarm for a session that is not there yet.
func (r *Redis) tryTell(ctx context.Context, s broker.Session) (string, error) {
	if s.ID == "" || len(s.ID) > maxID {
		return "", fault(errors.New("alarm: that is no id of a job session"))
	}
	record, err := r.sealSession(s)
	if err != nil {
		return "", err
	}
	err = r.client.SetArgs(ctx, r.sessionKey(s.ID), record, redis.SetArgs{Mode: "NX", ExpireAt: r.mayForget(s)}).Err()
	if errors.Is(err, redis.Nil) {
		return "changed", nil
	}
	return "done", unreachable(err)
}

// tryEnd ends a session as it was read, and says in after what it is then.
func (r *Redis) tryEnd(ctx context.Context, s sealed[broker.Session], after *broker.Session, e ending) (string, error) {
	id := s.value.ID
	ids, err := r.members(ctx, r.ownerKey(id), unsorted)
	if err != nil {
		return "", err
	}
	leases, err := r.readLeases(ctx, ids)
	if err != nil {
		return "", err
	}
	var own []broker.Lease
	keys, args := []string{r.sessionKey(id), r.ownerKey(id)}, []any{s.raw, ""}
	for _, l := range leases {
		due, record := l.value, ""
		ours := l.err == nil && l.value.Session == id // the index may have been tampered with
		if ours {
			own = append(own, l.value)
		}
		if sooner, changed := hastened(l.value, e.at); ours && changed && e.takes(l.value) {
			if record, err = r.sealLease(sooner); err != nil {
				return "", err
			}
			due = sooner
		}
		keys = append(keys, r.leaseKey(l.id), r.dueKey(l.value.Grant.Target))
		args = append(args, string(l.id), l.raw, record, due.Due.UnixMilli())
	}
	*after = e.of(s.value, own)
	if args[1], err = r.sealSession(*after); err != nil {
		return "", err
	}
	return r.run(ctx, r.scripts.shut, keys, args...)
}

// readSession reads a session that is kept: one that has not expired, or of
// which a lease is left. Else the error is [broker.ErrNoSession].
func (r *Redis) readSession(ctx context.Context, id broker.SessionID) (sealed[broker.Session], error) {
	none := sealed[broker.Session]{}
	if len(id) > maxID {
		return none, broker.ErrNoSession
	}
	raw, err := r.client.Get(ctx, r.sessionKey(id)).Result()
	if errors.Is(err, redis.Nil) {
		return none, broker.ErrNoSession
	}
	if err != nil {
		return none, unreachable(err)
	}
	s, err := r.openSession(id, raw)
	if err != nil || r.Now().Before(s.value.Expires) {
		return s, err
	}
	left, err := r.client.SCard(ctx, r.ownerKey(id)).Result()
	if err != nil {
		return none, unreachable(fmt.Errorf("count leases of a session: %w", err))
	}
	if left == 0 {
		return none, broker.ErrNoSession
	}
	return s, nil
}
