package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker"
)

func leaseRevokeCommand(p process) *cobra.Command {
	var config, output string
	var filter leaseFilter
	var yes bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "revoke [LEASE…]",
		Short: "Take credentials back now, by id or by what they are of",
		Long: `Take credentials back now. One that cannot be taken back yet (its target is down)
is tried until it is, and the exit code is 1; one that cannot be taken back at all ends at
its expiry.

Without ids it takes back all that the flags pick, and needs --yes. What a job gets
meanwhile is not among it; --session also ends the job session, so that it gets nothing.`,
		Example: `  daypassd lease revoke --config daypass.yaml dpl_c7mkqvtx5a2jd4zq6h3nw7yfeu
  daypassd lease revoke --config daypass.yaml --place github/5678 --yes`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			switch named := filter != (leaseFilter{}); {
			case named && len(ids) > 0:
				return usageError{errors.New("name leases by their ids or by flags, not by both")}
			case !named && len(ids) == 0:
				return usageError{fmt.Errorf("%s needs the ids of leases, or a flag that picks some", cmd.CommandPath())}
			}
			admin, err := dialAdmin(config)
			if err != nil {
				return err
			}
			r := revoking{process: p, admin: admin, output: output, wait: wait}
			if len(ids) > 0 {
				return r.each(cmd.Context(), ids)
			}
			if !yes {
				return r.ask(cmd.Context(), filter)
			}
			return r.all(cmd.Context(), filter)
		},
	}
	configFlag(cmd, &config)
	outputFlag(cmd, &output)
	filter.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "take back all that the flags pick")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to watch what the flags picked go; it is tried on after that")
	return cmd
}

// revoking is one call of lease revoke.
type revoking struct {
	process
	admin  *adminClient
	output string
	wait   time.Duration
}

type leaseOutcome struct {
	Lease broker.LeaseID `json:"lease_id"`
	State string         `json:"state"`
}

// each asks for each lease; one that fails does not spare the others.
func (r revoking) each(ctx context.Context, ids []string) error {
	var failures []error
	outcomes := []leaseOutcome{}
	for _, id := range ids {
		var o leaseOutcome
		if err := r.admin.call(ctx, http.MethodDelete, "/admin/v1/leases/"+url.PathEscape(id), &o); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", id, err))
			continue
		}
		outcomes = append(outcomes, leaseOutcome{broker.LeaseID(id), o.State})
	}
	if r.output != "json" {
		for _, o := range outcomes {
			fmt.Fprintf(r.stdout, "%s  %s\n", o.Lease, outcomeText[o.State])
		}
	}
	return errors.Join(append(failures, r.end(outcomes))...)
}

var outcomeText = map[string]string{
	broker.StateRevoked:  "revoked",
	broker.StateRevoking: "cannot be taken back yet; it is tried until it is gone",
	broker.StateExpires:  "cannot be taken back; it ends at its expiry",
}

// end prints what has to be printed as JSON, and says whether some remain.
func (r revoking) end(outcomes []leaseOutcome) error {
	if r.output == "json" {
		if err := printJSON(r.stdout, map[string]any{"leases": outcomes}); err != nil {
			return err
		}
	}
	for _, o := range outcomes {
		if o.State == broker.StateRevoking {
			return silent{exitFailed}
		}
	}
	return nil
}

// ask says how many leases are meant, and does nothing.
func (r revoking) ask(ctx context.Context, filter leaseFilter) error {
	leases, err := r.list(ctx, filter)
	if err != nil {
		return err
	}
	return usageError{fmt.Errorf("%s; nothing was done: add --yes to take them back", count(len(leases), "lease is meant", "leases are meant"))}
}

func (r revoking) list(ctx context.Context, filter leaseFilter) ([]listedLease, error) {
	var list leaseList
	err := r.admin.call(ctx, http.MethodGet, "/admin/v1/leases?"+filter.query(), &list)
	return list.Leases, err
}

// all marks what a filter picks and watches it go.
func (r revoking) all(ctx context.Context, filter leaseFilter) error {
	var marked struct {
		Leases []listedLease `json:"leases"`
	}
	if err := r.admin.call(ctx, http.MethodDelete, "/admin/v1/leases?"+filter.query(), &marked); err != nil {
		return err
	}
	fmt.Fprintln(r.stderr, count(len(marked.Leases), "lease is being taken back", "leases are being taken back"))
	outcomes, err := r.watch(ctx, filter, marked.Leases)
	if err != nil {
		return fmt.Errorf("all are marked, and are tried until they are gone; they cannot be watched: %w", err)
	}
	if r.output != "json" {
		r.summarize(outcomes)
	}
	return r.end(outcomes)
}

// watch waits until nothing more is to be expected: each lease is gone, has
// failed once, or ends by itself; or until the time is over.
func (r revoking) watch(ctx context.Context, filter leaseFilter, marked []listedLease) ([]leaseOutcome, error) {
	told, pause := 0, 100*time.Millisecond
	for end := time.Now().Add(r.wait); ; {
		leases, err := r.list(ctx, filter)
		if err != nil {
			return nil, err
		}
		left := make(map[broker.LeaseID]listedLease, len(leases))
		for _, l := range leases {
			left[l.ID] = l
		}
		outcomes, open := outcomesOf(marked, left)
		if open == 0 || !time.Now().Before(end) {
			return outcomes, nil
		}
		if gone := len(marked) - open; gone > told {
			told = gone
			fmt.Fprintf(r.stderr, "%d of %d are done\n", gone, len(marked))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// outcomesOf says what became of leases, and of how many more is to be
// expected.
func outcomesOf(marked []listedLease, left map[broker.LeaseID]listedLease) (outcomes []leaseOutcome, open int) {
	outcomes = make([]leaseOutcome, len(marked))
	for i, was := range marked {
		now, there := left[was.ID]
		o := leaseOutcome{was.ID, broker.StateRevoked}
		switch {
		case there && was.Takeback != broker.TakebackNow && now.Attempts == was.Attempts && now.Due.Equal(was.NotAfter):
			o.State = broker.StateExpires
		case there:
			o.State = broker.StateRevoking
			if now.Attempts <= was.Attempts {
				open++
			}
		}
		outcomes[i] = o
	}
	return outcomes, open
}

func (r revoking) summarize(outcomes []leaseOutcome) {
	n := make(map[string]int)
	for _, o := range outcomes {
		n[o.State]++
	}
	fmt.Fprintf(r.stdout, "%d revoked\n", n[broker.StateRevoked])
	for _, state := range []string{broker.StateRevoking, broker.StateExpires} {
		if n[state] > 0 {
			fmt.Fprintf(r.stdout, "%d %s\n", n[state], manyText[state])
		}
	}
}

var manyText = map[string]string{
	broker.StateRevoking: "cannot be taken back yet, and are tried until they are gone; `daypassd lease list` says why",
	broker.StateExpires:  "cannot be taken back, and end at their expiry",
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
