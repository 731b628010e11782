package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// unlocked does a step of a revocation, and again where a lock is in its way.
// A job may change its own password, and so can keep its row locked in an open
// transaction: then its sessions are ended first. We wait in line for the row,
// so whoever logs in anew meanwhile comes after us. A transaction that the job
// has prepared outlives its session; it is rolled back.
func (r *revocation) unlocked(ctx context.Context, do func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		err := do(ctx)
		if codeOf(err) != codeLockNotAvailable || attempt == maxAttempts {
			return err
		}
		if _, err := r.terminate(ctx); err != nil {
			return err
		}
		if err := r.rollBackPrepared(ctx); err != nil {
			return err
		}
	}
}

// prepared is a transaction that waits for its second phase.
type prepared struct{ GID, Owner, Database string }

// rollBackPrepared rolls back what the user has prepared: as itself, with a
// lock on its own role, or as one of its groups with one on the table of roles.
// What applications prepare as the group holds none of those, and is left
// alone.
func (r *revocation) rollBackPrepared(ctx context.Context) error {
	list, err := rows[prepared](ctx, r.conn, `
		WITH held AS (
			SELECT x.transactionid AS xid, l.locktype, l.relation, l.mode, l.classid, l.objid FROM pg_locks x JOIN pg_locks l USING (virtualtransaction)
			WHERE x.pid IS NULL AND x.locktype = 'transactionid' AND l.pid IS NULL)
		SELECT gid, owner::text, database::text FROM pg_prepared_xacts p
		WHERE owner = $2
		   OR EXISTS (SELECT FROM held h WHERE h.xid = p.transaction
		              AND h.locktype = 'object' AND h.classid = 'pg_authid'::regclass AND h.objid = $1::oid)
		   OR EXISTS (SELECT FROM held h WHERE h.xid = p.transaction
		              AND h.locktype = 'relation' AND h.relation = 'pg_authid'::regclass AND h.mode = 'RowExclusiveLock')
		      AND pg_has_role($1::oid, owner, 'MEMBER')`,
		r.oid, string(r.handle))
	if err != nil {
		return err
	}
	var faults []error
	for _, p := range list {
		faults = append(faults, r.in(ctx, p.Database, func(c *conn) error { return r.rollBack(ctx, c, p) }))
	}
	return errors.Join(faults...)
}

// rollBack ends a prepared transaction in its own database, as its owner, which
// an admin that is no superuser has to be for it.
func (r *revocation) rollBack(ctx context.Context, c *conn, p prepared) error {
	if p.Owner == string(r.handle) {
		if err := c.exec(ctx, become(c.version, p.Owner)); err != nil {
			return err
		}
	}
	err := c.exec(ctx, "SET ROLE "+quoteName(p.Owner))
	if codeOf(err) == codeNoRight {
		// A group that the admin has made itself: it may let itself become it,
		// and has to. It keeps nothing of that.
		undo, err := c.unbecome(ctx, p.Owner)
		if err != nil {
			return err
		}
		if err := c.exec(ctx, become(c.version, p.Owner)); err != nil {
			return err
		}
		defer func() { _ = c.exec(ctx, undo) }()
		if err := c.exec(ctx, "SET ROLE "+quoteName(p.Owner)); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	err = c.exec(ctx, "ROLLBACK PREPARED "+quoteText(p.GID))
	if codeOf(err) == codeNoSuchRole { // this code stands for any object: somebody else ended it
		err = nil
	}
	return errors.Join(err, c.exec(ctx, "RESET ROLE"))
}

// unbecome returns the statements that undo become: what the admin has granted
// itself before, or was given by createrole_self_grant, is put back as it was.
func (c *conn) unbecome(ctx context.Context, role string) (string, error) {
	from := quoteName(role) + " FROM CURRENT_USER"
	if c.version < 160000 {
		return "REVOKE " + from, nil
	}
	before, err := rows[struct{ Inherit, Set bool }](ctx, c, `
		SELECT inherit_option, set_option FROM pg_auth_members
		WHERE pg_get_userbyid(roleid) = $1::text AND pg_get_userbyid(member) = current_user AND grantor = member`, role)
	if err != nil || len(before) == 0 {
		return "REVOKE " + from + " GRANTED BY CURRENT_USER", err
	}
	var undo []string
	if !before[0].Inherit {
		undo = append(undo, "REVOKE INHERIT OPTION FOR "+from+" GRANTED BY CURRENT_USER")
	}
	if !before[0].Set {
		undo = append(undo, "REVOKE SET OPTION FOR "+from+" GRANTED BY CURRENT_USER")
	}
	return strings.Join(undo, ";"), nil
}

// in lends a connection to another database of the same server.
func (r *revocation) in(ctx context.Context, database string, do func(*conn) error) error {
	if database == r.database {
		return do(r.conn)
	}
	c, err := dial(ctx, r.from, database)
	if err != nil {
		return fmt.Errorf("database %q: %w", database, err)
	}
	defer c.Close()
	if !sameSystem(c.serverID, r.serverID) {
		return fmt.Errorf("database %q is on another server", database)
	}
	if err := errors.Join(c.primary(), do(c)); err != nil {
		return fmt.Errorf("database %q: %w", database, err)
	}
	return nil
}

// sameSystem compares what two server identities say of the server alone. Where
// it hides its number, they say nothing of it.
func sameSystem(a, b string) bool {
	const hidden = "oid-"
	a, _, _ = strings.Cut(a, "/")
	b, _, _ = strings.Cut(b, "/")
	return a == b || strings.HasPrefix(a, hidden) && strings.HasPrefix(b, hidden)
}
