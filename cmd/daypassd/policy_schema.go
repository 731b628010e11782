package main

import (
	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/policy"
)

func policySchemaCommand(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of policy files, for editors",
		Long: `Print the JSON Schema (draft 2020-12) of policy files. An editor with a YAML
language server shows keys and faults with it, for instance by a first line
# yaml-language-server: $schema=./policy.schema.json

What the schema refuses is refused when a folder is loaded. Names, expressions and
pinned ids are beyond it: 'daypassd check' looks at those.`,
		Example: `  daypassd policy schema > policies/.policy.schema.json`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := p.stdout.Write(policy.Schema())
			return err
		},
	}
}
