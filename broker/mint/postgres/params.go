package postgres

import (
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
	Endpoint        endpoint
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

// parseParams reads a grant's params strictly and names all faults.
func parseParams(raw json.RawMessage) (params, error) {
	p := params{ScramIterations: defaultIterations}
	onOwned := "keep"
	var limit *int
	faults := broker.DecodeParams(raw, map[string]any{
		"roles": &p.Roles, "owner": &p.Owner, "database": &p.Database, "on_owned": &onOwned,
		"scram_iterations": &p.ScramIterations, "connection_limit": &limit,
		"host": &p.Endpoint.Host, "port": &p.Endpoint.Port, "sslmode": &p.Endpoint.SSLMode,
	})
	if len(faults) == 0 { // what could not be read would be complained of twice
		faults = append(p.checkRoles(), p.checkRest(onOwned, limit)...)
	}
	return p, errors.Join(faults...)
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

func (p *params) checkRest(onOwned string, limit *int) []error {
	var faults []error
	bad := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf(field+": "+format, args...))
	}
	if err := checkIdentifier(p.Database); p.Database != "" && err != nil {
		bad("database", "%w", err)
	}
	switch onOwned {
	case "keep":
	case "reassign", "drop":
		bad("on_owned", "%q is not supported by this version; leave it out or say keep", onOwned)
	default:
		bad("on_owned", "%q is not a way we know; leave it out or say keep", onOwned)
	}
	if p.ScramIterations < 1 || p.ScramIterations > maxIterations {
		bad("scram_iterations", "%d is not within 1 to %d", p.ScramIterations, maxIterations)
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
