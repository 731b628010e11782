package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// jobEnv is what a runner would give a job with these claims: GitHub's
// variables, and where the broker is.
func (s *stage) jobEnv(ctx context.Context, claims ...string) ([]string, error) {
	out, code, err := s.command(ctx, nil, "fakeci", s.tokenArgs("json", claims)...)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, fmt.Errorf("fakeci token: exit %d: %s", code, out)
	}
	var vars map[string]string
	if err := json.Unmarshal([]byte(out), &vars); err != nil {
		return nil, fmt.Errorf("fakeci token: %w", err)
	}
	env := []string{"DAYPASS_URL=" + s.url}
	for name, value := range vars {
		if name != "GITHUB_ACTIONS" { // a person reads this, not a runner
			env = append(env, name+"="+value)
		}
	}
	return env, nil
}

func (s *stage) tokenArgs(output string, claims []string) []string {
	args := []string{"token", "--dir", filepath.Join(s.dir, "ci"), "--profile", "github", "--audience", s.url, "--output", output,
		"--set", "repository=acme/shop", "--set", "repository_id=5678", "--set", "repository_owner=acme", "--set", "repository_owner_id=1234"}
	for _, c := range claims {
		args = append(args, "--set", c)
	}
	return args
}

const migration = `create table orders (id bigint primary key);
insert into orders values (1);
select session_user, current_user, count(*) from orders`

var handle = regexp.MustCompile(`dp_demo_[a-z0-9]+_[a-z2-7]{12}`)

// job is the main job: exec, which asks GitHub for a token by itself.
func (s *stage) job(ctx context.Context) error {
	env, err := s.jobEnv(ctx, "ref=refs/heads/main", "event_name=push")
	if err != nil {
		return err
	}
	s.say("$ daypass exec -g orders-db -- psql -c '%s'", strings.ReplaceAll(migration, "\n", "\n     "))
	out, code, err := s.command(ctx, env, "daypass", "exec", "-g", "orders-db", "--", "psql", "-X", "-c", migration)
	if err != nil {
		return err
	}
	s.quote(out)
	if code != 0 {
		return fmt.Errorf("daypass exec: exit %d", code)
	}
	if s.user = handle.FindString(out); s.user == "" {
		return errors.New("psql was not logged in as a user of ours")
	}
	return nil
}

// gone asks PostgreSQL itself.
func (s *stage) gone(ctx context.Context) error {
	roles, err := s.psql(ctx, `select count(*) from pg_roles where rolname like 'dp\_demo\_%'`)
	if err != nil {
		return err
	}
	owner, err := s.psql(ctx, `select tableowner from pg_tables where tablename = 'orders'`)
	if err != nil {
		return err
	}
	if roles != "0" || owner != "orders_rw" {
		return fmt.Errorf("%s users of ours are left, and the table belongs to %q", roles, owner)
	}
	s.say("users named dp_demo_…: %s (the job's was %s)", roles, s.user)
	s.say("table orders belongs to %s", owner)
	return nil
}

// reuse offers one token twice.
func (s *stage) reuse(ctx context.Context) error {
	token, code, err := s.command(ctx, nil, "fakeci", s.tokenArgs("token", []string{"ref=refs/heads/main", "event_name=push"})...)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("fakeci token: exit %d: %s", code, token)
	}
	env := []string{"DAYPASS_URL=" + s.url, "DAYPASS_ID_TOKEN=" + strings.TrimSpace(token)}
	first, code, err := s.command(ctx, env, "daypass", "exec", "-g", "orders-db", "--", "true")
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("the first exchange: exit %d: %s", code, first)
	}
	s.say("the first time: exit 0")
	again, code, err := s.command(ctx, env, "daypass", "exec", "-g", "orders-db", "--", "true")
	if err != nil {
		return err
	}
	s.quote(again)
	if code == 0 || !strings.Contains(again, "token_reused") {
		return fmt.Errorf("the second exchange was not refused as it should be: exit %d", code)
	}
	s.say("the second time: exit %d", code)
	return nil
}

// denied is what a pull request gets.
func (s *stage) denied(ctx context.Context) error {
	env, err := s.jobEnv(ctx, "ref=refs/pull/7/merge", "event_name=pull_request", "head_ref=evil", "base_ref=main")
	if err != nil {
		return err
	}
	out, code, err := s.command(ctx, env, "daypass", "exec", "-g", "orders-db", "--", "psql", "-c", "drop table orders")
	if err != nil {
		return err
	}
	s.quote(out)
	if code != 77 || !strings.Contains(out, "event_name") {
		return fmt.Errorf("the pull request was not denied as it should be: exit %d", code)
	}
	s.say("exit %d", code)
	return nil
}

// journal verifies the chain of all that has happened.
func (s *stage) journal(ctx context.Context) error {
	out, code, err := s.command(ctx, nil, "daypassd", "audit", "verify", filepath.Join(s.dir, "data", "journal"))
	if err != nil {
		return err
	}
	s.quote(out)
	if code != 0 {
		return fmt.Errorf("daypassd audit verify: exit %d", code)
	}
	return nil
}
