// Package redisconn is what the stores in Redis share: the way to the server, how
// records are authenticated, and how it is told that some are refused.
//
// It guarantees that both reach the same server in the same way, that a command
// is sent once (one that timed out may have landed), and that errors repeat
// nothing of a URL, which may hold a password.
//
// It refuses modes other than standalone and sentinel, settings of one mode in the
// other, and TLS settings for a URL without TLS.
package redisconn

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/daypass-dev/daypass/broker"
)

// The modes that are served. An empty one is standalone.
const (
	Standalone = "standalone"
	Sentinel   = "sentinel"
)

// Config says where a Redis is and how to get there.
type Config struct {
	URL      string              // redis://[user[:password]@]host[:port][/db]; rediss:// for TLS. With Sentinel it names no host, and may be empty
	Password broker.SecretSource // read at every new connection; nil: the URL's, or none
	TLS      *tls.Config         // for rediss://; nil: the system's roots, TLS 1.2 or later
	Mode     string
	Sentinel SentinelConfig
	Timeout  time.Duration // for one command, and for connecting
}

// SentinelConfig says who knows which Redis is the master.
type SentinelConfig struct {
	Master    string   // the name that the Sentinels know it by
	Sentinels []string // host:port
	// Password of the Sentinels, read once, when the store is made; nil:
	// none. The master's own is the one beside the URL.
	Password broker.SecretSource
}

// CheckMode refuses a mode that is not served, and settings of another mode.
func (c Config) CheckMode() error {
	s := c.Sentinel
	switch c.Mode {
	case "", Standalone:
		if s.Master != "" || len(s.Sentinels) > 0 || s.Password != nil {
			return errors.New("redis: master, sentinels and their password are for mode sentinel")
		}
		return nil
	case Sentinel:
	case "cluster":
		return errors.New("redis: mode cluster is not supported: use a standalone server, or sentinel")
	default:
		return fmt.Errorf("redis: mode %q is not known; there are standalone and sentinel", c.Mode)
	}
	var err error
	if s.Master == "" {
		err = errors.New("redis: mode sentinel needs master, the name that the Sentinels know it by")
	}
	if len(s.Sentinels) == 0 {
		err = errors.Join(err, errors.New("redis: mode sentinel needs sentinels, a list of host:port"))
	}
	for _, addr := range s.Sentinels {
		if host, port, bad := net.SplitHostPort(addr); bad != nil || host == "" || port == "" {
			err = errors.Join(err, fmt.Errorf("redis: sentinel %q is not host:port", addr))
		}
	}
	return err
}

// address is where a Redis is, as its URL says.
type address struct {
	host, user string // host is empty with Sentinel
	password   broker.Secret
	db         int
	tls        bool
}

// address reads redis://[user[:password]@]host[:port][/db], or rediss:// for
// TLS. With Sentinel the URL names no host, and may be missing. Errors repeat
// nothing of the URL, which may hold a password.
func (c Config) address() (address, error) {
	var a address
	if c.URL == "" && c.Mode == Sentinel {
		return a, nil
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return a, errors.New("redis url: it is not a URL")
	}
	switch u.Scheme {
	case "redis":
	case "rediss":
		a.tls = true
	default:
		return a, errors.New("redis url: it must begin with redis:// or rediss://")
	}
	switch {
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return a, errors.New("redis url: want redis://[user@]host[:port][/db] and nothing else")
	case c.Mode == Sentinel && u.Host != "":
		return a, errors.New("redis url: in mode sentinel the Sentinels say where the master is, so it must name no host: redis:///0, or rediss://user@/0")
	case c.Mode != Sentinel && u.Hostname() == "":
		return a, errors.New("redis url: it names no host")
	case c.Mode != Sentinel:
		a.host = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6379"))
	}
	if db := strings.TrimPrefix(u.Path, "/"); db != "" {
		if a.db, err = strconv.Atoi(db); err != nil || a.db < 0 {
			return a, errors.New("redis url: the database after the host must be a number")
		}
	}
	if u.User != nil {
		p, _ := u.User.Password()
		a.user, a.password = u.User.Username(), broker.NewSecret(p)
	}
	return a, nil
}

// Dial makes a client that retries nothing: a command that timed out may have
// landed. It contacts nothing yet.
func (c Config) Dial() (*redis.Client, error) {
	a, err := c.address()
	if err != nil {
		return nil, err
	}
	if c.Password != nil && !a.password.IsZero() {
		return nil, errors.New("redis: the password is given twice, in the URL and beside it")
	}
	secure, err := c.secure(a)
	if err != nil {
		return nil, err
	}
	// The library logs as it likes, to standard error; what it has to say
	// reaches us as errors. The setting is its only one, for the process.
	redis.SetLogger(&logging.VoidLogger{})
	if c.Mode == Sentinel {
		return c.dialSentinel(a, secure)
	}
	return redis.NewClient(&redis.Options{
		Addr: a.host, DB: a.db, Protocol: 2, TLSConfig: secure,
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		DialTimeout: c.Timeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, PoolTimeout: c.Timeout,
		ContextTimeoutEnabled:      true,
		ConnMaxIdleTime:            5 * time.Minute,
		MaintNotificationsConfig:   &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		CredentialsProviderContext: c.credentials(a),
	}), nil
}

// secure is nil without TLS. With Sentinel it is for the Sentinels too.
func (c Config) secure(a address) (*tls.Config, error) {
	if !a.tls {
		if c.TLS != nil {
			return nil, errors.New("redis: TLS settings are given, but the URL does not begin with rediss://")
		}
		return nil, nil
	}
	o := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS != nil {
		o = c.TLS.Clone()
	}
	if o.ServerName == "" && a.host != "" {
		o.ServerName, _, _ = net.SplitHostPort(a.host)
	}
	return o, nil
}

// credentials are read at every new connection, so that they can be rotated.
func (c Config) credentials(a address) func(context.Context) (string, string, error) {
	return func(ctx context.Context) (string, string, error) {
		if c.Password == nil {
			return a.user, a.password.Reveal(), nil
		}
		v, err := c.Password.Read(ctx)
		if err != nil {
			return "", "", fmt.Errorf("read the redis password: %w", err)
		}
		return a.user, v.Current.Reveal(), nil
	}
}

// followEvery bounds how long a connection is used with Sentinel. Each new one
// asks the Sentinels who is master, and closes those that lead elsewhere: so a
// master is left that nobody told us to leave.
const followEvery = 3 * time.Second

func (c Config) dialSentinel(a address, secure *tls.Config) (*redis.Client, error) {
	password, err := c.sentinelPassword()
	if err != nil {
		return nil, err
	}
	return redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: c.Sentinel.Master, SentinelAddrs: c.Sentinel.Sentinels, SentinelPassword: password.Reveal(),
		DB: a.db, Protocol: 2, TLSConfig: secure,
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		DialTimeout: c.Timeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, PoolTimeout: c.Timeout,
		ContextTimeoutEnabled:      true,
		ConnMaxIdleTime:            5 * time.Minute,
		ConnMaxLifetime:            followEvery,
		CredentialsProviderContext: c.credentials(a),
	}), nil
}

func (c Config) sentinelPassword() (broker.Secret, error) {
	if c.Sentinel.Password == nil {
		return broker.Secret{}, nil
	}
	ctx, done := context.WithTimeout(context.Background(), c.Timeout)
	defer done()
	v, err := c.Sentinel.Password.Read(ctx)
	if err != nil {
		return broker.Secret{}, fmt.Errorf("redis: read the password of the sentinels: %w", err)
	}
	return v.Current, nil
}

// DialSentinel makes a client for one of the Sentinels, which waits at most
// within for it. It contacts nothing yet.
func (c Config) DialSentinel(addr string, within time.Duration) (*redis.SentinelClient, error) {
	a, err := c.address()
	if err != nil {
		return nil, err
	}
	secure, err := c.secure(a)
	if err != nil {
		return nil, err
	}
	password, err := c.sentinelPassword()
	if err != nil {
		return nil, err
	}
	return redis.NewSentinelClient(&redis.Options{
		Addr: addr, Password: password.Reveal(), TLSConfig: secure, Protocol: 2,
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true, ContextTimeoutEnabled: true,
		DialTimeout: within, ReadTimeout: within, WriteTimeout: within,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}), nil
}
