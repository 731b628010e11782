// Command daypassd is the broker and the operator's commands: serve, check,
// policy, audit verify, and lease list, show, revoke and forget.
//
// It guarantees that a configuration with a fault starts nothing and names
// every fault at once, and that what it prints holds no secret. It refuses to
// listen beyond loopback without TLS or a proxy that somebody vouched for.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set when a release is linked.
var version = "development"

// The exit codes of every command.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], process{env: os.LookupEnv, stdout: os.Stdout, stderr: os.Stderr}))
}

// process is what a command may touch of the process it runs in.
type process struct {
	env            func(string) (string, bool)
	stdout, stderr io.Writer
}

// usageError marks a mistake on the command line.
type usageError struct{ error }

// silent is an exit code whose reason has been printed as the command's answer.
type silent struct{ code int }

func (s silent) Error() string { return fmt.Sprintf("exit code %d", s.code) }

// coded is an error with an exit code of its own.
type coded struct {
	code int
	error
}

func (c coded) Unwrap() error { return c.error }

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, p process) int {
	root := &cobra.Command{
		Use:   "daypassd",
		Short: "Daypass, a CI credential broker: tokens in, short-lived credentials out",
		Long: `Daypass exchanges the OIDC token of a CI job for credentials that live for minutes.
Policy decides who may have what; every exchange is journalled; everything issued
can be taken back.`,
		Example: `  daypassd check --config daypass.yaml --connect
  daypassd serve --config daypass.yaml
  daypassd policy test ./policies
  daypassd policy schema > policies/.policy.schema.json
  daypassd lease list --config daypass.yaml
  daypassd audit verify ./data/journal`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetArgs(args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(serveCommand(p), checkCommand(p), policyCommand(p), auditCommand(p), leaseCommand(p))
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if quiet, ok := errors.AsType[silent](err); ok {
		return quiet.code
	}
	if usage, ok := errors.AsType[usageError](err); ok || isUnknownCommand(cmd, root) {
		if ok {
			err = usage.error
		}
		fmt.Fprintf(p.stderr, "daypassd: %v\nSee '%s --help'.\n", err, cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(p.stderr, "daypassd: %v\n", err)
	if own, ok := errors.AsType[coded](err); ok {
		return own.code
	}
	return exitFailed
}

// isUnknownCommand tells cobra's complaint about a word it does not know,
// which it makes on the command that holds others.
func isUnknownCommand(cmd, root *cobra.Command) bool {
	return cmd == root || cmd.HasSubCommands()
}

// noArgs refuses what stands beside the flags; where a command holds others, it
// is a command that is not known.
func noArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasSubCommands():
		return usageError{cobra.NoArgs(cmd, args)}
	}
	return usageError{fmt.Errorf("%q is not understood: %s takes flags only", args[0], cmd.CommandPath())}
}

// someArgs wants at least one of what a command is about.
func someArgs(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError{fmt.Errorf("%s needs %s", cmd.CommandPath(), what)}
		}
		return nil
	}
}
