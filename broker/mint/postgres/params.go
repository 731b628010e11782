package postgres

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/daypass-dev/daypass/broker"
)

// params are what a grant says.
type params struct {
	Roles           []string // group roles the user is made a member of
	Owner           string   // the one that sessions start as
	Database        string   // empty: the admin URL's
	ScramIterations int
	ConnectionLimit int // 0: none
	Probe           bool
	Endpoint        endpoint
	OnOwned         onOwned
	Statements      statements
}

// onOwned says what becomes of what a user owns when it is taken back.
type onOwned struct {
	Way string
	To  string // whom reassign gives plain tables and sequences to; empty: the grant's owner
}

// What becomes of it.
const (
	keepOwned     = "keep"     // it stays with the user, who is left behind disabled
	reassignOwned = "reassign" // plain tables and sequences go to a role, the rest is kept
	dropOwned     = "drop"     // it is dropped
)

// UnmarshalJSON reads "keep", "reassign", "drop" or {"reassign": "role"}.
func (o *onOwned) UnmarshalJSON(b []byte) error {
	var way string
	if json.Unmarshal(b, &way) == nil {
		*o = onOwned{Way: way}
		return nil
	}
	var to struct{ Reassign string }
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&to); err != nil {
		return err
	}
	if to.Reassign == "" {
		return errors.New("it names no role")
	}
	*o = onOwned{Way: reassignOwned, To: to.Reassign}
	return nil
}

// endpoint is what the job is told instead of what we use; empty fields are
// taken from the admin URL.
type endpoint struct {
	Host    string
	Port    int
	SSLMode string
}

const (
	defaultIterations = 4096      // what RFC 7677 asks for
	maxIterations     = 1_000_000 // a login takes the client about a second
	maxIdentifier     = 63        // NAMEDATALEN - 1; a longer name would be cut silently
)

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// parseParams reads a grant's params strictly and names all faults. Iterations
// are the target's where the grant does not say.
func parseParams(raw json.RawMessage, iterations int) (params, error) {
	p := params{ScramIterations: iterations, OnOwned: onOwned{Way: keepOwned}}
	var limit *int
	faults := broker.DecodeParams(raw, map[string]any{
		"roles": &p.Roles, "owner": &p.Owner, "database": &p.Database, "on_owned": &p.OnOwned,
		"scram_iterations": &p.ScramIterations, "connection_limit": &limit, "probe": &p.Probe,
		"host": &p.Endpoint.Host, "port": &p.Endpoint.Port, "sslmode": &p.Endpoint.SSLMode,
		"statements": &p.Statements,
	})
	if len(faults) == 0 { // what could not be read would be complained of twice
		faults = append(p.checkRoles(), p.checkRest(limit)...)
		faults = append(faults, p.Statements.check()...)
	}
	return p, errors.Join(faults...)
}

// target is what a target says.
type target struct {
	iterations  int // of SCRAM, where a grant does not say
	connections int // to mint with
}

// parseTarget reads a target's params strictly and names all faults.
func parseTarget(raw json.RawMessage) (target, error) {
	t := target{iterations: defaultIterations, connections: mintConnections}
	faults := broker.DecodeParams(raw, map[string]any{"scram_iterations": &t.iterations, "connections": &t.connections})
	if len(faults) == 0 {
		faults = append(faults, checkIterations(t.iterations))
		if t.connections < 1 || t.connections > maxMintConnections {
			faults = append(faults, fmt.Errorf("connections: %d is not within 1 to %d", t.connections, maxMintConnections))
		}
	}
	return t, errors.Join(faults...)
}

func checkIterations(n int) error {
	if n < 1 || n > maxIterations {
		return fmt.Errorf("scram_iterations: %d is not within 1 to %d", n, maxIterations)
	}
	return nil
}

// groups are all roles that a grant hands something to, in one order
// everywhere, so that two mints cannot wait for each other.
func (p params) groups() []string {
	list := slices.Clone(p.Roles)
	if p.OnOwned.Way == reassignOwned {
		list = append(list, p.OnOwned.To)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (p *params) checkRoles() []error {
	var faults []error
	if len(p.Roles) == 0 {
		faults = append(faults, errors.New("roles: name at least one group role"))
	}
	for i, r := range p.Roles {
		if err := checkIdentifier(r); err != nil {
			faults = append(faults, fmt.Errorf("roles: %w", err))
		}
		if slices.Contains(p.Roles[:i], r) {
			faults = append(faults, fmt.Errorf("roles: %q is named twice", r))
		}
	}
	switch {
	case p.Owner == "" && len(p.Roles) == 1:
		p.Owner = p.Roles[0]
	case p.Owner == "" && len(p.Roles) > 1:
		faults = append(faults, errors.New("owner: with several roles say which one sessions start as: what a job creates belongs to it"))
	case p.Owner != "" && !slices.Contains(p.Roles, p.Owner):
		faults = append(faults, fmt.Errorf("owner: %q is not one of roles", p.Owner))
	}
	return faults
}

func (p *params) checkRest(limit *int) []error {
	var faults []error
	bad := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf(field+": "+format, args...))
	}
	if err := checkIdentifier(p.Database); p.Database != "" && err != nil {
		bad("database", "%w", err)
	}
	switch p.OnOwned.Way {
	case keepOwned, dropOwned:
	case reassignOwned:
		p.OnOwned.To = cmp.Or(p.OnOwned.To, p.Owner)
		if err := checkIdentifier(p.OnOwned.To); err != nil {
			bad("on_owned", "reassign: %w", err)
		}
	default:
		bad("on_owned", "%q is not a way we know; say keep, reassign, {reassign: ROLE} or drop", p.OnOwned.Way)
	}
	if err := checkIterations(p.ScramIterations); err != nil {
		faults = append(faults, err)
	}
	if limit != nil {
		p.ConnectionLimit = *limit
		if *limit < 1 || *limit > 10_000 {
			bad("connection_limit", "%d is not within 1 to 10000", *limit)
		}
	}
	return append(faults, p.Endpoint.check()...)
}

func (e endpoint) check() []error {
	var faults []error
	if strings.ContainsFunc(e.Host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`@/?#,"'\`, r) }) {
		faults = append(faults, fmt.Errorf("host: %q is not a host name or an address", e.Host))
	}
	if e.Port < 0 || e.Port > 65535 {
		faults = append(faults, fmt.Errorf("port: %d is not within 1 to 65535", e.Port))
	}
	if e.SSLMode != "" && !slices.Contains(sslModes, e.SSLMode) {
		faults = append(faults, fmt.Errorf("sslmode: %q is not one of %s", e.SSLMode, strings.Join(sslModes, ", ")))
	}
	return faults
}

// checkIdentifier refuses what PostgreSQL would cut, or cannot name.
func checkIdentifier(s string) error {
	switch {
	case s == "":
		return errors.New("a name is empty")
	case len(s) > maxIdentifier:
		return fmt.Errorf("%q is longer than %d bytes", s, maxIdentifier)
	case strings.ContainsRune(s, 0):
		return fmt.Errorf("%q holds a zero byte", s)
	case s == "none" || s == "public":
		return fmt.Errorf("%q is a word PostgreSQL reserves", s)
	}
	return nil
}
