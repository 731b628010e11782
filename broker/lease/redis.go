package lease

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/internal/redisconn"
)

// RedisConfig is what a [Redis] is made of.
type RedisConfig struct {
	URL      string              // redis://[user[:password]@]host[:port][/db]; rediss:// for TLS. With Sentinel it names no host, and may be empty
	Password broker.SecretSource // read at every new connection; nil: the URL's, or none
	TLS      *tls.Config         // for rediss://; nil: the system's roots, TLS 1.2 or later
	Mode     string              // "standalone", also when empty, or "sentinel"
	Sentinel SentinelConfig      // for mode sentinel

	Deployment string   // four letters or digits; see [broker.CheckDeployment]
	Key        [32]byte // authenticates the records; the same for all brokers of a deployment

	Timeout time.Duration // for one call; default 2 s
	Now     func() time.Time
	Log     *slog.Logger
}

// SentinelConfig says who knows which Redis is the master.
type SentinelConfig = redisconn.SentinelConfig

// way is how the server is reached.
func (c RedisConfig) way() redisconn.Config {
	return redisconn.Config{URL: c.URL, Password: c.Password, TLS: c.TLS, Mode: c.Mode, Sentinel: c.Sentinel, Timeout: c.Timeout}
}

// Redis keeps leases and job sessions in a Redis that several brokers share.
// Changes are scripts that hold the exact bytes of what they were decided on
// against what lies there, so none is made on a stale view. Safe for
// concurrent use.
type Redis struct {
	RedisConfig
	client   *redis.Client
	prefix   string
	sealer   sealer
	scripts  scripts
	refusals redisconn.Refusals
}

var (
	_ broker.Leases    = (*Redis)(nil)
	_ broker.LeaseBook = (*Redis)(nil)
	_ broker.Sessions  = (*Redis)(nil)
	_ broker.Alarms    = (*Redis)(nil)
)

// NewRedis makes a store. It contacts nothing.
func NewRedis(c RedisConfig) (*Redis, error) {
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	client, err := c.way().Dial()
	if err != nil {
		return nil, err
	}
	r := &Redis{RedisConfig: c, client: client, prefix: "dp:{" + c.Deployment + "}:", sealer: sealer{redisconn.Key(c.Key)}, scripts: newScripts()}
	r.Key = [32]byte{} // the sealer has it
	return r, nil
}

func (c RedisConfig) check() error {
	err := errors.Join(broker.CheckDeployment(c.Deployment), c.way().CheckMode())
	if c.Key == [32]byte{} {
		err = errors.Join(err, errors.New("redis: the key that authenticates records is missing"))
	}
	if c.Timeout < 0 {
		err = errors.Join(err, errors.New("redis: the timeout must not be negative"))
	}
	if c.Now == nil || c.Log == nil {
		err = errors.Join(err, errors.New("redis: Now or Log is missing"))
	}
	return err
}

// Disconnect closes the connections. ([Redis.Close] closes a lease.)
func (r *Redis) Disconnect() error { return r.client.Close() }

// Forged is how many times a record was refused since the start.
func (r *Redis) Forged() int64 { return r.refusals.Count() }

// Ready says why leases and sessions cannot be served now, or nil. It also
// finds out whether the brokers that share this Redis have the same key.
func (r *Redis) Ready(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	key := r.prefix + "seal"
	ours, err := r.sealer.seal(kindSeal, key, time.Time{}, struct{}{})
	if err != nil {
		return err
	}
	found, err := r.client.Get(ctx, key).Result()
	if errors.Is(err, redis.Nil) {
		// Two brokers that start together race for it, and then hold theirs
		// against the other's at the next call.
		err = r.client.SetArgs(ctx, key, ours, redis.SetArgs{Mode: "NX"}).Err()
		if errors.Is(err, redis.Nil) {
			err = nil
		}
		return unreachable(err)
	}
	if err != nil {
		return unreachable(err)
	}
	if found != ours {
		return fmt.Errorf("the records in redis are authenticated with another key; give all brokers of deployment %q the same keys, or, if the keys were replaced, delete %q there", r.Deployment, key)
	}
	return nil
}

func (r *Redis) leaseKey(id broker.LeaseID) string     { return r.prefix + "lease:" + string(id) }
func (r *Redis) sessionKey(id broker.SessionID) string { return r.prefix + "session:" + string(id) }

// The indexes hold lease ids. They are not authenticated: what they lead to is.
// A lease that is missing in one is missing everywhere the sweeper looks, and
// so is found in its target by name.
func (r *Redis) ownerKey(id broker.SessionID) string { return r.prefix + "of:" + string(id) }
func (r *Redis) grantKey(name string) string         { return r.prefix + "grant:" + name }
func (r *Redis) ruleKey(id string) string            { return r.prefix + "rule:" + id }
func (r *Redis) dueKey(target string) string         { return r.prefix + "due:" + target } // by Due, or until when a sweeper has it
func (r *Redis) allKey() string                      { return r.prefix + "leases" }        // by Opened

// placeKey hides the place, which may be text that outsiders chose.
func (r *Redis) placeKey(place string) string {
	sum := sha256.Sum256([]byte(place))
	return r.prefix + "place:" + hex.EncodeToString(sum[:16])
}

// unreachable is the answer to every error of the server or the way to it.
func unreachable(err error) error {
	if err == nil {
		return nil
	}
	return &broker.Error{Code: broker.Unavailable, Reason: "lease_store", RetryAfter: 5 * time.Second, Err: err,
		Public: "the store of leases and sessions does not answer"}
}
