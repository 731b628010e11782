package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	daypass "github.com/daypass-dev/daypass/clients/go"
)

func (a *app) getCommand() *cobra.Command {
	var grants []string
	var sessionFile string
	c := &cobra.Command{
		Use:   "get -g [PREFIX=]GRANT[?ttl=30m]... [-o env|shell|dotenv|json|field=NAME]",
		Short: "Print credentials",
		Long: `Get exchanges the job's CI token for credentials and prints them. Prefer exec,
which gives them back by itself and keeps them out of the log.

With --session-file the session is kept, so that daypass revoke can give the
credentials back; without, they live until they expire.

Formats: env prints NAME=value with values quoted for a shell where needed,
shell the same with export before it, dotenv in double quotes with \n for line
ends, json everything, field=NAME the one field of the one grant asked for.

In GitHub Actions the runner is told on stderr to mask the secrets.`,
		Example: `  # GitHub Actions
  PGPASSWORD=$(daypass get -g orders-db -o field=password --session-file "$RUNNER_TEMP/daypass")

  # GitLab CI; after_script: daypass revoke --session-file "$CI_BUILDS_DIR/.daypass"
  eval "$(daypass get -g orders-db -o shell --session-file "$CI_BUILDS_DIR/.daypass")"`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return failed(a.get(c.Context(), grants, sessionFile), exitFailed)
		},
	}
	a.outputFlag(c, "env (the default), shell, dotenv, json or field=NAME")
	f := c.Flags()
	f.StringArrayVarP(&grants, "grant", "g", nil, "`grant` to ask for; may be repeated (DAYPASS_GRANTS)")
	f.StringVar(&sessionFile, "session-file", a.getenv("DAYPASS_SESSION_FILE"), "`file` to keep the session in; created if absent (DAYPASS_SESSION_FILE)")
	return c
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%s takes no arguments, only flags", c.Name())
	}
	return nil
}

func (a *app) get(ctx context.Context, flags []string, sessionFile string) error {
	format, err := a.format("env", "shell", "dotenv", "json", "field=NAME")
	if err != nil {
		return err
	}
	grants, err := a.grants(flags)
	if err != nil {
		return err
	}
	if strings.HasPrefix(format, "field=") && len(grants) != 1 {
		return usage("--output field=NAME prints one field of one grant")
	}
	signals, release := catch()
	defer release()
	opening, opened := untilSignal(ctx, signals, openGrace)
	h, err := a.open(opening, grants, sessionFile)
	s := opened()
	if err == nil && s == nil {
		if err = a.print(format, grants, h); err == nil {
			a.tell(h, sessionFile)
			return nil
		}
	}
	if h != nil {
		a.returnOrWarn(ctx, h) // nobody has them
	}
	if s != nil {
		return &failure{bySignal(s), err}
	}
	return err
}

// print writes the credentials in one piece or not at all.
func (a *app) print(format string, grants []daypass.Grant, h *held) error {
	text, err := render(format, grants, h.answer)
	if err != nil {
		return err
	}
	if err := a.addMasks(secretsOf(h)); err != nil {
		return err
	}
	if _, err := io.WriteString(a.Stdout, text); err != nil {
		return fmt.Errorf("print credentials: %w", err)
	}
	return nil
}

// tell says on stderr how the credentials end.
func (a *app) tell(h *held, sessionFile string) {
	for _, c := range h.answer.Credentials {
		until := c.ExpiresAt.UTC().Format(time.RFC3339)
		if sessionFile == "" {
			a.note("%s lives until %s: without --session-file it cannot be given back", clean(c.Grant), until)
		}
	}
	a.warnOfArtifacts(sessionFile)
}

func render(format string, grants []daypass.Grant, answer *daypass.Answer) (string, error) {
	if name, ok := strings.CutPrefix(format, "field="); ok {
		fields := answer.Credentials[0].Fields
		value, ok := fields[name]
		if !ok {
			return "", fmt.Errorf("%s has no field %q; it has %s", grants[0].Name, name, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		}
		return value.Reveal() + "\n", nil
	}
	if format == "json" {
		return renderJSON(answer)
	}
	vars, err := variables(grants, answer.Credentials)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		switch format {
		case "shell":
			fmt.Fprintf(&b, "export %s=%s\n", name, shellQuote(vars[name]))
		case "dotenv":
			fmt.Fprintf(&b, "%s=\"%s\"\n", name, dotenv.Replace(vars[name]))
		default:
			fmt.Fprintf(&b, "%s=%s\n", name, shellQuote(vars[name]))
		}
	}
	return b.String(), nil
}

// shellQuote makes one word of s for any POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_@%+=:,./-", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// dotenv escapes what common readers of .env files interpret in double quotes.
var dotenv = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`", "\n", `\n`, "\r", `\r`)

// renderJSON prints what the broker answered, but for the session's token.
func renderJSON(answer *daypass.Answer) (string, error) {
	type credential struct {
		Grant     string            `json:"grant"`
		Kind      string            `json:"kind"`
		LeaseID   string            `json:"lease_id"`
		IssuedAt  time.Time         `json:"issued_at"`
		ExpiresAt time.Time         `json:"expires_at"`
		Takeback  daypass.Takeback  `json:"takeback"`
		Fields    map[string]string `json:"fields"`
		Env       map[string]string `json:"env"`
		Sensitive []string          `json:"sensitive"`
	}
	out := struct {
		RequestID   string       `json:"request_id"`
		Credentials []credential `json:"credentials"`
	}{answer.RequestID, []credential{}}
	for _, c := range answer.Credentials {
		out.Credentials = append(out.Credentials, credential{c.Grant, c.Kind, c.LeaseID, c.IssuedAt, c.ExpiresAt, c.Takeback,
			shown(c.Fields), shown(c.Env), c.Sensitive})
	}
	b, err := json.MarshalIndent(out, "", "  ")
	return string(b) + "\n", err
}

func shown(m map[string]daypass.Secret) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v.Reveal()
	}
	return out
}
