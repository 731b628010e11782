package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	daypass "github.com/daypass-dev/daypass/clients/go"
)

// process is what a program gets from its surroundings.
type process struct {
	Args           []string // without the program's name
	Env            []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// app is one run of the program.
type app struct {
	process
	url, audience string
	timeout       time.Duration
	output        string
	code          int    // what to exit with where there is no error: the child's code
	asked         string // the URL of the broker that was asked last
	command       string // as on the command line, such as "daypass get"
}

// run does it all and returns the exit code.
func run(ctx context.Context, p process) int {
	a := &app{process: p}
	root := a.root()
	root.SetArgs(p.Args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	a.command = cmd.CommandPath()
	if err == nil {
		return a.code
	}
	f, ok := errors.AsType[*failure](err)
	if !ok {
		f = usage("%w", err) // cobra's own words, before a command of ours ran
	}
	a.report(f)
	return f.code
}

const about = `Daypass exchanges the OIDC token of a CI job for credentials that live for
minutes, and gives them back.

Grants are written [PREFIX=]GRANT[?ttl=30m]; PREFIX goes before the names of
the environment variables, so that two databases can be told apart.

Where the job's token comes from, in this order: DAYPASS_ID_TOKEN,
DAYPASS_ID_TOKEN_FILE, GitHub Actions. GitHub needs "permissions: id-token:
write" in the job. GitLab gives one token for the whole job, which buys one
exchange: let the commands of a job share a --session-file.

Environment: DAYPASS_URL, DAYPASS_AUDIENCE, DAYPASS_GRANTS (separated by white
space or commas), DAYPASS_SESSION_FILE, DAYPASS_CACERT (a PEM file of
certificates to trust), HTTPS_PROXY, NO_PROXY.

Exit codes: 0 done, 1 failed, 2 wrong usage, 69 the broker or a part of it is
not available, 75 only a new job can help, 77 denied. exec returns the
command's own code, 128+n if signal n ended it, and 125 failed, 126 command
not executable, 127 command not found.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "daypass", Short: "Short-lived credentials for CI jobs", Long: about,
		Example: `  export DAYPASS_URL=https://daypass.example.com
  daypass whoami
  daypass exec -g orders-db -- psql -c 'select 1'`,
		Version: shownVersion(), SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.timeout <= 0 {
			return usage("--timeout must be above zero")
		}
		return nil
	}
	root.SetVersionTemplate("daypass {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%w", err) })
	f := root.PersistentFlags()
	f.StringVar(&a.url, "url", a.getenv("DAYPASS_URL"), "the broker's `URL` (DAYPASS_URL)")
	f.StringVar(&a.audience, "audience", a.getenv("DAYPASS_AUDIENCE"), "what the CI token must name (DAYPASS_AUDIENCE; default: the URL)")
	f.DurationVar(&a.timeout, "timeout", time.Minute, "how long to try to reach the broker")
	// A default taken from the environment is not for everybody's eyes.
	f.Lookup("url").DefValue, f.Lookup("audience").DefValue = "", ""
	root.AddCommand(a.execCommand(), a.getCommand(), a.whoamiCommand(), a.explainCommand(), a.revokeCommand())
	return root
}

// outputFlag gives a command that prints data its --output.
func (a *app) outputFlag(c *cobra.Command, formats string) {
	c.Flags().StringVarP(&a.output, "output", "o", "", "`format` of what is printed: "+formats)
}

// getenv looks a variable up in the run's environment.
func (a *app) getenv(key string) string {
	value := ""
	for _, kv := range a.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k == key {
			value = v // the last one counts, as it does for a child
		}
	}
	return value
}

// format returns the output format: one of allowed, the first by default.
func (a *app) format(allowed ...string) (string, error) {
	if a.output == "" {
		return allowed[0], nil
	}
	for _, f := range allowed {
		if name, ok := strings.CutSuffix(f, "NAME"); f == a.output || ok && strings.HasPrefix(a.output, name) && len(a.output) > len(name) {
			return a.output, nil
		}
	}
	return "", usage("--output must be one of %s", strings.Join(allowed, ", "))
}

// grants reads the grants asked for: the flags, or DAYPASS_GRANTS.
func (a *app) grants(flags []string) ([]daypass.Grant, error) {
	var grants []daypass.Grant
	for _, s := range flags {
		g, err := daypass.ParseGrant(s)
		if err != nil {
			return nil, usage("%w", err)
		}
		grants = append(grants, g)
	}
	if len(flags) == 0 {
		var err error
		if grants, err = daypass.ParseGrants(a.getenv("DAYPASS_GRANTS")); err != nil {
			return nil, usage("DAYPASS_GRANTS: %w", err)
		}
	}
	if len(grants) == 0 {
		return nil, usage("no grant: name one with --grant or in DAYPASS_GRANTS")
	}
	return grants, nil
}

// client makes a client for the broker at url. source may be nil.
func (a *app) client(url string, source daypass.Source) (*daypass.Client, error) {
	if url == "" {
		return nil, usage("no broker: set --url or DAYPASS_URL")
	}
	c, err := daypass.New(daypass.Config{
		URL: url, Audience: a.audience, Source: source, CACert: a.getenv("DAYPASS_CACERT"),
		UserAgent: "daypass-cli/" + shownVersion(),
	})
	if err != nil {
		return nil, usage("%w", err)
	}
	a.asked = c.URL()
	return c, nil
}

// note tells the user something on stderr.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.Stderr, "daypass: "+format+"\n", args...)
}

// version is set when a release is linked.
var version string

// shownVersion is the release's, or what the go command knows of the module.
func shownVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
