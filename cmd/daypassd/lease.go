package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker"
)

// leaseCommand talks to the admin listener of a broker that runs on this
// machine.
func leaseCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lease",
		Short: "List, show, revoke and forget live leases, through the admin listener",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(leaseListCommand(p), leaseShowCommand(p), leaseRevokeCommand(p), leaseForgetCommand(p))
	return cmd
}

// leaseFilter is which leases a command is about.
type leaseFilter struct{ session, place, rule, grant, target string }

func (f *leaseFilter) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.grant, "grant", "", "only leases of this grant")
	cmd.Flags().StringVar(&f.place, "place", "", "only leases of this repository, as issuer/repository id")
	cmd.Flags().StringVar(&f.rule, "rule", "", "only leases that this rule gave, as file/name")
	cmd.Flags().StringVar(&f.session, "session", "", "only leases of this job session, by its id in the journal or in `lease show`")
	cmd.Flags().StringVar(&f.target, "target", "", "only leases of this target")
}

func (f *leaseFilter) query() string {
	query := url.Values{}
	for key, value := range map[string]string{"grant": f.grant, "place": f.place, "rule": f.rule, "session": f.session, "target": f.target} {
		if value != "" {
			query.Set(key, value)
		}
	}
	return query.Encode()
}

// listedLease is a lease as the admin listener tells it.
type listedLease struct {
	broker.Lease
	Grant struct {
		broker.Grant
		MaxTTL string `json:"max_ttl"`
	} `json:"grant"`
}

// leaseList is the admin listener's answer to a listing.
type leaseList struct {
	Paused bool          `json:"revocation_paused"`
	Leases []listedLease `json:"leases"`
	Strays []struct {
		Target  string    `json:"target"`
		Handle  string    `json:"handle"`
		Expires time.Time `json:"expires_at"`
	} `json:"strays,omitempty"`
}

func leaseListCommand(p process) *cobra.Command {
	var config, output string
	var filter leaseFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List live leases, oldest first",
		Long: `List live leases, oldest first. While the broker runs with --pause-revocation, what
would be taken back now is marked, and what would be dropped without a lease is listed.`,
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
			var answer json.RawMessage
			if err := admin.call(cmd.Context(), http.MethodGet, "/admin/v1/leases?"+filter.query(), &answer); err != nil {
				return err
			}
			if output == "json" {
				return printJSON(p.stdout, answer)
			}
			var list leaseList
			if err := json.Unmarshal(answer, &list); err != nil {
				return fmt.Errorf("read the broker's answer: %w", err)
			}
			return printLeases(p.stdout, list, time.Now())
		},
	}
	configFlag(cmd, &config)
	outputFlag(cmd, &output)
	filter.flags(cmd)
	return cmd
}

func leaseShowCommand(p process) *cobra.Command {
	var config, output string
	cmd := &cobra.Command{
		Use:     "show LEASE",
		Short:   "Show one lease: whose it is, where, and how taking it back goes",
		Example: `  daypassd lease show --config daypass.yaml dpl_c7mkqvtx5a2jd4zq6h3nw7yfeu`,
		Args:    someArgs("the id of a lease; daypassd lease list shows them"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if len(ids) > 1 {
				return usageError{fmt.Errorf("%s takes one id", cmd.CommandPath())}
			}
			admin, err := dialAdmin(config)
			if err != nil {
				return err
			}
			var answer struct {
				Lease json.RawMessage `json:"lease"`
			}
			if err := admin.call(cmd.Context(), http.MethodGet, "/admin/v1/leases/"+url.PathEscape(ids[0]), &answer); err != nil {
				return err
			}
			if output == "json" {
				return printJSON(p.stdout, answer.Lease)
			}
			var l listedLease
			if err := json.Unmarshal(answer.Lease, &l); err != nil {
				return fmt.Errorf("read the broker's answer: %w", err)
			}
			return printLease(p.stdout, l)
		},
	}
	configFlag(cmd, &config)
	outputFlag(cmd, &output)
	return cmd
}

// How wide the columns are that could be of any width: the table fits 120.
const (
	grantWidth      = 20
	repositoryWidth = 26
	lineWidth       = 120
)

func printLeases(w io.Writer, list leaseList, now time.Time) error {
	if len(list.Leases) == 0 {
		fmt.Fprintln(w, "no live leases")
	} else if err := printTable(w, list, now); err != nil {
		return err
	}
	for _, l := range list.Leases { // under the table: what a target says is longer than a column
		if l.LastErr != "" {
			fmt.Fprintln(w, short(fmt.Sprintf("%s: %s: %s", l.ID, attempts(l.Attempts), printable(l.LastErr)), lineWidth))
		}
	}
	if !list.Paused {
		return nil
	}
	fmt.Fprintln(w, "\nRevocation is paused. Without --pause-revocation what is marked * would be taken back now.")
	for _, s := range list.Strays {
		fmt.Fprintf(w, "So would %s in %s, which has no lease and expired %s.\n", s.Handle, printable(s.Target), s.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

func printTable(w io.Writer, list leaseList, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "LEASE\tGRANT\tSTATE\tEXPIRES\tREPOSITORY")
	for _, l := range list.Leases {
		state := string(l.State)
		if list.Paused && !l.Due.After(now) {
			state += "*"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", l.ID, short(l.Grant.Name, grantWidth), state,
			l.NotAfter.UTC().Format(time.RFC3339), short(printable(cmp.Or(l.Repo, l.Place)), repositoryWidth))
	}
	return t.Flush()
}

// printLease prints a lease field by field.
func printLease(w io.Writer, l listedLease) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	state := string(l.State)
	if l.State == broker.LeaseRevoking {
		state += ", next tried " + l.Due.UTC().Format(time.RFC3339)
	}
	for _, row := range [][2]string{
		{"lease", string(l.ID)},
		{"credential", string(l.Handle)},
		{"grant", l.Grant.Name + " (" + l.Grant.Kind + ")"},
		{"target", l.Grant.Target},
		{"server", l.ServerID},
		{"state", state},
		{"failed attempts", fmt.Sprint(l.Attempts)},
		{"last error", l.LastErr},
		{"opened", l.Opened.UTC().Format(time.RFC3339)},
		{"expires", l.NotAfter.UTC().Format(time.RFC3339)},
		{"takeback", string(l.Takeback)},
		{"repository", l.Repo},
		{"place", l.Place},
		{"run", l.Run},
		{"rule", l.Rule},
		{"job session", string(l.Session)},
		{"request", l.Request},
	} {
		if row[1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", row[0], printable(row[1]))
		}
	}
	return t.Flush()
}

func attempts(n int) string {
	if n == 1 {
		return "1 failed attempt"
	}
	return fmt.Sprintf("%d failed attempts", n)
}

// short cuts a text to a width.
func short(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// printable keeps what came from outside from moving the terminal's cursor.
func printable(s string) string {
	quoted := fmt.Sprintf("%q", s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
