package main

import "github.com/spf13/cobra"

// policyCommand is about policy as a folder of files; none of its commands
// needs a broker.
func policyCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Work on policy files",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		policyLintCommand(p),
		policyTestCommand(p),
		policyExplainCommand(p),
		policyFromSubCommand(p),
		policySuggestCommand(p),
		policyReportCommand(p),
		policyAccessCommand(p),
		policySchemaCommand(p),
	)
	return cmd
}
