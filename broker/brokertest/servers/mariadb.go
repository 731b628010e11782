//go:build unix

package servers

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MariaDBConfig says what MariaDB to start. The zero value is a fresh, empty
// one.
type MariaDBConfig struct {
	// Settings are the server's options without their dashes, such as
	// "event-scheduler": "ON". They win over ours.
	Settings map[string]string
	// Files are written into the server's folder and belong to it; a setting
	// names one as "@NAME". They are for certificates.
	Files map[string][]byte
	// MySQL is the path of a mysqld of MySQL, to start that instead.
	MySQL string
}

// MariaDB is a running MariaDB with one administrator, "root". It listens on
// 127.0.0.1 and on a socket in its folder, and wants a password on both. It
// logs every statement, and does not sync to disk: it is for tests and demos.
// Not safe for concurrent Stop, Kill and Start.
type MariaDB struct {
	account  string
	dir      string
	mysqld   string // of MySQL; empty: it is a MariaDB
	settings map[string]string
	port     int
	password string
	process  *Process
}

// StartMariaDB makes a data folder, starts a server on it and waits until it
// answers.
func StartMariaDB(ctx context.Context, c MariaDBConfig) (*MariaDB, error) {
	m := &MariaDB{account: mariaAccount(), mysqld: c.MySQL, settings: c.Settings, password: rand.Text()}
	var err error
	if m.dir, err = PrivateDir("daypass-my-", m.account); err != nil {
		return nil, err
	}
	if m.port, err = FreePort(); err == nil {
		if err = m.init(ctx, c.Files); err == nil {
			err = m.start(ctx, "--init-file="+m.path("init.sql"))
		}
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// mariaAccount is who the server runs as when we are root, which it refuses.
func mariaAccount() string {
	if _, err := user.Lookup("mysql"); err == nil {
		return "mysql"
	}
	return "nobody"
}

// mariaServer finds the server's binary, which Debian puts where users do not
// look.
func mariaServer() (name, path string, err error) {
	for _, binary := range []string{"mariadbd", "/usr/sbin/mariadbd", "/usr/libexec/mariadbd"} {
		if path, err := exec.LookPath(binary); err == nil {
			return "MariaDB", path, nil
		}
	}
	return "", "", errors.New("MariaDB is not installed: install the Debian package mariadb-server")
}

// init makes the data folder, and the script that gives root a password when
// the server first starts.
func (m *MariaDB) init(ctx context.Context, files map[string][]byte) error {
	if err := m.makeTmp(); err != nil {
		return err
	}
	install, script := m.installMariaDB(), mariaScript
	if m.IsMySQL() {
		install, script = m.installMySQL(), mysqlScript
	}
	if _, err := Run(ctx, install); err != nil {
		return err
	}
	if err := m.write("init.sql", fmt.Appendf(nil, script, m.password)); err != nil {
		return err
	}
	for name, content := range files {
		if err := m.write(name, content); err != nil {
			return err
		}
	}
	return nil
}

func (m *MariaDB) installMariaDB() Command {
	return Command{
		Name: "mariadb-install-db", Path: "mariadb-install-db", Dir: m.dir, User: m.account,
		Args: []string{"--no-defaults", "--datadir=" + m.data(), "--tmpdir=" + m.path("tmp"), "--auth-root-authentication-method=normal", "--skip-test-db",
			"--innodb-log-file-size=" + logFileSize},
	}
}

// mariaScript gives root its password.
const mariaScript = "SET SESSION sql_log_bin = 0;\nDELETE FROM mysql.global_priv WHERE User = 'root' OR User = '';\nFLUSH PRIVILEGES;\n" +
	"GRANT ALL PRIVILEGES ON *.* TO root@localhost IDENTIFIED BY '%[1]s' WITH GRANT OPTION;\n" +
	"GRANT ALL PRIVILEGES ON *.* TO root@'127.0.0.1' IDENTIFIED BY '%[1]s' WITH GRANT OPTION;\n"

// makeTmp makes a folder for temporary tables. A server that starts removes
// those of others from the system's.
func (m *MariaDB) makeTmp() error {
	owner, err := accountOf(m.account)
	if err == nil {
		err = os.Mkdir(m.path("tmp"), 0o700)
	}
	if err == nil && owner != nil {
		err = os.Chown(m.path("tmp"), int(owner.uid), int(owner.gid))
	}
	if err != nil {
		return fmt.Errorf("prepare folder for MariaDB: %w", err)
	}
	return nil
}

// write puts a file into the folder that the server may read.
func (m *MariaDB) write(name string, content []byte) error {
	owner, err := accountOf(m.account)
	if err == nil {
		err = os.WriteFile(m.path(name), content, 0o600)
	}
	if err == nil && owner != nil {
		err = os.Chown(m.path(name), int(owner.uid), int(owner.gid))
	}
	if err != nil {
		return fmt.Errorf("prepare folder for MariaDB: %w", err)
	}
	return nil
}

// logFileSize is small, for what is written anew with each server is most of
// its folder.
const logFileSize = "8M"

// Start starts a server that was stopped or killed, on the same port and with
// the same data.
func (m *MariaDB) Start(ctx context.Context) error { return m.start(ctx) }

func (m *MariaDB) start(ctx context.Context, more ...string) error {
	name, binary := "MySQL", m.mysqld
	if !m.IsMySQL() {
		var err error
		if name, binary, err = mariaServer(); err != nil {
			return err
		}
	}
	process, err := Start(ctx, Command{Name: name, Path: binary, Dir: m.dir, User: m.account, Args: append(m.args(), more...),
		StopWithin: 20 * time.Second})
	if err != nil {
		return err
	}
	m.process = process
	if err := process.WaitReady(ctx, 30*time.Second, m.greets); err != nil {
		return errors.Join(err, process.Kill())
	}
	return nil
}

func (m *MariaDB) args() []string {
	settings := map[string]string{
		"datadir": m.data(), "tmpdir": m.path("tmp"), "socket": m.Socket(), "port": strconv.Itoa(m.port), "bind-address": "127.0.0.1",
		"pid-file": m.path("pid"), "skip-name-resolve": "ON", "innodb-buffer-pool-size": "32M",
		"innodb-flush-log-at-trx-commit": "0", "general-log": "ON", "general-log-file": m.LogPath(), "performance-schema": "OFF",
	}
	if m.IsMySQL() {
		maps.Copy(settings, mysqlSettings)
	} else {
		settings["innodb-log-file-size"] = logFileSize
	}
	for name, v := range m.settings {
		if file, ok := strings.CutPrefix(v, "@"); ok {
			v = m.path(file)
		}
		settings[name] = v
	}
	args := []string{"--no-defaults"} // must be the first
	for name, v := range settings {
		args = append(args, "--"+name+"="+v)
	}
	slices.Sort(args[1:])
	return args
}

// greets succeeds when the server greets whoever connects, which it does when
// it has come up and its script has run.
func (m *MariaDB) greets(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort(m.Host(), strconv.Itoa(m.port)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return err
		}
	}
	greeting := make([]byte, 5) // a packet's header, and the version of the protocol
	if _, err := bufio.NewReader(conn).Read(greeting); err != nil {
		return err
	}
	if greeting[4] != 10 && greeting[4] != 0xff { // 0xff: full, so it is up
		return errors.New("what listens is no MariaDB")
	}
	return nil
}

func (m *MariaDB) data() string            { return m.path("data") }
func (m *MariaDB) path(name string) string { return filepath.Join(m.dir, name) }

// Host is the address the server listens on.
func (m *MariaDB) Host() string { return "127.0.0.1" }

// Port is the TCP port; it stays the same over restarts.
func (m *MariaDB) Port() int { return m.port }

// Socket is the path of the server's socket.
func (m *MariaDB) Socket() string { return m.path("s") }

// LogPath is the file that has every statement the server was sent.
func (m *MariaDB) LogPath() string { return m.path("general.log") }

// AdminPassword is root's.
func (m *MariaDB) AdminPassword() string { return m.password }

// AdminURL is how root connects. It holds the password.
func (m *MariaDB) AdminURL(database string) string { return m.URL("root", m.password, database) }

// URL is how anybody connects to a database.
func (m *MariaDB) URL(user, password, database string) string {
	u := url.URL{Scheme: "mysql", User: url.UserPassword(user, password), Path: "/" + database,
		Host: net.JoinHostPort(m.Host(), strconv.Itoa(m.port))}
	return u.String()
}

// Pause freezes the server, as a hung machine would.
func (m *MariaDB) Pause() error { return m.process.Pause() }

// Resume ends a Pause.
func (m *MariaDB) Resume() error { return m.process.Resume() }

// Stop ends all sessions and the server. The data stays.
func (m *MariaDB) Stop() error { return m.process.Stop() }

// Kill ends the server as a crash would.
func (m *MariaDB) Kill() error { return m.process.Kill() }

// Restart stops the server and starts it again.
func (m *MariaDB) Restart(ctx context.Context) error {
	if err := m.Stop(); err != nil {
		return err
	}
	return m.Start(ctx)
}

// Close stops the server and removes its folder.
func (m *MariaDB) Close() error {
	var err error
	if m.process != nil {
		err = m.process.Kill() // nothing of it is kept
	}
	return errors.Join(err, os.RemoveAll(m.dir))
}
