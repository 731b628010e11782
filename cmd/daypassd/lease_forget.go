package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func leaseForgetCommand(p process) *cobra.Command {
	var config string
	f := forgetting{process: p}
	var yes bool
	cmd := &cobra.Command{
		Use:   "forget",
		Short: "Close the leases of a target that is gone for good, without touching it",
		Long: `Close the leases of a target that is gone for good, without touching it. The
credentials may live on where the target is now: their names are printed, and kept in the
journal with who forgot them and why. It is refused while the target answers, unless it
is retired or not configured any more.`,
		Example: `  daypassd lease forget --config daypass.yaml --target orders-pg --reason "disk lost, see INC-7" --yes`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(f.output); err != nil {
				return err
			}
			if f.target == "" || f.reason == "" {
				return usageError{errors.New("forgetting needs --target and --reason")}
			}
			var err error
			if f.admin, err = dialAdmin(config); err != nil {
				return err
			}
			if !yes {
				return f.ask(cmd.Context())
			}
			return f.do(cmd.Context())
		},
	}
	configFlag(cmd, &config)
	outputFlag(cmd, &f.output)
	cmd.Flags().StringVar(&f.target, "target", "", "whose leases")
	cmd.Flags().StringVar(&f.lease, "lease", "", "only this lease of the target")
	cmd.Flags().StringVar(&f.reason, "reason", "", "why; for the journal")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// forgetting is one call of lease forget.
type forgetting struct {
	process
	admin                         *adminClient
	output, target, lease, reason string
}

// ask says how many leases are meant, and does nothing.
func (f forgetting) ask(ctx context.Context) error {
	filter := leaseFilter{target: f.target}
	var list leaseList
	if err := f.admin.call(ctx, http.MethodGet, "/admin/v1/leases?"+filter.query(), &list); err != nil {
		return err
	}
	n := 0
	for _, l := range list.Leases {
		if f.lease == "" || f.lease == string(l.ID) {
			n++
		}
	}
	return usageError{fmt.Errorf("%s, and nobody would take back what may live on; nothing was done: add --yes to forget", count(n, "lease is meant", "leases are meant"))}
}

func (f forgetting) do(ctx context.Context) error {
	body := map[string]string{"target": f.target, "reason": f.reason}
	if f.lease != "" {
		body["lease_id"] = f.lease
	}
	var answer struct {
		Leases json.RawMessage `json:"leases"`
	}
	if err := f.admin.send(ctx, http.MethodPost, "/admin/v1/forget", body, &answer); err != nil {
		return err
	}
	if f.output == "json" {
		return printJSON(f.stdout, answer)
	}
	var leases []listedLease
	if err := json.Unmarshal(answer.Leases, &leases); err != nil {
		return fmt.Errorf("read the broker's answer: %w", err)
	}
	return printForgotten(f.stdout, leases)
}

// printForgotten names what somebody has to look for.
func printForgotten(w io.Writer, leases []listedLease) error {
	fmt.Fprintln(w, count(len(leases), "lease is forgotten", "leases are forgotten")+". What may live on:")
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "CREDENTIAL\tEXPIRES\tLEASE")
	for _, l := range leases {
		fmt.Fprintf(t, "%s\t%s\t%s\n", l.Handle, l.NotAfter.UTC().Format(time.RFC3339), l.ID)
	}
	return t.Flush()
}
