package replay

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
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
	// Replicas must have acknowledged a claim before it counts. It must be at
	// least half of the nodes, rounded down, so that a master that was cut
	// off claims nothing.
	Replicas int
	// UnsafeNoPersistence accepts a server that forgets everything when it
	// restarts. The fence holds all the same; job sessions and leases do not.
	UnsafeNoPersistence bool

	Timeout time.Duration    // for one claim or probe; default 2 s
	Now     func() time.Time // must agree with the server's clock within 5 s
	Rand    io.Reader        // a cryptographic source, safe for concurrent use
	Log     *slog.Logger
}

// SentinelConfig says who knows which Redis is the master.
type SentinelConfig = redisconn.SentinelConfig

// way is how the server is reached.
func (c RedisConfig) way() redisconn.Config {
	return redisconn.Config{URL: c.URL, Password: c.Password, TLS: c.TLS, Mode: c.Mode, Sentinel: c.Sentinel, Timeout: c.Timeout}
}

// Redis remembers tokens in a Redis that several brokers share, behind an
// epoch fence: whatever may have made the server forget (a restart, a
// promotion, a flush, a restored backup, eviction, a clock that went back)
// makes every token issued before it stale. [Redis.Run] must run, or nothing
// is ever claimed. Safe for concurrent use.
type Redis struct {
	RedisConfig
	client *redis.Client
	prefix string

	scripts  scripts
	sealer   sealer
	refusals redisconn.Refusals

	probing sync.Mutex // held during a probe
	mu      sync.Mutex // guards state
	state   state
}

type scripts struct{ claim, look, draft, confirm, drop *redis.Script }

var (
	_ broker.Replay  = (*Redis)(nil)
	_ broker.Answers = (*Redis)(nil)
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
	r := &Redis{
		RedisConfig: c, client: client, prefix: "dp:{" + c.Deployment + "}:", sealer: sealer{redisconn.Key(c.Key)},
		scripts: scripts{
			claim: redis.NewScript(claimScript), look: redis.NewScript(lookScript), drop: redis.NewScript(dropScript),
			draft: redis.NewScript(draftScript), confirm: redis.NewScript(confirmScript),
		},
		state: state{err: errors.New("redis has not been looked at yet")},
	}
	r.Key = [32]byte{} // the sealer has it
	return r, nil
}

func (c RedisConfig) check() error {
	err := errors.Join(broker.CheckDeployment(c.Deployment), c.way().CheckMode())
	if c.Mode == redisconn.Sentinel && c.Replicas == 0 {
		err = errors.Join(err, errors.New("redis: mode sentinel needs replicas of at least 1: without an acknowledgement, a master that was cut off goes on claiming"))
	}
	if c.Key == [32]byte{} {
		err = errors.Join(err, errors.New("redis: the key that authenticates records is missing"))
	}
	if c.Replicas < 0 {
		err = errors.Join(err, errors.New("redis: replicas must not be negative"))
	}
	if c.Timeout < 0 {
		err = errors.Join(err, errors.New("redis: the timeout must not be negative"))
	}
	if c.Now == nil || c.Rand == nil || c.Log == nil {
		err = errors.Join(err, errors.New("redis: Now, Rand or Log is missing"))
	}
	return err
}

// Close closes the connections.
func (r *Redis) Close() error { return r.client.Close() }

// Claim implements [broker.Replay]. It waits at most Timeout.
func (r *Redis) Claim(ctx context.Context, c broker.Claim) error {
	if err := checkClaim(c); err != nil {
		return err
	}
	s := r.seen()
	if err := s.fault(r.Now()); err != nil {
		return unavailable(retryProbe, err)
	}
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	conn := r.client.Conn() // WAIT counts for the connection that wrote
	defer func() { _ = conn.Close() }()

	key := r.markerKey(c.Token)
	a, err := r.run(ctx, conn, r.scripts.claim, s, []string{r.fenceKey(), key},
		s.fence.raw, r.sealer.marker(key, broker.Used{Owner: c.Owner, Session: c.Session, At: s.clock(r.Now())}),
		c.IssuedAt.UnixMilli(), c.Until.UnixMilli(), maxAhead.Milliseconds(), slack.Milliseconds(), margin.Milliseconds())
	if err != nil {
		return unavailable(retryFault, err)
	}
	if err := r.sameTime(a.now); err != nil {
		return unavailable(retryFault, err)
	}
	switch a.verdict {
	case "claimed":
		if err := r.acknowledged(ctx, conn); err != nil {
			return unavailable(retryFault, err)
		}
		return nil
	case "used":
		first, err := r.sealer.openMarker(key, a.marker)
		if err != nil {
			return r.refused(key, err)
		}
		return used(first)
	case "stale":
		return stale(s.fence.since, a.now)
	case "ahead":
		return ahead(c.IssuedAt, a.now)
	case "unconfirmed":
		return unavailable(retryProbe, errors.New("the fence is not confirmed yet"))
	default:
		return unavailable(retryFault, fmt.Errorf("redis refused the claim: %s", a.verdict))
	}
}

const (
	retryProbe = time.Second     // by then a probe has confirmed the fence
	retryFault = 5 * time.Second // by then somebody may have noticed
)

func (r *Redis) fenceKey() string { return r.prefix + "fence" }

func (r *Redis) markerKey(t broker.TokenID) string {
	return r.prefix + "used:" + base64.RawURLEncoding.EncodeToString(t[:])
}

// run runs a script once. A server that does not know it yet has run nothing,
// so it is then sent in full; nothing else is tried a second time.
func (r *Redis) run(ctx context.Context, conn *redis.Conn, script *redis.Script, s state, keys []string, args ...any) (answer, error) {
	var random [16]byte
	if _, err := io.ReadFull(r.Rand, random[:]); err != nil {
		return answer{}, fmt.Errorf("draw a nonce: %w", err)
	}
	nonce := hex.EncodeToString(random[:])
	reply, err := script.Run(ctx, conn, keys, append([]any{nonce, millis(s.newest), millis(s.now)}, args...)...).Result()
	if err != nil {
		return answer{}, fmt.Errorf("ask redis: %w", err)
	}
	a, err := readAnswer(reply, nonce)
	a.nonce = nonce
	return a, err
}

// acknowledged waits until enough replicas have what this connection wrote.
func (r *Redis) acknowledged(ctx context.Context, conn *redis.Conn) error {
	if r.Replicas == 0 {
		return nil
	}
	end, _ := ctx.Deadline()          // ours, so the system's clock
	within := time.Until(end) * 3 / 4 // redis looks at this time-out ten times a second
	if within < time.Millisecond {
		return errors.New("no time is left for the replicas")
	}
	n, err := conn.Wait(ctx, r.Replicas, within).Result()
	if err != nil {
		return fmt.Errorf("wait for replicas: %w", err)
	}
	if n < int64(r.Replicas) {
		return fmt.Errorf("%d of %d replicas acknowledged", n, r.Replicas)
	}
	return nil
}

// sameTime holds the server's clock against ours.
func (r *Redis) sameTime(server time.Time) error {
	if d := server.Sub(r.Now()); d.Abs() > 5*time.Second {
		return fmt.Errorf("the clocks of redis and this broker differ by %s", d.Abs().Round(time.Second))
	}
	return nil
}
