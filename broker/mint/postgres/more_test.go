package postgres_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

// The guard stays in a transaction. It must not keep the server from cleaning
// up, nor others from their work.
func TestTheGuardHoldsNothingUp(t *testing.T) {
	own, m := signalServer(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	admin := connect(t, own.AdminURL("app"))
	const guards = "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'daypass guard' AND state = 'idle in transaction'"
	for range 2 {
		if n := ask[int](t, admin, guards); n != 1 {
			t.Errorf("there are %d guards", n)
		}
		if n := ask[int](t, admin, guards+" AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)"); n != 0 {
			t.Error("the guard holds a snapshot: nothing could be vacuumed")
		}
		if n := ask[int](t, admin, "SELECT count(*)::int FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE application_name = 'daypass guard' AND locktype = 'relation' AND mode <> 'AccessShareLock'"); n != 0 {
			t.Error("the guard holds strong locks")
		}
		if _, err := m.Held(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	revoke(t, m, u)
	closeMinter(m)
	for deadline := time.Now().Add(5 * time.Second); ask[int](t, admin, "SELECT count(*)::int FROM pg_stat_activity WHERE usename = 'dpadmin'") > 1; time.Sleep(5 * time.Millisecond) { // smallServer's own is one
		if time.Now().After(deadline) {
			t.Fatal("a closed minter keeps connections")
		}
	}
	if _, err := m.Held(t.Context()); err == nil {
		t.Error("a closed minter works")
	}
}

// The guard comes back after the server did.
func TestAGuardThatWasLostIsPostedAgain(t *testing.T) {
	own, m := signalServer(t)
	mint(t, m, orderFor(appGrant, time.Minute))
	for range 2 {
		if err := own.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Held(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := ask[int](t, connect(t, own.AdminURL("app")), "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'daypass guard'"); n != 1 {
			t.Errorf("there are %d guards", n)
		}
	}
}

// What ends the other connections ends the guard. The mint that hears of it has
// it posted anew while the server still takes the password: once it does not, in
// the midst of a rotation, the next look at the guard would find it gone, and
// nothing would be minted.
func TestAGuardLostWithOtherConnectionsIsBackBeforeThePasswordChanges(t *testing.T) {
	for name, idle := range map[string]time.Duration{"at once": 0, "when it is asked": freshAtMost} {
		t.Run(name, func(t *testing.T) {
			own, m := signalServer(t)
			super := connect(t, own.AdminURL("app"))
			mint(t, m, orderFor(appGrant, time.Minute))
			exec(t, super, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'dpadmin' AND application_name LIKE 'daypass%'")
			time.Sleep(idle)
			for range 2 {
				mint(t, m, orderFor(appGrant, time.Minute))
			}
			exec(t, super, "ALTER ROLE dpadmin PASSWORD 'another'")
			_, _ = m.Held(t.Context()) // looks after the guard; it has no connection of its own to list with
			mint(t, m, orderFor(appGrant, time.Minute))
		})
	}
}

// An admin that may end nobody's sessions has no guard, and needs none.
func TestWhereThereIsNoGuardALostConnectionKeepsNobodyFromMinting(t *testing.T) {
	own, _ := smallServer(t)
	super := connect(t, own.AdminURL("app"))
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "app")))
	mint(t, m, orderFor(appGrant, time.Minute))
	if _, err := m.Held(t.Context()); err != nil { // on a connection of its own
		t.Fatal(err)
	}
	exec(t, super, "ALTER ROLE dpadmin PASSWORD 'another'")
	mint(t, m, orderFor(appGrant, time.Minute))
	exec(t, super, "SELECT pg_terminate_backend(max(pid)) FROM pg_stat_activity WHERE usename = 'dpadmin' AND query LIKE '%pg_roles r WHERE starts_with%'")
	time.Sleep(freshAtMost)
	if _, err := m.Held(t.Context()); err == nil {
		t.Error("its connection was not lost: nothing is tried here")
	}
	mint(t, m, orderFor(appGrant, time.Minute))
}

func TestACallerWhoseTimeIsOverDoesNotCostTheGuard(t *testing.T) {
	own, m := signalServer(t)
	super := connect(t, own.AdminURL("app"))
	mint(t, m, orderFor(appGrant, time.Minute))
	const guard = "SELECT max(pid) FROM pg_stat_activity WHERE application_name = 'daypass guard'"
	before := ask[*int](t, super, guard)
	late, over := context.WithCancel(t.Context())
	over()
	if _, err := m.Held(late); err == nil {
		t.Error("it was listed for nobody")
	}
	time.Sleep(200 * time.Millisecond)
	if after := ask[*int](t, super, guard); before == nil || after == nil || *before != *after {
		t.Errorf("the guard was %v and is %v", before, after)
	}
}

// freshAtMost is longer than a connection is taken to be alive unasked.
const freshAtMost = 1100 * time.Millisecond

// A guard on the server of a former admin URL guards nothing.
func TestTheGuardGoesWhereTheAdminURLLeads(t *testing.T) {
	own, _ := signalServer(t)
	next, _ := signalServer(t)
	source := holding(own.URL("dpadmin", adminPassword, "app"))
	m := openMinter(t, source)
	mint(t, m, orderFor(appGrant, time.Minute))
	source.set(broker.SecretValue{Current: broker.NewSecret(next.URL("dpadmin", adminPassword, "app"))}, nil)
	for range 2 {
		mint(t, m, orderFor(appGrant, time.Minute))
	}
	for at, want := range map[*servers.Postgres]int{own: 0, next: 1} {
		super := connect(t, at.AdminURL("app"))
		n := -1
		for deadline := time.Now().Add(5 * time.Second); n != want && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			n = ask[int](t, super, "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'daypass guard'")
		}
		if n != want {
			t.Errorf("%d guards, want %d", n, want)
		}
	}
}

// Logins that are under way while their user is dropped must not get through.
func TestNoSessionComesUpWhileItsUserIsTakenBack(t *testing.T) {
	m, admin := superMinter(t), adminConn(t)
	for i := range 10 {
		u := mint(t, m, orderFor(appGrant, time.Minute))
		oid := ask[uint32](t, admin, "SELECT oid FROM pg_roles WHERE rolname = $1", string(u.lease.Handle))
		var attackers sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		for range 4 {
			attackers.Go(func() {
				for ctx.Err() == nil {
					if c, err := pgx.Connect(ctx, u.env["DATABASE_URL"]); err == nil {
						defer func() { _ = c.Close(context.Background()) }()
					}
				}
			})
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
		revoke(t, m, u)
		left := 0
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond)
			if _, err := m.Held(t.Context()); err != nil { // the sweeper's next look
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
			if left = ask[int](t, admin, "SELECT count(*)::int FROM pg_stat_activity WHERE usesysid = $1", oid); left == 0 {
				break // on a busy machine a login may take until the look after that
			}
		}
		if left != 0 {
			t.Errorf("%d sessions of a role that is gone", left)
		}
		stop()
		attackers.Wait()
	}
}

// A user past its expiry has lost its login by itself; the sweeper, which may
// know nothing but its name, ends the sessions that are open.
func TestSessionsThatAreOpenAtTheExpiryAreEndedByTheSweeper(t *testing.T) {
	m := superMinter(t)
	u := mint(t, m, orderFor(appGrant, 2*time.Second))
	c := u.login(t)
	exec(t, c, "BEGIN")
	time.Sleep(time.Until(u.lease.NotAfter) + 1100*time.Millisecond)
	if h, ok := heldAs(t, m, u.lease.Handle); !ok || !h.Overdue {
		t.Fatalf("held %v as %+v", ok, h)
	}
	if err := m.Revoke(t.Context(), broker.Lease{Handle: u.lease.Handle, Grant: broker.Grant{Target: "app-pg"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the session is still there")
	}
}

func TestAJobCannotHoldUpItsRevocationWithTransactionsPreparedElsewhere(t *testing.T) {
	own, m := smallServer(t)
	u := mint(t, m, orderFor(appGrant, time.Minute))
	c := connect(t, own.URL(u.env["PGUSER"], u.env["PGPASSWORD"], "other"))
	for _, sql := range []string{"SET ROLE NONE", "BEGIN", "ALTER ROLE " + string(u.lease.Handle) + " PASSWORD 'known'", "PREPARE TRANSACTION 'elsewhere'"} {
		exec(t, c, sql)
	}
	gone(t, own, m, u)
	if n := ask[int](t, connect(t, own.AdminURL("app")), "SELECT count(*)::int FROM pg_prepared_xacts"); n != 0 {
		t.Errorf("%d prepared transactions are left", n)
	}
}

func TestAGrantCanHaveTheLoginTriedBeforeItsAnswer(t *testing.T) {
	own, _ := smallServer(t)
	admin := connect(t, own.AdminURL("app"))
	exec(t, admin, "REVOKE CONNECT ON DATABASE other FROM PUBLIC")
	m := openMinter(t, holding(own.AdminURL("app")))
	u := mint(t, m, orderFor(grant(`{"roles": ["app_owner"], "probe": true}`), time.Minute))
	revoke(t, m, u)
	o := orderFor(grant(`{"roles": ["app_owner"], "probe": true, "database": "other"}`), time.Minute)
	h, err := m.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mint(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), "cannot log in") {
		t.Errorf("got %v", err)
	}
	mint(t, m, orderFor(grant(`{"roles": ["app_owner"], "database": "other"}`), time.Minute)) // nobody tries
}

func TestATargetSaysHowManyIterationsAndConnections(t *testing.T) {
	for params, want := range map[string]string{
		`{"scram_iterations": 1}`: "", `{"connections": 100}`: "", ``: "",
		`{"scram_iterations": 0}`: "scram_iterations: 0", `{"connections": 0}`: "connections: 0", `{"connections": 101}`: "connections: 101",
		`{"iterations": 1}`: "no such setting", `[]`: "not an object", `{"scram_iterations": "1"}`: "wrong type",
	} {
		c := config(holding(server.AdminURL("app")))
		c.Params = []byte(params)
		if _, err := postgres.Kind().Open(c); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v", params, err)
		}
	}
	stored := func(target, params string) string {
		c := config(holding(server.AdminURL("app")))
		c.Params = []byte(target)
		m, err := postgres.Kind().Open(c)
		if err != nil {
			t.Fatal(err)
		}
		defer closeMinter(m)
		u := mint(t, m, orderFor(grant(params), time.Minute))
		defer revoke(t, m, u)
		return ask[string](t, adminConn(t), "SELECT split_part(split_part(rolpassword, '$', 2), ':', 1) FROM pg_authid WHERE rolname = $1", string(u.lease.Handle))
	}
	for _, c := range [][3]string{
		{``, `{"roles": ["app_owner"]}`, "4096"}, {`{"scram_iterations": 1}`, `{"roles": ["app_owner"]}`, "1"},
		{`{"scram_iterations": 1}`, `{"roles": ["app_owner"], "scram_iterations": 5000}`, "5000"},
	} {
		if got := stored(c[0], c[1]); got != c[2] {
			t.Errorf("target %s, grant %s: %s iterations, want %s", c[0], c[1], got, c[2])
		}
	}
}

func TestThousandsAreListedQuicklyAndNoneIsLeftOut(t *testing.T) {
	own := ownServer(t, servers.PostgresConfig{})
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "app")))
	want := makeUsers(t, own, 3000)
	began := time.Now()
	held, err := m.Held(t.Context())
	if err != nil || len(held) != len(want) {
		t.Errorf("%d are held, want %d: %v", len(held), len(want), err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A plan that was made when there was nobody is used when there are thousands.
// One that then reads through all of them, or that the server thinks so great
// that it compiles it, costs more than the user that is made.
func TestJudgingAGroupLooksAtNobodyElseHoweverManyUsersThereAre(t *testing.T) {
	own, err := servers.StartPostgres(t.Context(), servers.PostgresConfig{Settings: map[string]string{"autovacuum": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	if err := prepare(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	text, err := postgres.ExplainJudgement(t.Context(), broker.NewSecret(own.AdminURL("app")), "app_owner", func() { makeUsers(t, own, 2000) })
	if err != nil {
		t.Fatal(err)
	}
	type node struct {
		Rows    float64 `json:"Actual Rows"`
		Removed float64 `json:"Rows Removed by Filter"`
		Loops   float64 `json:"Actual Loops"`
		Plans   []node
	}
	var explained []struct {
		Plan node
		JIT  any
	}
	if err := json.Unmarshal([]byte(text), &explained); err != nil || len(explained) != 1 {
		t.Fatalf("no plan: %v: %s", err, text)
	}
	var read func(n node) float64
	read = func(n node) float64 {
		sum := (n.Rows + n.Removed) * n.Loops
		for _, under := range n.Plans {
			sum += read(under)
		}
		return sum
	}
	if n := read(explained[0].Plan); n < 1 || n > 50 || explained[0].JIT != nil {
		t.Errorf("%v rows were read (compiled: %v):\n%s", n, explained[0].JIT, text)
	}
}

// Users come and go by the thousand. What grows with each of them would break
// the database one day.
func TestFiveThousandUsersLeaveNothingBehind(t *testing.T) {
	const users = 5000
	own := ownServer(t, servers.PostgresConfig{})
	admin := connect(t, own.AdminURL("app"))
	exec(t, admin, "CREATE TABLE shop (n int); GRANT ALL ON shop TO app_owner; INSERT INTO shop VALUES (1)")
	size := func() string {
		return ask[string](t, admin, `SELECT concat((SELECT sum(coalesce(pg_column_size(relacl), 0)) FROM pg_class), ' bytes of relacl, ', (SELECT count(*) FROM pg_shdepend), ' dependencies, ',
			(SELECT count(*) FROM pg_auth_members), ' memberships, ', (SELECT count(*) FROM pg_db_role_setting), ' settings, ', (SELECT count(*) FROM pg_shdescription), ' comments, ', (SELECT count(*) FROM pg_authid), ' roles')`)
	}
	m := openMinter(t, holding(own.URL("dpadmin", adminPassword, "app")))
	u := mint(t, m, orderFor(appGrant, time.Hour))
	revoke(t, m, u)
	before := size()
	took, other := make([]time.Duration, users), make([]time.Duration, users)
	for i := range took {
		began := time.Now()
		u := mint(t, m, orderFor(appGrant, time.Hour))
		took[i] = time.Since(began)
		began = time.Now() // work that has nothing to do with users, to see what else the machine does
		ask[int](t, admin, "SELECT count(*)::int FROM generate_series(1, 5000)")
		other[i] = time.Since(began)
		if i%50 == 0 {
			c := u.login(t)
			if n := ask[int](t, c, "SELECT n FROM shop"); n != 1 {
				t.Errorf("n is %d", n)
			}
			_ = c.Close(t.Context())
		}
		revoke(t, m, u)
	}
	if after := size(); after != before {
		t.Errorf("there were %s, there are %s", before, after)
	}
	// middle is what took about half of the first hundred, and of the last.
	middle := func(all []time.Duration, nth int) (first, last time.Duration) {
		return slices.Sorted(slices.Values(all[:100]))[nth], slices.Sorted(slices.Values(all[users-100:]))[nth]
	}
	slower := func(nth int) float64 {
		first, last := middle(took, nth)
		otherFirst, otherLast := middle(other, nth)
		return float64(last) / float64(first) / max(1, float64(otherLast)/float64(otherFirst))
	}
	first, last := middle(took, 50)
	t.Logf("median of the first hundred %v, of the last %v; beside other work %.2f times as long", first, last, slower(50))
	if slower(50) > 1.5 && slower(25) > 1.5 {
		t.Errorf("a mint took %v at first, and %v in the end", first, last)
	}
}

// Naughty strings wherever a string can come from: claims, group roles,
// database, reassign, the grant's own statements. The server's log says what
// was run.
func TestNoStatementButOursIsRunWhateverTheNames(t *testing.T) {
	own := ownServer(t, servers.PostgresConfig{Settings: awkward})
	super := connect(t, own.AdminURL("app"))
	m := openMinter(t, holding(own.AdminURL("app")))
	naughty := []string{
		`x'; DROP ROLE canary; --`, `x"; DROP ROLE canary; --`, `\'; DROP ROLE canary; --`, `'||(DROP ROLE canary)||'`, `$$; DROP ROLE canary; $$`,
		"x\n; DROP ROLE canary;\n", `{{name}}`, `%s%n%x`, `x/*`, `*/ DROP ROLE canary`, `U&"\0022"`, `E'\''`, `"" '' \\`, `{a,"b`, `$1`, "é\U0001F600 'x", ` `, `a\`, "tab\t;",
	}
	exec(t, super, "CREATE ROLE canary")
	for i, name := range naughty {
		exec(t, super, "CREATE ROLE "+postgres.QuoteName(name))
		exec(t, super, "CREATE DATABASE "+postgres.QuoteName(name))
		params := fmt.Sprintf(`{"roles": [%[1]s], "database": %[1]s, "on_owned": {"reassign": %[1]s}, "scram_iterations": 1, "statements": {
			"create": ["SELECT {{owner_literal}}, {{name_literal}}, {{database_literal}}, {{lease}}, {{expiry}}", "COMMENT ON ROLE {{owner}} IS 'seen'"],
			"revoke": ["SELECT {{owner_literal}}, {{lease}}", "ALTER ROLE {{name}} SET search_path = {{owner}}"]}}`, jsonText(t, name))
		o := orderFor(grant(params), time.Minute)
		o.Lease = broker.LeaseID(fmt.Sprint(name, i))
		o.For = broker.Identity{Issuer: name, Subject: name, Job: broker.Job{Repository: name, RepositoryID: name, Ref: name}}
		u := mint(t, m, o)
		if i%2 == 0 { // something to reassign, so that a connection goes there too
			c := connect(t, own.URL(u.env["PGUSER"], u.env["PGPASSWORD"], "app"))
			exec(t, c, "SET ROLE NONE; CREATE TABLE public."+postgres.QuoteName(fmt.Sprint(i, name)[:min(len(fmt.Sprint(i, name)), 20)])+" (n int)")
			exec(t, super, "GRANT ALL ON SCHEMA public TO "+postgres.QuoteName(name))
		}
		revoke(t, m, u)
	}
	if !ask[bool](t, super, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'canary')") {
		t.Error("a naughty string was run")
	}
	for sql := range loggedStatements(t, own.LogPath()) {
		if !slices.ContainsFunc(shapes, func(re *regexp.Regexp) bool { return re.MatchString(sql) }) {
			t.Errorf("not ours: %s", sql)
		}
	}
}

// shapes are our statements, with ? for what was quoted.
var shapes = compileAll(
	`BEGIN(; LOCK TABLE \S+ IN ACCESS EXCLUSIVE MODE)?`, `COMMIT`, `ROLLBACK( TO post)?`, `SELECT pg_advisory_xact_lock\(\S+\)`,
	`CREATE ROLE \? LOGIN INHERIT PASSWORD \? VALID UNTIL \?`, `GRANT \? TO \?`, `ALTER ROLE \? SET role = \?`, `COMMENT ON ROLE \? IS \?`,
	`(SET LOCAL lock_timeout = \?; )?ALTER ROLE \? NOLOGIN PASSWORD NULL VALID UNTIL \?`, `REVOKE \? FROM \?( GRANTED BY \? CASCADE)?`, `DROP ROLE \?`, `DROP OWNED BY \?`,
	`ALTER (TABLE|SEQUENCE) public\.\S+ OWNER TO \?`, `REVOKE ALL ON .* FROM \? CASCADE`,
	`SELECT \?, \?, \?, \?, \?`, `SELECT \?, \?`, `ALTER ROLE \? SET search_path = \?`, // the grants' own
	`(WITH RECURSIVE up\(|WITH held AS|SELECT )[^;]*`, // what only reads, and is one
	`BEGIN;( SELECT FROM [a-z_, ]+ LIMIT 0;)+ ?SELECT pg_stat_clear_snapshot\(\); SELECT count[^;]*; SAVEPOINT post`,
	`SET application_name = \?; SET idle_in_transaction_session_timeout = 0; SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED(; SET transaction_timeout = 0)?`,
)

func compileAll(list ...string) []*regexp.Regexp {
	all := make([]*regexp.Regexp, len(list))
	for i, s := range list {
		all[i] = regexp.MustCompile(`\A` + s + `\z`)
	}
	return all
}

var (
	logLine   = regexp.MustCompile(`^\d{4}-\d\d-\d\d [0-9:.]+ \S+ \[(\d+)\] (?:app=(.*?) )?(LOG|DETAIL|ERROR|STATEMENT|WARNING|FATAL|HINT|NOTICE|CONTEXT):  (.*)$`)
	statement = regexp.MustCompile(`(?s)\A(?:statement|execute [^:]*): (.*)\z`)
	quoteRE   = regexp.MustCompile(`(?s) ?E'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"`)
)

// loggedStatements returns each statement that the minter's sessions ran, with
// ? for what was quoted: those of a log whose sessions took an advisory lock,
// ended somebody or tidied up. It fails where there is none.
func loggedStatements(t *testing.T, path string) map[string]bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	bySession := map[string][]string{}
	session := ""
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m := logLine.FindStringSubmatch(lines.Text())
		if m == nil {
			if n := len(bySession[session]); n > 0 && session != "" {
				bySession[session][n-1] += "\n" + lines.Text()
			}
			continue
		}
		session = ""
		if s := statement.FindStringSubmatch(m[4]); m[3] == "LOG" && s != nil {
			session = m[1]
			bySession[session] = append(bySession[session], s[1])
		}
	}
	found := map[string]bool{}
	for _, list := range bySession {
		if !strings.Contains(strings.Join(list, "\n"), "pg_control_system") { // how our sessions begin
			continue
		}
		for _, sql := range list {
			found[strings.Join(strings.Fields(quoteRE.ReplaceAllString(sql, "?")), " ")] = true
		}
	}
	if len(found) < 15 || lines.Err() != nil {
		t.Fatalf("only %d statements were logged: %v", len(found), lines.Err())
	}
	return found
}

func jsonText(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
