package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// binaries is where TestMain puts what the tests run as processes.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if servers := os.Getenv(faultyServers); servers != "" {
			return serveFaulty(servers, os.Args[1:])
		}
		dir, err := os.MkdirTemp("", "daypass-bin-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		args := []string{"build", "-o", dir + "/"}
		if raceEnabled {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "../daypassd", "../daypass", "../fakeci")...)
		if out, err := build.CombinedOutput(); err != nil {
			panic(fmt.Sprintf("build: %v\n%s", err, out))
		}
		binaries = dir
		return m.Run()
	}())
}

// rig is a CI provider, a PostgreSQL, perhaps a Redis, and brokers.
type rig struct {
	t     *testing.T
	dir   string
	ci    *fakeissuer.Server
	pg    *servers.Postgres
	redis *servers.Redis
}

const rigPolicy = `owner: team-shop
repos:
  shop: {issuer: github, name: acme/shop, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: main
    for: [shop]
    match: {ref: refs/heads/main, event_name: push}
    allow:
      - {grant: orders-db}
      - {grant: web-identity}
`

func newRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel() // most of the time is spent waiting for expiries
	return openRig(t)
}

// bareRig is one without a database.
func bareRig(t *testing.T) *rig {
	t.Helper()
	ci, err := fakeissuer.Start(fakeissuer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ci.Close() })
	return &rig{t: t, dir: t.TempDir(), ci: ci}
}

func openRig(t *testing.T) *rig {
	t.Helper()
	r := bareRig(t)
	var err error
	if r.pg, err = servers.StartPostgres(t.Context(), servers.PostgresConfig{Settings: map[string]string{"log_statement": "all", "log_connections": "on"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.pg.Close() })
	r.sql(`CREATE ROLE orders_rw NOLOGIN`)
	r.sql(`GRANT CREATE, USAGE ON SCHEMA public TO orders_rw`)
	r.write("policies/shop.yaml", rigPolicy)
	return r
}

// withRedis starts a Redis that keeps an append-only file, so that what it was
// told can be read.
func (r *rig) withRedis() {
	r.t.Helper()
	dir := filepath.Join(r.dir, "redis")
	err := os.MkdirAll(dir, 0o700)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.redis, err = servers.StartRedis(r.t.Context(), servers.RedisConfig{
		Dir: dir, Args: []string{"--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"},
	}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = r.redis.Stop() })
}

func (r *rig) write(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// sql asks PostgreSQL as its admin and returns the first column.
func (r *rig) sql(query string, args ...any) []string {
	r.t.Helper()
	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	conn, err := pgx.Connect(ctx, r.pg.AdminURL("postgres"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		r.t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatalf("%s: %v", query, err)
	}
	return values
}

// users are the database users of ours.
func (r *rig) users() []string {
	r.t.Helper()
	return r.sql(`SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'dp\_%'`)
}

// token is a fresh one of a job on main of acme/shop, changed as told.
func (r *rig) token(d *broker1, claims map[string]any) string {
	r.t.Helper()
	set := map[string]any{"repository": "acme/shop", "repository_id": "5678", "repository_owner": "acme", "repository_owner_id": "1234",
		"ref": "refs/heads/main", "event_name": "push"}
	for name, v := range claims {
		set[name] = v
	}
	token, err := r.ci.Token(fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: d.audience, Set: set})
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// broker1 is one daypassd as a process.
type broker1 struct {
	rig      *rig
	name     string
	url      string
	admin    string
	audience string
	config   string
	data     string
	shell    string // what starts it
	cmd      *exec.Cmd
	done     chan error
	out      *syncBuffer // all it ever printed
}

const rigConfig = `url: %[1]s
audience: https://daypass.test
deployment: test
broker: %[2]s
listen: %[3]s
admin: {listen: %[4]s}
state: %[5]s
data_dir: ./%[2]s
keys: ./keys
policies: ./policies
issuers:
  github: {profile: github, url: %[6]s, insecure: true}
targets:
  orders-pg: {kind: postgres, admin: "env:ORDERS_ADMIN_URL"}
grants:
  orders-db: {target: orders-pg, max_ttl: 30m, params: {roles: [orders_rw]}}
  web-identity: {kind: jwt, max_ttl: 30m, params: {audience: sts.example.com}}
`

// broker starts a broker; state is "embedded" or "redis".
func (r *rig) broker(name, state string) *broker1 {
	r.t.Helper()
	return r.changed(name, state, func(config string) string { return config })
}

// prepare writes a configuration.
func (r *rig) prepare(name, state string, edit func(string) string) *broker1 {
	r.t.Helper()
	listen, admin := freeAddr(r.t), freeAddr(r.t)
	b := &broker1{rig: r, name: name, url: "http://" + listen, admin: "http://" + admin, audience: "https://daypass.test",
		data: filepath.Join(r.dir, name), shell: "exec", out: &syncBuffer{}}
	if state == "redis" {
		state = "redis://" + r.redis.Addr()
	}
	b.config = r.write(name+".yaml", edit(fmt.Sprintf(rigConfig, b.url, name, listen, admin, state, r.ci.URL(fakeissuer.GitHub))))
	return b
}

func freeAddr(t *testing.T) string {
	t.Helper()
	port, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
}

// start starts the process and waits until it is ready.
func (b *broker1) start() {
	b.rig.t.Helper()
	b.launch()
	b.rig.eventually(20*time.Second, b.ready)
}

// launch starts the process.
func (b *broker1) launch() {
	b.rig.t.Helper()
	b.cmd = exec.Command("sh", "-c", b.shell+` "$@"`, "sh", filepath.Join(binaries, "daypassd"), "serve", "--config", b.config, "--log-level", "debug")
	b.cmd.Env = os.Environ()
	if b.rig.pg != nil {
		b.cmd.Env = append(b.cmd.Env, "ORDERS_ADMIN_URL="+b.rig.pg.AdminURL("postgres"))
	}
	b.cmd.Stdout, b.cmd.Stderr = b.out, b.out
	if err := b.cmd.Start(); err != nil {
		b.rig.t.Fatal(err)
	}
	b.done = make(chan error, 1)
	go func() { b.done <- b.cmd.Wait() }()
}

// ready says why the broker is not, or nil.
func (b *broker1) ready() error {
	status, body := b.call(http.MethodGet, "/readyz", "", nil)
	if status != http.StatusOK {
		return fmt.Errorf("%s is not ready: %d %v\n%s", b.name, status, body, b.out)
	}
	return nil
}

// stop ends the process in order; it must not complain.
func (b *broker1) stop() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(os.Interrupt)
	select {
	case err := <-b.done:
		if err != nil {
			b.rig.t.Errorf("%s did not stop in order: %v\n%s", b.name, err, b.out)
		}
	case <-time.After(30 * time.Second):
		_ = b.cmd.Process.Kill()
		b.rig.t.Errorf("%s had to be killed\n%s", b.name, b.out)
	}
	b.cmd = nil
}

// kill ends the process as a crash would.
func (b *broker1) kill() {
	_ = b.cmd.Process.Kill()
	<-b.done
	b.cmd = nil
}

// httpClient gives up idle connections before a broker does. It opens some that
// it then has no use for, and a broker closes those on which nothing is asked
// for five seconds: maybe in the moment in which something is.
var httpClient = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 2 * time.Second}}

// call makes one request; status 0 means that there was no answer.
func (b *broker1) call(method, path, bearer string, body any) (int, map[string]any) {
	base := b.url
	if strings.HasPrefix(path, "/metrics") || strings.HasPrefix(path, "/admin") {
		base = b.admin
	}
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			b.rig.t.Error(err)
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, base+path, reader)
	if err != nil {
		b.rig.t.Error(err)
		return 0, nil
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return 0, map[string]any{"error": err.Error()}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, map[string]any{"error": err.Error()}
	}
	var answer map[string]any
	if json.Unmarshal(text, &answer) != nil {
		answer = map[string]any{"text": string(text)}
	}
	return resp.StatusCode, answer
}

// exchange offers a token for a database user.
func (b *broker1) exchange(token string, grants ...map[string]any) (int, answer) {
	if len(grants) == 0 {
		grants = []map[string]any{{"name": "orders-db", "ttl": "10m"}}
	}
	status, body := b.call(http.MethodPost, "/v1/exchange", token, map[string]any{"grants": grants})
	return status, answer{body}
}

// fresh exchanges fresh tokens until one is taken: after a start those that
// were issued just before it are stale.
func (b *broker1) fresh(grants ...map[string]any) (string, answer) {
	b.rig.t.Helper()
	var token string
	var a answer
	b.rig.eventually(30*time.Second, func() error {
		token = b.rig.token(b, nil)
		var status int
		if status, a = b.exchange(token, grants...); status != http.StatusOK {
			return fmt.Errorf("%s: exchange: %d %v", b.name, status, a.body)
		}
		return nil
	})
	return token, a
}

// answer is a decoded answer of the API.
type answer struct{ body map[string]any }

func (a answer) code() string { s, _ := a.body["code"].(string); return s }

func (a answer) session() string {
	s, _ := a.body["session"].(map[string]any)
	token, _ := s["token"].(string)
	return token
}

func (a answer) credential(i int) map[string]any {
	list, _ := a.body["credentials"].([]any)
	c, _ := list[i].(map[string]any)
	return c
}

func (a answer) field(i int, name string) string {
	fields, _ := a.credential(i)["fields"].(map[string]any)
	s, _ := fields[name].(string)
	return s
}

// eventually tries until it succeeds or time is up.
func (r *rig) eventually(within time.Duration, try func() error) {
	r.t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("not within %v: %v", within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// syncBuffer is a buffer that a process may write while a test reads.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// command runs one of our binaries to its end.
func (r *rig) command(env []string, name string, args ...string) (string, int) {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(binaries, name), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
