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
)

// RedisConfig is what a [Redis] is made of.
type RedisConfig struct {
	URL      string              // redis://[user[:password]@]host[:port][/db]; rediss:// for TLS
	Password broker.SecretSource // read at every new connection; nil: the URL's, or none
	TLS      *tls.Config         // for rediss://; nil: the system's roots, TLS 1.2 or later
	Mode     string              // "standalone", also when empty; nothing else is served yet

	Deployment string // four letters or digits; see [broker.CheckDeployment]
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

// Redis remembers tokens in a Redis that several brokers share, behind an
// epoch fence: whatever may have made the server forget (a restart, a
// promotion, a flush, a restored backup, eviction, a clock that went back)
// makes every token issued before it stale. [Redis.Run] must run, or nothing
// is ever claimed. Safe for concurrent use.
type Redis struct {
	RedisConfig
	client *redis.Client
	prefix string

	claim, look, confirm *redis.Script

	probing sync.Mutex // held during a probe
	mu      sync.Mutex // guards state
	state   state
}

var _ broker.Replay = (*Redis)(nil)

// NewRedis makes a store. It contacts nothing.
func NewRedis(c RedisConfig) (*Redis, error) {
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	client, err := c.dial()
	if err != nil {
		return nil, err
	}
	return &Redis{
		RedisConfig: c, client: client, prefix: "dp:{" + c.Deployment + "}:",
		claim: redis.NewScript(claimScript), look: redis.NewScript(lookScript), confirm: redis.NewScript(confirmScript),
		state: state{err: errors.New("redis has not been looked at yet")},
	}, nil
}

func (c RedisConfig) check() error {
	err := broker.CheckDeployment(c.Deployment)
	switch c.Mode {
	case "", "standalone":
	case "sentinel":
		err = errors.Join(err, errors.New("redis: mode sentinel is not supported yet; name the master's address in url, and keep mode standalone"))
	default:
		err = errors.Join(err, fmt.Errorf("redis: mode %q is not known; the only one is standalone", c.Mode))
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

	a, err := r.run(ctx, conn, r.claim, []string{r.fenceKey(), r.markerKey(c.Token)}, s.newest,
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
		return broker.ErrTokenUsed
	case "stale":
		return stale(a.since, a.now)
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
func (r *Redis) run(ctx context.Context, conn *redis.Conn, script *redis.Script, keys []string, newest time.Time, args ...any) (answer, error) {
	var random [16]byte
	if _, err := io.ReadFull(r.Rand, random[:]); err != nil {
		return answer{}, fmt.Errorf("draw a nonce: %w", err)
	}
	nonce := hex.EncodeToString(random[:])
	var since int64
	if !newest.IsZero() {
		since = newest.UnixMilli()
	}
	reply, err := script.Run(ctx, conn, keys, append([]any{nonce, since}, args...)...).Result()
	if err != nil {
		return answer{}, fmt.Errorf("ask redis: %w", err)
	}
	return readAnswer(reply, nonce)
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
