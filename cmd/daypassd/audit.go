package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker/audit"
)

// auditCommand reads journals; it needs neither a broker nor a configuration.
func auditCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Check the journal",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(auditVerifyCommand(p))
	return cmd
}

func auditVerifyCommand(p process) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "verify PATH…",
		Short: "Check every link of a journal offline, and name the first bad record",
		Long: `Check every link of a journal offline, and name the first bad record of each
broker's chain. A path is a journal's folder, or files of one.

A chain shows what was changed within it. It cannot show that the newest records
were cut off: keep the heads that this command prints where the broker cannot
write, and compare.`,
		Example: `  daypassd audit verify ./data/journal
  daypassd audit verify --output json ./data/journal`,
		Args: someArgs("a journal's folder, or files of one"),
		RunE: func(_ *cobra.Command, paths []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if output == "text" {
				_, err := audit.Verify(p.stdout, paths...)
				return notVerified(err, paths)
			}
			report, err := audit.Verify(io.Discard, paths...)
			if printErr := printJSON(p.stdout, report); printErr != nil || err != nil {
				return errors.Join(notVerified(err, paths), printErr)
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// notVerified says that a journal is bad, or that none was named: a data_dir
// holds it one folder further down.
func notVerified(err error, paths []string) error {
	if err == nil {
		return nil
	}
	for _, p := range paths {
		inner := filepath.Join(p, "journal")
		if info, statErr := os.Stat(inner); statErr == nil && info.IsDir() {
			return fmt.Errorf("%w; the journal is in %s", err, inner)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("the journal does not verify: %w", err)
}
