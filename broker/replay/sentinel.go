package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
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
	a, err := r.address()
	if err != nil {
		return 0, err
	}
	secure, err := r.secure(a)
	if err != nil {
		return 0, err
	}
	password, err := r.sentinelPassword()
	if err != nil {
		return 0, err
	}
	within := r.Timeout / time.Duration(2*len(r.Sentinel.Sentinels)) // some may be away, and the probe has to go on
	c := redis.NewSentinelClient(&redis.Options{
		Addr: addr, Password: password.Reveal(), TLSConfig: secure, Protocol: 2,
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true, ContextTimeoutEnabled: true,
		DialTimeout: within, ReadTimeout: within, WriteTimeout: within,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
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
