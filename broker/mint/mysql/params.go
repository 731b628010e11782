package mysql

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/daypass-dev/daypass/broker"
)

// params are what a grant says.
type params struct {
	Roles           []string            // the user is granted
	DefaultRole     string              // the one of them that sessions start with
	Grants          map[string][]string // privileges by database
	Database        string              // what the job is told; empty: none
	ClientHost      string              // where the user may connect from
	RequireTLS      bool
	Auth            string // how the password is checked; empty: as suits the server
	OnOwned         string
	ServerExpiry    string
	Statements      statements
	ConnectionLimit int // 0: none
	Endpoint        endpoint
}

// endpoint is what the job is told instead of what we use; empty fields are
// taken from the admin URL.
type endpoint struct {
	Host    string
	Port    int
	SSLMode string
	socket  string // the admin URL's only
}

// What is done about what a user leaves behind with itself as the definer.
const (
	onOwnedKeep = "keep" // the account stays, locked and without rights
	onOwnedDrop = "drop" // what it defined is dropped with it
)

// Whether the server itself has to end the user at its expiry.
const (
	expiryWanted   = "wanted"   // where it runs events; a check complains where it does not
	expiryRequired = "required" // else nothing is minted
	expiryNone     = "none"     // the broker alone
)

// How a password can be checked. The server stores what is computed here.
const (
	authNative  = "native"  // mysql_native_password, on MariaDB
	authEd25519 = "ed25519" // ed25519, on MariaDB where the plugin is loaded
	authSHA2    = "sha2"    // caching_sha2_password, on MySQL
)

const (
	maxIdentifier = 64 // bytes of a database's name that we take; the servers count characters
	maxRole       = 32 // of MySQL's; MariaDB has 128
	maxHost       = 60 // of the older servers
)

var sslModes = []string{"DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"}

// parseParams reads a grant's params strictly and names all faults.
func parseParams(raw json.RawMessage) (params, error) {
	p := params{ClientHost: "%", OnOwned: onOwnedKeep, ServerExpiry: expiryWanted}
	require := "ssl"
	var limit *int
	faults := broker.DecodeParams(raw, map[string]any{
		"roles": &p.Roles, "default_role": &p.DefaultRole, "grants": &p.Grants, "database": &p.Database,
		"client_host": &p.ClientHost, "require": &require, "auth": &p.Auth, "on_owned": &p.OnOwned,
		"server_expiry": &p.ServerExpiry, "connection_limit": &limit, "statements": &p.Statements,
		"host": &p.Endpoint.Host, "port": &p.Endpoint.Port, "ssl_mode": &p.Endpoint.SSLMode,
	})
	if len(faults) == 0 { // what could not be read would be complained of twice
		p.RequireTLS = require != "none"
		faults = slices.Concat(p.checkRoles(), p.checkGrants(), p.checkWords(require), p.checkRest(limit), p.Endpoint.check(), p.checkStatements())
	}
	return p, errors.Join(faults...)
}

func (p *params) checkRoles() []error {
	var faults []error
	if len(p.Roles) == 0 && len(p.Grants) == 0 {
		faults = append(faults, errors.New("roles: name at least one role, or say under grants what the user may do"))
	}
	for i, r := range p.Roles {
		if err := checkIdentifier(r, maxRole); err != nil {
			faults = append(faults, fmt.Errorf("roles: %w", err))
		}
		if lower := strings.ToLower(r); lower == "none" || lower == "public" || lower == "default" || lower == "all" {
			faults = append(faults, fmt.Errorf("roles: %q is a word the servers reserve", r))
		}
		if slices.Contains(p.Roles[:i], r) {
			faults = append(faults, fmt.Errorf("roles: %q is named twice", r))
		}
	}
	switch {
	case p.DefaultRole == "" && len(p.Roles) == 1:
		p.DefaultRole = p.Roles[0]
	case p.DefaultRole == "" && len(p.Roles) > 1:
		faults = append(faults, errors.New("default_role: with several roles say which one sessions start with; the job can SET ROLE to the others"))
	case p.DefaultRole != "" && !slices.Contains(p.Roles, p.DefaultRole):
		faults = append(faults, fmt.Errorf("default_role: %q is not one of roles", p.DefaultRole))
	}
	return faults
}

func (p *params) checkGrants() []error {
	var faults []error
	for _, database := range slices.Sorted(maps.Keys(p.Grants)) {
		if err := checkDatabase(database); err != nil {
			faults = append(faults, fmt.Errorf("grants: %w", err))
		}
		privileges := p.Grants[database]
		if len(privileges) == 0 {
			faults = append(faults, fmt.Errorf("grants: %q names no privilege", database))
		}
		for i, privilege := range privileges {
			if !slices.Contains(databasePrivileges, privilege) {
				faults = append(faults, fmt.Errorf("grants: %q is not one of %s", privilege, strings.Join(databasePrivileges, ", ")))
			}
			if slices.Contains(privileges[:i], privilege) {
				faults = append(faults, fmt.Errorf("grants: %q is named twice", privilege))
			}
		}
	}
	if p.Database == "" && len(p.Grants) == 1 {
		for p.Database = range p.Grants { // the only one
		}
	}
	return faults
}

func (p *params) checkWords(require string) []error {
	var faults []error
	for _, word := range []struct {
		field, value string
		known        []string
	}{
		{"require", require, []string{"ssl", "none"}},
		{"auth", p.Auth, []string{"", authNative, authEd25519, authSHA2}},
		{"on_owned", p.OnOwned, []string{onOwnedKeep, onOwnedDrop}},
		{"server_expiry", p.ServerExpiry, []string{expiryWanted, expiryRequired, expiryNone}},
	} {
		if !slices.Contains(word.known, word.value) {
			known := slices.DeleteFunc(word.known, func(s string) bool { return s == "" })
			faults = append(faults, fmt.Errorf("%s: %q is not one of %s", word.field, word.value, strings.Join(known, ", ")))
		}
	}
	return faults
}

func (p *params) checkRest(limit *int) []error {
	var faults []error
	if p.Database != "" {
		if err := checkIdentifier(p.Database, maxIdentifier); err != nil {
			faults = append(faults, fmt.Errorf("database: %w", err))
		}
	}
	if p.ClientHost == "" || len(p.ClientHost) > maxHost || strings.Trim(p.ClientHost, hostSigns) != "" {
		faults = append(faults, fmt.Errorf("client_host: %q is not a host, an address, or one with %% in it", p.ClientHost))
	}
	if limit != nil {
		p.ConnectionLimit = *limit
		if *limit < 1 || *limit > 10_000 {
			faults = append(faults, fmt.Errorf("connection_limit: %d is not within 1 to 10000", *limit))
		}
	}
	return faults
}

func (p *params) checkStatements() []error {
	faults := p.Statements.check()
	for _, sql := range slices.Concat(p.Statements.Create, p.Statements.Revoke) {
		if p.Database == "" && strings.Contains(sql, "{{database") {
			faults = append(faults, errors.New("statements: one of them has a placeholder for the database, and the grant names none"))
		}
	}
	return faults
}

// values are what the placeholders of its statements stand for.
func (p params) values(s server, h broker.Handle, lease broker.LeaseID, notAfter time.Time) values {
	return values{server: s, handle: h, host: p.ClientHost, database: p.Database, lease: lease, expiry: notAfter.UTC().Format(time.DateTime)}
}

// hostSigns are what the host part of an account may be made of.
const hostSigns = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-_%/"

func (e endpoint) check() []error {
	var faults []error
	if strings.ContainsFunc(e.Host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`@/?#,"'\`, r) }) {
		faults = append(faults, fmt.Errorf("host: %q is not a host name or an address", e.Host))
	}
	if e.Port < 0 || e.Port > 65535 {
		faults = append(faults, fmt.Errorf("port: %d is not within 1 to 65535", e.Port))
	}
	if e.SSLMode != "" && !slices.Contains(sslModes, e.SSLMode) {
		faults = append(faults, fmt.Errorf("ssl_mode: %q is not one of %s", e.SSLMode, strings.Join(sslModes, ", ")))
	}
	return faults
}

// checkDatabase refuses what the servers cannot name and the schemas that are
// their own. A backslash is refused besides, since in GRANT a database is a
// pattern in which it has a meaning that differs by server.
func checkDatabase(s string) error {
	if err := checkIdentifier(s, maxIdentifier); err != nil {
		return err
	}
	if strings.Contains(s, `\`) {
		return fmt.Errorf("%q holds a backslash", s)
	}
	if slices.Contains(systemSchemas, strings.ToLower(s)) {
		return fmt.Errorf("%q is the server's own: with rights there a job could make users", s)
	}
	return nil
}

// checkIdentifier refuses what the servers would cut, cannot name, or would
// read as something else.
func checkIdentifier(s string, most int) error {
	switch {
	case s == "":
		return errors.New("a name is empty")
	case len(s) > most:
		return fmt.Errorf("%q is longer than %d bytes", s, most)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r == 0 || r > 0xffff || r == utf8.RuneError }):
		return fmt.Errorf("%q holds a character the servers cannot name", s)
	case strings.TrimSpace(s) != s:
		return fmt.Errorf("%q begins or ends with a space", s)
	}
	return nil
}
