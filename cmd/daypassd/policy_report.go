package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/policy"
	history "github.com/daypass-dev/daypass/policy/recorded"
)

// policyReport is what a run of policy report was asked for.
type policyReport struct {
	config, policies, journal string
	since, until, output      string
	failOnFlip                bool
}

func policyReportCommand(p process) *cobra.Command {
	var x policyReport
	cmd := &cobra.Command{
		Use:   "report --config F [--policies DIR] [--journal PATH]",
		Short: "Say what other policy would have done to recorded requests",
		Long: `Report decides the requests of a journal again, by the policies of a folder, and
lists each decision that would be another: what was allowed and would be denied, what
was denied and would be allowed, and what another rule would give, or for another
time. Each is decided as at its time. It also sums up what rules with mode: report
said of the requests of the time.

The journal does not hold all claims. What depends on others, on the claims of jobs
that no rule knew, or on how long a denied job asked for, cannot be said, and is
counted. Issuers and grants are those of the configuration.

It exits with 0, with 1 if a decision flips and --fail-on-flip is given, and with 2 if
that could not be found out.`,
		Example: `  daypassd policy report --config daypass.yaml --policies ./policies --since 30d
  daypassd policy report --config daypass.yaml --policies ./policies --fail-on-flip
  daypassd policy report --config daypass.yaml --since 2026-10-01 --until 2027-01-01 --output json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(x.output); err != nil {
				return err
			}
			report, err := x.run(time.Now())
			if err != nil {
				return unanswered(err)
			}
			if err := x.write(p.stdout, report); err != nil {
				return unanswered(err)
			}
			if x.failOnFlip && len(report.Flips) > 0 {
				return silent{exitFailed}
			}
			return nil
		},
	}
	f := cmd.Flags()
	configFlag(cmd, &x.config)
	f.StringVar(&x.policies, "policies", "", "the `folder` of policies to decide by; default: the configuration's")
	f.StringVar(&x.journal, "journal", "", "the journal's `folder`; default: that of the configuration's data_dir")
	f.StringVar(&x.since, "since", "", "leave out what was before this `time`: a day, a time, or how long ago, such as 30d")
	f.StringVar(&x.until, "until", "", "leave out what was from this `time` on")
	f.BoolVar(&x.failOnFlip, "fail-on-flip", false, "exit with 1 if a decision flips")
	outputFlag(cmd, &x.output)
	return cmd
}

func (x policyReport) run(now time.Time) (history.Report, error) {
	since, err := parseMoment("since", x.since, now)
	if err != nil {
		return history.Report{}, err
	}
	until, err := parseMoment("until", x.until, now)
	if err != nil {
		return history.Report{}, err
	}
	if !until.IsZero() && !since.Before(until) {
		return history.Report{}, usageError{errors.New("--since must be before --until")}
	}
	var dirs []string
	if x.policies != "" {
		dirs = []string{x.policies}
	}
	source, err := openPolicySource(x.config, dirs)
	if err != nil {
		return history.Report{}, err
	}
	book, err := source.book()
	if err != nil {
		return history.Report{}, fmt.Errorf("the policy has faults:\n%w", err)
	}
	claims, err := source.recordedClaims()
	if err != nil {
		return history.Report{}, err
	}
	replay := history.NewReplay(history.Replaying{
		Candidate: book, Claims: claims, Since: since, Until: until,
		Version: func(version string) *policy.Book {
			was, err := source.versions().book(version)
			if err != nil {
				return nil // less can be said then, and is
			}
			return was
		},
	})
	for entry, err := range journalEntries(source.journalOf(x.journal)) {
		if err != nil {
			return history.Report{}, err
		}
		replay.Add(entry.Record)
	}
	return replay.Report(), nil
}

func (x policyReport) write(w io.Writer, report history.Report) error {
	if x.output == "json" {
		return printJSON(w, report)
	}
	return report.WriteText(w)
}
