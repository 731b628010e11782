package lease

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
)

// Open implements [broker.Leases].
func (r *Redis) Open(ctx context.Context, leases []broker.Lease, caps broker.Caps) error {
	o, err := checkOpening(leases, caps)
	if err != nil {
		return err
	}
	records := make([]string, len(leases))
	for i, l := range leases {
		if records[i], err = r.sealLease(l); err != nil {
			return err
		}
	}
	try := func(ctx context.Context) (string, error) {
		s, err := r.openSessionOf(ctx, o.session, leases...)
		if err != nil {
			return "", err
		}
		keys := []string{r.sessionKey(o.session), r.placeKey(o.place), r.ownerKey(o.session), r.allKey()}
		args := []any{s.raw, caps.LivePerPlace}
		for i, l := range leases {
			keys = append(keys, r.leaseKey(l.ID), r.dueKey(l.Grant.Target), r.grantKey(l.Grant.Name), r.ruleKey(l.Rule))
			args = append(args, string(l.ID), records[i], l.Due.UnixMilli(), l.Opened.UnixMilli(), l.Grant.MaxLive, caps.LivePerRule[l.Rule])
		}
		return r.run(ctx, r.scripts.open, keys, args...)
	}
	word, err := r.change(ctx, "open leases", try)
	if full(word) && r.healCaps(ctx, o) {
		word, err = r.change(ctx, "open leases", try)
	}
	if err != nil {
		return err
	}
	return o.outcome(word)
}

// openSessionOf returns a session that has not ended and does not refuse the
// leases given.
func (r *Redis) openSessionOf(ctx context.Context, id broker.SessionID, leases ...broker.Lease) (sealed[broker.Session], error) {
	s, err := r.readSession(ctx, id)
	if err == nil {
		err = refusal(s.value, leases...)
	}
	return s, err
}

const (
	placeFull = "place full"
	grantFull = "grant full " // and which lease would be too many
	ruleFull  = "rule full "  // likewise
)

func full(word string) bool {
	return word == placeFull || strings.HasPrefix(word, grantFull) || strings.HasPrefix(word, ruleFull)
}

// outcome reads the word of the opening script.
func (o opening) outcome(word string) error {
	if word == "done" {
		return nil
	}
	if word == placeFull {
		return broker.TooManyLive("this repository")
	}
	if which, ok := strings.CutPrefix(word, grantFull); ok {
		if l, there := o.lease(which); there {
			return broker.TooManyLive("grant " + l.Grant.Name)
		}
	}
	if which, ok := strings.CutPrefix(word, ruleFull); ok {
		if l, there := o.lease(which); there {
			return broker.TooManyLive("rule " + l.Rule)
		}
	}
	return fault(fmt.Errorf("open leases: %s", word))
}

// lease is the one that the opening script means by a number.
func (o opening) lease(which string) (broker.Lease, bool) {
	i, err := strconv.Atoi(which)
	if err != nil || i < 0 || i >= len(o.leases) {
		return broker.Lease{}, false
	}
	return o.leases[i], true
}

// healCaps frees the room of leases whose records were deleted by hand, and
// reports whether there were any.
func (r *Redis) healCaps(ctx context.Context, o opening) bool {
	indexes := []string{r.placeKey(o.place)}
	for name := range o.grants {
		indexes = append(indexes, r.grantKey(name))
	}
	for id := range o.rules {
		indexes = append(indexes, r.ruleKey(id))
	}
	freed := false
	for _, index := range indexes {
		freed = r.heal(ctx, index) > 0 || freed
	}
	return freed
}

// heal takes ids without a record out of an index: those given, or all of a
// set. What fails is tried at the next occasion.
func (r *Redis) heal(ctx context.Context, index string, lost ...broker.LeaseID) int {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	args := []any{r.leaseKey("")}
	for _, id := range lost {
		args = append(args, string(id))
	}
	n, err := r.scripts.heal.Run(ctx, r.client, []string{index}, args...).Int()
	if err == nil && n > 0 {
		r.Log.Warn("leases were deleted from redis by somebody else", "index", index, "count", n)
	}
	return n
}

// Activate implements [broker.Leases].
func (r *Redis) Activate(ctx context.Context, made []broker.Minted) error {
	if len(made) == 0 {
		return nil
	}
	word, err := r.change(ctx, "activate leases", func(ctx context.Context) (string, error) {
		return r.tryActivate(ctx, made)
	})
	if err == nil && word != "done" {
		err = fault(fmt.Errorf("activate leases: %s", word))
	}
	return err
}

func (r *Redis) tryActivate(ctx context.Context, made []broker.Minted) (string, error) {
	ids := make([]broker.LeaseID, len(made))
	for i, m := range made {
		ids[i] = m.ID
	}
	pending, err := r.readLeases(ctx, ids)
	if err != nil {
		return "", err
	}
	var session broker.SessionID
	var leases []broker.Lease
	var keys []string
	var args []any
	for i, m := range made {
		l := pending[i]
		if l.err != nil {
			return "", l.err
		}
		if l.raw == "" {
			return "", broker.ErrClosing
		}
		if session = l.value.Session; session != pending[0].value.Session {
			return "", fault(errors.New("activate: leases of several job sessions"))
		}
		active, err := activated(l.value, m)
		if err != nil {
			return "", err
		}
		record, err := r.sealLease(active)
		if err != nil {
			return "", err
		}
		keys = append(keys, r.leaseKey(m.ID), r.dueKey(active.Grant.Target))
		args = append(args, string(m.ID), l.raw, record, active.Due.UnixMilli())
		leases = append(leases, active)
	}
	s, err := r.openSessionOf(ctx, session, leases...)
	if errors.Is(err, broker.ErrNoSession) {
		return "", broker.ErrClosing
	}
	if err != nil {
		return "", err
	}
	return r.run(ctx, r.scripts.activate, append([]string{r.sessionKey(session)}, keys...), append([]any{s.raw}, args...)...)
}

// Postpone implements [broker.Leases].
func (r *Redis) Postpone(ctx context.Context, l broker.Lease) error {
	_, err := r.change(ctx, "postpone lease", func(ctx context.Context) (string, error) {
		kept, err := r.readLease(ctx, l.ID)
		if errors.Is(err, broker.ErrNoLease) {
			return "gone", nil
		}
		if err != nil {
			return "", err
		}
		later := postponed(kept.value, l)
		record, err := r.sealLease(later)
		if err != nil {
			return "", err
		}
		return r.run(ctx, r.scripts.replace, []string{r.leaseKey(l.ID), r.dueKey(later.Grant.Target)},
			string(l.ID), kept.raw, record, later.Due.UnixMilli())
	})
	return err
}

// Close implements [broker.Leases].
func (r *Redis) Close(ctx context.Context, id broker.LeaseID) error {
	_, err := r.change(ctx, "close lease", func(ctx context.Context) (string, error) {
		kept, err := r.readLease(ctx, id)
		if errors.Is(err, broker.ErrNoLease) {
			return "gone", nil
		}
		if err != nil {
			return "", err
		}
		l := kept.value
		return r.run(ctx, r.scripts.forget, []string{r.leaseKey(id), r.dueKey(l.Grant.Target), r.allKey(),
			r.placeKey(l.Place), r.ownerKey(l.Session), r.grantKey(l.Grant.Name), r.ruleKey(l.Rule), r.sessionKey(l.Session)}, string(id), kept.raw)
	})
	return err
}

// readLease reads one lease, or [broker.ErrNoLease].
func (r *Redis) readLease(ctx context.Context, id broker.LeaseID) (sealed[broker.Lease], error) {
	if len(id) > maxID {
		return sealed[broker.Lease]{}, broker.ErrNoLease
	}
	raw, err := r.client.Get(ctx, r.leaseKey(id)).Result()
	if errors.Is(err, redis.Nil) {
		return sealed[broker.Lease]{}, broker.ErrNoLease
	}
	if err != nil {
		return sealed[broker.Lease]{}, unreachable(err)
	}
	return r.openLease(id, raw)
}

// maxID is longer than any id of ours: longer ones come from strangers.
const maxID = 128

// found is what lies at a lease's key: nothing (raw is empty), a lease, or
// something that is refused.
type found struct {
	sealed[broker.Lease]
	id  broker.LeaseID
	err error
}

// readLeases reads several leases at once, in order.
func (r *Redis) readLeases(ctx context.Context, ids []broker.LeaseID) ([]found, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = r.leaseKey(id)
	}
	values, err := r.client.MGet(ctx, keys...).Result()
	if err == nil && len(values) != len(ids) {
		err = fmt.Errorf("redis gave %d records for %d keys", len(values), len(ids))
	}
	if err != nil {
		return nil, unreachable(err)
	}
	leases := make([]found, len(ids))
	for i, v := range values {
		leases[i].id = ids[i]
		if raw, ok := v.(string); ok && raw != "" {
			leases[i].sealed, leases[i].err = r.openLease(ids[i], raw)
		}
	}
	return leases, nil
}
