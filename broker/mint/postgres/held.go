package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Held implements [broker.Minter]. A role that Revoke had to leave behind is
// listed, but not as overdue: it is dead, and trying to drop it every few
// seconds would change nothing. Once nothing depends on it any more it is
// overdue again, and dropped. A job cannot pass itself off as such a role:
// only who may create roles can take its login away or comment on it.
func (m *minter) Held(ctx context.Context) ([]broker.Held, error) {
	type role struct {
		Name      string
		Login     bool
		Comment   string
		Droppable bool
		Now       time.Time
	}
	// Before anything else: it may be needed for what is found here. Where
	// none can be had, what is listed can be taken back all the same.
	m.guard.check(ctx)
	_ = m.guard.keep(ctx)
	var held []broker.Held
	err := m.revoking.With(ctx, func(c *conn) error {
		held = []broker.Held{} // nil would mean that none can be held
		if err := m.late.end(ctx, c); err != nil {
			return err
		}
		found, err := rows[role](ctx, c, `
			SELECT rolname::text, rolcanlogin, coalesce(shobj_description(oid, 'pg_authid'), ''), NOT EXISTS (
				SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = r.oid), clock_timestamp()
			FROM pg_roles r WHERE starts_with(rolname::text, $1) ORDER BY rolname`, "dp_"+m.deployment+"_")
		if err != nil {
			return err
		}
		for _, r := range found {
			h, expires, ours := broker.ParseHandle(m.deployment, r.Name)
			if !ours {
				continue
			}
			kept := !r.Login && readNote(r.Comment).Kept != "" && !r.Droppable
			held = append(held, broker.Held{Handle: h, Expires: expires, Overdue: overdue(r.Now, expires) && !kept})
		}
		return nil
	})
	return held, m.failed("list", err)
}

// overdue compares with the database's clock, as VALID UNTIL does.
func overdue(now, expires time.Time) bool { return now.After(expires) }

// oldestServer is the oldest version that our statements are written for.
const oldestServer = 120000

// Check implements [broker.Checker]: the server is there, is a primary, and
// lets us make roles.
func (m *minter) Check(ctx context.Context) error {
	return m.failed("check", m.minting.With(ctx, func(c *conn) error {
		if err := c.primary(); err != nil {
			return err
		}
		if c.version < oldestServer {
			return errors.New("the server is older than PostgreSQL 12")
		}
		var may bool
		err := c.row(ctx, []any{&may}, `SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user`)
		if err != nil {
			return err
		}
		if !may {
			return errors.New("the admin role has neither CREATEROLE nor superuser: it cannot make users")
		}
		return nil
	}))
}

// CheckGrant says why no credential of a grant could be made: its group roles
// are not there or are too great, or the database that jobs are told is not
// there. It makes nothing. Whether the admin may grant each group is seen only
// when it is granted; the error says so then.
func (m *minter) CheckGrant(ctx context.Context, g broker.Grant) error {
	p, err := m.params.read(g.Params, m.iterations)
	if err != nil {
		return err
	}
	return m.failed("check", m.minting.With(ctx, func(c *conn) error {
		if err := c.checkGroups(ctx, p.groups(), c.database); err != nil || p.Database == "" {
			return err
		}
		var there bool
		if err := c.row(ctx, []any{&there}, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, p.Database); err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("database %q does not exist", p.Database)
		}
		return nil
	}))
}
