package replay

import (
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

// address is where a Redis is, as its URL says.
type address struct {
	host, user string
	password   broker.Secret
	db         int
	tls        bool
}

// parseURL reads redis://[user[:password]@]host[:port][/db], or rediss:// for
// TLS. Its errors repeat nothing of the URL, which may hold a password.
func parseURL(raw string) (address, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return address{}, errors.New("redis url: it is not a URL")
	}
	var a address
	switch u.Scheme {
	case "redis":
	case "rediss":
		a.tls = true
	default:
		return address{}, errors.New("redis url: it must begin with redis:// or rediss://")
	}
	if u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return address{}, errors.New("redis url: want redis://[user@]host[:port][/db] and nothing else")
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	a.host = net.JoinHostPort(u.Hostname(), port)
	if db := strings.TrimPrefix(u.Path, "/"); db != "" {
		if a.db, err = strconv.Atoi(db); err != nil || a.db < 0 {
			return address{}, errors.New("redis url: the database after the host must be a number")
		}
	}
	if u.User != nil {
		p, _ := u.User.Password()
		a.user, a.password = u.User.Username(), broker.NewSecret(p)
	}
	return a, nil
}

// dial makes a client that retries nothing: a command that timed out may have
// landed. It contacts nothing yet.
func (c RedisConfig) dial() (*redis.Client, error) {
	a, err := parseURL(c.URL)
	if err != nil {
		return nil, err
	}
	if c.Password != nil && !a.password.IsZero() {
		return nil, errors.New("redis: the password is given twice, in the URL and beside it")
	}
	o := &redis.Options{
		Addr: a.host, DB: a.db, Protocol: 2,
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		DialTimeout: c.Timeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, PoolTimeout: c.Timeout,
		ContextTimeoutEnabled:    true,
		ConnMaxIdleTime:          5 * time.Minute,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		CredentialsProviderContext: func(ctx context.Context) (string, string, error) {
			if c.Password == nil {
				return a.user, a.password.Reveal(), nil
			}
			v, err := c.Password.Read(ctx) // at every new connection, so that it can be rotated
			if err != nil {
				return "", "", fmt.Errorf("read the redis password: %w", err)
			}
			return a.user, v.Current.Reveal(), nil
		},
	}
	if a.tls {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.TLS != nil {
			o.TLSConfig = c.TLS.Clone()
		}
		if o.TLSConfig.ServerName == "" {
			o.TLSConfig.ServerName, _, _ = net.SplitHostPort(a.host)
		}
	} else if c.TLS != nil {
		return nil, errors.New("redis: TLS settings are given, but the URL does not begin with rediss://")
	}
	// The library logs as it likes, to standard error; what it has to say
	// reaches us as errors. The setting is its only one, for the process.
	redis.SetLogger(&logging.VoidLogger{})
	return redis.NewClient(o), nil
}
