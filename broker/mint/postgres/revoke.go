package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Revoke implements [broker.Minter]. Each step is committed by itself and does
// no harm when done again, by us or by another broker at the same time, so
// that an attempt goes on where the last one broke off:
//
//  1. find the role; where there is none, wait for a mint under way;
//  2. no login, no password, expired;
//  3. end its sessions;
//  4. out of its groups, and others out of it;
//  5. end sessions that were just logging in during 2;
//  6. drop it.
//
// A role that owns something or holds grants cannot be dropped. It stays
// behind disabled, without rights and with a comment that says why, for the
// operator to look at; the credential is dead, so this is not an error.
func (m *minter) Revoke(ctx context.Context, l broker.Lease) error {
	h, _, ours := broker.ParseHandle(m.deployment, string(l.Handle))
	if !ours {
		return m.failed("revoke", fmt.Errorf("%q is not a name of deployment %q; left alone", l.Handle, m.deployment))
	}
	return m.failed("revoke "+string(h), m.revoking.with(ctx, func(c *conn) error {
		if err := c.primary(); err != nil {
			return err
		}
		if l.ServerID != "" && l.ServerID != c.serverID {
			return fmt.Errorf("the lease is of server %q, this is %q: nothing is done, and \"not found\" here would mean nothing", l.ServerID, c.serverID)
		}
		r := revocation{conn: c, handle: h, name: quoteName(string(h)), sessionEnd: m.sessionEnd}
		return r.run(ctx)
	}))
}

// revocation is one attempt to take one user back.
type revocation struct {
	*conn
	handle     broker.Handle
	name       string // the handle, quoted
	oid        uint32
	sessionEnd time.Duration
}

func (r *revocation) run(ctx context.Context) error {
	found, err := r.find(ctx)
	if err == nil && !found {
		found, err = r.awaitMint(ctx)
	}
	if err != nil || !found {
		return err
	}
	for _, step := range []struct {
		doing string
		do    func(context.Context) error
	}{
		{"disable", r.disable},
		{"end sessions", r.endSessions},
		{"leave groups", r.leaveGroups},
		{"end late sessions", r.endSessions},
		{"drop", r.drop},
	} {
		err := retry(ctx, func() error { return r.unlocked(ctx, step.do) })
		if err != nil {
			// Somebody else may have dropped it under our hands.
			if found, e := r.find(ctx); codeOf(err) == codeNoSuchRole && e == nil && !found {
				return nil
			}
			return fmt.Errorf("%s: %w", step.doing, err)
		}
	}
	return nil
}

// awaitMint takes the lock that a mint holds from before it makes the role
// until it is known whether it did. A role that was found needs no lock: the
// job knows its own name, and could keep the lock from us.
func (r *revocation) awaitMint(ctx context.Context) (bool, error) {
	if err := r.exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey(r.handle)); err != nil {
		return false, fmt.Errorf("wait for a mint under way: %w", err)
	}
	return r.find(ctx)
}

func (r *revocation) find(ctx context.Context) (bool, error) {
	found, err := rows[struct{ OID uint32 }](ctx, r.conn, `SELECT oid FROM pg_roles WHERE rolname = $1`, string(r.handle))
	if err != nil || len(found) == 0 {
		return false, err
	}
	r.oid = found[0].OID
	return true, nil
}

// disable ends logins.
func (r *revocation) disable(ctx context.Context) error {
	return r.exec(ctx, disableStatement(r.handle))
}

// endSessions ends every session the user opened, whatever role it has set
// since, and returns when none is left.
func (r *revocation) endSessions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.sessionEnd)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		n, err := r.terminate(ctx)
		if err != nil || n == 0 {
			return err
		}
		pause(ctx, wait)
		if ctx.Err() != nil {
			return fmt.Errorf("%d sessions are still there: %w", n, ctx.Err())
		}
	}
}

// terminate tells the user's sessions to end, and says how many there were.
func (r *revocation) terminate(ctx context.Context) (int, error) {
	const sql = `SELECT count(pg_terminate_backend(pid))::int FROM pg_stat_activity WHERE usesysid = $1`
	var n int
	err := r.row(ctx, []any{&n}, sql, r.oid)
	if codeOf(err) != codeNoRight {
		return n, err
	}
	// Without pg_signal_backend one may end the sessions of roles that one is
	// a member of.
	if err := r.exec(ctx, fmt.Sprintf("GRANT %s TO CURRENT_USER", r.name)); err != nil {
		return 0, err
	}
	err = r.row(ctx, []any{&n}, sql, r.oid)
	return n, err
}

// membership is one line of "group is granted to member by grantor".
type membership struct{ Group, Member, Grantor string }

// memberships lists the groups the user is in, and whoever is a member of the
// user: up to PostgreSQL 14 a role may grant itself to others.
func (r *revocation) memberships(ctx context.Context) ([]membership, error) {
	return rows[membership](ctx, r.conn, `
		SELECT pg_get_userbyid(roleid)::text, pg_get_userbyid(member)::text, pg_get_userbyid(grantor)::text
		FROM pg_auth_members
		WHERE member = $1 OR roleid = $1 AND pg_get_userbyid(member) <> current_user`, r.oid)
}

func (r *revocation) leaveGroups(ctx context.Context) error {
	list, err := r.memberships(ctx)
	if err != nil {
		return err
	}
	for _, m := range list {
		sql := fmt.Sprintf("REVOKE %s FROM %s", quoteName(m.Group), quoteName(m.Member))
		if r.version >= 160000 { // from then on a grant is its grantor's
			sql += " GRANTED BY " + quoteName(m.Grantor)
		}
		if err := r.exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// drop drops the role, or leaves it with a comment where something depends on
// it.
func (r *revocation) drop(ctx context.Context) error {
	err := r.exec(ctx, "DROP ROLE "+r.name)
	if codeOf(err) != codeDependents {
		return err
	}
	left, err := r.memberships(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return errors.New("it cannot be dropped and is still a member of a group")
	}
	return r.keep(ctx)
}

// keep writes onto the role why it is still there.
func (r *revocation) keep(ctx context.Context) error {
	var comment string
	var owned, granted int
	err := r.row(ctx, []any{&comment, &owned, &granted}, `
		SELECT coalesce(shobj_description($1, 'pg_authid'), ''),
		       count(*) FILTER (WHERE deptype = 'o')::int, count(*) FILTER (WHERE deptype <> 'o')::int
		FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1`, r.oid)
	if err != nil {
		return err
	}
	n := readNote(comment)
	n.By = "daypass"
	n.Kept = fmt.Sprintf("owns %d objects, is named in %d grants or policies", owned, granted)
	if n.Since == "" {
		n.Since = r.now.UTC().Format(time.RFC3339)
	}
	return r.exec(ctx, fmt.Sprintf("COMMENT ON ROLE %s IS %s", r.name, quoteText(n.text())))
}
