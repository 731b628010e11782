package mysql

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The oldest servers that our statements are written for.
const (
	oldestMySQL   = 80022  // ATTRIBUTE, hashes in hexadecimal
	oldestMariaDB = 100402 // ACCOUNT LOCK
)

// identify reads what the server is and what we may do, and makes the session
// one in which our statements mean what they say.
func (c *conn) identify(ctx context.Context) error {
	var version string
	if _, err := c.row(ctx, []any{&version}, "SELECT VERSION()"); err != nil {
		return err
	}
	c.server = readVersion(version)
	for _, statement := range c.server.sessionStatements() {
		if err := c.exec(ctx, statement); err != nil {
			return err
		}
	}
	if err := errors.Join(c.seeTLS(ctx), c.seeWatched(ctx)); err != nil {
		return err
	}
	rights, err := c.texts(ctx, "SHOW GRANTS")
	c.lacks = missing(rights, c.server)
	return err
}

// seeTLS reads whether the server speaks TLS. MySQL makes itself a certificate
// where it has none; then and otherwise it says until when that is valid.
func (c *conn) seeTLS(ctx context.Context) error {
	var name, value string
	query, is := "SHOW GLOBAL VARIABLES LIKE 'have_ssl'", func() bool { return value == "YES" }
	if !c.server.mariadb {
		query, is = "SHOW GLOBAL STATUS LIKE 'Ssl_server_not_after'", func() bool { return value != "" }
	}
	_, err := c.row(ctx, []any{&name, &value}, query)
	c.server.tls = is()
	return err
}

// seeWatched reads whether the server's performance schema lists sessions, as it
// does from MySQL 8.0.22 on unless somebody has turned it off.
func (c *conn) seeWatched(ctx context.Context) error {
	if c.server.mariadb || c.server.version < 80022 {
		return nil
	}
	var on string
	_, err := c.row(ctx, []any{&on}, "SELECT @@global.performance_schema")
	c.server.watched = isOn(on)
	return err
}

// readVersion reads what VERSION() says: 8.0.36, 10.11.6-MariaDB, and from some
// servers with "5.5.5-" before it.
func readVersion(text string) server {
	s := server{mariadb: strings.Contains(text, "MariaDB")}
	if s.mariadb {
		text = strings.TrimPrefix(text, "5.5.5-")
	}
	text, _, _ = strings.Cut(text, "-")
	for i, part := range strings.SplitN(text, ".", 4) {
		n, err := strconv.Atoi(part)
		if err != nil || i > 2 {
			break
		}
		s.version += n * []int{10000, 100, 1}[i]
	}
	return s
}

// sessionStatements hold for all our connections. With sql_mode as it is,
// quotes and backslashes mean the same on every server, and granting something
// to a user that somebody has just dropped does not make it anew; the time-outs
// keep a stuck statement from holding up the next.
func (s server) sessionStatements() []string {
	mode := "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"
	if s.mariadb {
		mode += ",NO_AUTO_CREATE_USER" // MySQL 8 has no other way
	}
	list := []string{
		"SET SESSION sql_mode = '" + mode + "'",
		"SET SESSION time_zone = '+00:00'",
		"SET SESSION sql_quote_show_create = 1",
		"SET SESSION autocommit = 1",
		"SET SESSION lock_wait_timeout = 2",
		"SET SESSION innodb_lock_wait_timeout = 2",
		"SET SESSION wait_timeout = 28800",
	}
	if s.mariadb {
		list = append(list, "SET SESSION max_statement_time = 4")
	}
	return list
}

// probe proves that the server answers, and reads its clock, its part and its
// mark.
func (c *conn) probe(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ofMySQL := "@@global.super_read_only, @@global.partial_revokes"
	if c.server.mariadb {
		ofMySQL = "0, 0"
	}
	var readOnly, super, literal, scheduler string
	var micros int64
	if _, err := c.row(ctx, []any{&readOnly, &super, &literal, &scheduler, &micros, &c.mark}, "SELECT @@global.read_only, "+ofMySQL+
		", @@global.event_scheduler, CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED), COALESCE((SELECT TABLE_COMMENT"+ofMark+"), '')", c.schema); err != nil {
		return err
	}
	c.server.literal = isOn(literal)
	c.readOnly, c.events, c.now = isOn(readOnly) || isOn(super), scheduler == "ON", time.UnixMicro(micros)
	return nil
}

func isOn(value string) bool { return value != "0" && value != "OFF" }

// primary refuses a replica, and a primary that was demoted: an admin that may
// write on a read-only server must not.
func (c *conn) primary() error {
	if c.readOnly {
		return &lostError{why: "the server is read-only: the admin URL must lead to the primary", readOnly: true}
	}
	return nil
}

// able refuses an admin whose users could not be taken back.
func (c *conn) able() error {
	if len(c.lacks) > 0 {
		return fmt.Errorf("the admin lacks %s on *.*, and could not take back what it makes", strings.Join(c.lacks, ", "))
	}
	return nil
}

// home is our schema, quoted.
func (c *conn) home() string { return quoteName(c.schema) }

// identity is the server's own identity: a random mark that the first mint
// leaves in our schema. It goes with the data, to a replica that is promoted and
// into a backup, which server_uuid, server_id and server_uid do not. It is the
// comment of a table, for no setting of a server lets a crash undo that. Empty:
// nobody has minted here. It was read when the connection was taken.
func (c *conn) identity() (string, error) {
	if c.mark != "" && !strings.HasPrefix(c.mark, markPrefix) {
		return "", errors.New("the broker's own schema is damaged: the comment of its table daypass_server is no mark of ours")
	}
	return c.mark, nil
}

const (
	markPrefix = "my-"
	ofMark     = " FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = 'daypass_server'"
)

// settle makes our schema and the server's mark, where they are not there, and
// returns the mark.
func (c *conn) settle(ctx context.Context) (string, error) {
	id, err := c.identity()
	if id != "" || err != nil {
		return id, err
	}
	for _, statement := range []string{
		"CREATE DATABASE IF NOT EXISTS " + c.home(),
		"CREATE TABLE IF NOT EXISTS " + c.home() + ".daypass_kept (name VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY, since DATETIME NOT NULL," +
			" looked DATETIME NOT NULL, what TEXT CHARACTER SET utf8mb4 NOT NULL) ENGINE = InnoDB",
		// The first to make it has given the server its mark.
		"CREATE TABLE IF NOT EXISTS " + c.home() + ".daypass_server (nothing TINYINT) COMMENT = '" + strings.ToLower(markPrefix+rand.Text()) + "'",
	} {
		if err := c.exec(ctx, statement); err != nil {
			return "", fmt.Errorf("make the broker's own schema: %w", err)
		}
	}
	if _, err := c.row(ctx, []any{&c.mark}, "SELECT TABLE_COMMENT"+ofMark, c.schema); err != nil {
		return "", err
	}
	if id, err = c.identity(); err == nil && id == "" {
		err = errors.New("the broker's own schema cannot be read")
	}
	return id, err
}
