package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/policy/fromsub"
)

func policyFromSubCommand(p process) *cobra.Command {
	var files []string
	var o fromsub.Options
	var output string
	cmd := &cobra.Command{
		Use:   "from-sub [SUB…]",
		Short: "Turn trust in subjects, as clouds and Vault have it, into rules that match claims",
		Long: `Turn trust in subjects, as clouds and Vault have it, into rules that match claims.

Give subjects, with wildcards, in any form that GitHub or GitLab writes; principals of
Google Cloud; or files in JSON: an IAM role's trust policy, an Entra federated
credential, a JWT role of Vault or OpenBao, a provider of a workload identity pool.

No rule admits more than its original did. What cannot be said of claims becomes no
rule, and the output says why. Ids that a subject does not name are left empty, to be
filled in: until then the file does not load.`,
		Example: `  daypassd policy from-sub 'repo:acme/app:ref:refs/heads/main' --grant payments-db
  daypassd policy from-sub --file trust-policy.json > policies/teams/payments/deploy.yaml
  vault read -format=json auth/jwt/role/ci | daypassd policy from-sub --file -`,
		RunE: func(cmd *cobra.Command, subjects []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if len(subjects)+len(files) == 0 {
				return usageError{errors.New("give a subject or --file")}
			}
			var trusts []fromsub.Trust
			for _, s := range subjects {
				trusts = append(trusts, fromsub.Subject(s))
			}
			for _, name := range files {
				read, err := readTrust(cmd, name)
				if err != nil {
					return err
				}
				trusts = append(trusts, read...)
			}
			r := fromsub.Translate(trusts, o)
			if err := writeTrust(p, r, output); err != nil {
				return err
			}
			if len(r.NotTaken) > 0 {
				return fmt.Errorf("%d could not become a rule, for the reasons above", len(r.NotTaken))
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().StringArrayVar(&files, "file", nil, "a file of another system, in JSON; - is standard input; may be repeated")
	cmd.Flags().StringVar(&o.Provider, "provider", "", "whose subjects they are, github or gitlab; told from each by default")
	cmd.Flags().StringVar(&o.Issuer, "issuer", "", "what your configuration calls the issuer; default: the provider's name")
	cmd.Flags().StringVar(&o.Grant, "grant", "GRANT", "the grant that the rules give")
	return cmd
}

// readTrust reads one file of another system; what is too large for one is for
// [fromsub.Read] to refuse.
func readTrust(cmd *cobra.Command, name string) ([]fromsub.Trust, error) {
	var from io.Reader = cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, 2<<20))
	if err != nil {
		return nil, err
	}
	trusts, err := fromsub.Read(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return trusts, nil
}

func writeTrust(p process, r fromsub.Result, output string) error {
	if output == "json" {
		return printJSON(p.stdout, map[string]any{
			"policy": string(r.File.YAML()), "notes": r.Notes, "not_taken": r.NotTaken,
		})
	}
	_, err := p.stdout.Write(r.YAML())
	return err
}
