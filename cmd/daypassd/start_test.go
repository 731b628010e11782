package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// inProcess runs one command line with the environment given, and returns all
// it printed.
func inProcess(t *testing.T, env map[string]string, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	lookup := func(name string) (string, bool) { v, there := env[name]; return v, there }
	code := run(t.Context(), args, process{env: lookup, stdout: &out, stderr: &out})
	return out.String(), code
}

// readmeFolder is a folder with the configuration and the policy of the README.
func readmeFolder(t *testing.T, change ...string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"daypass.yaml": snippet(t, "README.md", "config"), "policies/shop.yaml": snippet(t, "README.md", "policy")} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(strings.NewReplacer(change...).Replace(text)), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "daypass.yaml")
}

func TestABrokerDoesNotStartWithoutTheVariablesThatItsTargetsNeed(t *testing.T) {
	config := readmeFolder(t, "state: embedded", `state: {url: "redis://127.0.0.1:1", password: "env:REDIS_PASSWORD"}`)
	out, code := inProcess(t, map[string]string{"REDIS_PASSWORD": ""}, "serve", "--config", config)
	for _, want := range []string{"targets.orders-pg.admin: environment variable ORDERS_ADMIN_URL is not set", "state.password: environment variable REDIS_PASSWORD is not set", config + ":"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(config), "data")); code != exitFailed || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("exit %d, and it left a data_dir: %v", code, err)
	}
	if out, code := inProcess(t, nil, "check", "--config", config); code != exitOK {
		t.Errorf("check, which a pipeline without secrets runs: exit %d: %s", code, out)
	}
}

func TestAConfigurationThatIsNotThereHasNoFaults(t *testing.T) {
	out, code := inProcess(t, nil, "serve", "--config", "no-such.yaml")
	if code != exitFailed || strings.Contains(out, "faults") || !strings.Contains(out, "no-such.yaml") || !strings.Contains(out, "--config") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestWhoeverMayNotWriteIsToldWhoTheyAre(t *testing.T) {
	err := cannotWrite("/srv/data", &fs.PathError{Op: "mkdir", Path: "/srv/data/x", Err: fs.ErrPermission})
	if want := fmt.Sprintf("by user %d", os.Getuid()); !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/srv/data,") {
		t.Errorf("got %v", err)
	}
	if err := cannotWrite("/srv/data", errors.New("disk full")); !strings.Contains(err.Error(), "disk full") {
		t.Errorf("got %v", err)
	}
}

func TestCheckAsksRedisAndLooksAtEachGrant(t *testing.T) {
	r := newRig(t)
	forgetful, err := servers.StartRedis(t.Context(), servers.RedisConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = forgetful.Close() })
	for name, tc := range map[string]struct {
		state, roles string
		want         []string
		code         int
	}{
		"all is well":                 {"{url: redis://" + forgetful.Addr() + ", unsafe_no_persistence: true}", "orders_rw", []string{"ok      state redis://", "ok      target orders-pg", "ok      grant orders-db"}, exitOK},
		"a Redis that forgets":        {"redis://" + forgetful.Addr(), "orders_rw", []string{"FAULTY  state redis://", "append-only file"}, exitFailed},
		"a Redis that is not there":   {"redis://127.0.0.1:1", "orders_rw", []string{"FAULTY  state redis://", "connection refused"}, exitFailed},
		"a group role that is absent": {"embedded", "orders_rww", []string{"ok      target orders-pg", "FAULTY  grant orders-db", `group role "orders_rww" does not exist`}, exitFailed},
	} {
		text := fmt.Sprintf(rigConfig, "http://127.0.0.1:8080", "checked", "127.0.0.1:8080", "127.0.0.1:8081", tc.state, r.ci.URL("github"))
		config := r.write(strings.ReplaceAll(name, " ", "-")+".yaml", strings.Replace(text, "orders_rw]", tc.roles+"]", 1))
		out, code := inProcess(t, map[string]string{"ORDERS_ADMIN_URL": r.pg.AdminURL("postgres")}, "check", "--connect", "--config", config)
		for _, want := range tc.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
		if code != tc.code {
			t.Errorf("%s: exit %d, want %d\n%s", name, code, tc.code, out)
		}
	}
}

func TestAReloadNamesWhatOnlyARestartTakesUp(t *testing.T) {
	path := readmeFolder(t)
	was, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	for change, want := range map[[2]string][]string{
		{"# daypass.yaml", "# moved down\n#"}:                                               nil, // places are no change
		{"max_ttl: 1h", "max_ttl: 2h"}:                                                      nil, // grants are read again
		{"listen: 0.0.0.0:8080", "listen: 0.0.0.0:9090"}:                                    {"listen"},
		{"github: {profile: github}", "github: {profile: github, max_token_life: 1m}"}:      {"issuers"},
		{`admin: "env:ORDERS_ADMIN_URL"`, `admin: "env:OTHER_ADMIN_URL"`}:                   {"targets"},
		{"exchanges_per_minute: 60", "exchanges_per_minute: 61"}:                            {"limits"},
		{"state: embedded", "state: {url: redis://127.0.0.1:6379, replicas: 1}"}:            {"state"},
		{"data_dir: ./data", "data_dir: ./elsewhere\nadmin: {listen: 127.0.0.1:1}"}:         {"admin", "data_dir", "keys"},
		{"behind_proxy: true", "tls: {cert: /etc/hostname, key: /etc/hostname}"}:            {"tls", "behind_proxy"},
		{"url: https://daypass.example.com", "url: https://other.example.com\nbroker: two"}: {"url", "audience", "broker"},
	} {
		edited := strings.Replace(snippet(t, "README.md", "config"), change[0], change[1], 1)
		if edited == snippet(t, "README.md", "config") {
			t.Fatalf("%q is not in the README any more", change[0])
		}
		if err := os.WriteFile(path, []byte(edited), 0o600); err != nil {
			t.Fatal(err)
		}
		now, err := loadConfig(path)
		if err != nil {
			t.Fatalf("%s: %v", change[1], err)
		}
		if got := was.needsRestart(now); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", change[1], got, want)
		}
	}
}

func TestWhoNamesTheDataDirectoryIsToldWhereTheJournalIs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "journal"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, code := inProcess(t, nil, "audit", "verify", dir)
	if code != exitFailed || !strings.Contains(out, "the journal is in "+filepath.Join(dir, "journal")) || strings.Contains(out, "does not verify") {
		t.Errorf("exit %d: %s", code, out)
	}
	out, code = inProcess(t, nil, "audit", "verify", filepath.Join(dir, "nothing"))
	if code != exitFailed || strings.Contains(out, "does not verify") {
		t.Errorf("exit %d: %s", code, out)
	}
}
