package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker"
)

// leaseCommand talks to the admin listener of a broker that runs on this
// machine.
func leaseCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lease",
		Short: "List and revoke live leases, through the admin listener",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(leaseListCommand(p), leaseRevokeCommand(p))
	return cmd
}

func leaseListCommand(p process) *cobra.Command {
	var config, output, grant, place, target string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List live leases, oldest first",
		Example: `  daypassd lease list --config daypass.yaml
  daypassd lease list --config daypass.yaml --grant orders-db --output json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			admin, err := dialAdmin(config)
			if err != nil {
				return err
			}
			query := url.Values{}
			for key, value := range map[string]string{"grant": grant, "place": place, "target": target} {
				if value != "" {
					query.Set(key, value)
				}
			}
			var answer struct {
				Leases []broker.Lease `json:"leases"`
			}
			if err := admin.call(cmd.Context(), http.MethodGet, "/admin/v1/leases?"+query.Encode(), &answer); err != nil {
				return err
			}
			if output == "json" {
				return printJSON(p.stdout, answer)
			}
			return printLeases(p.stdout, answer.Leases)
		},
	}
	configFlag(cmd, &config)
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&grant, "grant", "", "only leases of this grant")
	cmd.Flags().StringVar(&place, "place", "", "only leases of this repository, as issuer/repository id")
	cmd.Flags().StringVar(&target, "target", "", "only leases of this target")
	return cmd
}

func leaseRevokeCommand(p process) *cobra.Command {
	var config, output string
	cmd := &cobra.Command{
		Use:   "revoke LEASE…",
		Short: "Take credentials back now",
		Long: `Take credentials back now. One that cannot be taken back yet (its target is down)
is tried until it is; one that cannot be taken back at all ends at its expiry.`,
		Example: `  daypassd lease revoke --config daypass.yaml dpl_c7mkqvtx5a2jd4zq6h3nw7yfeu`,
		Args:    someArgs("the id of a lease; daypassd lease list shows them"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			admin, err := dialAdmin(config)
			if err != nil {
				return err
			}
			return revokeLeases(cmd.Context(), p.stdout, admin, ids, output)
		},
	}
	configFlag(cmd, &config)
	outputFlag(cmd, &output)
	return cmd
}

type leaseOutcome struct {
	Lease broker.LeaseID `json:"lease_id"`
	State string         `json:"state"`
}

// revokeLeases asks for each lease; one that fails does not spare the others.
func revokeLeases(ctx context.Context, w io.Writer, admin *adminClient, ids []string, output string) error {
	var failures []error
	outcomes := []leaseOutcome{}
	for _, id := range ids {
		var o leaseOutcome
		if err := admin.call(ctx, http.MethodDelete, "/admin/v1/leases/"+url.PathEscape(id), &o); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", id, err))
			continue
		}
		outcomes = append(outcomes, leaseOutcome{broker.LeaseID(id), o.State})
	}
	if output == "json" {
		failures = append(failures, printJSON(w, map[string]any{"leases": outcomes}))
	} else {
		for _, o := range outcomes {
			fmt.Fprintf(w, "%s  %s\n", o.Lease, outcomeText[o.State])
		}
	}
	return errors.Join(failures...)
}

var outcomeText = map[string]string{
	broker.StateRevoked:  "revoked",
	broker.StateRevoking: "cannot be taken back yet; it is tried until it is gone",
	broker.StateExpires:  "cannot be taken back; it ends at its expiry",
}

func printLeases(w io.Writer, leases []broker.Lease) error {
	if len(leases) == 0 {
		_, err := fmt.Fprintln(w, "no live leases")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "LEASE\tGRANT\tHANDLE\tSTATE\tEXPIRES\tREPOSITORY\tRULE")
	for _, l := range leases {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.ID, l.Grant.Name, l.Handle, l.State,
			l.NotAfter.UTC().Format(time.RFC3339), printable(cmp.Or(l.Repo, l.Place)), l.Rule)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, l := range leases { // under the table: what a target says is longer than a column
		if l.LastErr == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: %s: %s\n", l.ID, attempts(l.Attempts), printable(l.LastErr)); err != nil {
			return err
		}
	}
	return nil
}

func attempts(n int) string {
	if n == 1 {
		return "1 failed attempt"
	}
	return fmt.Sprintf("%d failed attempts", n)
}

// printable keeps what came from outside from moving the terminal's cursor.
func printable(s string) string {
	quoted := fmt.Sprintf("%q", s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// adminClient speaks to the admin listener that a configuration names.
type adminClient struct {
	base  string
	token broker.Secret
	http  *http.Client
}

func dialAdmin(config string) (*adminClient, error) {
	c, err := loadConfig(config)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(c.DataDir, adminTokenFile)
	token, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the admin token, which daypassd serve makes: %w", err)
	}
	return &adminClient{
		base:  "http://" + c.Admin.Listen,
		token: broker.NewSecret(strings.TrimSpace(string(token))),
		http:  &http.Client{Timeout: time.Minute, Transport: &http.Transport{Proxy: nil}},
	}, nil
}

// call makes one request and decodes its answer into into.
func (a *adminClient) call(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, nil)
	if err != nil {
		return fmt.Errorf("ask the broker: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token.Reveal())
	resp, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the broker on %s (is daypassd serve running?): %w", a.base, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("read the broker's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var problem struct {
			Code   string `json:"code"`
			Detail string `json:"detail"`
		}
		if json.Unmarshal(body, &problem) == nil && problem.Code != "" {
			return fmt.Errorf("%s: %s", problem.Code, problem.Detail)
		}
		return fmt.Errorf("the broker answered %s", resp.Status)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the broker's answer: %w", err)
	}
	return nil
}
