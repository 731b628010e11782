package lease

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
)

// Lease implements [broker.LeaseBook].
func (r *Redis) Lease(ctx context.Context, id broker.LeaseID) (broker.Lease, error) {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	l, err := r.readLease(ctx, id)
	if err != nil {
		return broker.Lease{}, err
	}
	return l.value, nil
}

// index returns the smallest index that holds all leases of a filter.
func (r *Redis) index(f broker.LeaseFilter) (key string, sorted sortedness) {
	switch {
	case f.Session != "":
		return r.ownerKey(f.Session), unsorted
	case f.Place != "":
		return r.placeKey(f.Place), unsorted
	case f.Rule != "":
		return r.ruleKey(f.Rule), unsorted
	case f.Grant != "":
		return r.grantKey(f.Grant), unsorted
	case f.Target != "":
		return r.dueKey(f.Target), byScore
	default:
		return r.allKey(), byScore
	}
}

// sortedness is the sort of set that an index is.
type sortedness string

const (
	unsorted sortedness = "set"
	byScore  sortedness = "zset"
)

// batch is how many records are read at once: Redis serves nobody else
// meanwhile.
const batch = 500

// List implements [broker.LeaseBook]. Records that are refused are left out.
func (r *Redis) List(ctx context.Context, f broker.LeaseFilter) ([]broker.Lease, error) {
	index, sorted := r.index(f)
	ids, err := r.members(ctx, index, sorted)
	if err != nil {
		return nil, err
	}
	var picked []broker.Lease
	for some := range slices.Chunk(ids, batch) {
		leases, err := r.listSome(ctx, index, some)
		if err != nil {
			return nil, err
		}
		for _, l := range leases {
			if picks(f, l) {
				picked = append(picked, l)
			}
		}
	}
	return oldestFirst(picked), nil
}

func (r *Redis) listSome(ctx context.Context, index string, ids []broker.LeaseID) ([]broker.Lease, error) {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	records, err := r.readLeases(ctx, ids)
	if err != nil {
		return nil, err
	}
	var leases []broker.Lease
	var lost []broker.LeaseID
	for _, l := range records {
		switch {
		case l.err != nil: // counted and logged already
		case l.raw == "":
			lost = append(lost, l.id)
		default:
			leases = append(leases, l.value)
		}
	}
	if len(lost) > 0 { // closed since we read the index, or deleted by hand
		r.heal(ctx, index, lost...)
	}
	return leases, nil
}

func (r *Redis) members(ctx context.Context, index string, sorted sortedness) ([]broker.LeaseID, error) {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	var names []string
	var err error
	if sorted == byScore {
		names, err = r.client.ZRange(ctx, index, 0, -1).Result()
	} else {
		names, err = r.client.SMembers(ctx, index).Result()
	}
	if err != nil {
		return nil, unreachable(err)
	}
	return leaseIDs(names), nil
}

func leaseIDs(names []string) []broker.LeaseID {
	ids := make([]broker.LeaseID, len(names))
	for i, n := range names {
		ids[i] = broker.LeaseID(n)
	}
	return ids
}

// Live implements [broker.LeaseBook]. What one index holds is counted by the
// index, all of it in one round trip.
func (r *Redis) Live(ctx context.Context, filters ...broker.LeaseFilter) ([]int, error) {
	counts := make([]int, len(filters))
	var keys []string
	var places []int // of each key in counts
	for i, f := range filters {
		only := []broker.LeaseFilter{{}, {Session: f.Session}, {Place: f.Place}, {Grant: f.Grant}, {Rule: f.Rule}, {Target: f.Target}}
		if slices.Contains(only, f) {
			index, _ := r.index(f)
			keys, places = append(keys, index), append(places, i)
			continue
		}
		leases, err := r.List(ctx, f)
		if err != nil {
			return nil, err
		}
		counts[i] = len(leases)
	}
	found, err := r.count(ctx, keys)
	if err != nil {
		return nil, err
	}
	for i, n := range found {
		counts[places[i]] = int(n)
	}
	return counts, nil
}

// count returns how many members each index has.
func (r *Redis) count(ctx context.Context, keys []string) ([]int64, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	n, err := r.scripts.count.Run(ctx, r.client, keys).Int64Slice()
	if err == nil && len(n) != len(keys) {
		err = fmt.Errorf("redis gave %d counts for %d indexes", len(n), len(keys))
	}
	return n, unreachable(err)
}

const (
	// takenFor is how long a lease that was handed out is not handed out
	// again: less than a sweep's interval.
	takenFor = 4 * time.Second
	// refusedFor is how long a record that is refused is left alone.
	refusedFor = 5 * time.Minute
)

// Due implements [broker.LeaseBook]. What it returns it does not return again
// for four seconds, to whichever broker.
func (r *Redis) Due(ctx context.Context, target string, at time.Time, limit int) ([]broker.Lease, error) {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	var due []broker.Lease
	for len(due) < limit {
		want := min(limit-len(due), batch)
		names, err := r.scripts.take.Run(ctx, r.client, []string{r.dueKey(target)},
			at.UnixMilli(), want, at.Add(takenFor).UnixMilli()).StringSlice()
		if err != nil {
			return nil, unreachable(err)
		}
		records, err := r.readLeases(ctx, leaseIDs(names))
		if err != nil {
			return nil, err
		}
		for _, l := range records {
			if r.isDue(ctx, l, target, at) {
				due = append(due, l.value)
			}
		}
		if len(names) < want {
			break
		}
	}
	return mostOverdueFirst(due), nil
}

// isDue holds what an index said of a lease against its record, and puts the
// index right where it was wrong. What fails is tried at the next sweep.
func (r *Redis) isDue(ctx context.Context, l found, target string, at time.Time) bool {
	here := r.dueKey(target)
	switch {
	case l.err != nil:
		_ = r.client.ZAddXX(ctx, here, redis.Z{Score: float64(at.Add(refusedFor).UnixMilli()), Member: string(l.id)}).Err()
		return false
	case l.raw == "":
		r.heal(ctx, here, l.id)
		return false
	case l.value.Grant.Target == target && !l.value.Due.After(at):
		return true
	}
	_ = r.scripts.reindex.Run(ctx, r.client, []string{r.leaseKey(l.id), here, r.dueKey(l.value.Grant.Target)},
		string(l.id), l.raw, l.value.Due.UnixMilli()).Err()
	return false
}
