package main

import (
	"io"
	"regexp"
)

// mariaDialect is MariaDB's. The broker prepares nothing in it, so that each
// statement comes as a text.
type mariaDialect struct{}

// mariaSteps are the steps inside a MariaDB. It commits each statement by
// itself, so that each is a place where a mint or a revocation may end.
var mariaSteps = map[string]step{
	"mint-eventless":  {regexp.MustCompile("^CREATE EVENT .*`dp_"), false}, // its lock is taken
	"mint-scheduled":  {regexp.MustCompile("^CREATE EVENT .*`dp_"), true},
	"mint-created":    {regexp.MustCompile("^CREATE USER `dp_"), true},
	"mint-granted":    {regexp.MustCompile("^GRANT `shop_rw` TO `dp_"), true},
	"mint-defaulted":  {regexp.MustCompile("^SET DEFAULT ROLE `shop_rw` FOR `dp_"), true},
	"mint-listed":     {regexp.MustCompile("^INSERT INTO shop.ci_users "), true}, // the grant's own statement
	"mint-unlocked":   {regexp.MustCompile(`^DO RELEASE_LOCK\('daypass\.dp_`), true},
	"revoke-locked":   {regexp.MustCompile("^ALTER USER IF EXISTS `dp_\\w+`@`%` ACCOUNT LOCK"), true},
	"revoke-ended":    {regexp.MustCompile(`^KILL CONNECTION \d`), true},
	"revoke-unlisted": {regexp.MustCompile(`^DELETE FROM shop\.ci_users `), true},
	"revoke-stripped": {regexp.MustCompile("^REVOKE ALL PRIVILEGES, GRANT OPTION FROM `dp_"), true},
	"revoke-tidied":   {regexp.MustCompile("^DROP VIEW IF EXISTS `shop`"), true},
	"revoke-dropped":  {regexp.MustCompile("^DROP USER IF EXISTS `dp_"), true},
	"revoke-cleared":  {regexp.MustCompile("^DROP EVENT IF EXISTS `daypass`.`dp_"), true},
}

func (mariaDialect) steps() map[string]step { return mariaSteps }

// next reads a packet: three bytes of length, and its number in a conversation.
func (mariaDialect) next(r io.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	return readBody(r, head, int(head[0])|int(head[1])<<8|int(head[2])<<16)
}

// statement is what begins a conversation and is a query.
func (mariaDialect) statement(m []byte) string {
	const query = 3
	if len(m) < 5 || m[3] != 0 || m[4] != query {
		return ""
	}
	return string(m[5:])
}
