package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	daypass "github.com/daypass-dev/daypass/clients/go"
)

func (a *app) revokeCommand() *cobra.Command {
	var path, lease string
	c := &cobra.Command{
		Use:   "revoke (--session-file FILE | DAYPASS_SESSION=...) [--lease ID] [-o text|json]",
		Short: "Give credentials back",
		Long: `Revoke gives back everything of a session, or one lease of it. The session is
read from --session-file, which is removed when all is given back, or from the
variable DAYPASS_SESSION, never from the command line.

A session that the broker no longer knows is over, and what it held with it:
that is no failure.`,
		Example: `  daypass revoke --session-file "$RUNNER_TEMP/daypass"
  daypass revoke --session-file "$RUNNER_TEMP/daypass" --lease dpl_...`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), a.timeout)
			defer cancel()
			return failed(a.revoke(ctx, path, lease), exitFailed)
		},
	}
	a.outputFlag(c, "text (the default) or json")
	c.Flags().StringVar(&path, "session-file", a.getenv("DAYPASS_SESSION_FILE"), "`file` that a session is kept in (DAYPASS_SESSION_FILE)")
	c.Flags().StringVar(&lease, "lease", "", "`id` of the one lease to give back")
	return c
}

func (a *app) revoke(ctx context.Context, path, lease string) error {
	format, err := a.format("text", "json")
	if err != nil {
		return err
	}
	client, session, err := a.sessionToEnd(path)
	if err != nil {
		return err
	}
	ends := []daypass.Ending{}
	if lease != "" {
		var end daypass.Ending
		if end, err = client.Revoke(ctx, session, lease); err == nil {
			ends = append(ends, end)
		}
	} else {
		ends, err = client.GiveBack(ctx, session)
	}
	if daypass.CodeOf(err) == daypass.SessionExpired {
		a.note("the broker knows no such session: it is over, and what it held with it")
		err = nil
	}
	if err != nil {
		return err
	}
	if path != "" && lease == "" {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("session file: %w", err)
		}
	}
	return a.endings(format, ends)
}

// sessionToEnd finds the session: the file's, or the variable's.
func (a *app) sessionToEnd(path string) (*daypass.Client, daypass.Secret, error) {
	token := a.getenv("DAYPASS_SESSION")
	switch {
	case path != "" && token != "":
		return nil, daypass.Secret{}, usage("both --session-file and DAYPASS_SESSION are given; which one is meant?")
	case path == "" && token == "":
		return nil, daypass.Secret{}, usage("no session: give --session-file or DAYPASS_SESSION")
	case token != "":
		client, err := a.client(a.url, nil)
		return client, daypass.NewSecret(token), err
	}
	s, err := loadSession(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, daypass.Secret{}, fmt.Errorf("%w: nothing was kept there, or it was given back", err)
	}
	if err != nil {
		return nil, daypass.Secret{}, err
	}
	client, err := a.sessionClient(s, nil)
	return client, s.secret(), err
}

func (a *app) endings(format string, ends []daypass.Ending) error {
	if format == "json" {
		if ends == nil {
			ends = []daypass.Ending{}
		}
		return a.printJSON(map[string]any{"leases": ends})
	}
	for _, e := range ends {
		how := map[string]string{"revoked": "is gone", "revoking": "is being taken back", "expires": "cannot be taken back"}[e.State]
		if how == "" {
			how = e.State
		}
		if e.State != "revoked" {
			how += ", and ends at " + e.ExpiresAt.UTC().Format(time.RFC3339) + " at the latest"
		}
		if _, err := fmt.Fprintf(a.Stdout, "%s %s %s\n", clean(e.Grant), clean(e.LeaseID), clean(how)); err != nil {
			return err
		}
	}
	return nil
}
