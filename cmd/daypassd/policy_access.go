package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/access"
)

// policyAccess is what a run of policy access was asked for.
type policyAccess struct {
	config, journal, output string
	grant, access           string
	repo, issuer            string
	labels                  []string
	from, to, unusedFor     string
}

func policyAccessCommand(p process) *cobra.Command {
	var x policyAccess
	cmd := &cobra.Command{
		Use:   "access [--config F] [DIR…]",
		Short: "Say who can get what, could at a time, or never did",
		Long: `Access lists what a policy gives: each grant, by the rule that gives it, for each
repository, with its conditions, its longest life, and who answers for it. Rules that
deny are shown as exceptions, and what gives nothing says why: its rule only reports or
has ended, or another denies it to all.

--from and --to ask who could get what in a span of time: of each version that the
journal says was in force, and that is kept in data_dir, what it gave and when. Whether
a grant could write or had a label is as it was then.

--unused-for lists what nobody got by a rule for so long. What was not there yet is
marked.

Without --config issuers are called as their profiles (github, gitlab), and nothing is
known of grants.

It exits with 0, with 1 if the answer may lack something, since the journal does not
reach back or a version cannot be read, and with 2 if there is none.`,
		Example: `  daypassd policy access policies/
  daypassd policy access --config daypass.yaml --access write --label env=prod
  daypassd policy access --config daypass.yaml --repo acme/payments-api --output json
  daypassd policy access --config daypass.yaml --access write --label env=prod --from 2026-10-01 --to 2027-01-01
  daypassd policy access --config daypass.yaml --unused-for 90d`,
		RunE: func(_ *cobra.Command, dirs []string) error {
			if err := checkOutput(x.output); err != nil {
				return err
			}
			lacking, err := x.run(p.stdout, dirs, time.Now())
			switch {
			case err != nil:
				return unanswered(err)
			case lacking:
				return silent{exitFailed}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&x.config, "config", "", "a server's configuration: its issuers, its grants, and without DIR its policies")
	f.StringVar(&x.grant, "grant", "", "only this `grant`, or those that a glob such as 'orders-*' matches")
	f.StringVar(&x.access, "access", "", "only grants with this `access`: read or write")
	f.StringArrayVar(&x.labels, "label", nil, "only grants with this `name=value`; may be given again")
	f.StringVar(&x.repo, "repo", "", "only for this `repository`: its name under repos, what the provider calls it, or an id")
	f.StringVar(&x.issuer, "issuer", "", "only for jobs of this `issuer`")
	f.StringVar(&x.from, "from", "", "what could be had from this `time` on: a day, a time, or how long ago, such as 90d")
	f.StringVar(&x.to, "to", "", "until this `time`; default: now")
	f.StringVar(&x.unusedFor, "unused-for", "", "what nobody got for this `long`, such as 90d")
	f.StringVar(&x.journal, "journal", "", "the journal's `folder`; default: that of the configuration's data_dir")
	outputFlag(cmd, &x.output)
	return cmd
}

// writesText is an answer.
type writesText interface{ WriteText(io.Writer) error }

// table is who can get what now.
type table struct {
	Rows []access.Row `json:"permissions"`
}

func (t table) WriteText(w io.Writer) error { return access.WriteText(w, t.Rows) }

// run reports whether the answer may lack something.
func (x policyAccess) run(w io.Writer, dirs []string, now time.Time) (bool, error) {
	if err := x.check(dirs); err != nil {
		return false, err
	}
	filter, err := x.filter()
	if err != nil {
		return false, err
	}
	answer, lacking, err := x.answer(dirs, filter, now)
	if err != nil {
		return false, err
	}
	if x.output == "json" {
		return lacking, printJSON(w, answer)
	}
	return lacking, answer.WriteText(w)
}

func (x policyAccess) check(dirs []string) error {
	bad := func(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
	past := x.from != "" || x.to != ""
	switch {
	case x.config == "" && (past || x.unusedFor != ""):
		return bad("--from, --to and --unused-for need --config, which says where journal and versions are")
	case x.config == "" && (x.access != "" || len(x.labels) > 0):
		return bad("--access and --label need --config, which says what grants are")
	case past && x.unusedFor != "":
		return bad("ask for a span or for what is unused, not both")
	case past && x.from == "":
		return bad("--from is missing: since when?")
	case past && len(dirs) > 0:
		return bad("the past is that of the configuration: leave DIR out")
	case x.journal != "" && !past && x.unusedFor == "":
		return bad("--journal goes with --from or --unused-for")
	}
	return nil
}

func (x policyAccess) filter() (access.Filter, error) {
	f := access.Filter{Grant: x.grant, Access: broker.Access(x.access), Repo: x.repo, Issuer: x.issuer, Labels: map[string]string{}}
	if x.access != "" && f.Access != broker.Read && f.Access != broker.Write {
		return f, usageError{fmt.Errorf("--access is %q; it must be read or write", x.access)}
	}
	for _, label := range x.labels {
		name, value, ok := strings.Cut(label, "=")
		if !ok || name == "" {
			return f, usageError{fmt.Errorf("--label is %q; it must be name=value", label)}
		}
		f.Labels[name] = value
	}
	return f, nil
}

func (x policyAccess) answer(dirs []string, filter access.Filter, now time.Time) (writesText, bool, error) {
	if x.from != "" {
		return x.span(filter, now)
	}
	source, err := openPolicySource(x.config, dirs)
	if err != nil {
		return nil, false, err
	}
	if x.unusedFor != "" {
		return x.unused(source, filter, now)
	}
	t := table{Rows: []access.Row{}}
	for _, folder := range source.folders {
		book, err := folder.Book(source.known)
		if err != nil {
			return nil, false, fmt.Errorf("the policy has faults:\n%w", err)
		}
		for _, row := range access.List(book, filter, now) {
			row.File = folder.Name(row.File)
			t.Rows = append(t.Rows, row)
		}
	}
	return t, false, nil
}

// span answers for the past, for which the policies on disk do not matter.
func (x policyAccess) span(filter access.Filter, now time.Time) (writesText, bool, error) {
	from, err := parseMoment("from", x.from, now)
	if err != nil {
		return nil, false, err
	}
	to, err := parseMoment("to", x.to, now)
	if err != nil {
		return nil, false, err
	}
	if to.IsZero() {
		to = now
	}
	if !from.Before(to) {
		return nil, false, usageError{errors.New("--from must be before --to")}
	}
	source := &policySource{}
	if err := source.readKnown(x.config); err != nil {
		return nil, false, err
	}
	past, err := x.history(source, now)
	if err != nil {
		return nil, false, err
	}
	span := access.Spanning{
		Span: access.Period{From: from.UTC(), To: to.UTC()}, Filter: filter, History: past, Book: source.versions().book,
	}.List()
	return span, len(span.Gaps) > 0, nil
}

func (x policyAccess) unused(source *policySource, filter access.Filter, now time.Time) (writesText, bool, error) {
	ago, err := parseDays(x.unusedFor)
	if err != nil || ago <= 0 {
		return nil, false, usageError{fmt.Errorf("--unused-for is %q; it must be how long, such as 90d or 36h", x.unusedFor)}
	}
	book, err := source.book()
	if err != nil {
		return nil, false, fmt.Errorf("the policy has faults:\n%w", err)
	}
	past, err := x.history(source, now)
	if err != nil {
		return nil, false, err
	}
	idle := access.Idling{Policy: book, Filter: filter, Since: now.Add(-ago), History: past, Book: source.versions().book}.List()
	return idle, len(idle.Gaps) > 0, nil
}

// history reads the journal of each broker.
func (x policyAccess) history(source *policySource, now time.Time) (*access.History, error) {
	h := &access.History{Now: now}
	for entry, err := range journalEntries(source.journalOf(x.journal)) {
		if err != nil {
			return nil, err
		}
		h.Add(access.Entry{Chain: entry.Deployment + "-" + entry.Broker, Seq: entry.Seq, Record: entry.Record})
	}
	return h, nil
}
