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

// Revoke implements [broker.Minter]. No step of it can be undone with another,
// and each does no harm when done again, by us or by another broker at the same
// time, so that an attempt goes on where the last one broke off:
//
//  1. find the account; where there is none, wait for a mint under way;
//  2. lock it, with each of its hosts;
//  3. end its sessions;
//  4. run the grant's own statements;
//  5. take its roles and rights;
//  6. see to what it is the definer of, and drop it, or leave it locked;
//  7. drop its event;
//  8. end sessions that were just coming up, and wait until none is left.
//
// An account that is the definer of something stays, unless the grant says
// on_owned: drop: locked, without rights, and with a row in our schema that says
// why. The credential is dead, so this is not an error.
func (m *minter) Revoke(ctx context.Context, l broker.Lease) error {
	h, _, ours := broker.ParseHandle(m.deployment, string(l.Handle))
	if !ours {
		return m.failed("revoke", fmt.Errorf("%q is not a name of deployment %q; left alone", l.Handle, m.deployment))
	}
	return m.failed("revoke "+string(h), m.revoking.With(ctx, func(c *conn) error {
		if err := c.primary(); err != nil {
			return err
		}
		id, err := c.identity()
		if err != nil {
			return err
		}
		if l.ServerID != "" && l.ServerID != id {
			return fmt.Errorf("%w: of %q, and this is %q; nothing is done, and \"not found\" here would mean nothing", broker.ErrOtherServer, l.ServerID, id)
		}
		r := m.revocation(c, h, l)
		r.settled = id != ""
		return r.run(ctx)
	}))
}

// revocation is one attempt to take one user back.
type revocation struct {
	*conn
	handle     broker.Handle
	params     params // as far as the lease has them
	values     values // for the grant's own statements
	settled    bool   // our schema is there
	sessionEnd time.Duration
	hosts      []string // of the account
}

func (m *minter) revocation(c *conn, h broker.Handle, l broker.Lease) *revocation {
	p, err := parseParams(l.Grant.Params)
	if err != nil { // an orphan has none
		p = params{OnOwned: onOwnedKeep}
	}
	return &revocation{conn: c, handle: h, params: p, values: p.values(c.server, h, l.ID, l.NotAfter), sessionEnd: m.sessionEnd}
}

// step is one step of a revocation.
type step struct {
	doing string
	do    func(context.Context) error
}

func (r *revocation) steps() []step {
	return []step{
		{"disable", r.disable},
		{"end sessions", r.terminate},
		{"run the grant's statements", r.ownStatements},
		{"take rights", r.strip},
		{"drop", r.drop},
		{"drop its event", r.dropEvent},
		{"end late sessions", r.endSessions},
	}
}

func (r *revocation) run(ctx context.Context) error {
	// Who may read the table of accounts can hold it, with the event's own DROP USER
	// waiting for it, and every later reader behind that.
	if err := r.unlocked(ctx, r.find); err != nil {
		return fmt.Errorf("find its account: %w", err)
	}
	if len(r.hosts) == 0 {
		if err := r.awaitMint(ctx); err != nil {
			return err
		}
	}
	for _, s := range r.steps() {
		if err := retry(ctx, func() error { return r.unlocked(ctx, s.do) }); err != nil {
			return fmt.Errorf("%s: %w", s.doing, err)
		}
	}
	return nil
}

// find reads with which hosts the account is there.
func (r *revocation) find(ctx context.Context) error {
	r.hosts = nil
	list, err := r.accounts(ctx, string(r.handle))
	for _, a := range list {
		if a.name == string(r.handle) {
			r.hosts = append(r.hosts, a.host)
		}
	}
	return err
}

// awaitMint waits while a broker has the handle's lock, which it takes before it
// makes anything. An account that was found needs no waiting. The job knows its
// own name, and could take the lock from a session that its account's end has
// not ended: those go first. Who has a name like a job's is no broker, unless that
// is what the admin is called.
func (r *revocation) awaitMint(ctx context.Context) error {
	if err := r.terminate(ctx); err != nil {
		return err
	}
	deadline := time.Now().Add(r.sessionEnd)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		var user, admin string
		busy, err := r.row(ctx, []any{&user, &admin}, "SELECT p.USER, me.USER FROM "+r.server.sessionTable()+" p, "+r.server.sessionTable()+" me"+
			" WHERE p.ID = IS_USED_LOCK(?) AND me.ID = CONNECTION_ID()", lockName(r.handle))
		if err != nil {
			return fmt.Errorf("wait for a mint under way: %w", err)
		}
		if !busy || strings.HasPrefix(user, "dp_") && user != admin {
			return r.unlocked(ctx, r.find)
		}
		pause(ctx, wait)
		if ctx.Err() != nil || time.Now().After(deadline) {
			return errors.New("a mint of it is still under way")
		}
	}
}

// each does a statement for the account with each of its hosts.
func (r *revocation) each(ctx context.Context, statement func(name string) string) error {
	for _, host := range r.hosts {
		if err := r.exec(ctx, statement(account(string(r.handle), host))); err != nil {
			return err
		}
	}
	return nil
}

// disable ends logins.
func (r *revocation) disable(ctx context.Context) error { return r.each(ctx, lockStatement) }

// alreadyGone are the errors of taking what is not there, or from whom is not
// there: the account may have been dropped at its expiry, and an attempt before
// this one may have got further.
var alreadyGone = []uint16{1133, 1141, 1147, 1269, codeUserFailed, 1403, 1962}

// ownStatements runs what the grant said when the lease was opened.
func (r *revocation) ownStatements(ctx context.Context) error {
	broker.Disarmed(ctx)
	list, err := renderAll(r.params.Statements.Revoke, r.values)
	for i, statement := range list {
		if err := r.exec(ctx, statement); err != nil && !isOneOf(err, alreadyGone...) {
			return fmt.Errorf("number %d: %w", i+1, err)
		}
	}
	return err
}

// strip takes rights and roles. Somebody else may drop the account under our
// hands.
func (r *revocation) strip(ctx context.Context) error {
	err := r.stripAll(ctx)
	if err == nil || codeOf(err) == 0 {
		return err
	}
	before := r.hosts
	if e := r.find(ctx); e != nil || slices.Equal(before, r.hosts) {
		return err
	}
	return r.stripAll(ctx)
}

func (r *revocation) stripAll(ctx context.Context) error {
	for _, host := range r.hosts {
		if r.server.mariadb { // what follows takes its roles as well
			break
		}
		roles, err := r.rolesOf(ctx, grantee{string(r.handle), host})
		if err != nil {
			return err
		}
		for _, role := range roles {
			if err := r.exec(ctx, "REVOKE "+r.server.quoted(role)+" FROM "+account(string(r.handle), host)); err != nil {
				return err
			}
		}
	}
	return r.each(ctx, stripStatement)
}

// dropEvent drops the event that would have ended the account.
func (r *revocation) dropEvent(ctx context.Context) error {
	if !r.settled {
		return nil
	}
	return r.exec(ctx, dropEventStatement(r.home(), r.handle))
}

// changeWithin is how long a session may be about to change its user before it
// counts as one that hides.
const changeWithin = 2 * time.Second

// endSessions ends every session of the user, and returns when none is left. One
// that rolls back is one that is left: the next attempt looks again, with or
// without an account.
//
// A session that changes its user is listed under the name that it claims, and
// goes on as before if that is refused; how long it takes is up to the client. So
// those that are at it at the first look may be the user's, until they are seen
// at something else. Nobody who means well takes long.
func (r *revocation) endSessions(ctx context.Context) error {
	if err := r.able(); err != nil { // we may not see them all
		return err
	}
	begun := time.Now()
	var hidden map[uint64]bool
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		theirs, changing, err := r.sessions(ctx)
		if err != nil {
			return err
		}
		hidden = stillIn(hidden, changing)
		n := len(theirs) + len(hidden)
		if n == 0 {
			return nil
		}
		if time.Since(begun) > changeWithin {
			theirs = slices.AppendSeq(theirs, maps.Keys(hidden))
		}
		if err := r.kill(ctx, theirs); err != nil {
			return err
		}
		pause(ctx, wait)
		if ctx.Err() != nil || time.Since(begun) > r.sessionEnd {
			return fmt.Errorf("%d sessions were told to end and are still there, undoing what they did", n)
		}
	}
}

// stillIn returns those of before that are among now; nil before is all of now.
func stillIn(before map[uint64]bool, now []uint64) map[uint64]bool {
	still := make(map[uint64]bool)
	for _, id := range now {
		if before == nil || before[id] {
			still[id] = true
		}
	}
	return still
}

// terminate tells the user's sessions to end, and does not wait for it.
func (r *revocation) terminate(ctx context.Context) error {
	theirs, _, err := r.sessions(ctx)
	if err != nil {
		return err
	}
	return r.kill(ctx, theirs)
}

// sessions lists the user's sessions, and those of anybody that are changing
// their user.
func (r *revocation) sessions(ctx context.Context) (theirs, changing []uint64, err error) {
	err = r.processes(ctx, func(id uint64, user, command string) {
		switch {
		case user == string(r.handle):
			theirs = append(theirs, id)
		case command == changingUser && r.server.claims():
			changing = append(changing, id)
		}
	})
	return theirs, changing, err
}

// What a session does that has not shown yet that it is who it says.
const (
	loggingIn    = "Connect"
	changingUser = "Change user"
)

// kill tells sessions to end.
func (c *conn) kill(ctx context.Context, ids []uint64) error {
	for _, id := range ids {
		if err := c.exec(ctx, fmt.Sprintf("KILL CONNECTION %d", id)); err != nil && codeOf(err) != codeNoSuchThread {
			return err
		}
	}
	return nil
}

// unlocked does a step, and again where a lock is in its way, after ending the
// user's sessions: the lock may be theirs.
func (r *revocation) unlocked(ctx context.Context, do func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		err := do(ctx)
		if !isOneOf(err, codeLockWait, codeStatementTooLong) || attempt == maxAttempts {
			return err
		}
		if err := r.terminate(ctx); err != nil {
			return err
		}
	}
}
