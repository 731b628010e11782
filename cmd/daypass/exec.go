package main

import (
	"context"
	"errors"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/cmd/daypass/internal/mask"
)

type execOptions struct {
	grants      []string
	sessionFile string
	noMask      bool
	preserveEnv bool
}

func (a *app) execCommand() *cobra.Command {
	var o execOptions
	c := &cobra.Command{
		Use:   "exec [-g [PREFIX=]GRANT[?ttl=30m]]... -- COMMAND [ARG]...",
		Short: "Run a command with credentials in its environment, and give them back when it ends",
		Long: `Exec exchanges the job's CI token for credentials, runs the command with them in
its environment, and gives them back when it ends, however it ends.

The command does not get what would let it ask for more: DAYPASS_ID_TOKEN,
DAYPASS_ID_TOKEN_FILE, DAYPASS_SESSION, DAYPASS_SESSION_FILE and
ACTIONS_ID_TOKEN_REQUEST_* are taken out of its environment (--preserve-env
leaves them in). This is tidiness, not a wall: a command of the same user can
look around.

What the command prints is searched for the secrets, also in base64, URL, JSON
and shell-quoted form, and "***" is printed instead. Values of less than four
bytes are not searched for. Output to a terminal stays as it is, so that
programs that want one find one. In GitHub Actions the runner is told to mask
the secrets as well, on stderr, so that stdout can be captured.

Signals INT, TERM, HUP, QUIT, USR1, USR2 and WINCH go on to the command. A
process that the command leaves behind loses its output five seconds later.`,
		Example: `  # GitHub Actions: permissions: {id-token: write}, env: {DAYPASS_URL: https://daypass.example.com}
  daypass exec -g orders-db -- psql -c 'select 1'

  # two databases: ORDERS_PGUSER, ORDERS_PGPASSWORD, ... and STOCK_PGUSER, ...
  daypass exec -g ORDERS_=orders-db -g 'STOCK_=stock-db?ttl=30m' -- ./migrate

  # GitLab CI: id_tokens: {DAYPASS_ID_TOKEN: {aud: https://daypass.example.com}}
  # one token buys one exchange, so the commands of a job share a session
  daypass exec --session-file "$CI_BUILDS_DIR/.daypass" -g orders-db -- ./migrate
  daypass exec --session-file "$CI_BUILDS_DIR/.daypass" -g orders-db -- ./check
  daypass revoke --session-file "$CI_BUILDS_DIR/.daypass"`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("exec: no command: daypass exec -g GRANT -- COMMAND")
			}
			code, err := a.exec(c.Context(), o, args)
			a.code = code
			return failed(err, exitExecFailed)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the command is the command's
	f.StringArrayVarP(&o.grants, "grant", "g", nil, "`grant` to ask for; may be repeated (DAYPASS_GRANTS)")
	f.StringVar(&o.sessionFile, "session-file", a.getenv("DAYPASS_SESSION_FILE"), "`file` in which the commands of a job share a session; created if absent (DAYPASS_SESSION_FILE)")
	f.BoolVar(&o.noMask, "no-mask", false, "do not search the command's output for secrets")
	f.BoolVar(&o.preserveEnv, "preserve-env", false, "leave ID token and session variables in the command's environment")
	return c
}

// exec returns the command's exit code, or why there is none.
func (a *app) exec(ctx context.Context, o execOptions, argv []string) (int, error) {
	grants, err := a.grants(o.grants)
	if err != nil {
		return 0, err
	}
	path, err := lookUp(argv[0]) // before the token is spent
	if err != nil {
		return 0, err
	}
	signals, release := catch()
	defer release()
	opening, opened := untilSignal(ctx, signals, openGrace)
	h, err := a.open(opening, grants, o.sessionFile)
	if s := opened(); s != nil {
		if err == nil {
			a.returnOrWarn(ctx, h)
		}
		return 0, &failure{bySignal(s), err}
	}
	if err != nil {
		return 0, err
	}
	defer a.returnOrWarn(ctx, h)
	a.warnOfArtifacts(o.sessionFile)
	vars, err := variables(grants, h.answer.Credentials)
	if err != nil {
		return 0, err
	}
	if err := a.addMasks(secretsOf(h)); err != nil {
		return 0, err
	}
	cmd := exec.Command(path, argv[1:]...)
	cmd.Args[0] = argv[0]
	cmd.Env = childEnv(a.Env, vars, o.preserveEnv)
	cmd.Stdin = a.Stdin
	var masks *mask.Set
	if !o.noMask {
		masks = mask.New(append(secretsOf(h), a.ownSecrets(h)...))
	}
	return a.runChild(ctx, cmd, masks, signals)
}

// lookUp finds a command as a shell does, with the shell's exit codes.
func lookUp(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return "", &failure{exitNotFound, err}
	}
	return "", &failure{exitNotExec, err}
}

// secretsOf lists what must not be seen of the credentials.
func secretsOf(h *held) []string {
	var secrets []string
	for _, c := range h.answer.Credentials {
		for _, s := range c.Secrets() {
			secrets = append(secrets, s.Reveal())
		}
	}
	return secrets
}

// ownSecrets are the job's and daypass's own. The command is not given them,
// but may come by them.
func (a *app) ownSecrets(h *held) []string {
	return []string{
		h.session.Token.Reveal(), h.session.Key.Reveal(), a.getenv("DAYPASS_ID_TOKEN"),
		a.getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN"), a.getenv("DAYPASS_SESSION"),
	}
}
