package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// grace is how long past its expiry, by the database's clock, a credential may
// still be there: the first of the promises.
const grace = 30

// A checker judges from outside whether credentials end when they must. It
// has connections of its own, as the administrator and as whoever was issued
// something, goes by the database's clock, and shares no code with the broker:
// what names mean and what a journal says it reads for itself.
type checker struct {
	t    *testing.T
	stop context.CancelFunc
	done sync.WaitGroup
	pgs  []*watched
}

// everySecond is how often a checker looks, and logs in.
const everySecond = time.Second

// watched is one database server under a checker's eyes.
type watched struct {
	c     *checker
	admin string
	eager bool // log in with every credential each second, not only when it has ended

	mu      sync.Mutex // guards what follows
	known   map[string]*held
	seen    map[string]uint32 // every user of ours that was ever there, and its oid
	now     []string          // those that could log in at the last look
	faults  map[string]bool
	excused int64 // by the database's clock: until then it could not be reached, or nobody was there to reach it
	looks   int
	logins  int
	lastOK  time.Time
	gap     time.Duration // the longest between two looks that succeeded
}

// held is a credential that somebody got hold of.
type held struct {
	user, url string
	expires   int64
	session   *pgx.Conn // left open, to see it end
	keep      bool
	over      bool // it was tried after its time, and there is nothing more to see
}

var ourName = regexp.MustCompile(`^dp_test_([0-9a-z]{6})_[a-z2-7]{12}$`)

// expiryOf reads a user's name; false: it is none of ours.
func expiryOf(name string) (int64, bool) {
	m := ourName.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	unix, err := strconv.ParseInt(m[1], 36, 64)
	return unix, err == nil
}

// watchOver starts a checker over the servers that these administrators lead to.
func watchOver(t *testing.T, eager bool, admins ...string) *checker {
	ctx, stop := context.WithCancel(context.Background())
	c := &checker{t: t, stop: stop}
	for _, admin := range admins {
		w := &watched{c: c, admin: admin, eager: eager, known: map[string]*held{}, seen: map[string]uint32{}, faults: map[string]bool{}}
		c.pgs = append(c.pgs, w)
		c.done.Go(func() { every(ctx, w.look) })
		c.done.Go(func() { every(ctx, w.login); w.hangUp() })
	}
	t.Cleanup(func() { stop(); c.done.Wait() })
	return c
}

// knows tells the checker of a credential. With keep it holds a session open.
func (w *watched) knows(url string, keep bool) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		w.c.t.Errorf("a credential that is no URL: %v", err)
		return
	}
	expires, ours := expiryOf(config.User)
	if !ours {
		w.c.t.Errorf("a credential with a name that is not ours: %s", config.User)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[config.User] == nil {
		w.known[config.User] = &held{user: config.User, url: url, expires: expires, keep: keep}
	}
}

// excuse forgives what is late until the server's clock shows now + 30 s: the
// server, or the last broker, has just come back.
func (w *watched) excuse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.excused = time.Now().Unix()
}

// every does something each second until the context ends.
func every(ctx context.Context, do func(context.Context)) {
	tick := time.NewTicker(everySecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		do(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (w *watched) hangUp() {
	for _, h := range w.known {
		if h.session != nil {
			_ = h.session.Close(context.Background())
		}
	}
}

func (w *watched) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[fmt.Sprintf(format, args...)] = true
}

// late reports whether something may not be there any more.
func (w *watched) late(expires, now int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return now > max(expires, w.excused)+grace
}

// look reads the server's own lists: who may log in, and who is.
func (w *watched) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.admin)
	if err != nil {
		return // it is down, or full; what is late then is still late afterwards
	}
	defer conn.Close(context.Background())
	var now int64
	var users, sessions []string
	err = errors.Join(
		conn.QueryRow(ctx, `SELECT array(SELECT rolname || ' ' || oid || ' ' || rolcanlogin FROM pg_roles WHERE starts_with(rolname, 'dp_'))`).Scan(&users),
		conn.QueryRow(ctx, `SELECT array(SELECT usesysid || ' ' || pid FROM pg_stat_get_activity(NULL) WHERE usesysid IS NOT NULL)`).Scan(&sessions),
		conn.QueryRow(ctx, `SELECT floor(extract(epoch FROM clock_timestamp()))::bigint`).Scan(&now))
	if err != nil {
		return
	}
	w.judge(users, sessions, now)
}

func (w *watched) judge(users, sessions []string, now int64) {
	w.mu.Lock()
	if !w.lastOK.IsZero() {
		w.gap = max(w.gap, time.Since(w.lastOK))
	}
	w.lastOK, w.looks, w.now = time.Now(), w.looks+1, nil
	byOID := map[string]string{}
	for _, u := range users {
		var name, oid string
		var login bool
		_, _ = fmt.Sscan(u, &name, &oid, &login)
		if _, ours := expiryOf(name); ours {
			n, _ := strconv.ParseUint(oid, 10, 32)
			w.seen[name] = uint32(n)
			if login {
				w.now = append(w.now, name)
			}
		}
	}
	for name, oid := range w.seen { // a session may outlive its user's row
		byOID[fmt.Sprint(oid)] = name
	}
	may := slices.Clone(w.now)
	w.mu.Unlock()
	for _, name := range may {
		if expires, _ := expiryOf(name); w.late(expires, now) {
			w.fault("%s may log in %d s after its expiry", name, now-expires)
		}
	}
	for _, s := range sessions {
		oid, _, _ := strings.Cut(s, " ")
		if name, ours := byOID[oid]; ours {
			if expires, _ := expiryOf(name); w.late(expires, now) {
				w.fault("%s has a session %d s after its expiry", name, now-expires)
			}
		}
	}
}

// login tries the credentials, some at a time.
func (w *watched) login(ctx context.Context) {
	w.mu.Lock()
	all := slices.Collect(maps.Values(w.known))
	w.mu.Unlock()
	slots := make(chan struct{}, 8)
	var tries sync.WaitGroup
	for _, h := range all {
		ended := time.Now().Unix() > h.expires+grace
		if h.over || h.session == nil && !w.eager && !ended && (!h.keep || time.Now().Unix() > h.expires) {
			continue
		}
		slots <- struct{}{}
		tries.Go(func() {
			defer func() { <-slots }()
			w.try(ctx, h)
		})
	}
	tries.Wait()
}

// try uses a credential: the session that is open, and a new one.
func (w *watched) try(ctx context.Context, h *held) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	w.mu.Lock()
	w.logins++
	w.mu.Unlock()
	if h.session != nil {
		if now, err := clockOf(ctx, h.session); err == nil && w.late(h.expires, now) {
			w.fault("a session of %s works %d s after its expiry", h.user, now-h.expires)
		} else if err != nil {
			_ = h.session.Close(context.Background())
			h.session = nil
		}
		if !w.eager {
			return
		}
	}
	conn, err := pgx.Connect(ctx, h.url)
	if err != nil {
		// Said by the server, and not because it is down or full.
		if code := sqlState(err); (code == "28P01" || code == "28000") && time.Now().Unix() > h.expires+grace {
			w.mu.Lock()
			h.over = h.session == nil
			w.mu.Unlock()
		}
		return
	}
	now, err := clockOf(ctx, conn)
	if err == nil && w.late(h.expires, now) {
		w.fault("%s logged in %d s after its expiry", h.user, now-h.expires)
	}
	if h.keep && h.session == nil && err == nil {
		h.session = conn
		return
	}
	_ = conn.Close(ctx)
}

func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

func clockOf(ctx context.Context, conn *pgx.Conn) (int64, error) {
	var now int64
	err := conn.QueryRow(ctx, `SELECT floor(extract(epoch FROM clock_timestamp()))::bigint`).Scan(&now)
	return now, err
}

// last is when the last credential that was ever seen must be gone.
func (c *checker) last() time.Time {
	var last int64
	for _, w := range c.pgs {
		w.mu.Lock()
		for name := range w.seen {
			expires, _ := expiryOf(name)
			last = max(last, expires)
		}
		last = max(last, w.excused)
		w.mu.Unlock()
	}
	return time.Unix(last+grace, 0)
}

// finish waits until all must be gone, tries all once more, and reports.
func (c *checker) finish() {
	c.t.Helper()
	time.Sleep(time.Until(c.last()) + 2500*time.Millisecond)
	for _, w := range c.pgs {
		for deadline := time.Now().Add(90 * time.Second); w.pending() > 0 && time.Now().Before(deadline); {
			time.Sleep(200 * time.Millisecond)
		}
		if n := w.pending(); n > 0 {
			c.t.Errorf("%d credentials could not be tried after their end", n)
		}
	}
	c.stop()
	c.done.Wait()
	for i, w := range c.pgs {
		for _, f := range slices.Sorted(maps.Keys(w.faults)) {
			c.t.Errorf("server %d: %s", i, f)
		}
		c.t.Logf("server %d: %d users seen, %d credentials known, %d looks, longest gap %.1f s, %d logins tried", i, len(w.seen), len(w.known), w.looks, w.gap.Seconds(), w.logins)
		if w.looks == 0 {
			c.t.Errorf("server %d was never looked at", i)
		}
	}
}

func (w *watched) pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, h := range w.known {
		if !h.over {
			n++
		}
	}
	return n
}

// users is every user of ours that was ever seen.
func (c *checker) users() map[string]bool {
	all := map[string]bool{}
	for _, w := range c.pgs {
		w.mu.Lock()
		for name := range w.seen {
			all[name] = true
		}
		w.mu.Unlock()
	}
	return all
}

// foreignRoles are not ours, however alike they look: another deployment, a
// letter more or less, another alphabet, another case, a name around ours.
var foreignRoles = []string{
	"dp_prod_t0aaaa_aaaaaaaaaaaa", "dp_test_t0aaaa_aaaaaaaaaaaaa", "dp_test_t0aaaa_aaaaaaaaaaa", "dp_test_t0aaaa_aaaaaaaaaa01", "DP_TEST_T0AAAA_AAAAAAAAAAAA",
	"dp_test_t0aaaa_aaaaaaaaaaa\n", "xdp_test_t0aaaa_aaaaaaaaaaaa", "dp_test_t0aaaa_aaaaaaaaaaaa_backup", "dp-test-t0aaaa-aaaaaaaaaaaa", "dp_test__aaaaaaaaaaaa", `dp_test_t0aaaa_"aaaaaaaaaaa`,
	"dp_test_t0aa_aaaaaaaaaaaa", "alice", "payments_app",
}

// plantForeign makes them, some with a login and a password, an owner's things
// and a place in our group, and long past their own end.
func plantForeign(t *testing.T, admin string) {
	t.Helper()
	conn := mustConnect(t, admin)
	for i, name := range foreignRoles {
		quoted := pgx.Identifier{name}.Sanitize()
		attributes := []string{"LOGIN PASSWORD 'theirs'", "NOLOGIN", "LOGIN PASSWORD 'theirs' VALID UNTIL '2020-01-01'"}[i%3]
		for _, sql := range []string{"CREATE ROLE " + quoted + " " + attributes, "GRANT orders_rw TO " + quoted, "COMMENT ON ROLE " + quoted + ` IS '{"by":"daypass"}'`} {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
	}
}

// foreignHash is of every row that tells of a role that is not ours.
func foreignHash(t *testing.T, admin string) string {
	t.Helper()
	conn := mustConnect(t, admin)
	var hash string
	var roles int
	if err := conn.QueryRow(context.Background(), `
		WITH theirs AS (SELECT * FROM pg_authid WHERE rolname !~ '^dp_test_[0-9a-z]{6}_[a-z2-7]{12}$' OR rolname LIKE E'%\n')
		SELECT md5(concat((SELECT string_agg(t::text, ' ' ORDER BY oid) FROM theirs t),
			(SELECT string_agg(m::text, ' ' ORDER BY m::text) FROM pg_auth_members m WHERE member IN (SELECT oid FROM theirs)),
			(SELECT string_agg(d::text, ' ' ORDER BY d::text) FROM pg_shdescription d WHERE objoid IN (SELECT oid FROM theirs)),
			(SELECT string_agg(s::text, ' ' ORDER BY s::text) FROM pg_db_role_setting s WHERE setrole IN (SELECT oid FROM theirs)))),
			(SELECT count(*)::int FROM theirs)`).Scan(&hash, &roles); err != nil {
		t.Fatal(err)
	}
	if roles < len(foreignRoles) {
		t.Errorf("of %d foreign roles %d are left", len(foreignRoles), roles)
	}
	return hash
}

func mustConnect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
