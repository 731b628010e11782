package mysql

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// trace is what there is under one name of ours: an account, perhaps with
// several hosts, an event, sessions that outlived the account.
type trace struct {
	hosts    []string
	unlocked bool      // one of the accounts is
	looked   time.Time // when it was last found to be the definer of something
}

// Held implements [broker.Minter]. A session whose account is gone is held, too:
// it goes on until it is ended. What Revoke had to leave behind is listed as
// overdue only once in a while, for to look whether it is still the definer of
// something is work. A job cannot pass itself off as such: only who may make
// users can lock it, and nobody else can write our tables.
func (m *minter) Held(ctx context.Context) ([]broker.Held, error) {
	var held []broker.Held
	err := m.revoking.With(ctx, func(c *conn) error {
		held = []broker.Held{} // nil would mean that none can be held
		found, err := m.tracesUnlocked(ctx, c)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(found)) {
			h, expires, ours := broker.ParseHandle(m.deployment, name)
			if t := found[name]; ours {
				kept := !t.unlocked && c.now.Before(t.looked.Add(m.lookAgain))
				held = append(held, broker.Held{Handle: h, Expires: expires, Overdue: overdue(c.now, expires) && !kept})
			}
		}
		return nil
	})
	return held, m.failed("list", err)
}

// tracesUnlocked lists what there is of ours, and again where a lock is in its
// way, after ending the sessions of who is overdue: the lock may be theirs, and
// while nothing can be listed nobody would take them back.
func (m *minter) tracesUnlocked(ctx context.Context, c *conn) (map[string]trace, error) {
	for attempt := 1; ; attempt++ {
		found, err := c.traces(ctx, "dp_"+m.deployment+"_")
		if !isOneOf(err, codeLockWait, codeStatementTooLong) || attempt == maxAttempts {
			return found, err
		}
		if err := m.endOverdue(ctx, c); err != nil {
			return nil, err
		}
	}
}

// endOverdue tells all sessions to end whose user is one of ours and overdue.
func (m *minter) endOverdue(ctx context.Context, c *conn) error {
	var ids []uint64
	err := c.processes(ctx, func(id uint64, user, _ string) {
		if _, expires, ours := broker.ParseHandle(m.deployment, user); ours && overdue(c.now, expires) {
			ids = append(ids, id)
		}
	})
	if err != nil {
		return err
	}
	return c.kill(ctx, ids)
}

// overdue compares with the server's clock, as its events do.
func overdue(now, expires time.Time) bool { return now.After(expires) }

// traces lists everything whose name begins as told.
func (c *conn) traces(ctx context.Context, prefix string) (map[string]trace, error) {
	found := map[string]trace{}
	accounts, err := c.accounts(ctx, prefix)
	if err != nil {
		return nil, err
	}
	for _, a := range accounts {
		t := found[a.name]
		t.hosts = append(t.hosts, a.host)
		t.unlocked = t.unlocked || !a.locked
		found[a.name] = t
	}
	add := func(query string, args ...any) error {
		names, err := c.texts(ctx, query, args...)
		for _, name := range names {
			if _, known := found[name]; !known && strings.HasPrefix(name, prefix) { // the server compares loosely
				found[name] = trace{}
			}
		}
		return err
	}
	// Anybody can say that he is one of ours, take his time to prove it, and be
	// there for a moment after he could not.
	query := "SELECT DISTINCT USER FROM " + c.server.sessionTable() + " WHERE LEFT(USER, ?) = ? AND COMMAND <> '" + loggingIn + "' AND COALESCE(STATE, '') <> 'login'"
	if c.server.claims() {
		query += " AND COMMAND <> '" + changingUser + "'"
	}
	if err := add(query, len(prefix), prefix); err != nil {
		return nil, err
	}
	if id, err := c.identity(); err != nil || id == "" {
		return found, err // there is no schema of ours
	}
	if err := add("SELECT EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = ? AND LEFT(EVENT_NAME, ?) = ?", c.schema, len(prefix), prefix); err != nil {
		return nil, err
	}
	err = c.rows(ctx, func(scan func(...any) error) error {
		var name string
		var looked int64
		if err := scan(&name, &looked); err != nil {
			return err
		}
		t := found[name]
		t.looked = time.Unix(looked, 0)
		found[name] = t
		return nil
	}, "SELECT name, UNIX_TIMESTAMP(looked) FROM "+c.home()+".daypass_kept WHERE LEFT(name, ?) = ?", len(prefix), prefix)
	return found, err
}

// row of the server's table of accounts.
type accountRow struct {
	name, host string
	locked     bool
}

// accounts lists accounts by the beginning of their name. The name alone says
// that one is ours: a job on MySQL can rewrite its account's ATTRIBUTE, if it
// changes its password in the same statement.
func (c *conn) accounts(ctx context.Context, prefix string) ([]accountRow, error) {
	query := "SELECT User, Host, COALESCE(JSON_VALUE(Priv, '$.account_locked'), '0') IN ('1', 'true') FROM mysql.global_priv WHERE LEFT(User, ?) = ?" +
		" AND COALESCE(JSON_VALUE(Priv, '$.is_role'), '0') = '0'"
	if !c.server.mariadb {
		query = "SELECT User, Host, account_locked = 'Y' FROM mysql.user WHERE LEFT(User, ?) = ?"
	}
	var list []accountRow
	err := c.rows(ctx, func(scan func(...any) error) error {
		var a accountRow
		err := scan(&a.name, &a.host, &a.locked)
		if strings.HasPrefix(a.name, prefix) {
			list = append(list, a)
		}
		return err
	}, query, len(prefix), prefix)
	return list, err
}

// Check implements [broker.Checker]: the server is there, is a primary, is new
// enough, and the admin may do what it takes.
func (m *minter) Check(ctx context.Context) error {
	return m.failed("check", m.minting.With(ctx, func(c *conn) error {
		oldest, name := oldestMySQL, "MySQL 8.0.22"
		if c.server.mariadb {
			oldest, name = oldestMariaDB, "MariaDB 10.4.2"
		}
		if c.server.version < oldest {
			return errors.New("the server is older than " + name)
		}
		if err := errors.Join(c.primary(), c.able()); err != nil {
			return err
		}
		if _, err := c.accounts(ctx, "dp_"); err != nil {
			return fmt.Errorf("the admin needs SELECT on mysql.*: %w", err)
		}
		return nil
	}))
}

// CheckGrant says why no credential of a grant could be made, or why the server
// would not end it by itself. It makes nothing. Whether the admin may grant each
// role and privilege is seen only when it is granted; the error says so then.
func (m *minter) CheckGrant(ctx context.Context, g broker.Grant) error {
	p, err := parseParams(g.Params)
	if err != nil {
		return err
	}
	return m.failed("check", m.minting.With(ctx, func(c *conn) error {
		faults := []error{c.fits(p), c.checkRoles(ctx, p.Roles)}
		if p.ServerExpiry == expiryWanted && !c.events {
			faults = append(faults, errors.New("server_expiry: "+noEvents+"; or say server_expiry: none"))
		}
		databases := slices.Sorted(maps.Keys(p.Grants))
		if p.Database != "" && !slices.Contains(databases, p.Database) {
			databases = append(databases, p.Database)
		}
		for _, database := range databases {
			var there int
			if _, err := c.row(ctx, []any{&there}, "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?", database); err != nil {
				return err
			}
			if there == 0 {
				faults = append(faults, fmt.Errorf("database %q does not exist, or the admin has no right to it", database))
			}
		}
		return errors.Join(faults...)
	}))
}
