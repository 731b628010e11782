package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

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
//  6. the grant's own statements;
//  7. what it owns and what it was granted, in every database, as on_owned says;
//  8. drop it.
//
// A role without sessions and without anything to its name is dropped at once,
// which does all of that. One that cannot be dropped in the end stays behind
// disabled, without rights and with a comment that says why, for the operator
// to look at; the credential is dead, so this is not an error.
func (m *minter) Revoke(ctx context.Context, l broker.Lease) error {
	h, _, ours := broker.ParseHandle(m.deployment, string(l.Handle))
	if !ours {
		return m.failed("revoke", fmt.Errorf("%q is not a name of deployment %q; left alone", l.Handle, m.deployment))
	}
	// What the lease froze. An orphan has no grant: what it owns is kept.
	p, err := m.params.read(l.Grant.Params, m.iterations)
	if err != nil {
		p = params{OnOwned: onOwned{Way: keepOwned}}
	}
	return m.failed("revoke "+string(h), m.withRoom(ctx, h, func() error {
		return m.revoking.With(ctx, func(c *conn) error {
			if err := c.primary(); err != nil {
				return err
			}
			if l.ServerID != "" && l.ServerID != c.serverID {
				return fmt.Errorf("%w: of %q, and this is %q; nothing is done, and \"not found\" here would mean nothing", broker.ErrOtherServer, l.ServerID, c.serverID)
			}
			r := revocation{conn: c, m: m, handle: h, name: quoteName(string(h)), params: p}
			r.values = values{handle: h, owner: p.Owner, database: c.database, expiry: timestamp(l.NotAfter), lease: l.ID}
			return r.run(ctx)
		})
	}))
}

// withRoom takes a user back, and again where the server had no room for it:
// then the guard shuts the user out first, which may be what takes the room.
func (m *minter) withRoom(ctx context.Context, h broker.Handle, revoke func() error) error {
	for attempt := 1; ; attempt++ {
		err := revoke()
		if !exhausted(err) || attempt == maxAttempts || ctx.Err() != nil {
			return err
		}
		if guardErr := m.guard.shutOut(ctx, h); guardErr != nil {
			return errors.Join(err, guardErr)
		}
		pause(ctx, time.Duration(attempt)*10*time.Millisecond)
	}
}

// revocation is one attempt to take one user back.
type revocation struct {
	*conn
	m      *minter
	handle broker.Handle
	name   string // the handle, quoted
	params params
	values values
	oid    uint32
	why    []string // what could not be done about what it owns
}

func (r *revocation) run(ctx context.Context) error {
	at, err := r.find(ctx)
	if err == nil && !at.found {
		at, err = r.awaitMint(ctx)
	}
	if err != nil || !at.found {
		return err
	}
	if at.bare && r.signals && len(r.params.Statements.Revoke) == 0 {
		if done, err := r.dropAtOnce(ctx); done || r.droppedMeanwhile(ctx, err) {
			return nil
		} else if err != nil {
			return err
		}
	}
	for _, step := range []struct {
		doing string
		do    func(context.Context) error
	}{
		{"disable", r.disable},
		{"end sessions", r.endSessions},
		{"leave groups", r.leaveGroups},
		{"end late sessions", r.endSessions},
		{"run the grant's statements", r.ownStatements},
		{"drop", r.drop},
	} {
		err := retry(ctx, func() error { return r.unlocked(ctx, step.do) })
		if r.droppedMeanwhile(ctx, err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step.doing, err)
		}
	}
	return nil
}

// droppedMeanwhile reports whether what failed did so because somebody else,
// such as another broker, has dropped the role under our hands, sessions and
// all. From PostgreSQL 16 on an admin has its right from a membership in the
// role, which can be seen to be gone a moment before the role is.
func (r *revocation) droppedMeanwhile(ctx context.Context, failure error) bool {
	if code := codeOf(failure); code != codeNoSuchRole && code != codeNoRight {
		return false
	}
	at, err := r.find(ctx)
	if err != nil || at.found {
		return false
	}
	r.m.late.remember(r.oid) // for whoever dropped it may not have got as far as its sessions
	return true
}

// awaitMint takes the lock that a mint holds from before it makes the role
// until it is known whether it did. A role that was found needs no lock: the
// job knows its own name, and could keep the lock from us.
func (r *revocation) awaitMint(ctx context.Context) (state, error) {
	if err := r.exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey(r.handle)); err != nil {
		return state{}, fmt.Errorf("wait for a mint under way: %w", err)
	}
	return r.find(ctx)
}

// state is what there is of a role.
type state struct {
	found bool
	bare  bool // it has no session, and nothing in any database depends on it
}

const (
	finding       = "daypass_finding"
	findStatement = `
		SELECT r.oid, NOT EXISTS (SELECT FROM pg_stat_get_backend_idset() AS b(id) WHERE pg_stat_get_backend_userid(id) = r.oid)
		       AND NOT EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = r.oid)
		FROM pg_roles r WHERE rolname = $1::text`
)

func (r *revocation) find(ctx context.Context) (state, error) {
	if err := r.prepare(ctx, finding, findStatement); err != nil {
		return state{}, err
	}
	found := r.pg.PgConn().ExecPrepared(ctx, finding, [][]byte{[]byte(r.handle)}, nil, nil).Read()
	if found.Err != nil || len(found.Rows) == 0 {
		return state{}, scrub(found.Err)
	}
	oid, err := strconv.ParseUint(string(found.Rows[0][0]), 10, 32)
	if err != nil {
		return state{}, fmt.Errorf("the server gives the role a number that is none: %w", err)
	}
	r.oid = uint32(oid)
	return state{found: true, bare: string(found.Rows[0][1]) == "t"}, nil
}

// dropAtOnce drops a role that has nothing to its name, which ends its logins
// and memberships in one commit, and looks right after it for who was just
// logging in meanwhile. It reports false where it has to be done step by step.
func (r *revocation) dropAtOnce(ctx context.Context) (bool, error) {
	if err := r.prepare(ctx, ending, endingStatement); err != nil {
		return false, err
	}
	r.m.late.remember(r.oid) // before it is known whether the role is gone: that may not be heard
	p := r.pg.PgConn().StartPipeline(ctx)
	p.SendQueryParams("DROP ROLE "+r.name, nil, nil, nil, nil)
	p.SendPipelineSync()
	p.SendQueryPrepared(ending, [][]byte{strconv.AppendUint(nil, uint64(r.oid), 10)}, nil, nil)
	syncErr := p.Sync()
	_, dropErr := nextResult(p)
	late, lateErr := nextResult(p)
	lateErr = scrub(errors.Join(syncErr, lateErr, p.Close()))
	switch err := scrub(dropErr); {
	case lost(err) || lateErr != nil && err == nil:
		return false, fmt.Errorf("drop: %w", cmp.Or(err, lateErr))
	case codeOf(err) == codeNoSuchRole:
		return true, nil
	case codeOf(err) == codeDependents || codeOf(err) == codeLockNotAvailable || fleeting(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("drop: %w", err)
	}
	if late != "0" {
		if err := r.endSessions(ctx); err != nil {
			return false, fmt.Errorf("end late sessions: %w", err)
		}
	}
	return true, nil
}

// nextResult reads the first value of the next statement of a pipeline, each of
// which is a transaction of its own.
func nextResult(p *pgconn.Pipeline) (string, error) {
	got, err := p.GetResults()
	value := ""
	if reader, ok := got.(*pgconn.ResultReader); ok {
		for reader.NextRow() {
			value = string(reader.Values()[0])
		}
		_, err = reader.Close()
	}
	_, syncErr := p.GetResults()
	return value, errors.Join(err, syncErr)
}

// disable ends logins. Where a lock is in the way it is the job's own, most likely:
// its sessions are ended before the lock is waited for, since this first part of
// taking back has to be quick.
func (r *revocation) disable(ctx context.Context) error {
	err := r.exec(ctx, "SET LOCAL lock_timeout = '100ms'; "+disableStatement(r.handle))
	if codeOf(err) != codeLockNotAvailable {
		return err
	}
	if _, err := r.terminate(ctx); err != nil {
		return err
	}
	return r.exec(ctx, disableStatement(r.handle))
}

// endSessions ends every session the user opened, whatever role it has set
// since, and returns when none is left.
func (r *revocation) endSessions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.m.sessionEnd)
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

// endingStatement tells the sessions of a role to end, whatever role they have
// set, and says how many there were.
const (
	ending          = "daypass_ending"
	endingStatement = `SELECT count(pg_terminate_backend(pg_stat_get_backend_pid(id)))::int FROM pg_stat_get_backend_idset() AS b(id) WHERE pg_stat_get_backend_userid(id) = $1::oid`
)

// terminate tells the user's sessions to end, and says how many there were.
func (r *revocation) terminate(ctx context.Context) (int, error) {
	var n int
	err := r.row(ctx, []any{&n}, endingStatement, r.oid)
	if codeOf(err) != codeNoRight {
		return n, err
	}
	// Without pg_signal_backend one may end the sessions of roles that one is
	// a member of.
	if err := r.exec(ctx, become(r.version, string(r.handle))); err != nil {
		return 0, err
	}
	err = r.row(ctx, []any{&n}, endingStatement, r.oid)
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

// leaveGroups takes away what was granted, whoever did. What another role has
// granted may be for that role alone to take away (from PostgreSQL 16 on);
// dropping the role does so too, and where that cannot be done, drop complains.
func (r *revocation) leaveGroups(ctx context.Context) error {
	list, err := r.memberships(ctx)
	if err != nil {
		return err
	}
	for _, m := range list {
		if err := r.exec(ctx, m.revokeStatement(r.version)); err != nil && codeOf(err) != codeNoRight {
			return err
		}
	}
	return nil
}

func (m membership) revokeStatement(version int) string {
	sql := fmt.Sprintf("REVOKE %s FROM %s", quoteName(m.Group), quoteName(m.Member))
	if version >= 160000 { // from then on a grant is its grantor's, and what was built on it is in its way
		sql += " GRANTED BY " + quoteName(m.Grantor) + " CASCADE"
	}
	return sql
}

// ownStatements runs what the grant said when the lease was opened.
func (r *revocation) ownStatements(ctx context.Context) error {
	broker.Disarmed(ctx)
	list, err := renderAll(r.params.Statements.Revoke, r.values)
	for i, sql := range list {
		if err := r.execOne(ctx, sql); err != nil {
			return fmt.Errorf("number %d: %w", i+1, err)
		}
	}
	return err
}

// drop drops the role, with what it owns as on_owned says, or leaves it with a
// comment where something depends on it still.
func (r *revocation) drop(ctx context.Context) error {
	err := r.exec(ctx, "DROP ROLE "+r.name)
	if codeOf(err) != codeDependents {
		return err
	}
	left, err := r.memberships(ctx)
	if err != nil {
		return err
	}
	if err := r.stillIn(left); err != nil {
		return err
	}
	if err := r.tidy(ctx); err != nil {
		return err
	}
	for _, m := range left { // nobody gains by it: the user has no rights to lend
		r.why = append(r.why, printable(fmt.Sprintf("%q is a member of it, granted by %q", m.Member, m.Grantor)))
	}
	err = r.exec(ctx, "DROP ROLE "+r.name)
	if codeOf(err) != codeDependents {
		return err
	}
	return r.keep(ctx)
}

// stillIn refuses to count a user as taken back that could not be got out of a
// group: what it owns, such as a routine, would go on lending the group's rights.
func (r *revocation) stillIn(left []membership) error {
	var faults []error
	for _, m := range left {
		if m.Member == string(r.handle) {
			faults = append(faults, fmt.Errorf("it owns something and is still a member of %q: %q granted that, and has to revoke it", m.Group, m.Grantor))
		}
	}
	return errors.Join(faults...)
}

// keep writes onto the role why it is still there.
func (r *revocation) keep(ctx context.Context) error {
	var comment string
	var owned, granted int
	var now time.Time
	err := r.row(ctx, []any{&comment, &owned, &granted, &now}, `
		SELECT coalesce(shobj_description($1, 'pg_authid'), ''),
		       count(*) FILTER (WHERE deptype = 'o')::int, count(*) FILTER (WHERE deptype <> 'o')::int, clock_timestamp()
		FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1`, r.oid)
	if err != nil {
		return err
	}
	n := readNote(comment)
	n.By = "daypass"
	n.Kept = fmt.Sprintf("owns %d objects, is named in %d grants or policies", owned, granted)
	n.Why = r.why[:min(len(r.why), maxReasons)]
	if n.Since == "" {
		n.Since = now.UTC().Format(time.RFC3339)
	}
	return r.exec(ctx, fmt.Sprintf("COMMENT ON ROLE %s IS %s", r.name, quoteText(n.text())))
}

// maxReasons bounds what a comment says of why.
const maxReasons = 5
