package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	daypass "github.com/daypass-dev/daypass/clients/go"
)

func (a *app) explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain [GRANT[?ttl=30m]]... [-o text|json]",
		Short: "Show what this job may have, or why not",
		Long: `Explain asks the broker what it would give this job, and makes nothing: the CI
token is not used up, and may have been used.

Without grants it lists all that the job may have. With grants it says for each
of them which rule gives it and for how long, or which claims of the job kept
the nearest rules from giving it. A job that no rule knows is told a request id
only; the security team finds it in the broker's journal.

It exits with 77 if a grant is denied, or if there is nothing to list.`,
		Example: `  daypass explain
  daypass explain orders-db 'stock-db?ttl=1h'
  daypass explain -o json | jq -r '.grants[].grant'`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), a.timeout)
			defer cancel()
			return failed(a.explain(ctx, args), exitFailed)
		},
	}
	a.outputFlag(c, "text (the default) or json")
	return c
}

// verdict is what the broker says of one grant.
type verdict struct {
	Grant    string           `json:"grant"`
	Allowed  bool             `json:"allowed"`
	Rule     string           `json:"rule,omitempty"`
	Kind     string           `json:"kind,omitempty"`
	TTL      string           `json:"ttl,omitempty"`
	Takeback daypass.Takeback `json:"takeback,omitempty"`
	Denials  []daypass.Denial `json:"denials,omitempty"`
	Request  string           `json:"request_id"`

	asked time.Duration
	gets  time.Duration
}

func (a *app) explain(ctx context.Context, args []string) error {
	format, err := a.format("text", "json")
	if err != nil {
		return err
	}
	var grants []daypass.Grant
	for _, s := range args {
		g, err := daypass.ParseGrant(s)
		if err != nil {
			return usage("%w", err)
		}
		grants = append(grants, g)
	}
	source, err := daypass.Detect(a.getenv)
	if err != nil {
		return err
	}
	client, err := a.client(a.url, source)
	if err != nil {
		return err
	}
	verdicts, err := ask(ctx, client, grants)
	if err != nil {
		return err
	}
	if format == "json" {
		err = a.printJSON(map[string]any{"grants": verdicts})
	} else {
		err = a.printVerdicts(verdicts)
	}
	if err != nil {
		return err
	}
	for _, v := range verdicts {
		if !v.Allowed {
			return &failure{exitDenied, nil}
		}
	}
	if len(verdicts) == 0 {
		return &failure{exitDenied, nil}
	}
	return nil
}

// ask has the broker decide all grants at once, and, since it gives all or
// none, one by one where it refuses: dry runs cost nothing.
func ask(ctx context.Context, client *daypass.Client, grants []daypass.Grant) ([]verdict, error) {
	preview, err := client.DryRun(ctx, grants...)
	denial, is := errors.AsType[*daypass.Error](err)
	switch {
	case err == nil:
		return permitted(preview, grants), nil
	case !is || denial.Code != daypass.Denied || len(grants) == 0:
		return nil, err
	case len(grants) == 1:
		return []verdict{{Grant: grants[0].Name, Denials: denial.Denials, Request: denial.RequestID}}, nil
	}
	var all []verdict
	for _, g := range grants {
		one, err := ask(ctx, client, []daypass.Grant{g})
		if err != nil {
			return nil, err
		}
		all = append(all, one...)
	}
	return all, nil
}

// permitted reads a yes. Without grants the preview lists what there is.
func permitted(preview *daypass.Preview, grants []daypass.Grant) []verdict {
	all := []verdict{}
	for i, p := range preview.Permits {
		v := verdict{Grant: p.Grant, Allowed: true, Rule: p.Rule, Kind: p.Kind, TTL: shortLife(p.TTL), Takeback: p.Takeback,
			Request: preview.RequestID, gets: p.TTL}
		if i < len(grants) {
			v.asked = grants[i].TTL
		}
		all = append(all, v)
	}
	return all
}

// printVerdicts writes a table of what the job may have, and below it why it
// may not have the rest.
func (a *app) printVerdicts(verdicts []verdict) error {
	var b strings.Builder
	if len(verdicts) == 0 {
		b.WriteString("Policy knows this job, and gives it nothing as it is now.\n" +
			"Name a grant, as in daypass explain GRANT, to see what is in the way.\n")
	}
	table := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	rows := 0
	for _, v := range verdicts {
		if !v.Allowed {
			continue
		}
		if rows++; rows == 1 {
			fmt.Fprintln(table, "GRANT\tKIND\tLIVES FOR\tGIVING BACK\tRULE")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", clean(v.Grant), orDash(v.Kind), lives(v), givingBack(v.Takeback), orDash(v.Rule))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for i, v := range verdicts {
		if v.Allowed {
			continue
		}
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "DENIED  %s\n", clean(v.Grant))
		reasons(&b, v.Denials)
		fmt.Fprintf(&b, "  request id: %s\n", clean(v.Request))
		b.WriteString(hintFor(v.Denials))
	}
	_, err := fmt.Fprint(a.Stdout, b.String())
	return err
}

// lives says how long, and that it is less than was asked for.
func lives(v verdict) string {
	if v.asked > v.gets {
		return v.TTL + " (asked " + shortLife(v.asked) + ")"
	}
	return v.TTL
}

func givingBack(t daypass.Takeback) string {
	switch t {
	case daypass.TakebackNow:
		return "ends it"
	case daypass.TakebackExpiry:
		return "ends at expiry"
	case daypass.TakebackNever:
		return "outlives it"
	case "":
		return "-"
	}
	return clean(string(t))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return clean(s)
}

// shortLife writes 15m where [time.Duration.String] writes 15m0s.
func shortLife(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
