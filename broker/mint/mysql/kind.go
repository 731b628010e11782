package mysql

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// KindName is the kind's name in the configuration.
const KindName = "mysql"

// Kind describes users of MySQL and of MariaDB. Its targets' admin secret is a
// mysql:// URL; the schema it names is ours.
func Kind() broker.Kind {
	return broker.Kind{Name: KindName, Targeted: true, Takeback: broker.TakebackNow, Revokers: revokers, CheckGrant: checkGrant, Open: open}
}

func checkGrant(g broker.Grant) error {
	_, err := parseParams(g.Params)
	return err
}

// How many connections a target gets: at most so many to mint, and those that
// are kept for taking back, which minting cannot use up.
const (
	mintConnections   = 4
	revokers          = 3            // revocations at once
	revokeConnections = revokers + 1 // and a listing
)

// minter makes and takes back the users of one server.
type minter struct {
	target     string
	deployment string
	random     io.Reader // a cryptographic source
	minting    *pool
	revoking   *pool
	sessionEnd time.Duration // how long ending sessions may take in one attempt
	lookAgain  time.Duration // how long a kept account is left alone
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
		return nil, errors.New("a mysql target needs an admin secret: a mysql:// URL")
	}
	if faults := broker.DecodeParams(c.Params, map[string]any{}); len(faults) > 0 { // a target has no settings of its own
		return nil, errors.Join(faults...)
	}
	return &minter{
		target: c.Name, deployment: c.Deployment, random: rand.Reader,
		minting:    newPool(c.Admin, mintConnections),
		revoking:   newPool(c.Admin, revokeConnections),
		sessionEnd: 10 * time.Second,
		lookAgain:  10 * time.Minute,
	}, nil
}

// Close ends all connections that are not in use. What is under way still ends
// as it will; what comes after is refused.
func (m *minter) Close() error {
	m.minting.Close()
	m.revoking.Close()
	return nil
}

// failed says which target an error is of.
func (m *minter) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("mysql target %q: %s: %w", m.target, doing, err)
}
