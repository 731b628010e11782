package mysql

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// What the external tests need to see.
var (
	QuoteName     = quoteName
	QuoteDatabase = quoteDatabase
	QuoteText     = quoteText
	LockName      = lockName
	NativeHash    = nativeHash
	SHA2Digest    = sha2Digest
)

const MintConnections = mintConnections

// ServerOf connects with an admin URL and says what sort of server it is.
func ServerOf(ctx context.Context, url string) (string, int, error) {
	c, err := dial(ctx, broker.NewSecret(url))
	if err != nil {
		return "", 0, err
	}
	defer c.Close()
	return c.server.String(), c.server.version, nil
}

// LookAgainAfter sets how long a kept account is left alone.
func LookAgainAfter(m broker.Minter, d time.Duration) { m.(*minter).lookAgain = d }

// MintSteps does the first n steps of a mint, all of them if n is negative, as
// one that breaks off there, and says how many there are.
func MintSteps(ctx context.Context, m broker.Minter, o broker.Order, n int, between func(step int)) (int, error) {
	min := m.(*minter)
	h, p, err := min.plan(o)
	if err != nil {
		return 0, err
	}
	total := 0
	err = min.minting.With(ctx, func(c *conn) error {
		if _, err := c.settle(ctx); err != nil {
			return err
		}
		u := newUser{handle: h, notAfter: o.NotAfter, params: p, note: newNote(o), server: c.server, home: c.home()}
		if u.identified, err = identified(c.server.auth(), broker.NewSecret("abcdefghijklmnopqrstuvwxyz234567"), min.random); err != nil {
			return err
		}
		list := u.statements()
		total = len(list)
		for i, statement := range list {
			if i == n {
				break
			}
			if err := c.exec(ctx, statement); err != nil {
				return err
			}
			between(i)
		}
		return nil
	})
	return total, err
}

// Statements are what a mint runs for an order, given the schema.
func Statements(o broker.Order, h broker.Handle, schema string, mariadb bool) ([]string, error) {
	p, err := parseParams(o.Grant.Params)
	if err != nil {
		return nil, err
	}
	u := newUser{handle: h, notAfter: o.NotAfter, params: p, note: newNote(o), server: server{mariadb: mariadb, version: 101100, tls: true}, home: quoteName(schema)}
	password, err := newPassword(rand.Reader)
	if err == nil {
		u.identified, err = identified(u.server.auth(), password, rand.Reader)
	}
	return u.statements(), err
}

// RevokeSteps does the first n steps of a revocation, and says how many there
// are.
func RevokeSteps(ctx context.Context, m broker.Minter, l broker.Lease, n int) (int, error) {
	min := m.(*minter)
	total := 0
	err := min.revoking.With(ctx, func(c *conn) error {
		r := min.revocation(c, l.Handle, l)
		r.settled = true
		if err := r.find(ctx); err != nil {
			return err
		}
		steps := r.steps()
		total = len(steps)
		for _, s := range steps[:n] {
			if err := s.do(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return total, err
}
