// Command fakeci is a toy CI provider: it signs whatever claims it is told to,
// in the shape of GitHub Actions or GitLab CI.
//
// It is for the demo, development and tests only. A broker that trusts its key
// trusts everybody who can read its folder, so it listens on loopback addresses
// and nowhere else.
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

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run does it all, until ctx ends, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(stderr, "fakeci: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		_, _ = fmt.Fprintln(stderr, "fakeci: see fakeci --help")
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:     "fakeci",
		Version: version,
		Short:   "A toy CI provider, for the demo, development and tests only",
		Long: `fakeci is a toy CI provider: it signs whatever claims it is told to, in the shape
of GitHub Actions or GitLab CI.

FOR THE DEMO, DEVELOPMENT AND TESTS ONLY. A broker that trusts its key trusts
everybody who can read its folder.`,
		Example: `  fakeci serve --dir ./ci &
  fakeci token --dir ./ci --profile github --audience https://daypass.example.com`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error { return usagef("a command is needed: serve or token") },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newServe(), newToken())
	return root
}

// noArgs refuses what is left beside the flags.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%q is not understood: there are only flags", args[0])
	}
	return nil
}
