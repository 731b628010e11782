//go:build unix

package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// StartStandby copies a server and starts the copy as its replica, which
// follows it by streaming. The server is stopped for the copy: that wants no
// program but the server itself, of whatever version. [Postgres.PromoteNow]
// makes the replica a primary.
func (p *Postgres) StartStandby(ctx context.Context) (*Postgres, error) {
	dir, err := PrivateDir("daypass-pg-standby-", p.account)
	if err != nil {
		return nil, err
	}
	s := &Postgres{bin: p.bin, account: p.account, dir: dir, ours: true, settings: p.settings, password: p.password}
	if s.port, err = FreePort(); err == nil {
		if err = p.copyTo(ctx, s); err == nil {
			err = s.follow(p)
		}
		if err == nil {
			err = s.Start(ctx)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// copyTo copies the data of a server, which is stopped meanwhile.
func (p *Postgres) copyTo(ctx context.Context, s *Postgres) error {
	if err := p.Stop(); err != nil {
		return err
	}
	_, err := Run(ctx, Command{Name: "copy the data", Path: "cp", Dir: s.dir, User: p.account, Args: []string{"-R", "-p", p.data(), s.data()}})
	return errors.Join(err, p.Start(ctx))
}

// follow has a copy that was not started yet stream from its original.
func (p *Postgres) follow(original *Postgres) error {
	settings, err := os.OpenFile(filepath.Join(p.data(), "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("prepare a standby: %w", err)
	}
	_, err = settings.WriteString("primary_conninfo = 'host=" + original.Host() + " port=" + strconv.Itoa(original.port) + " user=postgres password=" + original.password + "'\n")
	if err = errors.Join(err, settings.Close()); err != nil {
		return fmt.Errorf("prepare a standby: %w", err)
	}
	return os.WriteFile(p.standbySignal(), nil, 0o644)
}

// PromoteNow makes a standby the primary, without a restart.
func (p *Postgres) PromoteNow(ctx context.Context) error {
	_, err := Run(ctx, Command{Name: "pg_ctl", Path: p.Bin("pg_ctl"), Dir: p.dir, User: p.account, Args: []string{"promote", "-w", "-D", p.data()}})
	return err
}

// Demote restarts the server as a replica that follows nobody: it answers,
// read-only. Restart alone keeps it so; see Promote.
func (p *Postgres) Demote(ctx context.Context) error {
	if err := p.Stop(); err != nil {
		return err
	}
	if err := os.WriteFile(p.standbySignal(), nil, 0o644); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Promote restarts a demoted server as the primary it was.
func (p *Postgres) Promote(ctx context.Context) error {
	if err := errors.Join(p.Stop(), os.Remove(p.standbySignal())); err != nil {
		return err
	}
	return p.Start(ctx)
}

func (p *Postgres) standbySignal() string { return filepath.Join(p.data(), "standby.signal") }
