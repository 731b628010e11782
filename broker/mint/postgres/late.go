package postgres

import (
	"context"
	"slices"
	"sync"
	"time"
)

// lateSessions remembers roles that were dropped at once, for as long as a
// login may take that had begun before: the server looks for a role early, and
// shows the session late. Safe for concurrent use.
type lateSessions struct {
	mu    sync.Mutex // guards roles
	roles []dropped
}

type dropped struct {
	oid uint32
	at  time.Time
}

// lateFor is the server's own bound for a login (authentication_timeout), as
// it is where nobody has changed it.
const lateFor = time.Minute

func (l *lateSessions) remember(oid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roles = append(l.roles, dropped{oid, time.Now()})
}

// pending returns the roles to look for, and forgets the others.
func (l *lateSessions) pending() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roles = slices.DeleteFunc(l.roles, func(d dropped) bool { return time.Since(d.at) > lateFor })
	oids := make([]uint32, len(l.roles))
	for i, d := range l.roles {
		oids[i] = d.oid
	}
	return oids
}

// end ends the sessions of roles that are not there any more. A number that
// another role was given since is left alone.
func (l *lateSessions) end(ctx context.Context, c *conn) error {
	oids := l.pending()
	if len(oids) == 0 || !c.signals {
		return nil
	}
	return c.exec(ctx, `
		SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL)
		WHERE usesysid = ANY ($1) AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = usesysid)`, oids)
}
