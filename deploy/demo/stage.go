package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// stage is what runs while the demo plays.
type stage struct {
	bin, dir string
	out      io.Writer
	url      string // the broker's
	postgres *servers.Postgres
	started  []*servers.Process
	user     string // the database user that the job was given
}

const policyFile = `# what the security team reviews
owner: team-shop
repos:
  shop: {issuer: github, name: acme/shop, match: {repository_owner_id: "1234", repository_id: "5678"}}
rules:
  - name: migrate-from-main
    for: [shop]
    explain: full
    match:
      ref: refs/heads/main
      event_name: [push, workflow_dispatch]
    when: 'claims.runner_environment == "github-hosted"'
    allow:
      - {grant: orders-db, ttl: 10m}
`

const configFile = `url: %[1]s
deployment: demo
broker: demo-0
listen: %[2]s
admin: {listen: %[3]s}
state: embedded
data_dir: ./data
policies: ./policies
issuers:
  github: {profile: github, url: %[4]s, insecure: true}
targets:
  orders-pg: {kind: postgres, admin: "env:ORDERS_ADMIN_URL"}
grants:
  orders-db: {target: orders-pg, max_ttl: 30m, max_live: 5, params: {roles: [orders_rw]}}
`

// open starts PostgreSQL, the toy CI provider and the broker.
func (s *stage) open(ctx context.Context) error {
	var err error
	if s.postgres, err = servers.StartPostgres(ctx, servers.PostgresConfig{}); err != nil {
		return err
	}
	admin := s.postgres.AdminURL("postgres")
	if _, err := s.psql(ctx, `CREATE ROLE orders_rw NOLOGIN;
		GRANT CREATE, USAGE ON SCHEMA public TO orders_rw`); err != nil {
		return err
	}
	s.say("PostgreSQL, with a group role orders_rw and nobody in it")

	ciDir := filepath.Join(s.dir, "ci")
	if err := s.start(ctx, nil, "fakeci", "serve", "--dir", ciDir); err != nil {
		return err
	}
	var ci struct {
		Issuers map[string]string `json:"issuers"`
	}
	if err := s.awaitJSON(ctx, filepath.Join(ciDir, "fakeci.json"), &ci); err != nil {
		return err
	}
	s.say("fakeci, which signs tokens as GitHub Actions would: %s", ci.Issuers["github"])
	return s.openBroker(ctx, admin, ci.Issuers["github"])
}

func (s *stage) openBroker(ctx context.Context, admin, issuer string) error {
	listen, err := freeAddr()
	if err != nil {
		return err
	}
	adminListen, err := freeAddr()
	if err != nil {
		return err
	}
	s.url = "http://" + listen
	for path, text := range map[string]string{
		"policies/shop.yaml": policyFile,
		"daypass.yaml":       fmt.Sprintf(configFile, s.url, listen, adminListen, issuer),
	} {
		path = filepath.Join(s.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := s.start(ctx, []string{"ORDERS_ADMIN_URL=" + admin}, "daypassd", "serve", "--config", filepath.Join(s.dir, "daypass.yaml")); err != nil {
		return err
	}
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	s.say("daypassd on %s, with embedded state and one rule:", s.url)
	s.quote(policyFile[strings.Index(policyFile, "rules:"):])
	return nil
}

func freeAddr() (string, error) {
	port, err := servers.FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// start runs a binary in the background until the stage is cleared.
func (s *stage) start(ctx context.Context, env []string, name string, args ...string) error {
	p, err := servers.Start(ctx, servers.Command{Name: name, Path: filepath.Join(s.bin, name), Args: args, Env: env})
	if err != nil {
		return fmt.Errorf("%w (make build makes it)", err)
	}
	s.started = append(s.started, p)
	return nil
}

// command runs a binary to its end, shows what it prints, and returns it with
// the exit code.
func (s *stage) command(ctx context.Context, env []string, name string, args ...string) (string, int, error) {
	var printed bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Env = append(jobEnviron(), env...)
	cmd.Stdout, cmd.Stderr = &printed, &printed
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return "", 0, fmt.Errorf("run %s: %w", name, err)
	}
	return printed.String(), cmd.ProcessState.ExitCode(), nil
}

// jobEnviron is this process' environment without what a CI runner, should the
// demo run in one, would put there.
func jobEnviron() []string {
	var kept []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "DAYPASS_") || strings.HasPrefix(name, "ACTIONS_ID_TOKEN") ||
			strings.HasPrefix(name, "PG") || name == "GITHUB_ACTIONS" || name == "GITLAB_CI" {
			continue
		}
		kept = append(kept, v)
	}
	return kept
}

// psql asks PostgreSQL as its admin.
func (s *stage) psql(ctx context.Context, sql string) (string, error) {
	cmd := exec.CommandContext(ctx, "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql)
	admin, err := url.Parse(s.postgres.AdminURL("postgres"))
	if err != nil {
		return "", err
	}
	password, _ := admin.User.Password()
	cmd.Env = append(jobEnviron(), "PGHOST="+admin.Hostname(), "PGPORT="+admin.Port(), "PGDATABASE=postgres",
		"PGUSER="+admin.User.Username(), "PGPASSWORD="+password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (s *stage) awaitJSON(ctx context.Context, path string, into any) error {
	return await(ctx, path, func() error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return json.Unmarshal(data, into)
	})
}

func (s *stage) awaitReady(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{Proxy: nil}}
	return await(ctx, "the broker", func() error {
		resp, err := client.Get(s.url + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
			return fmt.Errorf("%s: %s", resp.Status, body)
		}
		return nil
	})
}

// await tries until it succeeds or half a minute has passed.
func await(ctx context.Context, what string, try func() error) error {
	ctx, done := context.WithTimeout(ctx, 30*time.Second)
	defer done()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// clear stops what was started, last first, and removes the folder, unless it
// is wanted; then what the servers printed is kept in it.
func (s *stage) clear(keep bool) error {
	var faults []error
	for i, p := range slices.Backward(s.started) {
		faults = append(faults, p.Stop())
		if keep {
			faults = append(faults, os.WriteFile(filepath.Join(s.dir, fmt.Sprintf("server-%d.log", i)), []byte(p.Log()), 0o600))
		}
	}
	if s.postgres != nil {
		faults = append(faults, s.postgres.Close())
	}
	if keep {
		fmt.Fprintf(s.out, "\nLogs, journal and configuration are in %s\n", s.dir)
		return errors.Join(faults...)
	}
	return errors.Join(append(faults, os.RemoveAll(s.dir))...)
}

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(s.out, "   "+format+"\n", args...)
}

// quote shows text of somebody else's, set in.
func (s *stage) quote(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		fmt.Fprint(s.out, "   | ", line)
	}
}
