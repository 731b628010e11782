package postgres

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// KindName is the kind's name in the configuration.
const KindName = "postgres"

// Kind describes PostgreSQL users. Its targets' admin secret is a
// postgres:// URL.
func Kind() broker.Kind {
	return broker.Kind{
		Name: KindName, Targeted: true, Takeback: broker.TakebackNow, Revokers: revokers, CheckGrant: checkGrant, Open: open,
	}
}

func checkGrant(g broker.Grant) error {
	_, err := parseParams(g.Params, defaultIterations)
	return err
}

// How many connections a target gets: at most so many to mint, and those that
// are kept for taking back, which minting cannot use up. There is one more, the
// guard.
const (
	mintConnections    = 8 // where the target does not say
	maxMintConnections = 100
	revokers           = 3            // revocations at once: more would not be faster, and mints would feel them
	revokeConnections  = revokers + 1 // and a listing
)

// minter makes and takes back the users of one database server.
type minter struct {
	target     string
	deployment string
	random     io.Reader // a cryptographic source
	iterations int       // of SCRAM, where a grant does not say
	minting    *pool
	revoking   *pool
	guard      *guard
	late       lateSessions
	params     knownParams
	sessionEnd time.Duration // how long ending sessions may take in one attempt
}

var (
	_ broker.Minter  = (*minter)(nil)
	_ broker.Checker = (*minter)(nil)
)

func open(c broker.TargetConfig) (broker.Minter, error) {
	if err := broker.CheckDeployment(c.Deployment); err != nil {
		return nil, err
	}
	if c.Admin == nil {
		return nil, errors.New("a postgres target needs an admin secret: a postgres:// URL")
	}
	p, err := parseTarget(c.Params)
	if err != nil {
		return nil, err
	}
	g := &guard{admin: c.Admin}
	minting := newPool(c.Admin, p.connections, g.doubt)
	g.dial = minting.Dial
	return &minter{
		target: c.Name, deployment: c.Deployment, random: rand.Reader, iterations: p.iterations,
		minting:    minting,
		revoking:   newPool(c.Admin, revokeConnections, g.doubt),
		guard:      g,
		sessionEnd: 10 * time.Second,
	}, nil
}

// Close ends all connections. What is under way still ends as it will; what
// comes after is refused.
func (m *minter) Close() error {
	m.minting.Close()
	m.revoking.Close()
	m.guard.close()
	return nil
}

// failed says which target an error is of.
func (m *minter) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("postgres target %q: %s: %w", m.target, doing, err)
}
