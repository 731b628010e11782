//go:build unix

package servers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PostgresConfig says what PostgreSQL to start. The zero value is a fresh,
// empty one.
type PostgresConfig struct {
	// Dir holds data, socket, log and the administrator's password; one that
	// was used before is used again. Default: a private temporary folder,
	// which Close removes.
	Dir string
	// Bin is the folder of the server's programs. Default: the one in PATH, or
	// the newest of Debian's.
	Bin string
	// Settings are lines of the server's configuration, such as
	// "log_statement": "all". They win over ours.
	Settings map[string]string
	// Cert and Key, in PEM, turn TLS on. Whoever connects without it is let
	// in, too.
	Cert, Key []byte
}

// Postgres is a running PostgreSQL with one superuser, "postgres". It listens
// on 127.0.0.1 and on a socket in its folder, and wants SCRAM passwords on
// both. It does not sync to disk: it is for tests and demos. Not safe for
// concurrent Stop, Kill and Restart.
type Postgres struct {
	bin      string // folder of the binaries
	account  string
	dir      string
	ours     bool // dir was made by us
	settings map[string]string
	port     int
	password string
	tls      bool
	process  *Process
}

// StartPostgres makes a database cluster, starts it and waits until it answers.
func StartPostgres(ctx context.Context, c PostgresConfig) (*Postgres, error) {
	var err error
	if c.Bin == "" {
		if c.Bin, err = postgresBinaries(); err != nil {
			return nil, err
		}
	}
	p := &Postgres{bin: c.Bin, account: postgresAccount(), dir: c.Dir, settings: c.Settings}
	if p.dir == "" {
		p.ours = true
		if p.dir, err = PrivateDir("daypass-pg-", p.account); err != nil {
			return nil, err
		}
	}
	if p.port, err = FreePort(); err == nil {
		if err = p.init(ctx); err == nil {
			err = p.useTLS(c)
		}
		if err == nil {
			err = p.Start(ctx)
		}
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// useTLS writes the certificate where the server may read it.
func (p *Postgres) useTLS(c PostgresConfig) error {
	if len(c.Cert) == 0 {
		return nil
	}
	owner, err := accountOf(p.account)
	if err != nil {
		return err
	}
	for name, pem := range map[string][]byte{"server.crt": c.Cert, "server.key": c.Key} {
		path := filepath.Join(p.dir, name)
		if err := os.WriteFile(path, pem, 0o600); err != nil {
			return fmt.Errorf("prepare TLS for PostgreSQL: %w", err)
		}
		if owner != nil {
			if err := os.Chown(path, int(owner.uid), int(owner.gid)); err != nil {
				return fmt.Errorf("prepare TLS for PostgreSQL: %w", err)
			}
		}
	}
	p.tls = true
	return nil
}

// postgresBinaries finds the server's folder: in PATH, or where Debian puts
// it, the newest version first.
func postgresBinaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed: install the Debian package postgresql-15 or newer (neither PATH nor /usr/lib/postgresql has initdb)")
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return postgresVersion(a) - postgresVersion(b) })
	return filepath.Dir(newest), nil
}

// postgresVersion reads 15 out of /usr/lib/postgresql/15/bin/initdb.
func postgresVersion(initdb string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
	if err != nil {
		return -1
	}
	return n
}

// postgresAccount is who the server runs as when we are root, which it refuses.
func postgresAccount() string {
	if _, err := user.Lookup("postgres"); err == nil {
		return "postgres"
	}
	return "nobody"
}

// init makes the cluster, unless the folder has one.
func (p *Postgres) init(ctx context.Context) error {
	owner, err := accountOf(p.account)
	if err != nil {
		return err
	}
	if owner != nil {
		if err := os.Chown(p.dir, int(owner.uid), int(owner.gid)); err != nil {
			return fmt.Errorf("prepare folder for PostgreSQL: %w", err)
		}
	}
	secret := filepath.Join(p.dir, "password")
	if old, err := os.ReadFile(secret); err == nil {
		p.password = strings.TrimSpace(string(old))
		return nil
	}
	p.password = rand.Text()
	fresh := secret + ".new"
	if err := os.WriteFile(fresh, []byte(p.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("prepare folder for PostgreSQL: %w", err)
	}
	if owner != nil {
		if err := os.Chown(fresh, int(owner.uid), int(owner.gid)); err != nil {
			return fmt.Errorf("prepare folder for PostgreSQL: %w", err)
		}
	}
	if _, err = Run(ctx, Command{
		Name: "initdb", Path: p.Bin("initdb"), Dir: p.dir, User: p.account,
		Args: []string{"-D", p.data(), "-U", "postgres", "--no-sync", "-A", "scram-sha-256",
			"--pwfile=" + fresh, "-E", "UTF8", "--no-locale"},
	}); err != nil {
		return err
	}
	return os.Rename(fresh, secret) // only now is the folder one that can be used again
}

// Start starts a server that was stopped or killed, on the same port and with
// the same data. After a kill it waits for the dead server's children to go.
func (p *Postgres) Start(ctx context.Context) error {
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := p.startOnce(ctx)
		if err == nil || time.Now().After(deadline) || !strings.Contains(err.Error(), "still in use") {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (p *Postgres) startOnce(ctx context.Context) error {
	begun := p.logSize()
	process, err := Start(ctx, Command{
		Name: "PostgreSQL", Path: "sh", Dir: p.dir, User: p.account,
		// The log is a file, so that tests can read all of it. Its children keep
		// what we hear of it open: so a killed one is gone with all of them.
		Args: append([]string{"-c", `exec "$0" "$@" 3>&1 >>"$DAYPASS_PG_LOG" 2>&1`, p.Bin("postgres")}, p.args()...),
		Env:  []string{"DAYPASS_PG_LOG=" + p.LogPath()}, StopSignal: syscall.SIGINT,
	})
	if err != nil {
		return err
	}
	p.process = process
	if err := process.WaitReady(ctx, 30*time.Second, p.ready); err != nil {
		log, _ := os.ReadFile(p.LogPath())
		return errors.Join(fmt.Errorf("%w\n%s", err, log[min(begun, int64(len(log))):]), process.Kill())
	}
	return nil
}

func (p *Postgres) logSize() int64 {
	info, err := os.Stat(p.LogPath())
	if err != nil {
		return 0
	}
	return info.Size()
}

// ready reads what the server writes last when it has come up.
func (p *Postgres) ready(context.Context) error {
	b, err := os.ReadFile(filepath.Join(p.data(), "postmaster.pid"))
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 8 || lines[0] != strconv.Itoa(p.process.PID()) {
		return errors.New("it is still starting")
	}
	switch state := strings.TrimSpace(lines[7]); state {
	case "ready", "standby":
		return nil
	default:
		return errors.New("it is " + state)
	}
}

func (p *Postgres) args() []string {
	settings := map[string]string{
		"listen_addresses": "127.0.0.1", "port": strconv.Itoa(p.port), "unix_socket_directories": p.dir,
		"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB",
		"dynamic_shared_memory_type": "mmap", // nothing outside our folder survives a kill
	}
	if len(p.dir) > 80 {
		settings["unix_socket_directories"] = "" // a socket's path has about 100 bytes
	}
	if p.tls {
		settings["ssl"], settings["ssl_cert_file"], settings["ssl_key_file"] = "on", filepath.Join(p.dir, "server.crt"), filepath.Join(p.dir, "server.key")
	}
	for k, v := range p.settings {
		settings[k] = v
	}
	args := []string{"-D", p.data()}
	for k, v := range settings {
		args = append(args, "-c", k+"="+v)
	}
	return args
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// Bin is the path of one of the server's programs. What its folder lacks, such
// as psql where only the server was unpacked, is looked for in PATH.
func (p *Postgres) Bin(name string) string {
	path := filepath.Join(p.bin, name)
	if _, err := os.Stat(path); err != nil {
		return name
	}
	return path
}

// Host is the address the server listens on.
func (p *Postgres) Host() string { return "127.0.0.1" }

// Port is the TCP port; it stays the same over restarts.
func (p *Postgres) Port() int { return p.port }

// SocketDir is the folder of the server's socket.
func (p *Postgres) SocketDir() string { return p.dir }

// AdminURL is how the superuser connects to a database. It holds the password.
func (p *Postgres) AdminURL(database string) string { return p.URL("postgres", p.password, database) }

// URL is how anybody connects to a database.
func (p *Postgres) URL(user, password, database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, password), Path: "/" + database,
		Host: net.JoinHostPort(p.Host(), strconv.Itoa(p.port)), RawQuery: "sslmode=disable",
	}
	return u.String()
}

// LogPath is the file that has all the server logged.
func (p *Postgres) LogPath() string { return filepath.Join(p.dir, "server.log") }

// Pause freezes the server as a hung machine would: it takes connections and
// answers none. Sessions that are open go on.
func (p *Postgres) Pause() error { return p.process.Pause() }

// Resume ends a Pause.
func (p *Postgres) Resume() error { return p.process.Resume() }

// Stop ends all sessions and the server (a fast shutdown). The data stays.
func (p *Postgres) Stop() error { return p.process.Stop() }

// Kill ends the server as a crash would, and waits for its children, which see
// it and go.
func (p *Postgres) Kill() error { return p.process.Kill() }

// Restart stops the server and starts it again.
func (p *Postgres) Restart(ctx context.Context) error {
	if err := p.Stop(); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Close stops the server and removes the folder if it was made for it.
func (p *Postgres) Close() error {
	var err error
	if p.process != nil {
		err = p.Stop()
	}
	if p.ours {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}
