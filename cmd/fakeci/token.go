package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// tokenFlags are token's flags as they were given.
type tokenFlags struct {
	dir, profile, audience string
	set, setJSON, unset    []string
	expiresIn              time.Duration
	subject, output        string
}

func newToken() *cobra.Command {
	var f tokenFlags
	cmd := &cobra.Command{
		Use:   "token --dir DIR --profile github|gitlab --audience AUDIENCE",
		Short: "Sign a token, or print what a runner would put into a job's environment",
		Long: `token signs an ID token in the name of the server whose folder is DIR. Without
more it is that of a push to the protected main branch of acme/payments-api;
claims can be set and removed, and those that follow from others (sub,
repository_owner, ref_path, …) follow unless they are set too.

FOR THE DEMO, DEVELOPMENT AND TESTS ONLY.`,
		Example: `  fakeci token --dir ./ci --profile github --audience https://daypass.example.com
  fakeci token --dir ./ci --profile github --audience A --set ref=refs/heads/x --set environment=production
  fakeci token --dir ./ci --profile gitlab --audience A --set-json runner_id=7 --unset user_email
  eval "$(fakeci token --dir ./ci --profile github --audience A --output env)"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.dir, "dir", "", "folder of a running fakeci serve")
	flags.StringVar(&f.profile, "profile", "", "provider to imitate: github or gitlab")
	flags.StringVar(&f.audience, "audience", "", "the token's aud: the broker's audience")
	flags.StringArrayVar(&f.set, "set", nil, "set a claim to a text, as name=value; repeatable")
	flags.StringArrayVar(&f.setJSON, "set-json", nil, "set a claim to a JSON value, as name=JSON; repeatable")
	flags.StringArrayVar(&f.unset, "unset", nil, "remove a claim; repeatable")
	flags.DurationVar(&f.expiresIn, "expires-in", 0, "the token's life (default 5m for github, 1h for gitlab)")
	flags.StringVar(&f.subject, "subject", "id", "shape of GitHub's sub: id (repo:O@ID/R@ID:…) or name (repo:O/R:…)")
	flags.StringVar(&f.output, "output", "token", "token, env (export lines for a shell) or json (the environment as an object)")
	return cmd
}

func (f tokenFlags) run(out io.Writer) error {
	job, err := f.job()
	if err != nil {
		return err
	}
	fake, err := open(f.dir)
	if err != nil {
		return err
	}
	if f.output == "token" {
		token, err := fake.Token(job)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, token)
		return err
	}
	vars, err := environment(fake, job)
	if err != nil {
		return err
	}
	if f.output == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(vars)
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if _, err := fmt.Fprintf(out, "export %s=%s\n", name, quote(vars[name])); err != nil {
			return err
		}
	}
	return nil
}

// job reads the flags; what is wrong with them is a usage error.
func (f tokenFlags) job() (fakeissuer.Job, error) {
	j := fakeissuer.Job{
		Provider: fakeissuer.Provider(f.profile), Audience: f.audience,
		Set: map[string]any{}, Unset: f.unset, Life: f.expiresIn,
	}
	switch {
	case f.dir == "":
		return j, usagef("--dir is missing")
	case !slices.Contains(fakeissuer.Providers(), j.Provider):
		return j, usagef("--profile %q: want one of %v", f.profile, fakeissuer.Providers())
	case f.audience == "":
		return j, usagef("--audience is missing: it is what the broker's configuration calls audience")
	case !slices.Contains([]string{"token", "env", "json"}, f.output):
		return j, usagef("--output %q: want token, env or json", f.output)
	}
	switch f.subject {
	case "id":
	case "name":
		j.Subject = fakeissuer.SubjectByName
	default:
		return j, usagef("--subject %q: want id or name", f.subject)
	}
	for _, s := range f.set {
		name, value, err := assignment("--set", s)
		if err != nil {
			return j, err
		}
		j.Set[name] = value
	}
	for _, s := range f.setJSON {
		name, value, err := assignment("--set-json", s)
		if err != nil {
			return j, err
		}
		if !json.Valid([]byte(value)) {
			return j, usagef("--set-json %s: the value is not JSON", name)
		}
		j.Set[name] = json.RawMessage(value)
	}
	return j, nil
}

func assignment(flag, s string) (name, value string, err error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return "", "", usagef("%s %q: want name=value", flag, s)
	}
	return name, value, nil
}

// quote makes a value safe for a POSIX shell, whatever is in it.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
