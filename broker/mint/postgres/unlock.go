package postgres

import (
	"context"
	"errors"
	"fmt"
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
		if p.Database != r.database { // it can be ended only there
			faults = append(faults, fmt.Errorf("a transaction that the job prepared in database %q is in the way: ROLLBACK PREPARED %s there",
				p.Database, quoteText(p.GID)))
			continue
		}
		faults = append(faults, r.rollBack(ctx, p))
	}
	return errors.Join(faults...)
}

// rollBack ends a prepared transaction as its owner, which an admin that is no
// superuser has to be for it.
func (r *revocation) rollBack(ctx context.Context, p prepared) error {
	if p.Owner == string(r.handle) {
		if err := r.exec(ctx, fmt.Sprintf("GRANT %s TO CURRENT_USER", r.name)); err != nil {
			return err
		}
	}
	if err := r.exec(ctx, "SET ROLE "+quoteName(p.Owner)); err != nil {
		return err
	}
	err := r.exec(ctx, "ROLLBACK PREPARED "+quoteText(p.GID))
	if codeOf(err) == codeNoSuchRole { // this code stands for any object: somebody else ended it
		err = nil
	}
	return errors.Join(err, r.exec(ctx, "RESET ROLE"))
}
