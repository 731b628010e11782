package main

import (
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// canaries are the secrets that a test was given, and what they are.
type canaries map[string]string

func (c canaries) add(what, secret string) {
	if len(secret) > 0 {
		c[secret] = what
	}
}

// absent fails where a text holds a secret.
func (c canaries) absent(t *testing.T, where, text string) {
	t.Helper()
	if text == "" {
		t.Errorf("%s is empty: nothing was looked at", where)
	}
	for secret, what := range c {
		if strings.Contains(text, secret) {
			t.Errorf("%s holds %s", where, what)
		}
	}
}

// folder reads every file below a folder as one text.
func folder(t *testing.T, dir string, leaveOut ...string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		for _, name := range leaveOut {
			if d.Name() == name {
				return nil
			}
		}
		data, err := os.ReadFile(path)
		all.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func TestNoSecretIsSeenOutsideTheAnswer(t *testing.T) {
	r := newRig(t)
	r.withRedis()
	b := r.broker("one", "redis")
	found := canaries{}
	admin, err := url.Parse(r.pg.AdminURL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	adminPassword, _ := admin.User.Password()
	found.add("the target's admin password", adminPassword)
	adminToken := strings.TrimSpace(readAll(t, b.data+"/admin.token"))
	found.add("the admin token", adminToken)

	exchanged := func(a answer) {
		t.Helper()
		found.add("a job session's token", a.session())
		found.add("a password", a.field(0, "password"))
		found.add("an issued JWT", a.field(1, "token"))
	}
	token, a := b.fresh(map[string]any{"name": "orders-db"}, map[string]any{"name": "web-identity"})
	found.add("a CI token", token)
	exchanged(a)
	b.exchange(token) // used
	status, more := b.call(http.MethodPost, "/v1/credentials", a.session(), map[string]any{"grants": []any{
		map[string]any{"name": "orders-db"}, map[string]any{"name": "web-identity"}}})
	if status != http.StatusOK {
		t.Fatalf("more: %d %v", status, more)
	}
	exchanged(answer{more})
	denied := r.token(b, map[string]any{"event_name": "pull_request"})
	found.add("a denied CI token", denied)
	b.exchange(denied)
	stranger := r.token(b, map[string]any{"repository_owner_id": "9"})
	found.add("a stranger's CI token", stranger)
	b.exchange(stranger)
	// Secrets in the wrong places.
	b.call(http.MethodPost, "/v1/exchange?token="+token, "", nil)
	b.call(http.MethodGet, "/v1/session/"+a.session(), "", nil)
	b.call(http.MethodPost, "/v1/exchange", token, map[string]any{"grants": []any{map[string]any{"name": a.field(0, "password")}}})
	b.call(http.MethodDelete, "/v1/leases/"+a.session(), a.session(), nil)
	r.client(t, b, found)
	b.call(http.MethodDelete, "/v1/session", a.session(), nil)

	_, metrics := b.call(http.MethodGet, "/metrics", adminToken, nil)
	text, _ := metrics["text"].(string)
	leases, _ := r.command(nil, "daypassd", "lease", "list", "--config", b.config, "--output", "json")
	b.stop()
	if err := r.redis.Stop(); err != nil { // which writes what it still has in memory
		t.Fatal(err)
	}
	found.absent(t, "daypassd's output", b.out.String())
	found.absent(t, "data_dir", folder(t, b.data, "admin.token"))
	found.absent(t, "Redis' files", folder(t, filepath.Join(r.dir, "redis")))
	found.absent(t, "PostgreSQL's log", readAll(t, r.pg.LogPath()))
	found.absent(t, "the metrics", text)
	found.absent(t, "the list of leases", leases)
	if !strings.Contains(readAll(t, r.pg.LogPath()), "SCRAM-SHA-256$") {
		t.Error("PostgreSQL's log does not show statements: nothing was looked at")
	}
}

// client runs the daypass command as a job that prints what it was given.
func (r *rig) client(t *testing.T, b *broker1, found canaries) {
	t.Helper()
	fixed := r.token(b, nil)
	found.add("a CI token in the environment", fixed)
	out, code := r.command([]string{"DAYPASS_URL=" + b.url, "DAYPASS_AUDIENCE=" + b.audience, "DAYPASS_ID_TOKEN=" + fixed},
		"daypass", "exec", "-g", "orders-db", "-g", "web-identity", "--", "sh", "-c",
		`umask 077; printf %s "$PGPASSWORD" > "$HOME/password"; echo "$PGPASSWORD $DATABASE_URL $DAYPASS_JWT"; env; printf %s "$PGPASSWORD" | base64; echo "$PGPASSWORD" >&2`)
	if code != 0 {
		t.Fatalf("daypass exec: exit %d: %s", code, out)
	}
	password := readAll(t, filepath.Join(r.dir, "password"))
	removeAll(t, filepath.Join(r.dir, "password"))
	found.add("a password that a child printed", password)
	found.absent(t, "daypass exec's output", out)
	if !strings.Contains(out, "***") {
		t.Errorf("daypass exec masked nothing: %s", out)
	}

	request, err := r.ci.RequestToken(fakeissuer.Job{Provider: fakeissuer.GitHub, Set: map[string]any{"event_name": "pull_request"}})
	if err != nil {
		t.Fatal(err)
	}
	found.add("a runner's request token", request)
	out, code = r.command([]string{"DAYPASS_URL=" + b.url, "DAYPASS_AUDIENCE=" + b.audience,
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + r.ci.RequestURL(), "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + request},
		"daypass", "exec", "-g", "orders-db", "--", "true")
	if code != 77 {
		t.Errorf("a pull request's exec: exit %d, want 77: %s", code, out)
	}
	found.absent(t, "daypass exec's denial", out)
}
