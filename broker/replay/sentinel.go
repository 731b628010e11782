package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// askSentinelEvery is how often the Sentinels are asked how many nodes they
// know of.
const askSentinelEvery = 30 * time.Second

// askSentinels returns how many nodes belong to the master, itself and those
// that are away included. The largest number counts that a Sentinel tells.
func (r *Redis) askSentinels(ctx context.Context) (int, error) {
	most := 0
	var faults []error
	for _, addr := range r.Sentinel.Sentinels {
		n, err := r.askSentinel(ctx, addr)
		if err != nil {
			faults = append(faults, fmt.Errorf("ask the sentinel at %s: %w", addr, err))
		}
		most = max(most, n)
	}
	if most == 0 {
		return 0, errors.Join(faults...)
	}
	return most, nil
}

func (r *Redis) askSentinel(ctx context.Context, addr string) (int, error) {
	within := r.Timeout / time.Duration(2*len(r.Sentinel.Sentinels)) // some may be away, and the probe has to go on
	c, err := r.way().DialSentinel(addr, within)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	master, err := c.Master(ctx, r.Sentinel.Master).Result()
	if err != nil {
		return 0, err
	}
	replicas, err := strconv.Atoi(master["num-slaves"])
	if err != nil || replicas < 0 {
		return 0, errors.New("it does not say how many replicas there are")
	}
	return 1 + replicas, nil
}
